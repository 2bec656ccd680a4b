"""Finding the files of a checkpoint: in a folder, or on the Hugging Face Hub and in its cache."""

from __future__ import annotations

import pathlib
from typing import NamedTuple

from foundation.files.checksum_file import SUMS_FILE
from foundation.files.output_folder import is_run
from foundation.files.safe_json import read_json
from foundation.suggestions import nearest_path
from models.checkpoints import efficientnet, huggingface, open_clip
from models.checkpoints.aligned import is_aligned
from models.io import hub
from models.io.tensor_reader import PICKLES, pickle_error
from models.text.hf_tokenizer import HUB_FILES

PROJECT = pathlib.Path(__file__).parents[2]  # with the checkpoints that are included
MODEL_TYPES = (*huggingface.MODEL_TYPES, efficientnet.MODEL_TYPE)


class Location(NamedTuple):
    """The folder of a checkpoint, and the file in it if the user named one."""

    folder: pathlib.Path
    file: pathlib.Path | None


def locate_checkpoint(name: str) -> Location:
    """Return where a checkpoint is; one on the Hub is downloaded first, unless it is cached.

    `checkpoints/NAME` of the project also opens outside the project's folder.

    Raises `FileNotFoundError` for a path that does not exist, `OSError` if the Hub cannot be reached, and `ValueError`
    for pickles.
    """
    path = pathlib.Path(name).expanduser()
    if path.is_dir():
        return Location(path, None)
    if path.suffix in PICKLES:
        raise pickle_error(path)
    if path.is_file():
        return Location(path.parent, path)
    if path.parent == pathlib.Path("checkpoints") and (PROJECT / path).is_dir():
        return Location(PROJECT / path, None)
    if hub.is_path(name):
        raise _missing(name)
    return Location(_fetch(name), None)


def _missing(name: str) -> FileNotFoundError:
    """Return the error for a path that does not exist, with what to do about it."""
    path = pathlib.Path(name).expanduser()
    problem = f"{name} is not a checkpoint: there is no such file or folder"
    exported = path.parent / "export"
    if is_run(path.parent) and exported.is_dir():
        return FileNotFoundError(f"{problem}. Did you mean {str(exported)!r}?")
    if is_run(path.parent):
        return FileNotFoundError(f"{problem}. Run `launch.py export --workdir={path.parent}` first.")
    hint = nearest_path(path)
    if hint:
        return FileNotFoundError(f"{problem}.{hint}")
    if not path.is_absolute() and len(path.parts) == 2:
        return FileNotFoundError(f"{problem}. Write {hub.PREFIX}{name} if it is on the Hub.")
    return FileNotFoundError(problem)


def _fetch(name: str) -> pathlib.Path:
    folder = hub.fetch(name, ("*.json", *HUB_FILES, SUMS_FILE), what="checkpoint")
    if find_model_type(folder) is not None or is_aligned(folder):
        hub.fetch(name, ("model*.safetensors",), what="checkpoint")
    if find_huggingface_weights(folder) is None:
        hub.fetch(name, open_clip.WEIGHTS_FILES, what="checkpoint")
    if find_huggingface_weights(folder) is None and open_clip.find_weights(folder) is None:
        raise ValueError(
            f"checkpoint {name!r} has no weights in a supported .safetensors file. Pickles are neither downloaded nor "
            "opened."
        )
    return folder


def find_model_type(folder: pathlib.Path) -> str | None:
    """Return the model type in the `config.json` of a folder, or None if there is no supported one."""
    path = folder / huggingface.CONFIG_FILE
    found = read_json(path).get("model_type") if path.is_file() else None
    return next((known for known in MODEL_TYPES if known == found), None)


def find_huggingface_weights(folder: pathlib.Path) -> pathlib.Path | None:
    """Return the weights file that transformers would open, or the index of several, or None."""
    names = (huggingface.WEIGHTS_FILE, huggingface.INDEX_FILE)
    return next((folder / name for name in names if (folder / name).is_file()), None)


def is_huggingface(folder: pathlib.Path, weights: pathlib.Path | None) -> bool:
    """Return whether to open a folder by its `config.json`; some folders hold files of open_clip, too."""
    if find_model_type(folder) is None:
        return False
    if weights is not None:
        return not weights.name.startswith("open_clip")
    return find_huggingface_weights(folder) is not None or open_clip.find_weights(folder) is None


def missing_weights(folder: pathlib.Path, name: str) -> Exception:
    """Return the error for a folder without the weights file `name`, which mentions a pickle if there is one."""
    pickle = next((path for path in sorted(folder.iterdir()) if path.suffix in PICKLES), None)
    if pickle is not None:
        return pickle_error(pickle)
    problem = f"{folder} is not a checkpoint: it has no {name}"
    run = next((each for each in (folder, folder.parent) if is_run(each)), None)
    if run is None:
        return FileNotFoundError(f"{problem}. `launch.py export` writes a checkpoint.")
    if (run / "export").is_dir():
        return FileNotFoundError(f"{problem}. It belongs to a run, whose checkpoint is {run / 'export'}.")
    return FileNotFoundError(f"{problem}. It belongs to a run: run `launch.py export --workdir={run}` first.")
