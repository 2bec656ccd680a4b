"""Results as a few named numbers, such as `digits/knn@16`, to be plotted over the steps of a run."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from adapt.evaluation.protocols.support_protocol import STANDARD, protocol_of
from data.fewshot.open import short_name
from foundation.files.distinct_names import distinct_names

_OTHER = re.compile(r"[^\w.@:-]+")


def mean_scalars(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean over seeds per dataset, task, query set, method and number of shots, by name.

    The name is `DATASET/METHOD@SHOTS` for few-shot classification, `DATASET/zero_shot@0` for its zero-shot baseline
    and `DATASET/zero_shot` for zero-shot on all queries. The names of other tasks include the task, and the query set
    where there are several. Imbalanced support sets and those with wrong labels are named after the dataset, as in
    `DATASET/zipf1/METHOD@SHOTS`.
    """
    retrieval = [row for row in rows if row["task"] == "retrieval"]  # names datasets by their paths
    others = [row for row in rows if row["task"] != "retrieval"]
    return _mean_scalars(others) | _mean_scalars(retrieval)


def _mean_scalars(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    values: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        values.setdefault(_parts(row), []).append(row["value"])
    datasets = list(dict.fromkeys(parts[0] for parts in values))
    short = [short_name(dataset, {}) for dataset in datasets]
    labels = [each if short.count(each) == 1 else dataset for each, dataset in zip(short, datasets, strict=True)]
    label = dict(zip(datasets, distinct_names(labels, other=_OTHER), strict=True))
    return {
        "/".join([label[dataset], *(_OTHER.sub("_", part) for part in parts)]): math.fsum(each) / len(each)
        for (dataset, *parts), each in values.items()
    }


def _parts(row: Mapping[str, Any]) -> tuple[str, ...]:
    parts = [row["dataset"], *filter(None, [(protocol_of(row) or STANDARD).slug])]
    if row["task"] == "zero_shot":
        parts.append("zero_shot_single_template" if row["settings"]["templates"] == "single" else "zero_shot")
    elif row["task"] == "retrieval":
        parts.append(row["metric"].replace("→", "_to_").replace(" ", "_"))
    else:
        parts += [row["task"]] if row["task"] != "few_shot" else []
        parts += [f"{row['method']}@{row['shots']}", *filter(None, [row["question"]])]
    return tuple(parts)
