"""Build a TensorFlow Datasets (TFDS) dataset from any source, without TensorFlow.

    python -m data.tools.tfds_builder --name=my_photos --data_dir=/data/tfds \\
        train='/data/shards/train-*.tar' validation='/data/shards/val-*.tar'

This writes `/data/tfds/my_photos/1.0.0`. A config opens it as `tfds:my_photos:train` with that `data_dir`, and any
other program with `tfds.load("my_photos", data_dir=…)`. Unusable samples are left out and counted.
"""

from __future__ import annotations

import argparse
import collections
import io
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from data.pipeline.image_ops import EncodedImage
from data.sources.base import BadRecord, Record, Source
from data.sources.open import TEXT_KEYS, open_source


def build_dataset(
    name: str,
    splits: Mapping[str, Source],
    *,
    data_dir: str | os.PathLike,
    version: str = "1.0.0",
    description: str = "",
    file_format: str = "array_record",
) -> collections.Counter[str]:
    """Write a dataset with the given splits to `data_dir/name/version`; return the unusable samples per reason.

    The features are `image`, `texts` (a list), `key` and, if all samples have a class, `label` with its class names.
    Raises `ValueError` for an invalid name, for a split without usable samples, and if the dataset exists.
    """
    import tensorflow_datasets as tfds

    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(
            f"the name {name!r} must consist of lower-case letters, digits and underscores, and start with a letter"
        )
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ValueError(f"the version {version!r} must be three numbers, such as 1.0.0")
    left_out: collections.Counter[str] = collections.Counter()
    class_names = _class_names(splits)

    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "texts": tfds.features.Sequence(tfds.features.Text()),
    }
    features["key"] = tfds.features.Text()
    if class_names:
        features["label"] = tfds.features.ClassLabel(names=class_names)

    class FromSources(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version(version)

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), description=description
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
            return {split: self._generate_examples(source) for split, source in splits.items()}

        def _generate_examples(self, source: Source) -> Iterator[tuple[int, dict[str, Any]]]:
            for index, record in _usable(source, left_out):
                example = {"image": io.BytesIO(record.image), "texts": list(record.texts), "key": record.key}
                if class_names:
                    example["label"] = class_names.index(record.class_name)
                yield index, example

    FromSources.name = name
    builder = FromSources(data_dir=os.fspath(data_dir), file_format=file_format)
    if builder.is_prepared():
        raise ValueError(f"{builder.data_dir} already exists. Remove it or choose another version.")
    for split, source in splits.items():
        if next(_usable(source, collections.Counter()), None) is None:
            raise ValueError(f"split {split!r} has no usable samples")
    builder.download_and_prepare()
    return left_out


def _usable(source: Source, left_out: collections.Counter[str]) -> Iterator[tuple[int, Record]]:
    """Yield index and record of the samples whose images can be opened, and count the rest by reason."""
    for index in range(len(source)):
        try:
            record = source[index]
            EncodedImage(record.image, record.key)
        except BadRecord as error:
            left_out[error.reason] += 1
        else:
            yield index, record


def _class_names(splits: Mapping[str, Source]) -> list[str]:
    """Return the class names of all splits in the order of their labels; none if a sample has no class."""
    names: dict[str, int] = {}
    for source in splits.values():
        for _, record in _usable(source, collections.Counter()):
            if record.class_name is None or record.label is None:
                return []
            names.setdefault(record.class_name, record.label)
    return sorted(names, key=lambda name: (names[name], name))


def main() -> int:
    """Build the dataset that the command line describes; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "splits",
        nargs="+",
        metavar="SPLIT=SOURCE",
        help="name and source of a split, such as train='/data/train-*.tar'",
    )
    parser.add_argument("--name", required=True, help="name of the dataset: lower-case letters, digits and underscores")
    parser.add_argument("--data_dir", required=True, help="folder of TFDS datasets")
    parser.add_argument("--version", default="1.0.0", help="version of the dataset (default: 1.0.0)")
    parser.add_argument(
        "--text_keys",
        default=",".join(TEXT_KEYS),
        help="candidate caption fields, first match wins (default: %(default)s)",
    )
    args = parser.parse_args()
    try:
        pairs = dict(split.split("=", 1) for split in args.splits if "=" in split)
        if len(pairs) != len(args.splits):
            raise ValueError(f"{' '.join(args.splits)!r} is not a list of SPLIT=SOURCE with each split once")
        keys = tuple(args.text_keys.split(","))
        sources = {split: open_source(name, args.data_dir, text_keys=keys) for split, name in pairs.items()}
        left_out = build_dataset(args.name, sources, data_dir=args.data_dir, version=args.version)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for reason, count in left_out.most_common():
        print(f"left out {count}: {reason}")
    print(f"open it as {', '.join(f'tfds:{args.name}:{split}' for split in pairs)} with data_dir={args.data_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
