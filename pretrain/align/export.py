"""Export of an alignment run: the heads alone, or folded into the CLIP whose features they map."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from foundation.suggestions import unknown_name
from models.checkpoints.aligned import AlignedModel, RecordedEncoder, save_aligned
from models.checkpoints.io import save_checkpoint
from models.checkpoints.model_card import aligned_card, model_card, read_card, shortened
from models.config import FeatureHeadSettings, ModelSettings
from models.text.tokenizer import load_tokenizer
from pretrain.align.config import load_settings
from pretrain.align.encoders import read_encoders
from pretrain.align.folding import fold
from pretrain.checkpointing.card_lines import describe_training
from pretrain.checkpointing.manager import restore_parameters
from pretrain.config.text_tower import text_settings_for

ALIGNED, HUGGINGFACE = "aligned", "huggingface"
FORMATS = (ALIGNED, HUGGINGFACE)


def export_aligned(
    workdir: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    step: int | None = None,
    format: str = ALIGNED,
    dtype: str | None = None,
    license: str | None = None,
) -> pathlib.Path:
    """Write the checkpoint of a step of `workdir`, or the newest readable one, to `folder`, and return the path.

    "aligned" is a folder with the heads, or a head and the text tower, and the names and checksums of the encoders,
    which `adapt.Encoder` opens. "huggingface" folds linear heads into the projections of their CLIP and writes a folder
    that `CLIPModel` of transformers opens, see `fold`. Raises `FileNotFoundError` for a workdir without a checkpoint.
    """
    if format not in FORMATS:
        raise ValueError(unknown_name("format", format, FORMATS))
    workdir = pathlib.Path(workdir)
    load_settings(workdir)  # raises if the workdir contains no run
    restored = restore_parameters(workdir / "checkpoints", step=step)
    return export_aligned_parameters(
        workdir,
        folder,
        step=restored.step,
        parameters=restored.parameters,
        format=format,
        dtype=dtype,
        license=license,
    )


def export_aligned_parameters(
    workdir: pathlib.Path,
    folder: str | os.PathLike,
    *,
    step: int,
    parameters: Mapping[str, Any],
    format: str = ALIGNED,
    dtype: str | None = None,
    license: str | None = None,
) -> pathlib.Path:
    """Write NumPy parameters of the run in `workdir` at a step, as `export_aligned` writes those of a checkpoint."""
    settings, folder = load_settings(workdir), pathlib.Path(folder)
    tokenizer = load_tokenizer(workdir / "tokenizer", length=settings.text_length) if settings.captions else None
    heads = parameters["model"]
    text = _input_dim(heads["text"]) if tokenizer is None else text_settings_for(settings.text, tokenizer)
    model = AlignedModel(
        settings=settings.model(_input_dim(heads["vision"]), text),
        parameters=heads,
        scalars={name: float(parameters["objective"][name]) for name in ("logit_scale", "logit_bias")},
        encoders=read_encoders(workdir),
        tokenizer=tokenizer,
    )
    training = describe_training(workdir, settings, step)
    training |= {f"{side} encoder": describe_encoder(each) for side, each in model.encoders.items()}
    license, name = license or read_card(folder).license, workdir.resolve().name
    if format == ALIGNED:
        card = aligned_card(
            name=name,
            license=license,
            model=_describe_model(model.settings),
            training=training,
            opens_images=model.encoders["vision"].fingerprint is not None,
        )
        return save_aligned(folder, model, dtype=dtype or "float32", card=card)
    folded = fold(model)
    card = model_card(
        folded.settings,
        name=name,
        architecture="CLIPModel",
        license=license,
        base_model=None,
        training=training,
    )
    return save_checkpoint(folder, folded, dtype=dtype or "float32", card=card)


def describe_encoder(encoder: RecordedEncoder) -> str:
    """Return the name and fingerprint of an encoder in words."""
    name = "not recorded" if encoder.name is None else shortened(encoder.name)
    return name if encoder.fingerprint is None else f"{name} (fingerprint {encoder.fingerprint})"


def _describe_model(settings: ModelSettings) -> dict[str, str]:
    lines = {}
    for side in ("vision", "text"):
        each = getattr(settings, side)
        if isinstance(each, FeatureHeadSettings):
            statistics = ", standardised" if each.standardize else ""
            lines[f"{side} head"] = f"{each.kind}, {each.input_dim} to {each.dim} dimensions{statistics}"
        else:
            lines["text tower"] = f"{each.length} tokens, width {each.width}, {each.depth} layers, {each.heads} heads"
    return lines | {"embedding": f"{settings.dim} dimensions"}


def _input_dim(head: Mapping[str, Any]) -> int:
    """Return the number of dimensions of the features that a head takes, from its parameters."""
    return (head["linear"] if "linear" in head else head["up"])["kernel"].shape[0]
