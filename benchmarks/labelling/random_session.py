"""Labelling sessions of any size: small pictures, random features of ten clusters, and labels from before."""

from __future__ import annotations

import datetime
import pathlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from adapt.adapters.ops import normalize_numpy
from adapt.labelling.history import HISTORY_FILE
from adapt.labelling.pictures import PictureFolder
from adapt.labelling.session import LabellingSession
from foundation.files.json_lines import write_json_lines

DIM, CLUSTERS = 512, 10
_LINKS = 10_000  # names of one file; file systems allow 65,000
_BATCH = 1024
_RANDOM_EVERY = 5  # labels with a guess from before


class RandomSession(NamedTuple):
    """A session whose first pictures are embedded, its class names by picture, and the features of all pictures."""

    session: LabellingSession
    class_names: list[str]
    features: np.ndarray


def open_random_session(folder: pathlib.Path, count: int, *, labels: int, embedded: int | None = None) -> RandomSession:
    """Return a session over `count` pictures in `folder`; the first ones are labelled, one by one, and embedded."""
    root = folder / "pictures"
    root.mkdir()
    for number in range(count):
        path = root / f"picture-{number:06d}.png"
        if number % _LINKS == 0:
            Image.new("RGB", (64, 48), (120, 150, 90)).save(path)
            first = path
        else:
            path.hardlink_to(first)
    pictures = PictureFolder(str(root))
    rng = np.random.default_rng(0)
    clusters = rng.integers(CLUSTERS, size=count)
    centers = rng.normal(size=(CLUSTERS, DIM)).astype(np.float32)
    features = normalize_numpy(centers[clusters] + 1.5 * rng.standard_normal((count, DIM), np.float32))
    names = [f"class {cluster}" for cluster in clusters]
    time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    rows = [
        {"time": time, "action": "label", "pictures": [pictures.names[number]], "class": names[number]}
        | ({"guesses": {pictures.names[number]: names[number // 2]}} if number % _RANDOM_EVERY == 0 else {})
        for number in range(labels)
    ]
    write_json_lines(folder / HISTORY_FILE, rows)
    session = LabellingSession(pictures, folder, dim=DIM)
    embedded = count if embedded is None else embedded
    for start in range(0, embedded, _BATCH):
        numbers = np.arange(start, min(start + _BATCH, embedded))
        session.add_features(numbers.tolist(), features[numbers])
    if embedded == count:
        session.finish_embedding()
    return RandomSession(session, names, features)
