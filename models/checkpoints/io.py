"""Opens published and exported checkpoints of every format that is read here, and writes those that others open."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from foundation.error_text import one_line
from foundation.safe_json import read_json
from models.checkpoints import big_vision, huggingface, open_clip
from models.checkpoints.model_card import CARD_FILE
from models.checkpoints.pos_embed import resample_positions
from models.checkpoints.weight_map import (
    Layout,
    Place,
    check_depth,
    check_tensors,
    parameter_shapes,
    read_parameters,
    read_scalars,
    to_tensors,
)
from models.config import ModelSettings
from models.io import hub
from models.io.tensor_reader import PICKLES, TensorFiles, open_tensors, refuse_pickle
from models.preprocessing import PREPROCESSOR_FILE, Preprocessing, load_preprocessing
from models.text.tokenizer import HUB_FILES, Tokenizer, load_tokenizer, open_tokenizer

logger = logging.getLogger(__name__)

POSITIONS = "vision/position_embedding"
DEFAULT_LOGIT_BIAS = 0.0  # CLIP has none


class Checkpoint(NamedTuple):
    """Everything a checkpoint holds. `scalars` are the base loss's `logit_scale` (a log) and `logit_bias`.

    `dtype` is that of the numbers in the file, whatever that of the parameters here.
    """

    settings: ModelSettings
    parameters: Mapping[str, Any]
    scalars: Mapping[str, float]
    preprocessing: Preprocessing
    tokenizer: Tokenizer
    dtype: str = "float32"


class Description(NamedTuple):
    """A checkpoint that has been found and understood, and of which no weights have been read.

    `format` is one of "huggingface", "open_clip" and "big_vision"; `canonicalize` is what is done to texts before its
    tokenizer sees them; `trained_settings` are those of the file, `settings` those for the resolution asked for.
    """

    name: str
    format: str
    folder: pathlib.Path
    settings: ModelSettings
    trained_settings: ModelSettings
    preprocessing: Preprocessing
    canonicalize: str
    layout: Layout
    files: TensorFiles

    def open_tokenizer(self, name: str | None = None) -> Tokenizer:
        """Opens the checkpoint's tokenizer, or the one that is named; raises `ValueError` for one of other ids."""
        text = self.settings.text
        if name is None:
            try:
                tokenizer = load_tokenizer(self.folder, length=text.length, canonicalize=self.canonicalize)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{error}; name the tokenizer of {self.name}: --tokenizer=FOLDER") from error
        else:
            tokenizer = open_tokenizer(name, length=text.length, canonicalize=self.canonicalize)
        check_vocabulary(tokenizer, text.vocab_size, self.name)
        return tokenizer

    def read(self, *, dtype: str = "float32", place: Place | None = None) -> dict[str, Any]:
        """Returns the parameters in `dtype`, each as `place(path, array)` puts it, by default on the default device."""
        place = place or (lambda path, array: jax.device_put(array))
        old, new = self.trained_settings.vision, self.settings.vision

        def fit(path: str, array: np.ndarray) -> Any:
            if path == POSITIONS and old.grid != new.grid:
                array = resample_positions(array, old=old.grid, new=new.grid, class_tokens=old.class_tokens)
            return place(path, array)

        shapes = parameter_shapes(self.trained_settings)
        return read_parameters(self.files, self.layout, shapes, dtype=_numpy_dtype(dtype), place=fit)

    @property
    def has_logit_bias(self) -> bool:
        """Whether the checkpoint has a bias of its own: SigLIP's do, and CLIP's do not."""
        return self.layout.scalars.get("logit_bias") in self.files

    def scalars(self) -> dict[str, float]:
        """Returns `logit_scale` (a log) and `logit_bias`, 0 where the checkpoint has none."""
        scalars = read_scalars(self.files, self.layout)
        if "logit_scale" not in scalars:
            raise ValueError(f"{self.name} lacks {self.layout.scalars['logit_scale']}; is it a CLIP or a SigLIP?")
        return {"logit_bias": DEFAULT_LOGIT_BIAS} | scalars


