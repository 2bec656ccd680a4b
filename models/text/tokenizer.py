"""Tokenizers: any of Hugging Face, one trained on captions, or the one that is stored with a checkpoint."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from foundation.error_text import first_line
from foundation.files.atomic import atomic_files
from foundation.rust_panics import is_panic
from models.text.canonicalize import canonicalization
from models.text.hf_tokenizer import (
    CONFIG_FILE,
    GENERIC_CLASS,
    RECORD,
    REPAIR,
    TOKENIZER_FILE,
    load_hf_tokenizer,
    open_hf_tokenizer,
)
from models.text.repair import repair_text

if TYPE_CHECKING:
    from tokenizers.normalizers import Normalizer
    from transformers import PreTrainedTokenizerBase

# SigLIP pads with the end token; its text tower reads the last position (arXiv 2303.15343).
END = "</s>"
UNKNOWN = "<unk>"
# Texts on which a canonicalization is tried, without the letter whose lower case depends on the implementation.
_PROBES = (
    "THE QUICK BROWN FOX JUMPS OVER A LAZY DOG, the quick brown fox jumps over a lazy dog!",
    "a_b: (c) 'd' \"e\" f-g h.i/j;k?",
    " \ta\t  b\n",
)
_SIGMA = "ΟΔΟΣ"  # whose lower case ends in ς, for open_clip, or σ, for CLIPTokenizer of transformers
# Fields that transformers adds while loading and later reads from tokenizer.json.
_TRANSIENT = ("is_local", "local_files_only", "max_length", "stride", "truncation_strategy", "pad_to_multiple_of")


class Tokenizer:
    """Maps texts to padded token ids `[texts, length]` int32, the same as its `transformers` tokenizer.

    If `repairs` is set, as for checkpoints of open_clip, texts go through `repair_text` first, which transformers does
    not do.
    Longer texts are truncated before their end token. `start_id` and `end_id` are the special tokens around a text, or
    None; `pad_id` fills the rest; every id is below `vocab_size`. Instances can be pickled.
    """

    def __init__(
        self,
        hf_tokenizer: PreTrainedTokenizerBase,
        *,
        length: int,
        canonicalize: str = "none",
        generic: bool = False,
        repair: bool = False,
    ):
        """Wrap `hf_tokenizer`, which is modified, and apply a canonicalization of `CANONICALIZATIONS` before it.

        With `repair`, texts are repaired before that; `save` stores it, and a stored tokenizer repairs in any case.
        A canonicalization that the tokenizer already does itself is not added. With `generic`, `save` names the class
        that uses `tokenizer.json` unchanged, as after a canonicalization was added. Raises `ValueError` for a length
        without room for text between the special tokens, for a tokenizer with neither a pad nor an end token, and for
        another canonicalization than its own with a pure Python tokenizer.
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
        probes = (*_PROBES, _SIGMA) if repair else _PROBES
        normalizers = _missing_normalizers(hf_tokenizer, canonicalize, probes)
        if normalizers:
            _prepend_normalizers(hf_tokenizer, normalizers)
        if canonicalize != "none" or RECORD not in hf_tokenizer.init_kwargs:
            hf_tokenizer.init_kwargs[RECORD] = canonicalize
        self.repairs = repair or hf_tokenizer.init_kwargs.get(REPAIR) is True
        if repair:
            hf_tokenizer.init_kwargs[REPAIR] = True
        hf_tokenizer.model_max_length = length
        hf_tokenizer("", **_pad_to(length))  # sets truncation and padding of the fast tokenizer
        self._files = _files(hf_tokenizer, generic=generic or bool(normalizers))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._fast is not None:  # pickling loses this setting
            self._fast.encode_special_tokens = self._splits_special_tokens

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Return the token ids of texts, `[texts, length]` int32; raise `ValueError` for a single text."""
        if isinstance(texts, str):  # its letters would be taken for texts
            raise ValueError(f"the tokenizer takes a list of texts, not the single text {texts!r}. Write [{texts!r}].")
        texts = list(texts)
        wrong = next((text for text in texts if isinstance(text, str) and not is_valid_text(text)), None)
        if wrong is not None:
            raise ValueError(f"the text {wrong!r} contains an unpaired surrogate. Remove it.")
        if self.repairs:
            texts = [repair_text(text) for text in texts]
        with _tokenizing():
            if self._fast is not None:
                ids = [encoding.ids for encoding in self._fast.encode_batch(texts)]
            else:
                ids = [self._slow(text, **_pad_to(self.length))["input_ids"] for text in texts]
        return np.array(ids, np.int32).reshape(-1, self.length)

    def encode(self, text: str) -> np.ndarray:
        """Return the token ids of one text, `[length]` int32."""
        if self._fast is None:
            return self([text])[0]
        text = repair_text(text) if self.repairs else text
        with _tokenizing():
            return np.array(self._fast.encode(text).ids, np.int32)

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


def is_valid_text(text: str) -> bool:
    """Return whether a text can be encoded: whether it has no unpaired surrogate."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


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
    hf_tokenizer.init_kwargs[RECORD] = canonicalize
    return Tokenizer(hf_tokenizer, length=length)


