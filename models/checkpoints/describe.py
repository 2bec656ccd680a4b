"""Describing a checkpoint of any supported format: its settings and tensors, before any weights are read."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from foundation.error_text import one_line
from foundation.files.safe_json import read_json
from models.checkpoints import big_vision, efficientnet, huggingface, open_clip
from models.checkpoints.aligned import RecordedEncoder, aligned_weight_map, is_aligned, read_aligned_config
from models.checkpoints.consistency import check_image_size, check_vocabulary, images_only, report_changes
from models.checkpoints.locate import (
    MODEL_TYPES,
    Location,
    find_huggingface_weights,
    find_model_type,
    is_huggingface,
    locate_checkpoint,
    missing_weights,
)
from models.checkpoints.pos_embed import resample_positions, resize_grid
from models.checkpoints.weight_map import (
    PlaceArray,
    WeightMap,
    check_depth,
    check_tensors,
    parameter_shapes,
    read_parameters,
    read_scalars,
)
from models.config import ModelSettings, TextSettings, VisionSettings
from models.io.tensor_reader import TensorFiles, open_tensors
from models.preprocessing import BICUBIC, BILINEAR, Preprocessing, load_naflex_preprocessing, load_preprocessing
from models.text.family import SIGLIP2, TextEvidence, find_family, read_names
from models.text.hf_tokenizer import load_hf_tokenizer, open_hf_tokenizer
from models.text.preparation import describe_preparation, prepare_texts
from models.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

POSITIONS = "vision/position_embedding"
DEFAULT_LOGIT_BIAS = 0.0  # of CLIP, which has none


class CheckpointDescription(NamedTuple):
    """A checkpoint whose files were found and checked, but whose weights were not read.

    `format` is "huggingface", "open_clip", "big_vision", "efficientnet" or "aligned". `text_evidence` is what the files
    tell about the preparation of texts, None for a checkpoint that embeds images only. `trained_settings` are those of
    the files, `settings` those for the requested image size. Aligned features have heads in the place of towers, the
    `encoders` of these features by side, and no `preprocessing` of their own.
    """

    name: str
    format: str
    folder: pathlib.Path
    settings: ModelSettings
    trained_settings: ModelSettings
    preprocessing: Preprocessing | None
    text_evidence: TextEvidence | None
    weight_map: WeightMap
    files: TensorFiles
    encoders: Mapping[str, RecordedEncoder] = {}

    def check_towers(self) -> None:
        """Raise `ValueError` for aligned features, which are no complete model."""
        if self.format == "aligned":
            raise ValueError(
                f"{self.name} holds heads on the features of other encoders, not both towers. "
                "`launch.py export --format=huggingface` folds linear heads on a CLIP into a complete checkpoint."
            )

    def open_tokenizer(self, name: str | None = None, *, canonicalize: str | None = None) -> Tokenizer:
        """Open the tokenizer of the checkpoint, or another one by name, and prepare texts as the model was trained.

        What is done to texts is logged in one line; `canonicalize`, one of `CANONICALIZATIONS`, overrides it. Raises
        `ValueError` for a tokenizer whose ids exceed the vocabulary of the text tower, and for a checkpoint that has
        none.
        """
        text = self.settings.text
        if text is None or self.text_evidence is None:
            raise ValueError(images_only(self.name))
        if name is None:
            try:
                with huggingface.quiet_transformers():  # it does not know the model type of aligned features
                    hf_tokenizer = load_hf_tokenizer(self.folder)
            except FileNotFoundError as error:
                raise FileNotFoundError(
                    f"{error}. Pass the tokenizer of {self.name} with --tokenizer=FOLDER."
                ) from error
        else:
            hf_tokenizer = open_hf_tokenizer(name)
        preparation = prepare_texts(hf_tokenizer, self.text_evidence, canonicalize=canonicalize)
        tokenizer = Tokenizer(
            hf_tokenizer,
            length=text.length,
            canonicalize=preparation.canonicalize,
            generic=preparation.changed,
            repair=preparation.repair,
        )
        logger.log(
            logging.DEBUG if preparation.stored else logging.INFO,
            f"{self.name}: {describe_preparation(tokenizer)} ({preparation.reason})",
        )
        check_vocabulary(tokenizer, vocab_size=text.vocab_size, name=self.name)
        return tokenizer

    def read(self, *, dtype: str = "float32", place: PlaceArray | None = None) -> dict[str, Any]:
        """Return the parameters in `dtype`; `place(path, array)` puts each array on devices (default: the first).

        Raises `ValueError` for weights that do not have their checksums, see `TensorFiles.check`.
        """
        self.files.check()
        place = place or _put_on_default_device
        old, new = self.trained_settings.vision, self.settings.vision

        def fit(path: str, array: np.ndarray) -> Any:
            if path == POSITIONS and old.grid != new.grid:
                if old.max_patches is not None:
                    array = resize_grid(array, old=old.grid, new=new.grid)
                else:
                    array = resample_positions(array, old=old.grid, new=new.grid, class_tokens=old.class_tokens)
            return place(path, array)

        shapes = parameter_shapes(self.trained_settings)
        return read_parameters(self.files, self.weight_map, shapes=shapes, dtype=dtype, place=fit)

    @property
    def has_logit_bias(self) -> bool:
        """True if the checkpoint has a bias: SigLIP has one, CLIP does not."""
        return self.weight_map.scalars.get("logit_bias") in self.files

    def scalars(self) -> dict[str, float]:
        """Return `logit_scale` (a logarithm) and `logit_bias`, which is 0 for a checkpoint without bias.

        Without a text tower there are none.
        """
        if self.settings.text is None:
            return {}
        scalars = read_scalars(self.files, self.weight_map)
        if "logit_scale" not in scalars:
            raise ValueError(
                f"{self.name} has no tensor {self.weight_map.scalars['logit_scale']}. Is it a CLIP or a SigLIP?"
            )
        return {"logit_bias": DEFAULT_LOGIT_BIAS} | scalars


def describe_checkpoint(
    name: str | os.PathLike,
    *,
    image_size: int | tuple[int, int] | None = None,
    max_patches: int | None = None,
) -> CheckpointDescription:
    """Find a checkpoint and read its config files and the names and shapes of its tensors, but no weights.

    `name` is a folder as transformers or open_clip writes it, an `.npz` file of big_vision or a folder with one, a
    folder with an EfficientNet-Lite, or a Hub ID. With `image_size`, position embeddings are resampled for images of
    that size, which is logged.

    A SigLIP 2 of variable resolution (NaFlex) embeds images of any aspect ratio with at most `max_patches` patches, by
    default as its image processor says. With `image_size` alone it is opened as one of that fixed resolution.

    Raises `FileNotFoundError`, `OSError` or `ValueError`, with a one-line message, if there is no checkpoint or its
    files are invalid.
    """
    location = locate_checkpoint(os.fspath(name))
    report_changes(location.folder)
    try:
        description = _describe(os.fspath(name), location)
    except (TypeError, AttributeError, LookupError, ArithmeticError) as error:  # fields of unexpected types
        raise ValueError(
            f"{name}: the config files are invalid ({one_line(error)}). Download or export the checkpoint again."
        ) from error
    check_tensors(description.files, description.weight_map, shapes=parameter_shapes(description.settings))
    if image_size is not None and description.format == "aligned":
        raise ValueError(f"{name} maps features, and the image size is that of their encoder. Omit --image_size.")
    if max_patches is not None:
        description = _with_max_patches(description, max_patches)
    if image_size is None:
        return description
    return _with_image_size(description, image_size, keep_aspect=max_patches is not None)


def _describe(name: str, location: Location) -> CheckpointDescription:
    folder, file = location
    if is_aligned(folder) and file is None:
        return _describe_aligned(name, folder)
    archive = file if file is not None and file.suffix == ".npz" else None
    if archive is None:
        if find_model_type(folder) == efficientnet.MODEL_TYPE:
            return _describe_efficientnet(name, folder, file)
        if is_huggingface(folder, file):
            return _describe_huggingface(name, folder, file)
        if (folder / open_clip.CONFIG_FILE).is_file():
            return _describe_open_clip(name, folder, file)
        config = folder / huggingface.CONFIG_FILE
        if config.is_file():
            found = read_json(config).get("model_type")
            raise huggingface.unsupported_model_type(config, found, supported=MODEL_TYPES)
        archive = next(iter(sorted(folder.glob("*.npz"))), None)
    if archive is None:
        raise FileNotFoundError(
            f"{folder} is not a checkpoint: it has no {huggingface.CONFIG_FILE}, {open_clip.CONFIG_FILE} or .npz file. "
            "`launch.py export` writes a checkpoint."
        )
    return _describe_npz(name, archive)


def _describe_huggingface(name: str, folder: pathlib.Path, weights: pathlib.Path | None) -> CheckpointDescription:
    weights = weights or find_huggingface_weights(folder)
    if weights is None:
        raise missing_weights(folder, huggingface.WEIGHTS_FILE)
    files = open_tensors(weights)
    model_type, settings = huggingface.read_config(folder / huggingface.CONFIG_FILE)
    check_depth(settings, files)
    if model_type == huggingface.SIGLIP2:
        vision = settings.vision
        most, preprocessing = load_naflex_preprocessing(folder, shape=vision.image_shape, patch_size=vision.patch_size)
        settings = dataclasses.replace(settings, vision=dataclasses.replace(vision, max_patches=most))
    else:
        preprocessing = load_preprocessing(folder)
        check_image_size(preprocessing, settings, name=str(folder))
        open_clip.warn_if_images_differ(name, folder, preprocessing, settings)
    return CheckpointDescription(
        name=name,
        format="huggingface",
        folder=folder,
        settings=settings,
        trained_settings=settings,
        preprocessing=preprocessing,
        text_evidence=TextEvidence(
            format="huggingface",
            siglip=model_type in (huggingface.SIGLIP, huggingface.SIGLIP2),
            vocab_size=settings.text.vocab_size,
            names=read_names(name, folder),
        ),
        weight_map=huggingface.weight_map_for(settings, model_type),
        files=files,
    )


def _describe_efficientnet(name: str, folder: pathlib.Path, weights: pathlib.Path | None) -> CheckpointDescription:
    weights = weights or find_huggingface_weights(folder)
    if weights is None:
        raise missing_weights(folder, huggingface.WEIGHTS_FILE)
    files = open_tensors(weights)
    settings = efficientnet.read_config(folder / huggingface.CONFIG_FILE, tensors=len(files))
    preprocessing = load_preprocessing(folder)
    check_image_size(preprocessing, settings, name=str(folder))
    return CheckpointDescription(
        name=name,
        format="efficientnet",
        folder=folder,
        settings=settings,
        trained_settings=settings,
        preprocessing=preprocessing,
        text_evidence=None,
        weight_map=efficientnet.weight_map_for(settings),
        files=files,
    )


def _describe_aligned(name: str, folder: pathlib.Path) -> CheckpointDescription:
    config = read_aligned_config(folder / huggingface.CONFIG_FILE)
    weights = folder / huggingface.WEIGHTS_FILE
    if not weights.is_file():
        raise missing_weights(folder, huggingface.WEIGHTS_FILE)
    settings = config.settings
    has_tower = isinstance(settings.text, TextSettings)
    return CheckpointDescription(
        name=name,
        format="aligned",
        folder=folder,
        settings=settings,
        trained_settings=settings,
        preprocessing=None,
        text_evidence=TextEvidence(
            format="huggingface",
            siglip=True,
            vocab_size=settings.text.vocab_size if has_tower else 0,
            names=read_names(name, folder),
        ),
        weight_map=aligned_weight_map(settings),
        files=open_tensors(weights),
        encoders=config.encoders,
    )


def _describe_open_clip(name: str, folder: pathlib.Path, weights: pathlib.Path | None) -> CheckpointDescription:
    weights = weights or open_clip.find_weights(folder)
    if weights is None:
        raise missing_weights(folder, open_clip.WEIGHTS_FILES[0])
    files = open_tensors(weights)
    path = folder / open_clip.CONFIG_FILE
    fields = read_json(path)
    model = fields.get("model_cfg", fields)
    try:
        settings, weight_map = open_clip.read_settings(model, files)
        preprocessing = open_clip.read_preprocessing(fields.get("preprocess_cfg") or {}, settings)
        texts = open_clip.read_text_options(model)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return CheckpointDescription(
        name=name,
        format="open_clip",
        folder=folder,
        settings=settings,
        trained_settings=settings,
        preprocessing=preprocessing,
        text_evidence=TextEvidence(
            format="open_clip",
            siglip=settings.vision.pooling == "attention",
            vocab_size=settings.text.vocab_size,
            names=read_names(name, folder) | texts.names,
            canonicalize=texts.canonicalize,
            strip_sep=texts.strip_sep,
        ),
        weight_map=weight_map,
        files=files,
    )


def _describe_npz(name: str, path: pathlib.Path) -> CheckpointDescription:
    files = open_tensors(path)
    settings, weight_map = big_vision.read_settings(files, path)
    naflex = {} if settings.vision.max_patches is None else {"image tower": "SigLIP 2 NaFlex"}
    evidence = TextEvidence(
        format="big_vision",
        siglip=True,
        vocab_size=settings.text.vocab_size,
        names=read_names(f"{name}/{path.name}", path.parent) | naflex,
    )
    family = find_family(evidence)
    resample = BILINEAR if family is not None and family.name == SIGLIP2 else BICUBIC  # as in the converted folders
    return CheckpointDescription(
        name=name,
        format="big_vision",
        folder=path.parent,
        settings=settings,
        trained_settings=settings,
        preprocessing=Preprocessing(size=settings.vision.image_shape, resample=resample),
        text_evidence=evidence,
        weight_map=weight_map,
        files=files,
    )


def _with_max_patches(description: CheckpointDescription, max_patches: int) -> CheckpointDescription:
    """Return a NaFlex for another largest number of patches; raise `ValueError` for images of one size."""
    vision = description.settings.vision
    if getattr(vision, "max_patches", None) is None:
        raise ValueError(
            f"{description.name} takes images of one size, not up to max_patches {max_patches} patches, as SigLIP 2 "
            "NaFlex does. Set image_size instead."
        )
    vision = dataclasses.replace(vision, max_patches=max_patches)
    return description._replace(settings=dataclasses.replace(description.settings, vision=vision))


def _with_image_size(
    description: CheckpointDescription, image_size: int | tuple[int, int], *, keep_aspect: bool
) -> CheckpointDescription:
    """Return a checkpoint for images of another size; a NaFlex keeps its variable resolution with `keep_aspect`."""
    old = description.settings.vision
    fixed = {"max_patches": None} if isinstance(old, VisionSettings) and not keep_aspect else {}
    new = dataclasses.replace(old, image_size=image_size, **fixed)
    if isinstance(old, VisionSettings) and new.grid != old.grid:
        grids = [" × ".join(map(str, vision.grid)) for vision in (old, new)]
        logger.info(f"{description.name}: position embeddings of {grids[0]} patches resampled to {grids[1]}")
    if fixed and old.max_patches is not None:
        size = " × ".join(map(str, new.image_shape))
        logger.info(
            f"{description.name}: images are resized to {size} pixels; without image_size they keep their aspect"
        )
    return description._replace(
        settings=dataclasses.replace(description.settings, vision=new),
        preprocessing=description.preprocessing.for_shape(new.image_shape),
    )


def _put_on_default_device(path: str, array: np.ndarray) -> jax.Array:
    return jax.device_put(array)
