"""The check that an export replaces nothing but a checkpoint."""

from __future__ import annotations

import pathlib

from foundation.files.atomic import PARTIAL_PREFIX
from foundation.files.checksum_file import SUMS_FILE
from models.checkpoints.huggingface import CONFIG_FILE, WEIGHTS_FILE
from models.checkpoints.model_card import CARD_FILE
from models.text.hf_tokenizer import HUB_FILES


def check_replaceable(folder: pathlib.Path) -> None:
    """Raise `FileExistsError` if `folder` exists, is not empty, and holds anything but a checkpoint."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / CONFIG_FILE).is_file():
        raise FileExistsError(f"{folder} exists and is not a checkpoint. It was not changed; choose another path.")
    usual = ("*.json", WEIGHTS_FILE, CARD_FILE, "LICENSE", SUMS_FILE, *HUB_FILES)
    others = (path for path in folder.iterdir() if path.is_dir() or not any(map(path.match, usual)))
    # A process that was killed while it wrote results into the card left a temporary folder.
    other = next((path for path in others if not path.name.startswith(PARTIAL_PREFIX)), None)
    if other is not None:
        raise FileExistsError(
            f"{folder} contains {other.name}, which is not part of a checkpoint. It was not changed; choose another "
            "path."
        )
