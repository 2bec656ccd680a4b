"""Opening the tokenizer files of transformers."""

from __future__ import annotations

import logging
import os
import pathlib
from typing import TYPE_CHECKING

from foundation.error_text import first_line
from foundation.files.safe_json import read_json
from foundation.rust_panics import panics_as_errors
from foundation.suggestions import nearest_path
from models.io import hub

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

TOKENIZER_FILE, CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"
RECORD = "canonicalize"  # our field of tokenizer_config.json: the canonicalization in tokenizer.json
GENERIC_CLASS = "PreTrainedTokenizerFast"  # uses tokenizer.json unchanged; transformers 4 and 5 have it
REPAIR = "repair_text"  # another one: whether texts are repaired before tokenizer.json, as by open_clip
_VOCABULARIES = (TOKENIZER_FILE, "vocab.*", "*.model", "*.tiktoken")
_MAX_BYTES = 256 << 20  # of one file; the vocabulary of Gemma, with 256,000 tokens, has 34 MB
HUB_FILES = (*_VOCABULARIES, CONFIG_FILE, "merges.txt", "special_tokens_map.json", "added_tokens.json", "config.json")
# Characters that no vocabulary has, which need the unknown token.
_UNUSUAL = "a photo of a Red apple, 3 日本語 \U0001fae8 \U000e0fff"


def open_hf_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Open the tokenizer that `open_tokenizer` wraps, and raise as it does."""
    path = pathlib.Path(name).expanduser()
    if not path.exists() and hub.is_path(name):
        raise FileNotFoundError(
            f"tokenizer {name} does not exist: there is no such file or folder.{nearest_path(path)}"
        )
    if path.is_file() and not (path.name == TOKENIZER_FILE and (path.parent / CONFIG_FILE).is_file()):
        return _checked(_open_file(path), path)
    if path.is_file():
        return load_hf_tokenizer(path.parent)
    return load_hf_tokenizer(path if path.is_dir() else hub.fetch(name, HUB_FILES, what="tokenizer"))


def load_hf_tokenizer(folder: pathlib.Path) -> PreTrainedTokenizerBase:
    """Open the tokenizer that `load_tokenizer` wraps, and raise as it does."""
    missing = f"{folder} has no {TOKENIZER_FILE} or other vocabulary that transformers opens"
    for path in (path for pattern in HUB_FILES for path in folder.glob(pattern)):
        _check_size(path)
    vocabulary = any(any(folder.glob(pattern)) for pattern in _VOCABULARIES)
    if not vocabulary and not (folder / CONFIG_FILE).is_file():
        raise FileNotFoundError(missing)
    try:
        with panics_as_errors():
            hf_tokenizer = _open_folder(folder)
    except Exception as error:  # missing or damaged files and missing packages raise many kinds of errors
        if not vocabulary:
            raise FileNotFoundError(missing) from error
        hf_tokenizer = _open_without_class(folder)
        if hf_tokenizer is None:
            raise ValueError(f"the tokenizer in {folder} cannot be opened ({first_line(error)})") from error
        logger.info(f"{folder}: {TOKENIZER_FILE} is used without the tokenizer's class ({first_line(error)})")
    if not vocabulary and hf_tokenizer.vocab_files_names:  # some classes invent a vocabulary of three tokens
        raise FileNotFoundError(missing)
    return _checked(hf_tokenizer, folder)


def _open_folder(folder: pathlib.Path) -> PreTrainedTokenizerBase:
    """Open a folder with the class that its config names.

    `AutoTokenizer` imports the configs of all models and, where it is installed, PyTorch, which takes seconds. A
    tokenizer that we wrote with the generic class needs neither.
    """
    config = read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
    if RECORD in config and config.get("tokenizer_class") == GENERIC_CLASS:
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(folder)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _checked(hf_tokenizer: PreTrainedTokenizerBase, path: pathlib.Path) -> PreTrainedTokenizerBase:
    """Return a tokenizer; raise `ValueError` for one that cannot tokenize, as without its special or unknown token."""
    try:
        with panics_as_errors():
            special, usual, _ = (
                hf_tokenizer(text, verbose=False)["input_ids"] for text in ("", "a red apple", _UNUSUAL)
            )
    except Exception as error:  # tokenizers raises plain exceptions
        raise ValueError(
            f"the tokenizer in {path} is damaged: it cannot tokenize a text ({first_line(error)}). Download it again."
        ) from error
    if len(usual) <= len(special):
        raise ValueError(f"the tokenizer in {path} is damaged: it finds no tokens in a text. Download it again.")
    return hf_tokenizer


def _open_without_class(folder: pathlib.Path) -> PreTrainedTokenizerBase | None:
    """Open `tokenizer.json` alone if the class needs files that are missing, such as `spiece.model`, otherwise None."""
    from transformers import PreTrainedTokenizerFast

    config = folder / CONFIG_FILE
    if not (folder / TOKENIZER_FILE).is_file() or (os.path.lexists(config) and not config.is_file()):
        return None
    try:
        with panics_as_errors():
            return PreTrainedTokenizerFast.from_pretrained(folder)
    except Exception:  # the caller reports the error of the class
        return None


def _check_size(path: pathlib.Path) -> None:
    """Raise `ValueError` for a file too large to belong to a tokenizer, before it is read."""
    if path.is_file() and path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; the limit is {_MAX_BYTES:,}. Download it again.")


def _open_file(path: pathlib.Path) -> PreTrainedTokenizerBase:
    from transformers import PreTrainedTokenizerFast

    _check_size(path)
    try:
        with panics_as_errors():
            return PreTrainedTokenizerFast(tokenizer_file=str(path), name_or_path=str(path))
    except Exception as error:  # as above
        raise ValueError(f"{path} is not a valid {TOKENIZER_FILE} ({first_line(error)})") from error