def open_tokenizer(name: str, *, length: int, canonicalize: str = "none") -> Tokenizer:
    """Open any Hugging Face tokenizer: `name` is a folder, the path of a `tokenizer.json`, or a Hub ID.

    A `tokenizer_config.json` next to a `tokenizer.json` is read as well; without it texts are padded with their end
    token. Raises as `load_tokenizer` does, `FileNotFoundError` for a path that does not exist, and `OSError` for a Hub
    ID that is not cached and cannot be downloaded.
    """
    return Tokenizer(open_hf_tokenizer(name), length=length, canonicalize=canonicalize)


def load_tokenizer(folder: str | os.PathLike, *, length: int, canonicalize: str = "none") -> Tokenizer:
    """Open the tokenizer in a folder, written by `Tokenizer.save` or by transformers.

    Raises `FileNotFoundError` if the folder has no tokenizer and `ValueError` for one that cannot be opened.
    """
    return Tokenizer(load_hf_tokenizer(pathlib.Path(folder)), length=length, canonicalize=canonicalize)


@contextlib.contextmanager
def _tokenizing() -> Iterator[None]:
    """Raise `ValueError` for what tokenizers raises: a bare `Exception`, or a panic, which is not even that."""
    try:
        yield
    except BaseException as error:
        if type(error) is Exception or is_panic(error):
            raise ValueError(
                f"the tokenizer cannot tokenize this text ({first_line(error)}). Use the tokenizer with which the "
                "checkpoint was trained."
            ) from None
        raise


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


def _missing_normalizers(
    hf_tokenizer: PreTrainedTokenizerBase, canonicalize: str, probes: Sequence[str]
) -> list[Normalizer]:
    """Return the normalizers of a canonicalization, or none if the tokenizer already does the same to the probes."""
    normalizers = canonicalization(canonicalize)
    if not normalizers:
        return []
    from tokenizers.normalizers import Sequence

    canonical = [Sequence(normalizers).normalize_str(text) for text in probes]
    done = all(
        hf_tokenizer(text, verbose=False)["input_ids"] == hf_tokenizer(other, verbose=False)["input_ids"]
        for text, other in zip(probes, canonical, strict=True)
    )
    return [] if done else normalizers


def _prepend_normalizers(hf_tokenizer: PreTrainedTokenizerBase, normalizers: list[Normalizer]) -> None:
    if not hf_tokenizer.is_fast:
        raise ValueError(
            f"{type(hf_tokenizer).__name__} is written in Python, so its texts cannot be canonicalized. Set "
            "canonicalize to 'none'."
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
        config["tokenizer_class"] = GENERIC_CLASS
        config |= {name: getattr(hf_tokenizer, name) for name in ("padding_side", "truncation_side")}
    config["model_input_names"] = ["input_ids"]  # no mask: the towers attend to padding, as in SigLIP
    files[CONFIG_FILE] = (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
    return files
