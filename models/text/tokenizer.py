"""Text to token ids: any Hugging Face tokenizer, one trained on captions, or the one that travels with a checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from foundation.error_text import first_line
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
_LARGEST = 256 << 20  # bytes; the vocabulary of Gemma, with 256,000 tokens, has 34 MB
HUB_FILES = (*_VOCABULARIES, CONFIG_FILE, "merges.txt", "special_tokens_map.json", "added_tokens.json", "config.json")
# What transformers notes of one loading, and reads from tokenizer.json at the next.
_TRANSIENT = ("is_local", "local_files_only", "max_length", "stride", "truncation_strategy", "pad_to_multiple_of")


class Tokenizer:
    """Maps texts to padded token ids `[texts, length]` int32, those of its `transformers` tokenizer.

    Longer texts are cut, their end token kept. `start_id` and `end_id` are the tokens around a text, None where there
    is none; `pad_id` fills the rest; every id is below `vocab_size`. Copies of it can be sent to other processes.
    """

    def __init__(self, original: PreTrainedTokenizerBase, *, length: int, canonicalize: str = "none"):
        """Takes `original` over; texts are canonicalised as `models/text/canonicalize.py` says before it sees them.

        Raises `ValueError` for a length that its start and end take up, for one with neither pad nor end token, and
        where a pure Python tokenizer is to canonicalise.
        """
        around = len(original("")["input_ids"])
        if around >= length:
            raise ValueError(f"text.length {length} leaves no room for a text beside the {around} tokens put around it")
        self.length = length
        self.start_id, self.end_id = _ends(original)
        self.pad_id = _padding(original, self.end_id)
        self.vocab_size: int = max(original.get_vocab().values()) + 1
        self._slow = None if original.is_fast else original
        self._fast = original.backend_tokenizer if original.is_fast else None
        self._splits_special_tokens = original.split_special_tokens
        normalizers = canonicalization(canonicalize)
        if normalizers:
            _prepend(original, normalizers)
        original.model_max_length = length
        original("", **_to_length(length))  # which sets how the fast one cuts and pads
        self._files = _files(original, generic=bool(normalizers))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._fast is not None:  # which forgets this one on its way
            self._fast.encode_special_tokens = self._splits_special_tokens

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        texts = list(texts)
        if self._fast is not None:
            ids = [encoding.ids for encoding in self._fast.encode_batch(texts)]
        else:
            ids = [self._slow(text, **_to_length(self.length))["input_ids"] for text in texts]
        return np.array(ids, np.int32).reshape(-1, self.length)

    def encode(self, text: str) -> np.ndarray:
        """Returns the token ids of one text, `[length]` int32."""
        return np.array(self._fast.encode(text).ids, np.int32) if self._fast is not None else self([text])[0]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text that the ids spell, as the model sees it, without start, end and padding."""
        ids = [int(token) for token in ids]
        return (self._fast or self._slow).decode(ids, skip_special_tokens=True)

    @property
    def fingerprint(self) -> str:
        """A hash of what it is saved as."""
        digest = hashlib.sha256(self._fast.to_str().encode() if self._fast is not None else b"")
        for name, content in sorted(self._files.items()):
            digest.update(name.encode() + b"\0" + content)
        return digest.hexdigest()[:16]

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the files that `transformers.AutoTokenizer` and `load_tokenizer` open as this tokenizer."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            (folder / name).write_bytes(content)
        if self._fast is not None:
            self._fast.save(str(folder / TOKENIZER_FILE))


