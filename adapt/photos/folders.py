"""The pictures of a folder, embedded once and kept, and everything in it that is no readable picture."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from adapt.embedding.encoder import Encoder
from adapt.embedding.export import embed_collections
from data.io.fingerprint import fingerprint
from data.sources.image_folders import SUFFIXES, ImageFiles

Progress = Callable[[str, int, int], None]


class Embedded(NamedTuple):
    """The readable pictures of a folder: `paths` within it and their unit features `[pictures, dim]`; and `left_out`,
    whole paths of the others with the reason."""

    root: str
    paths: list[str]
    features: np.ndarray
    left_out: list[tuple[str, str]]


def embed_folder(encoder: Encoder, root: str, name: str, *, out: pathlib.Path, progress: Progress) -> Embedded:
    """Embeds the pictures of a folder, or reads what an earlier run left in `out/embeddings/NAME-KEY`.

    The key is of the checkpoint and of the names, sizes and times of the pictures. Raises `ValueError` for embeddings
    that are not finite.
    """
    pictures = ImageFiles(root)
    content = pictures.content_fingerprint() or pictures.fingerprint
    key = fingerprint(encoder.image_fingerprint, content)
    folder = out / "embeddings" / f"{name}-{key}"
    show = lambda kind, done, total: progress(name, done, total)  # noqa: E731
    files = embed_collections(encoder, folder, images=root, data_dir=folder, progress=show)["images"].files
    try:
        features = np.load(files["npy"], allow_pickle=False)
        paths, bad = _read_lines(files["ids"]), _read_lines(files["bad"]) if "bad" in files else []
        if features.shape != (len(paths), encoder.dim):
            raise ValueError(f"{features.shape} embeddings of {len(paths)} pictures")
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"embeddings in {folder} are damaged; remove it to embed these pictures again") from error
    check_finite(features, paths, "embedding")
    left_out = [(readable(os.path.join(root, line["id"])), f"{line['reason']}: {line['detail']}") for line in bad]
    left_out += [(readable(os.path.join(root, path)), _no_picture(path)) for path in _others(root, out)]
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return Embedded(root, paths, features / np.maximum(lengths, 1e-12), left_out)


def in_class_folders(support: Embedded) -> Embedded:
    """Returns the pictures in class folders; those beside the folders are left out."""
    inside = np.array(["/" in path for path in support.paths], bool)
    loose = [path for path in support.paths if "/" not in path]
    reasons = [(readable(os.path.join(support.root, path)), "no example: it lies in no class folder") for path in loose]
    paths = [path for path in support.paths if "/" in path]
    return Embedded(support.root, paths, support.features[inside], support.left_out + reasons)


def class_folders(root: str, out: pathlib.Path) -> list[str]:
    """Returns the names of the folders in `root`, with pictures or without; not that of `out`."""
    found = [entry for entry in os.scandir(root) if entry.is_dir() and not _passed_over(entry.name)]
    return [entry.name for entry in found if not os.path.exists(out) or not os.path.samefile(entry.path, out)]


def readable(name: str) -> str:
    """Returns a file name as text; bytes of it that are not UTF-8 as `\\xe9`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def check_finite(rows: np.ndarray, names: list[str], what: str) -> None:
    """Raises `ValueError` where a row is not finite; `names` are those of the rows, `what` says what they are."""
    broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(broken):
        raise ValueError(
            f"the {what} of {readable(names[broken[0]])} is not finite, as are {len(broken)} of {len(rows)}; the "
            "checkpoint is broken, or overflows in its dtype"
        )


def _others(root: str, out: pathlib.Path) -> Iterator[str]:
    """Yields paths within `root` of the files that are no pictures by their name, in order; not those in `out`."""
    for folder, folders, files in os.walk(root):
        here = [name for name in folders if not _passed_over(name)]
        folders[:] = sorted(name for name in here if not os.path.samefile(os.path.join(folder, name), out))
        for name in sorted(files):
            if not name.lower().endswith(SUFFIXES) and not _passed_over(name):
                yield os.path.relpath(os.path.join(folder, name), root)


def _passed_over(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _no_picture(path: str) -> str:
    kind = os.path.splitext(path)[1] or "a file without an ending"
    return f"not a picture: {kind} is not read; {', '.join(SUFFIXES)} are"


def _read_lines(path: pathlib.Path) -> list:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
