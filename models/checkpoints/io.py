"""Opening checkpoints of every supported format, and saving them in the format of transformers."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from foundation.files.atomic import atomic_folder, write_json
from foundation.files.checksum_file import write_checksums
from models.checkpoints import efficientnet, huggingface
from models.checkpoints.consistency import check_image_size, check_vocabulary
from models.checkpoints.describe import describe_checkpoint
from models.checkpoints.model_card import write_card
from models.checkpoints.replacing import check_replaceable
from models.checkpoints.weight_map import PlaceArray, WeightMap, to_tensors
from models.config import EfficientNetSettings, ModelSettings, VisionSettings
from models.preprocessing import PREPROCESSOR_FILE, Preprocessing
from models.text.tokenizer import Tokenizer


class Checkpoint(NamedTuple):
    """Everything a checkpoint holds. `scalars` are `logit_scale` (a logarithm) and `logit_bias` of the base loss.

    A checkpoint that embeds images only has neither scalars nor a tokenizer. `dtype` is the dtype of the weights in the
    file; the parameters here may have another.
    """

    settings: ModelSettings
    parameters: Mapping[str, Any]
    scalars: Mapping[str, float]
    preprocessing: Preprocessing
    tokenizer: Tokenizer | None
    dtype: str = "float32"


def open_checkpoint(
    name: str | os.PathLike,
    *,
    image_size: int | tuple[int, int] | None = None,
    max_patches: int | None = None,
    tokenizer: str | None = None,
    canonicalize: str | None = None,
    dtype: str = "float32",
    place: PlaceArray | None = None,
) -> Checkpoint:
    """Open a checkpoint of any format that `describe_checkpoint` recognizes, tensor by tensor.

    Parameters are in `dtype`; `place(path, array)` puts each array on devices, by default on the default device.
    `tokenizer` names a tokenizer to use instead of the checkpoint's, `canonicalize` overrides how its texts are
    prepared (`CheckpointDescription.open_tokenizer`). Without a text tower, both raise `ValueError`. Raises as
    `describe_checkpoint` does, and `ValueError` if tensors do not match the config.
    """
    description = describe_checkpoint(name, image_size=image_size, max_patches=max_patches)
    description.check_towers()
    with_texts = description.settings.text is not None or tokenizer is not None or canonicalize is not None
    return Checkpoint(
        settings=description.settings,
        scalars=description.scalars(),
        preprocessing=description.preprocessing,
        tokenizer=description.open_tokenizer(tokenizer, canonicalize=canonicalize) if with_texts else None,
        parameters=description.read(dtype=dtype, place=place),
        dtype=description.files.float_dtype,
    )


def save_checkpoint(
    folder: str | os.PathLike, checkpoint: Checkpoint, *, dtype: str | None = None, card: str | None = None
) -> pathlib.Path:
    """Write a directory that transformers opens with its processor and tokenizer; return it.

    It holds a `SiglipModel`, a `Siglip2Model` for settings with `vision.max_patches`, or a `CLIPModel`.

    A tower of convolutions is written in the format of `models.checkpoints.efficientnet` instead.
    `SHA256SUMS` has the checksums of all files but the card, which are checked when the directory is opened.
    Weights are written in `dtype`, by default that of the checkpoint. `card` is the text of the README.md. The
    directory appears under its final name when it is complete; an existing checkpoint is replaced. Raises `ValueError`
    for towers that neither class can hold and for values too large for float16, and `FileExistsError` if `folder` is
    something other than a checkpoint.
    """
    from safetensors.numpy import save_file

    folder, tokenizer = pathlib.Path(folder), checkpoint.tokenizer
    check_replaceable(folder)
    check_image_size(checkpoint.preprocessing, checkpoint.settings, name=str(folder))
    dtype = dtype or checkpoint.dtype
    config, weight_map = _describe(checkpoint, name=str(folder), dtype=dtype)
    tensors = _to_tensors(checkpoint, weight_map, dtype=dtype)
    with atomic_folder(folder) as temporary:
        write_json(temporary / huggingface.CONFIG_FILE, config)
        write_json(temporary / PREPROCESSOR_FILE, _preprocessor_json(checkpoint))
        if tokenizer is not None:
            tokenizer.save(temporary)
        weights = temporary / huggingface.WEIGHTS_FILE
        save_file(tensors, weights, metadata={"format": "pt"})
        # safetensors creates files that only their owner can read.
        weights.chmod((temporary / huggingface.CONFIG_FILE).stat().st_mode & 0o777)
        write_checksums(temporary, [path.name for path in temporary.iterdir()])
        if card is not None:
            write_card(temporary, card, weights=huggingface.WEIGHTS_FILE, replaced=folder)
    return folder


def _describe(checkpoint: Checkpoint, *, name: str, dtype: str) -> tuple[dict[str, Any], WeightMap]:
    """Return the `config.json` of a checkpoint, and where its tensors are."""
    settings, tokenizer = checkpoint.settings, checkpoint.tokenizer
    if isinstance(settings.vision, EfficientNetSettings):
        return efficientnet.to_config(settings.vision, dtype=dtype), efficientnet.weight_map_for(settings)
    check_vocabulary(tokenizer, vocab_size=settings.text.vocab_size, name=name)
    ids = {"start_id": tokenizer.start_id, "end_id": tokenizer.end_id, "pad_id": tokenizer.pad_id}
    config = huggingface.to_config(settings, **ids, dtype=dtype)
    return config, huggingface.weight_map_for(settings, config["model_type"])


def _preprocessor_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the fields of the image processor of a checkpoint."""
    vision = checkpoint.settings.vision
    if not isinstance(vision, VisionSettings) or vision.max_patches is None:
        return checkpoint.preprocessing.to_json()
    return checkpoint.preprocessing.to_json(patch_size=vision.patch_size, max_patches=vision.max_patches)


def _to_tensors(checkpoint: Checkpoint, weight_map: WeightMap, *, dtype: str) -> dict[str, np.ndarray]:
    with np.errstate(over="ignore"):
        tensors = to_tensors(weight_map, checkpoint.parameters, scalars=checkpoint.scalars, dtype=dtype)
    overflowing = [name for name, tensor in tensors.items() if dtype == "float16" and np.isinf(tensor).any()]
    if overflowing:
        raise ValueError(f"{overflowing[0]} has values above 65,504, the largest of float16. Use dtype bfloat16.")
    return tensors