def train_tokenizer(
    captions: Iterable[str], *, vocab_size: int, length: int, canonicalize: str = "siglip"
) -> Tokenizer:
    """Trains a byte-pair tokenizer on captions in Unicode's form NFKC, canonicalised.

    The same captions in any order give the same tokenizer. It has more than `vocab_size` ids only where the captions
    have more letters.
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
    original = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END, unk_token=UNKNOWN)
    return Tokenizer(original, length=length)


def open_tokenizer(name: str, *, length: int, canonicalize: str = "none") -> Tokenizer:
    """Opens any Hugging Face tokenizer: `name` is a folder, the path of a `tokenizer.json`, or a hub id.

    A `tokenizer_config.json` beside a `tokenizer.json` counts; without it no pad token is known, and texts are padded
    with their end token. Raises as `load_tokenizer` does, and `OSError` for a hub id neither cached nor in reach.
    """
    path = pathlib.Path(name)
    if path.is_file() and not (path.name == TOKENIZER_FILE and (path.parent / CONFIG_FILE).is_file()):
        original = _open_file(path)
    elif path.is_file():
        original = _open_folder(path.parent)
    else:
        original = _open_folder(path if path.is_dir() else hub.fetch(name, HUB_FILES, what="tokenizer"))
    return Tokenizer(original, length=length, canonicalize=canonicalize)


def load_tokenizer(folder: str | os.PathLike, *, length: int, canonicalize: str = "none") -> Tokenizer:
    """Opens what `Tokenizer.save` wrote to a folder, or any tokenizer that `transformers.AutoTokenizer` finds there.

    Raises `FileNotFoundError` where the folder holds none and `ValueError` for one that cannot be opened.
    """
    return Tokenizer(_open_folder(pathlib.Path(folder)), length=length, canonicalize=canonicalize)


def _open_folder(folder: pathlib.Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    missing = f"{folder} holds no {TOKENIZER_FILE}, nor another vocabulary that transformers opens"
    for path in (path for pattern in HUB_FILES for path in folder.glob(pattern)):
        _check_size(path)
    vocabulary = any(any(folder.glob(pattern)) for pattern in _VOCABULARIES)
    if not vocabulary and not (folder / CONFIG_FILE).is_file():
        raise FileNotFoundError(missing)
    try:
        original = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # missing and damaged files and packages fail in many ways
        if not vocabulary:
            raise FileNotFoundError(missing) from error
        raise ValueError(f"the tokenizer in {folder} cannot be opened ({first_line(error)})") from error
    if not vocabulary and original.vocab_files_names:  # some classes make up a vocabulary of three tokens
        raise FileNotFoundError(missing)
    return original


def _check_size(path: pathlib.Path) -> None:
    """Raises `ValueError` for a file that no tokenizer has, before it is read."""
    if path.is_file() and path.stat().st_size > _LARGEST:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, and at most {_LARGEST:,} are read; fetch it again")


def _open_file(path: pathlib.Path) -> PreTrainedTokenizerBase:
    from transformers import PreTrainedTokenizerFast

    _check_size(path)
    try:
        return PreTrainedTokenizerFast(tokenizer_file=str(path), name_or_path=str(path))
    except Exception as error:  # as above
        raise ValueError(f"{path} is no {TOKENIZER_FILE} ({first_line(error)})") from error


def _ends(original: PreTrainedTokenizerBase) -> tuple[int | None, int | None]:
    """Returns the ids that it puts before and after a text; an end token that it only knows of counts."""
    encoding = original("a", return_special_tokens_mask=True)
    ids, added = encoding["input_ids"], encoding["special_tokens_mask"]
    start = ids[0] if len(ids) > 1 and added[0] else None
    return start, ids[-1] if ids and added[-1] else original.eos_token_id


def _to_length(length: int) -> dict[str, Any]:
    return {"padding": "max_length", "truncation": True, "max_length": length}


def _padding(original: PreTrainedTokenizerBase, end_id: int | None) -> int:
    """Returns the id of the token to pad with, which is the end token where none is named."""
    if original.pad_token is None and end_id is None:
        raise ValueError(
            f"tokenizer {original.name_or_path!r} has neither a pad token nor an end token; name one as pad_token in "
            f"its {CONFIG_FILE}"
        )
    if original.pad_token is None:
        original.pad_token = original.convert_ids_to_tokens(end_id)
    return original.pad_token_id


def _prepend(original: PreTrainedTokenizerBase, normalizers: list[Normalizer]) -> None:
    if not original.is_fast:
        raise ValueError(
            f"{type(original).__name__} is written in Python and takes no canonicalization before its own; set "
            "tokenizer.canonicalize to 'none'"
        )
    from tokenizers.normalizers import Sequence

    backend = original.backend_tokenizer
    own = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = Sequence([*normalizers, *own])


def _files(original: PreTrainedTokenizerBase, *, generic: bool) -> dict[str, bytes]:
    """Returns the files that stand beside `tokenizer.json`, by name.

    `generic` names the class that takes `tokenizer.json` as it is: others build their normalizer anew.
    """
    with tempfile.TemporaryDirectory() as folder:
        original.save_pretrained(folder)
        files = {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir() if path.is_file()}
    files.pop(TOKENIZER_FILE, None)
    config = {name: value for name, value in json.loads(files[CONFIG_FILE]).items() if name not in _TRANSIENT}
    if generic or config["tokenizer_class"] == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"  # which transformers 4 knows as well
        config |= {name: getattr(original, name) for name in ("padding_side", "truncation_side")}
    config["model_input_names"] = ["input_ids"]  # no mask: the towers attend to padding, as SigLIP's does
    files[CONFIG_FILE] = (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
    return files
