"""The images of a folder, embedded once and cached, and the files in it that are not readable images."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from adapt.adapters.ops import normalize_numpy
from adapt.embedding.cache import Progress
from adapt.embedding.encoder import Encoder
from adapt.embedding.export import embed_collections
from data.io.fingerprint import fingerprint
from data.pipeline.image_ops import decode
from data.sources.image_folders import SUFFIXES, ImageFiles, is_folder_entry, is_hidden
from foundation.files.json_lines import read_json_lines


class LeftOut(NamedTuple):
    """A file that cannot be used, and the reason."""

    path: str
    reason: str


class EmbeddedFolder(NamedTuple):
    """The readable images of a folder: `paths` within it and unit features `[images, dim]`; `left_out` are the rest."""

    root: str
    paths: list[str]
    features: np.ndarray
    left_out: list[LeftOut]

    def image(self, row: int) -> Image.Image:
        """Return an image."""
        path = os.path.join(self.root, self.paths[row])
        return decode(pathlib.Path(path).read_bytes(), path)


def embed_folder(encoder: Encoder, root: str, *, name: str, out: pathlib.Path, progress: Progress) -> EmbeddedFolder:
    """Embed the images of a folder, or read the embeddings of an earlier run from `out/embeddings/NAME-KEY`.

    The key is a hash of the checkpoint and of the names, sizes and modification times of the images. Raises
    `ValueError` for embeddings that are damaged or not finite.
    """
    images = ImageFiles(root)
    content = images.content_fingerprint() or images.fingerprint
    key = fingerprint(encoder.image_fingerprint, content)
    folder = out / "embeddings" / f"{name}-{key}"

    def show(collection: str, done: int, total: int) -> None:
        progress(name, done, total)

    files = embed_collections(encoder, folder, images=root, data_dir=folder, progress=show)["images"].files
    try:
        features = np.load(files["npy"], allow_pickle=False)
        paths: list = read_json_lines(files["ids"])
        bad = read_json_lines(files["bad"]) if "bad" in files else []
        if features.shape != (len(paths), encoder.dim):
            raise ValueError(f"{features.shape} embeddings of {len(paths)} images")
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"embeddings in {folder} are damaged. Remove the folder to compute them again.") from error
    check_finite(features, paths, "embeddings")
    reasons = [(line["id"], f"{line['reason']}: {line['detail']}") for line in bad]
    reasons += [(path, _unsupported(path)) for path in _other_files(root, out)]
    left_out = [LeftOut(readable(os.path.join(root, path)), reason) for path, reason in reasons]
    return EmbeddedFolder(root, paths, normalize_numpy(features), left_out)


def in_class_folders(support: EmbeddedFolder, split: str = "") -> EmbeddedFolder:
    """Return the images in class folders; images outside of them are added to `left_out`.

    With `split`, only the images in the folder of that name within each class folder are returned.
    """

    def belongs(path: str) -> bool:
        folders = path.split("/")[:-1]
        return bool(folders) and (not split or folders[1:2] == [split])

    inside = np.array([belongs(path) for path in support.paths], bool)
    outside = [
        LeftOut(readable(os.path.join(support.root, path)), "not in a class folder")
        for path in support.paths
        if "/" not in path
    ]
    paths = [path for path, kept in zip(support.paths, inside, strict=True) if kept]
    return EmbeddedFolder(support.root, paths, support.features[inside], support.left_out + outside)


def class_folders(root: str, *, out: pathlib.Path) -> list[str]:
    """Return the names of the folders in `root`, with or without images, except for the folder `out`."""
    found = [entry for entry in os.scandir(root) if is_folder_entry(entry) and not is_hidden(entry.name)]
    return [entry.name for entry in found if not os.path.exists(out) or not os.path.samefile(entry.path, out)]


def readable(name: str) -> str:
    """Return a file name as text, with bytes that are not UTF-8 as `\\xe9`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def check_finite(rows: np.ndarray, names: list[str], what: str) -> None:
    """Raise `ValueError` where a row is not finite; `names` are those of the rows, `what` is their kind, in plural."""
    broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(broken):
        raise ValueError(
            f"{len(broken)} of {len(rows)} {what} are not finite; the first is that of {readable(names[broken[0]])}. "
            "The checkpoint is broken, or its dtype overflows: try --dtype=float32."
        )


def _other_files(root: str, out: pathlib.Path) -> Iterator[str]:
    """Yield the sorted paths within `root` of files without the extension of an image, except for those in `out`."""
    for folder, folders, files in os.walk(root):
        visible = [name for name in folders if not is_hidden(name)]
        folders[:] = sorted(name for name in visible if not os.path.samefile(os.path.join(folder, name), out))
        for name in sorted(files):
            if not name.lower().endswith(SUFFIXES) and not is_hidden(name):
                yield os.path.relpath(os.path.join(folder, name), root)


def _unsupported(path: str) -> str:
    extension = os.path.splitext(path)[1]
    problem = f"unsupported file type {extension}" if extension else "no file extension"
    return f"{problem}; supported: {', '.join(SUFFIXES)}"