def describe_checkpoint(
    name: str | os.PathLike,
    *,
    image_size: int | tuple[int, int] | None = None,
) -> Description:
    """Finds a checkpoint and reads what describes it, the names and shapes of its tensors too; no weights are read.

    `name` is a folder as transformers or open_clip writes it, an `.npz` of big_vision or a folder with one, or a hub
    id. With `image_size` its position embeddings are resampled for images of that size, which is logged.

    Raises `FileNotFoundError`, `OSError` or `ValueError`, in a sentence, for what is none or cannot be trusted.
    """
    folder, file = _locate(os.fspath(name))
    try:
        found = _describe(os.fspath(name), folder, file)
    except (TypeError, AttributeError, LookupError, ArithmeticError) as error:  # of fields of the wrong kind
        raise ValueError(f"{name}: what describes it is not as expected ({one_line(error)})") from error
    check_tensors(found.files, found.layout, parameter_shapes(found.settings))
    return found if image_size is None else _at_resolution(found, image_size)


def _describe(name: str, folder: pathlib.Path, file: pathlib.Path | None) -> Description:
    archive = file if file is not None and file.suffix == ".npz" else None
    weights = file if archive is None else None
    if archive is None and _is_hugging_face(folder, weights):
        return _describe_huggingface(name, folder, weights)
    if archive is None and (folder / open_clip.CONFIG_FILE).is_file():
        return _describe_open_clip(name, folder, weights)
    if archive is None and (folder / huggingface.CONFIG_FILE).is_file():
        kind = read_json(folder / huggingface.CONFIG_FILE).get("model_type")
        known = ", ".join(huggingface.MODEL_TYPES)
        raise ValueError(f"{folder / huggingface.CONFIG_FILE}: model_type {kind!r} is not read here; {known} are")
    archive = archive or next(iter(sorted(folder.glob("*.npz"))), None)
    if archive is None:
        raise FileNotFoundError(
            f"{folder} is no checkpoint: it holds no {huggingface.CONFIG_FILE}, {open_clip.CONFIG_FILE} or .npz; "
            "`launch.py export` writes one"
        )
    return _describe_npz(name, archive)


def open_checkpoint(
    name: str | os.PathLike,
    *,
    image_size: int | tuple[int, int] | None = None,
    tokenizer: str | None = None,
    dtype: str = "float32",
    place: Place | None = None,
) -> Checkpoint:
    """Opens a checkpoint of any format that `describe_checkpoint` finds, tensor by tensor.

    Its parameters come in `dtype`, each as `place(path, array)` puts it, by default on the default device. `tokenizer`
    names another than its own. Raises as `describe_checkpoint` does, and where tensors do not fit the config.
    """
    found = describe_checkpoint(name, image_size=image_size)
    return Checkpoint(
        settings=found.settings,
        scalars=found.scalars(),
        preprocessing=found.preprocessing,
        tokenizer=found.open_tokenizer(tokenizer),
        parameters=found.read(dtype=dtype, place=place),
        dtype=found.files.float_dtype,
    )


