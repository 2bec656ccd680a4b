"""The data sets of stored features that `evaluate.features` names, by encoder."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from data.features.feature_files import is_feature_dataset, split_parts
from foundation.suggestions import nearest_path, unknown_name


class FeatureSet(NamedTuple):
    """The features of a data set by one encoder: both names, the path, and the names of support and query, if given."""

    encoder: str
    dataset: str
    path: str
    parts: tuple[str, ...]


def find_feature_sets(items: Sequence[str], *, datasets: Sequence[str] = ()) -> dict[str, dict[str, FeatureSet]]:
    """Return the feature sets by encoder and data set.

    An item is the folder of an encoder, with a data set in each of its folders and `.npz` files, or one such data set.
    Its name is that of the folder of the encoder, or the one before `NAME=`. `:SUPPORT:QUERY` at the end names the
    parts of the data sets. With `datasets`, only these are returned. Raises `FileNotFoundError` and `ValueError` for
    paths without a data set and for names that are not there or occur twice.
    """
    found: dict[str, dict[str, FeatureSet]] = {}
    for item in items:
        for each in _sets_of(item):
            known = found.setdefault(each.encoder, {})
            if each.dataset in known:
                raise ValueError(
                    f"evaluate.features has the data set {each.dataset!r} of {each.encoder!r} twice: "
                    f"{known[each.dataset].path} and {each.path}. Write NAME={item} to rename the encoder of one."
                )
            known[each.dataset] = each
    names = dict.fromkeys(name for sets in found.values() for name in sets)
    for name in datasets:
        if name not in names:
            raise ValueError(unknown_name("data set of evaluate.features", name, names))
    return {
        encoder: {name: sets[name] for name in datasets or sets if name in sets}
        for encoder, sets in found.items()
        if not datasets or set(datasets) & set(sets)
    }


def _sets_of(item: str) -> list[FeatureSet]:
    name, equals, rest = item.partition("=")
    if not equals or os.sep in name or os.path.exists(item):
        name, rest = "", item
    if not rest.strip():
        raise ValueError(f"evaluate.features {item!r} has no path. Write PATH or NAME=PATH.")
    path, parts = split_parts(os.path.expanduser(rest))
    if not os.path.exists(path):
        raise FileNotFoundError(f"there are no features at {path}.{nearest_path(path)}")
    place = pathlib.Path(os.path.abspath(path))
    if is_feature_dataset(place, *parts):
        return [FeatureSet(name or place.parent.name, _name(place), path, parts)]
    if place.is_file():
        raise ValueError(
            f"{path} is not a data set of features, which is an .npz or a folder with support.npy, "
            "support_labels.txt, query.npy and query_labels.txt."
        )
    inside = [each for each in sorted(place.iterdir()) if not each.name.startswith(".")]
    sets = [
        FeatureSet(name or place.name, _name(each), os.path.join(path, each.name), parts)
        for each in inside
        if is_feature_dataset(each, *parts)
    ]
    if not sets:
        what = " or ".join(parts) if parts else "support.npy, train.npy or images.npy"
        raise ValueError(
            f"{path} is not a data set of features and contains none. Each is an .npz, or a folder with {what} and "
            "labels (docs/guides/evaluation.md)."
        )
    return sets


def _name(path: pathlib.Path) -> str:
    return path.stem if path.is_file() else path.name
