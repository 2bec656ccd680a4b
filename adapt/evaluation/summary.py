"""Results as few named numbers, such as `digits/knn@16`, to be drawn over the steps of a run."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from data.fewshot.open import short_name


def scalars_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns the mean over the draws of each dataset, task, question, method and number of shots, by name.

    Of few-shot classification the name is `DATASET/METHOD@SHOTS`, its zero-shot baseline `DATASET/zero_shot@0`; that on
    all queries is `DATASET/zero_shot`. Of other tasks the name has the task, and the question where it has one.
    """
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(_name(row), []).append(row["value"])
    return {name: math.fsum(values) / len(values) for name, values in found.items()}


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