def save_checkpoint(
    folder: str | os.PathLike, checkpoint: Checkpoint, *, dtype: str | None = None, card: str | None = None
) -> pathlib.Path:
    """Writes a directory that `transformers`' SiglipModel or CLIPModel, its processor and tokenizer open; returns it.

    The weights are written in `dtype`, by default the checkpoint's. The directory appears under its final name only
    when it is complete; a checkpoint that was there is replaced. `card` is the text of its README.md. Raises
    `ValueError` for towers that neither class can hold and for numbers too large for float16, and `FileExistsError`
    where anything else is there.
    """
    from safetensors.numpy import save_file

    folder, tokenizer = pathlib.Path(folder), checkpoint.tokenizer
    _check_replaceable(folder)
    check_vocabulary(tokenizer, checkpoint.settings.text.vocab_size, str(folder))
    _check_shape(checkpoint.preprocessing, checkpoint.settings, folder)
    dtype = dtype or checkpoint.dtype
    config = huggingface.to_config(
        checkpoint.settings,
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
        pad_id=tokenizer.pad_id,
        dtype=dtype,
    )
    layout = huggingface.layout_of(checkpoint.settings, config["model_type"])
    with np.errstate(over="ignore"):
        tensors = to_tensors(layout, checkpoint.parameters, scalars=checkpoint.scalars, dtype=_numpy_dtype(dtype))
    too_large = [name for name, tensor in tensors.items() if dtype == "float16" and np.isinf(tensor).any()]
    if too_large:
        raise ValueError(f"{too_large[0]} has values above 65,504, which float16 cannot hold; write bfloat16")
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}.partial-*"):  # by one that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.partial-") as temporary:
        partial = pathlib.Path(temporary) / "new"
        partial.mkdir()
        _write_json(partial / huggingface.CONFIG_FILE, config)
        _write_json(partial / PREPROCESSOR_FILE, checkpoint.preprocessing.to_json())
        tokenizer.save(partial)
        weights = partial / huggingface.WEIGHTS_FILE
        save_file(tensors, weights, metadata={"format": "pt"})
        weights.chmod((partial / huggingface.CONFIG_FILE).stat().st_mode & 0o777)  # which safetensors makes private
        if card is not None:
            (partial / CARD_FILE).write_text(card, encoding="utf-8")
        if folder.exists():
            os.replace(folder, pathlib.Path(temporary) / "old")
        os.replace(partial, folder)
    return folder


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int, name: str) -> None:
    """Raises `ValueError` where a tokenizer gives ids that the text tower has no embeddings for."""
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"the tokenizer of {name} has ids up to {tokenizer.vocab_size - 1:,} and its text tower embeds "
            f"{vocab_size:,}; name the tokenizer that it was trained with"
        )


def _locate(name: str) -> tuple[pathlib.Path, pathlib.Path | None]:
    """Returns the folder of a checkpoint, and the file in it where one is named."""
    path = pathlib.Path(name).expanduser()
    if path.is_dir():
        return path, None
    if path.suffix in PICKLES:
        raise refuse_pickle(path)
    if path.is_file():
        return path.parent, path
    if path.is_absolute() or name.startswith((".", "~")) or path.suffix in (".npz", ".safetensors"):
        raise FileNotFoundError(f"{name} is no exported checkpoint: there is no such folder or file")
    folder = hub.fetch(name, ("*.json", *HUB_FILES), what="checkpoint")
    if _hugging_face_kind(folder) is not None:
        hub.fetch(name, ("model*.safetensors",), what="checkpoint")
    if _find_hugging_face(folder) is None:
        hub.fetch(name, open_clip.WEIGHTS_FILES, what="checkpoint")
    if _find_hugging_face(folder) is None and open_clip.find_weights(folder) is None:
        raise ValueError(f"{name} has no .safetensors that are read here; pickles are neither fetched nor opened")
    return folder, None


def _hugging_face_kind(folder: pathlib.Path) -> str | None:
    """Returns the model type in a folder's `config.json` where it is one that is read here."""
    path = folder / huggingface.CONFIG_FILE
    kind = read_json(path).get("model_type") if path.is_file() else None
    return next((known for known in huggingface.MODEL_TYPES if known == kind), None)


def _find_hugging_face(folder: pathlib.Path) -> pathlib.Path | None:
    names = (huggingface.WEIGHTS_FILE, huggingface.INDEX_FILE)
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _is_hugging_face(folder: pathlib.Path, weights: pathlib.Path | None) -> bool:
    """Tells whether a folder is to be read as transformers wrote it; some hold what open_clip wrote beside that."""
    if _hugging_face_kind(folder) is None:
        return False
    if weights is not None:
        return not weights.name.startswith("open_clip")
    return _find_hugging_face(folder) is not None or open_clip.find_weights(folder) is None


