"""Whether the parts of a checkpoint fit each other: towers, tokenizer and image processor."""

from __future__ import annotations

import logging
import pathlib

from foundation.files.checksum_file import SUMS_FILE, changed_files, read_checksums
from models.config import ModelSettings
from models.preprocessing import Preprocessing
from models.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_MOST_HASHED = 256 << 20  # bytes; whatever reads a larger file refuses it


def check_vocabulary(tokenizer: Tokenizer, *, vocab_size: int, name: str) -> None:
    """Raise `ValueError` if a tokenizer produces ids that the text tower has no embeddings for."""
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"the tokenizer of {name} produces ids up to {tokenizer.vocab_size - 1:,}, but the text tower embeds only "
            f"{vocab_size:,}. Use the tokenizer that the checkpoint was trained with."
        )


def check_image_size(preprocessing: Preprocessing, settings: ModelSettings, *, name: str) -> None:
    """Raise `ValueError` if the preprocessed images do not have the size that the image tower takes."""
    if preprocessing.shape != settings.vision.image_shape:
        given, taken = (" × ".join(map(str, shape)) for shape in (preprocessing.shape, settings.vision.image_shape))
        raise ValueError(f"{name}: preprocessing gives images of {given} pixels, but the image tower takes {taken}")


def images_only(name: str) -> str:
    """Return the sentence for texts that reach a checkpoint without a text tower."""
    return (
        f"{name} embeds images only: it has no text tower. Leave out texts, or use a checkpoint that embeds both, such "
        "as google/siglip-base-patch16-224."
    )


def report_changes(folder: pathlib.Path) -> None:
    """Warn of files that changed since the export; those of the weights are checked when they are read."""
    paths = [folder / name for name in read_checksums(folder) if not name.endswith(".safetensors")]
    small = [path.name for path in paths if path.is_file() and path.stat().st_size < _MOST_HASHED]
    for name in changed_files(folder, small):
        logger.warning(f"{folder / name} was changed after the export: it does not have the checksum in {SUMS_FILE}")
