"""Results as a few named numbers, such as `digits/knn@16`, to be plotted over the steps of a run."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from data.fewshot.open import short_name


def mean_scalars(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean over seeds per dataset, task, query set, method and number of shots, by name.

    The name is `DATASET/METHOD@SHOTS` for few-shot classification, `DATASET/zero_shot@0` for its zero-shot baseline
    and `DATASET/zero_shot` for zero-shot on all queries. The names of other tasks include the task, and the query set
    where there are several.
    """
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(_name(row), []).append(row["value"])
    return {name: math.fsum(each) / len(each) for name, each in values.items()}


def _name(row: Mapping[str, Any]) -> str:
    parts = [short_name(row["dataset"], {})]
    if row["task"] == "zero_shot":
        parts.append("zero_shot" if row["settings"]["templates"] == "ensemble" else "zero_shot_single_template")
    elif row["task"] == "retrieval":
        parts.append(row["metric"].replace("→", "_to_").replace(" ", "_"))
    else:
        parts += [row["task"]] if row["task"] != "few_shot" else []
        parts += [f"{row['method']}@{row['shots']}", *filter(None, [row["question"]])]
    return "/".join(re.sub(r"[^\w.@:-]+", "_", part) for part in parts)
