"""Export of a checkpoint to files that other libraries open."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from foundation.suggestions import unknown_name
from models.checkpoints.big_vision import save_big_vision
from models.checkpoints.huggingface import architecture_of
from models.checkpoints.io import Checkpoint, save_checkpoint
from models.checkpoints.model_card import model_card, read_card, shortened
from models.text.tokenizer import load_tokenizer
from pretrain.checkpointing.card_lines import describe_training
from pretrain.checkpointing.manager import restore_parameters
from pretrain.config.run import PretrainSettings, load_settings

FORMATS = ("huggingface", "big_vision")


def export(
    workdir: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    step: int | None = None,
    format: str = "huggingface",
    dtype: str | None = None,
    license: str | None = None,
) -> pathlib.Path:
    """Write the checkpoint of a step of `workdir`, or the newest readable one, to `folder`, and return the path.

    "huggingface" is a directory that `transformers` opens as SiglipModel, Siglip2Model or CLIPModel, with a model card
    that names `license`. The licence in an existing card is kept, and so are its results if the weights are the same.
    "big_vision" is one `.npz` file. Weights are written in `dtype`, by default float32, as they were trained. The
    context branch and its scalars are not exported: they serve training only. Raises `FileNotFoundError` for a workdir
    without a checkpoint.
    """
    if format not in FORMATS:
        raise ValueError(unknown_name("format", format, FORMATS))
    workdir = pathlib.Path(workdir)
    load_settings(workdir)  # raises if the workdir contains no run
    restored = restore_parameters(workdir / "checkpoints", step=step)
    return export_parameters(
        workdir,
        folder,
        step=restored.step,
        parameters=restored.parameters,
        format=format,
        dtype=dtype,
        license=license,
    )


def export_parameters(
    workdir: pathlib.Path,
    folder: str | os.PathLike,
    *,
    step: int,
    parameters: Mapping[str, Any],
    format: str = "huggingface",
    dtype: str | None = None,
    license: str | None = None,
) -> pathlib.Path:
    """Write NumPy parameters of the run in `workdir` at a step, as `export` writes those of a checkpoint."""
    settings = load_settings(workdir)
    tokenizer = load_tokenizer(workdir / "tokenizer", length=settings.text["length"])
    model = settings.model_for(tokenizer)
    scalars = {name: float(parameters["objective"][name]) for name in ("logit_scale", "logit_bias")}
    if format == "big_vision":
        if license is not None:
            raise ValueError(f"--license={license} has no effect: an .npz file has no model card. Remove the option.")
        if dtype not in (None, "float32"):
            raise ValueError(f"--dtype={dtype} has no effect: an .npz file stores float32. Remove the option.")
        return save_big_vision(folder, model, parameters=parameters["model"], scalars=scalars)
    folder = pathlib.Path(folder)
    card = model_card(
        model,
        name=workdir.resolve().name,
        architecture=architecture_of(model),
        license=license or read_card(folder).license,
        base_model=_hub_id(settings.initial_checkpoint),
        training=_training(workdir, settings, step),
    )
    checkpoint = Checkpoint(model, parameters["model"], scalars, settings.image_preprocessing(), tokenizer)
    return save_checkpoint(folder, checkpoint, dtype=dtype, card=card)


def _training(workdir: pathlib.Path, settings: PretrainSettings, step: int) -> dict[str, str]:
    """Return the lines of the model card that describe the run."""
    lines = {}
    if settings.initial_checkpoint is not None:
        lines["initial checkpoint"] = shortened(settings.initial_checkpoint)
    return lines | describe_training(workdir, settings, step)


def _hub_id(name: str | None) -> str | None:
    """Return the name of an initial checkpoint if it is a hub id rather than a local path."""
    return None if name is None or pathlib.Path(name).exists() or name.count("/") != 1 else name
