"""Write the included photos of a dataset as files in one folder, in no order, as a camera would leave them.

`python -m data.photos.write_files clothing --classes=shoes,dress --out=runs/clothing/photos`; `truth.csv` next to the
folder has the class of each file.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence

import numpy as np

from data.photos import DATASETS, SPLITS, samples
from foundation.files.csv_text import csv_text
from foundation.suggestions import unknown_name


def write_files(dataset: str, out: pathlib.Path, *, classes: Sequence[str] = (), seed: int = 0) -> int:
    """Write the photos of a dataset to the folder `out` and their classes to `truth.csv` next to it; return the number.

    `classes` are the classes to write (default: all). Raises `ValueError` for an unknown dataset or class.
    """
    if dataset not in DATASETS:
        raise ValueError(unknown_name("dataset", dataset, DATASETS))
    found = [sample for split in SPLITS if split.startswith(f"{dataset}:") for sample in samples(split)]
    known = sorted({sample.record["class"] for sample in found})
    for name in classes:
        if name not in known:
            raise ValueError(unknown_name("class", name, known))
    chosen = [sample for sample in found if not classes or sample.record["class"] in classes]
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, place in enumerate(np.random.default_rng(seed).permutation(len(chosen))):
        name = f"IMG_{number:04d}.png"
        chosen[place].image.save(out / name)
        rows.append((name, chosen[place].record["class"]))
    (out.parent / "truth.csv").write_text(csv_text(("path", "class"), rows), encoding="utf-8")
    return len(rows)


def main() -> None:
    """Parse the command line and write the files."""
    parser = argparse.ArgumentParser(description="Write included photos as files in one folder.")
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="output folder")
    parser.add_argument("--classes", default="", help="comma-separated classes (default: all)")
    args = parser.parse_args()
    try:
        count = write_files(args.dataset, args.out, classes=list(filter(None, args.classes.split(","))))
    except ValueError as error:
        parser.error(str(error))
    print(f"{count} photos in {args.out}")


if __name__ == "__main__":
    main()
