"""From a run's newest checkpoint to a directory that the ecosystem opens."""

from __future__ import annotations

import os
import pathlib

from models.huggingface import Checkpoint, save_checkpoint
from models.preprocessing import Preprocessing
from models.tokenizer import load_tokenizer
from pretrain.checkpoint import restore_parameters
from pretrain.settings import load_settings


def export(workdir: str | os.PathLike, folder: str | os.PathLike) -> pathlib.Path:
    """Writes the newest checkpoint of `workdir` to `folder` as a Hugging Face `SiglipModel`; returns the folder.

    The contextual branch and its scalars end here: they serve training only. Raises `FileNotFoundError` for a workdir
    without a checkpoint.
    """
    workdir = pathlib.Path(workdir)
    settings = load_settings(workdir)
    _, parameters = restore_parameters(workdir / "checkpoints")
    tokenizer = load_tokenizer(workdir / "tokenizer", length=settings.text["length"])
    return save_checkpoint(
        folder,
        Checkpoint(
            settings=settings.model(tokenizer.vocab_size),
            parameters=parameters["model"],
            scalars={name: float(parameters["objective"][name]) for name in ("logit_scale", "logit_bias")},
            preprocessing=Preprocessing(size=(settings.vision.image_size,) * 2),
            tokenizer=tokenizer,
        ),
    )
