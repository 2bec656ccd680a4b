"""The family of a published checkpoint, known from its config, processor, tokenizer or name."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from foundation.files.safe_json import read_json
from models.preprocessing import NESTED_FILE, PREPROCESSOR_FILE
from models.text.hf_tokenizer import CONFIG_FILE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SIGLIP2, SIGLIP, CLIP, METACLIP2 = "SigLIP 2", "SigLIP", "CLIP", "MetaCLIP 2"
GEMMA_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>")  # ids 0 to 3

_SIGLIP2_NAME = re.compile(r"siglip[-_ ]?2(?!\d)", re.IGNORECASE)
_SIGLIP_NAME = re.compile(r"siglip", re.IGNORECASE)
_GEMMA_CLASS = re.compile(r"(Gemma|Siglip2)Tokenizer(Fast)?")
_SIGLIP_CLASS = re.compile(r"(Siglip|T5)Tokenizer(Fast)?")
_GEMMA_VOCABULARY = 256_000
_CLIP_TOKENS = {"<|startoftext|>", "<|endoftext|>"}
_METACLIP2_TYPE = "metaclip_2"
_TOKENIZER, _PATH, _MODEL_TYPE = "tokenizer class", "name", "model type"
# file, field, and what the field names
_NAMES = (
    ("config.json", "model_type", _MODEL_TYPE),
    ("config.json", "_name_or_path", "source"),
    (PREPROCESSOR_FILE, "image_processor_type", "image processor"),
    (PREPROCESSOR_FILE, "processor_class", "processor"),
    (NESTED_FILE, "processor_class", "processor"),
    (CONFIG_FILE, "processor_class", "processor"),
    (CONFIG_FILE, "tokenizer_class", _TOKENIZER),
)
# Exports of this project have these names, too, whatever their tokenizer does.
_GENERIC_NAMES = (_MODEL_TYPE, "image processor", _PATH)


class TextEvidence(NamedTuple):
    """The files' evidence, other than the vocabulary, of how the texts of a checkpoint are prepared.

    `siglip` is whether the towers are those of a SigLIP. `names` are names that may contain the family's, by what they
    name. `canonicalize` is the canonicalization that an open_clip config states, otherwise None. With `strip_sep`, an
    option of open_clip, the token [SEP] becomes padding.
    """

    format: str
    siglip: bool
    vocab_size: int
    names: Mapping[str, str]
    canonicalize: str | None = None
    strip_sep: bool = False


class Family(NamedTuple):
    """The family of a checkpoint, and what it is known by."""

    name: str
    reason: str


def read_names(name: str, folder: pathlib.Path) -> dict[str, str]:
    """Return the names in the path or Hub ID of a checkpoint and in the JSON files of its folder, by what they name."""
    files = {file: _read_if_valid(folder / file) for file in {file for file, *_ in _NAMES}}
    found = {what: files[file][key] for file, key, what in _NAMES if isinstance(files[file].get(key), str)}
    return {_PATH: "/".join(pathlib.PurePath(name).parts[-3:])} | found


def _read_if_valid(path: pathlib.Path) -> dict[str, Any]:
    """Return the fields of a JSON file, or none: whoever needs a missing or damaged file reports it."""
    try:
        return read_json(path)
    except (FileNotFoundError, ValueError):
        return {}


def find_family(evidence: TextEvidence, hf_tokenizer: PreTrainedTokenizerBase | None = None) -> Family | None:
    """Return the family of a checkpoint, or None; its path counts least. Without a tokenizer only the files tell."""
    found = _siglip_families(evidence, hf_tokenizer) if evidence.siglip else _clip_families(evidence, hf_tokenizer)
    return next(found, None)


def _siglip_families(evidence: TextEvidence, hf_tokenizer: PreTrainedTokenizerBase | None) -> Iterator[Family]:
    names = dict(evidence.names)
    path = names.pop(_PATH, "")
    classes = [names.pop(_TOKENIZER, ""), "" if hf_tokenizer is None else type(hf_tokenizer).__name__]
    yield from (Family(SIGLIP2, f"{what} {name}") for what, name in names.items() if _SIGLIP2_NAME.search(name))
    yield from (Family(SIGLIP2, f"{_TOKENIZER} {name}") for name in classes if _GEMMA_CLASS.fullmatch(name))
    if hf_tokenizer is not None and _first_tokens(hf_tokenizer) == GEMMA_TOKENS:
        yield Family(SIGLIP2, "special tokens, those of Gemma")
    if evidence.vocab_size == _GEMMA_VOCABULARY:
        yield Family(SIGLIP2, f"{_GEMMA_VOCABULARY:,} token ids")
    if _SIGLIP2_NAME.search(path):
        yield Family(SIGLIP2, f"name {path}")
    yield from (Family(SIGLIP, f"{_TOKENIZER} {name}") for name in classes if _SIGLIP_CLASS.fullmatch(name))
    for what, name in names.items():
        if what not in _GENERIC_NAMES and _SIGLIP_NAME.search(name):
            yield Family(SIGLIP, f"{what} {name}")
    if evidence.format != "huggingface":
        yield Family(SIGLIP, f"format, {evidence.format}")


def _clip_families(evidence: TextEvidence, hf_tokenizer: PreTrainedTokenizerBase | None) -> Iterator[Family]:
    if evidence.names.get(_MODEL_TYPE) == _METACLIP2_TYPE:
        yield Family(METACLIP2, f"{_MODEL_TYPE} {_METACLIP2_TYPE}")
    if hf_tokenizer is not None and hf_tokenizer.get_vocab().keys() >= _CLIP_TOKENS:
        yield Family(CLIP, "special tokens")


def _first_tokens(hf_tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    by_id = {number: token for token, number in hf_tokenizer.get_vocab().items() if number < len(GEMMA_TOKENS)}
    return tuple(token for _, token in sorted(by_id.items()))
