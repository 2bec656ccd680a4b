"""Tokenizers: any of Hugging Face, one trained on captions, or the one that is stored with a checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from foundation.atomic import atomic_files
from foundation.error_text import first_line
from foundation.suggestions import nearest_path
from models.io import hub
from models.text.canonicalize import canonicalization

if TYPE_CHECKING:
    from tokenizers.normalizers import Normalizer
    from transformers import PreTrainedTokenizerBase

# SigLIP pads with the end token; its text tower reads the last position (arXiv 2303.15343).
END = "</s>"
UNKNOWN = "<unk>"
TOKENIZER_FILE, CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"
_VOCABULARIES = (TOKENIZER_FILE, "vocab.*", "*.model", "*.tiktoken")
_MAX_BYTES = 256 << 20  # of one file; the vocabulary of Gemma, with 256,000 tokens, has 34 MB
HUB_FILES = (*_VOCABULARIES, CONFIG_FILE, "merges.txt", "special_tokens_map.json", "added_tokens.json", "config.json")
# Fields that transformers adds while loading and later reads from tokenizer.json.
_TRANSIENT = ("is_local", "local_files_only", "max_length", "stride", "truncation_strategy", "pad_to_multiple_of")


class Tokenizer:
    """Maps texts to padded token ids `[texts, length]` int32, the same as its `transformers` tokenizer.

    Longer texts are truncated before their end token. `start_id` and `end_id` are the special tokens around a text, or
    None; `pad_id` fills the rest; every id is below `vocab_size`. Instances can be pickled.
    """

    def __init__(self, hf_tokenizer: PreTrainedTokenizerBase, *, length: int, canonicalize: str = "none"):
        """Wrap `hf_tokenizer`, which is modified, and apply a canonicalization of `CANONICALIZATIONS` before it.

        Raises `ValueError` for a length without room for text between the special tokens, for a tokenizer with neither
        a pad nor an end token, and for a canonicalization with a pure Python tokenizer.
        """
        num_special = len(hf_tokenizer("")["input_ids"])
        if num_special >= length:
            raise ValueError(
                f"text.length {length} leaves no room for text: the tokenizer adds {num_special} special tokens. "
                "Increase text.length."
            )
        self.length = length
        self.start_id, self.end_id = _find_special_tokens(hf_tokenizer)
        self.pad_id = _set_pad_token(hf_tokenizer, self.end_id)
        self.vocab_size: int = max(hf_tokenizer.get_vocab().values()) + 1
        self._slow = None if hf_tokenizer.is_fast else hf_tokenizer
        self._fast = hf_tokenizer.backend_tokenizer if hf_tokenizer.is_fast else None
        self._splits_special_tokens = hf_tokenizer.split_special_tokens
        normalizers = canonicalization(canonicalize)
        if normalizers:
            _prepend_normalizers(hf_tokenizer, normalizers)
        hf_tokenizer.model_max_length = length
        hf_tokenizer("", **_pad_to(length))  # sets truncation and padding of the fast tokenizer
        self._files = _files(hf_tokenizer, generic=bool(normalizers))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._fast is not None:  # pickling loses this setting
            self._fast.encode_special_tokens = self._splits_special_tokens

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Return the token ids of texts, `[texts, length]` int32."""
        texts = list(texts)
        if self._fast is not None:
            ids = [encoding.ids for encoding in self._fast.encode_batch(texts)]
        else:
            ids = [self._slow(text, **_pad_to(self.length))["input_ids"] for text in texts]
        return np.array(ids, np.int32).reshape(-1, self.length)

    def encode(self, text: str) -> np.ndarray:
        """Return the token ids of one text, `[length]` int32."""
        return np.array(self._fast.encode(text).ids, np.int32) if self._fast is not None else self([text])[0]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids as the model sees it, without special tokens."""
        ids = [int(token) for token in ids]
        return (self._fast or self._slow).decode(ids, skip_special_tokens=True)

    @property
    def fingerprint(self) -> str:
        """A hash of the files that `save` writes."""
        digest = hashlib.sha256(self._fast.to_str().encode() if self._fast is not None else b"")
        for name, content in sorted(self._files.items()):
            digest.update(name.encode() + b"\0" + content)
        return digest.hexdigest()[:16]

    def save(self, folder: str | os.PathLike) -> None:
        """Write the files that `transformers.AutoTokenizer` and `load_tokenizer` open as this tokenizer."""
        folder = pathlib.Path(folder)
        names = sorted(self._files) + ([TOKENIZER_FILE] if self._fast is not None else [])
        with atomic_files(*(folder / name for name in names)) as temporary:
            for name, path in zip(names, temporary, strict=True):
                if name == TOKENIZER_FILE:
                    self._fast.save(str(path))
                else:
                    path.write_bytes(self._files[name])


def train_tokenizer(
    captions: Iterable[str], *, vocab_size: int, length: int, canonicalize: str = "siglip"
) -> Tokenizer:
    """Train a byte-pair tokenizer on captions, after Unicode normalization NFKC and canonicalization.

    The order of the captions does not matter. The vocabulary is larger than `vocab_size` only if the captions have more
    distinct characters.
    """
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), *canonicalization(canonicalize)])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[END, UNKNOWN], show_progress=False)
    tokenizer.train_from_iterator(sorted(set(captions)), trainer)
    end = tokenizer.token_to_id(END)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, end)])
    hf_tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END, unk_token=UNKNOWN)
    return Tokenizer(hf_tokenizer, length=length)


def open_tokenizer(name: str, *, length: int, canonicalize: str = "none") -> Tokenizer:
    """Open any Hugging Face tokenizer: `name` is a folder, the path of a `tokenizer.json`, or a Hub ID.

    A `tokenizer_config.json` next to a `tokenizer.json` is read as well; without it texts are padded with their end
    token. Raises as `load_tokenizer` does, `FileNotFoundError` for a path that does not exist, and `OSError` for a Hub
    ID that is not cached and cannot be downloaded.
    """
    path = pathlib.Path(name).expanduser()
    if not path.exists() and hub.is_path(name):
        raise FileNotFoundError(
            f"tokenizer {name} does not exist: there is no such file or folder.{nearest_path(path)}"
        )
    if path.is_file() and not (path.name == TOKENIZER_FILE and (path.parent / CONFIG_FILE).is_file()):
        hf_tokenizer = _open_file(path)
    elif path.is_file():
        hf_tokenizer = _open_folder(path.parent)
    else:
        hf_tokenizer = _open_folder(path if path.is_dir() else hub.fetch(name, HUB_FILES, what="tokenizer"))
    return Tokenizer(hf_tokenizer, length=length, canonicalize=canonicalize)


def load_tokenizer(folder: str | os.PathLike, *, length: int, canonicalize: str = "none") -> Tokenizer:
    """Open the tokenizer in a folder, written by `Tokenizer.save` or by transformers.

    Raises `FileNotFoundError` if the folder has no tokenizer and `ValueError` for one that cannot be opened.
    """
    return Tokenizer(_open_folder(pathlib.Path(folder)), length=length, canonicalize=canonicalize)


def _open_folder(folder: pathlib.Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    missing = f"{folder} has no {TOKENIZER_FILE} or other vocabulary that transformers opens"
    for path in (path for pattern in HUB_FILES for path in folder.glob(pattern)):
        _check_size(path)
    vocabulary = any(any(folder.glob(pattern)) for pattern in _VOCABULARIES)
    if not vocabulary and not (folder / CONFIG_FILE).is_file():
        raise FileNotFoundError(missing)
    try:
        hf_tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # missing or damaged files and missing packages raise many kinds of errors
        if not vocabulary:
            raise FileNotFoundError(missing) from error
        raise ValueError(f"the tokenizer in {folder} cannot be opened ({first_line(error)})") from error
    if not vocabulary and hf_tokenizer.vocab_files_names:  # some classes invent a vocabulary of three tokens
        raise FileNotFoundError(missing)
    return hf_tokenizer


def _check_size(path: pathlib.Path) -> None:
    """Raise `ValueError` for a file too large to belong to a tokenizer, before it is read."""
    if path.is_file() and path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; the limit is {_MAX_BYTES:,}. Download it again.")


def _open_file(path: pathlib.Path) -> PreTrainedTokenizerBase:
    from transformers import PreTrainedTokenizerFast

    _check_size(path)
    try:
        return PreTrainedTokenizerFast(tokenizer_file=str(path), name_or_path=str(path))
    except Exception as error:  # as above
        raise ValueError(f"{path} is not a valid {TOKENIZER_FILE} ({first_line(error)})") from error


class _SpecialTokens(NamedTuple):
    start_id: int | None
    end_id: int | None


def _find_special_tokens(hf_tokenizer: PreTrainedTokenizerBase) -> _SpecialTokens:
    """Return the ids added before and after a text; an end token that is defined but not added counts, too."""
    encoding = hf_tokenizer("a", return_special_tokens_mask=True)
    ids, added = encoding["input_ids"], encoding["special_tokens_mask"]
    start = ids[0] if len(ids) > 1 and added[0] else None
    return _SpecialTokens(start, ids[-1] if ids and added[-1] else hf_tokenizer.eos_token_id)


def _pad_to(length: int) -> dict[str, Any]:
    return {"padding": "max_length", "truncation": True, "max_length": length}


def _set_pad_token(hf_tokenizer: PreTrainedTokenizerBase, end_id: int | None) -> int:
    """Return the id of the pad token; a tokenizer without one gets its end token as pad token."""
    if hf_tokenizer.pad_token is None and end_id is None:
        raise ValueError(
            f"tokenizer {hf_tokenizer.name_or_path!r} has neither a pad token nor an end token. Set pad_token in its "
            f"{CONFIG_FILE}."
        )
    if hf_tokenizer.pad_token is None:
        hf_tokenizer.pad_token = hf_tokenizer.convert_ids_to_tokens(end_id)
    return hf_tokenizer.pad_token_id


def _prepend_normalizers(hf_tokenizer: PreTrainedTokenizerBase, normalizers: list[Normalizer]) -> None:
    if not hf_tokenizer.is_fast:
        raise ValueError(
            f"{type(hf_tokenizer).__name__} is written in Python, so its texts cannot be canonicalized. Set "
            "tokenizer.canonicalize to 'none'."
        )
    from tokenizers.normalizers import Sequence

    backend = hf_tokenizer.backend_tokenizer
    own = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = Sequence([*normalizers, *own])


def _files(hf_tokenizer: PreTrainedTokenizerBase, *, generic: bool) -> dict[str, bytes]:
    """Return the files of a tokenizer other than `tokenizer.json`, by name.

    With `generic`, the config names the class that uses `tokenizer.json` unchanged; other classes build their own
    normalizer.
    """
    with tempfile.TemporaryDirectory() as folder:
        hf_tokenizer.save_pretrained(folder)
        files = {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir() if path.is_file()}
    files.pop(TOKENIZER_FILE, None)
    config = {name: value for name, value in json.loads(files[CONFIG_FILE]).items() if name not in _TRANSIENT}
    if generic or config["tokenizer_class"] == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"  # which transformers 4 has, too
        config |= {name: getattr(hf_tokenizer, name) for name in ("padding_side", "truncation_side")}
    config["model_input_names"] = ["input_ids"]  # no mask: the towers attend to padding, as in SigLIP
    files[CONFIG_FILE] = (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
    return files