def _describe_huggingface(name: str, folder: pathlib.Path, weights: pathlib.Path | None) -> Description:
    weights = weights or _find_hugging_face(folder)
    if weights is None:
        raise _no_weights(folder, huggingface.WEIGHTS_FILE)
    files = open_tensors(weights)
    kind, settings = huggingface.read_config(folder / huggingface.CONFIG_FILE)
    check_depth(settings, files)
    if kind == huggingface.SIGLIP2:
        preprocessing = _fixed_resolution(folder, settings)
    else:
        preprocessing = load_preprocessing(folder)
        _check_shape(preprocessing, settings, folder)
    layout = huggingface.layout_of(settings, kind)
    return Description(name, "huggingface", folder, settings, settings, preprocessing, "none", layout, files)


def _describe_open_clip(name: str, folder: pathlib.Path, weights: pathlib.Path | None) -> Description:
    weights = weights or open_clip.find_weights(folder)
    if weights is None:
        raise _no_weights(folder, open_clip.WEIGHTS_FILES[0])
    files = open_tensors(weights)
    path = folder / open_clip.CONFIG_FILE
    fields = read_json(path)
    model = fields.get("model_cfg", fields)
    try:
        settings, layout = open_clip.read_settings(model, files)
        preprocessing = open_clip.read_preprocessing(fields.get("preprocess_cfg") or {}, settings)
        canonicalize = open_clip.canonicalization_of(model)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Description(name, "open_clip", folder, settings, settings, preprocessing, canonicalize, layout, files)


def _describe_npz(name: str, path: pathlib.Path) -> Description:
    files = open_tensors(path)
    settings, layout = big_vision.read_settings(files, path)
    preprocessing = Preprocessing(size=settings.vision.image_shape)
    return Description(name, "big_vision", path.parent, settings, settings, preprocessing, "none", layout, files)


def _fixed_resolution(folder: pathlib.Path, settings: ModelSettings) -> Preprocessing:
    """Returns a squeeze to a square, with the numbers of the processor in `folder` that keeps shapes."""
    path = folder / PREPROCESSOR_FILE
    fields = read_json(path) if path.is_file() else {}
    values = {"mean": fields.get("image_mean"), "std": fields.get("image_std"), "resample": fields.get("resample")}
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if value}
    return Preprocessing(size=settings.vision.image_shape, **given)


def _no_weights(folder: pathlib.Path, name: str) -> Exception:
    pickle = next((path for path in sorted(folder.iterdir()) if path.suffix in PICKLES), None)
    if pickle is not None:
        return refuse_pickle(pickle)
    return FileNotFoundError(f"{folder} is no exported checkpoint: it holds no {name}; `launch.py export` writes one")


def _check_shape(preprocessing: Preprocessing, settings: ModelSettings, folder: pathlib.Path) -> None:
    if preprocessing.shape != settings.vision.image_shape:
        made, taken = (" × ".join(map(str, shape)) for shape in (preprocessing.shape, settings.vision.image_shape))
        raise ValueError(f"{folder}: images are made {made} pixels, and the image tower takes {taken}")


def _at_resolution(found: Description, image_size: int | tuple[int, int]) -> Description:
    old = found.settings.vision
    new = dataclasses.replace(old, image_size=image_size)
    if new.grid != old.grid:
        grids = [" × ".join(map(str, vision.grid)) for vision in (old, new)]
        logger.info(f"{found.name}: position embeddings of {grids[0]} patches resampled to {grids[1]}")
    return found._replace(
        settings=dataclasses.replace(found.settings, vision=new),
        preprocessing=found.preprocessing.for_shape(new.image_shape),
    )


def _check_replaceable(folder: pathlib.Path) -> None:
    """Raises `FileExistsError` for what is there and is neither empty nor a checkpoint and nothing but that."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / huggingface.CONFIG_FILE).is_file():
        raise FileExistsError(f"{folder} is there and is no checkpoint; it is left as it is, name another place")
    usual = ("*.json", huggingface.WEIGHTS_FILE, CARD_FILE, *HUB_FILES)
    other = next((path for path in folder.iterdir() if path.is_dir() or not any(map(path.match, usual))), None)
    if other is not None:
        raise FileExistsError(f"{other} is no part of a checkpoint; {folder} is left as it is, name another place")


def _numpy_dtype(dtype: str) -> np.dtype:
    return np.dtype(jax.numpy.dtype(dtype))


def _write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
