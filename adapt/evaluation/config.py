"""What is evaluated and how: the `evaluate` section of a config."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from adapt.adapters.registry import TRAINING_FREE, find
from adapt.evaluation.tasks import TASKS
from data.fewshot.labelled import DatasetSettings

CAPTIONS = ("first", "all", "each")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """What is evaluated and how.

    `datasets` are names that `open_dataset` opens, `own` the settings of those that a config describes by
    name, `retrieval` names of `data.sources`; classes with fewer than `min_examples` are left out. `tasks` are those of
    `TASKS`. Settings of the `methods`, by default all that need no training, are selected on the support
    alone (`adapt.select`); at one shot, where that is impossible, the defaults are used. All text logits are scaled by
    `logit_scale`, whatever a checkpoint has learned, so that checkpoints compare. A class with fewer examples than
    shots gives all it has (`few_examples` "cap"), or the number of shots is left out ("skip"). `transfer_from` is the
    dataset whose examples the task transfer sees. `caption` says what describes an image in retrieval: its `first`
    text, `all` of them joined, or `each` on its own.
    """

    datasets: tuple[str, ...] = ()
    own: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tasks: tuple[str, ...] = ("zero_shot", "few_shot")
    retrieval: tuple[str, ...] = ()
    caption: str = "each"
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    seeds: int = 5
    methods: tuple[str, ...] = TRAINING_FREE
    min_examples: int = 0
    few_examples: str = "cap"
    transfer_from: str = ""
    logit_scale: float = 100.0

    def __post_init__(self) -> None:
        if not self.datasets and not self.retrieval:
            raise ValueError("there is nothing to evaluate; name evaluate.datasets, evaluate.retrieval or both")
        for method in self.methods:
            find(method)
        for task in self.tasks:
            if task not in TASKS:
                raise ValueError(f"unknown task {task!r} in evaluate.tasks; known: {', '.join(TASKS)}")
        if "transfer" in self.tasks and not self.transfer_from:
            raise ValueError(
                "evaluate.tasks has transfer; name the dataset with the examples in evaluate.transfer_from"
            )
        if self.caption not in CAPTIONS:
            raise ValueError(f"unknown evaluate.caption {self.caption!r}; known: {', '.join(CAPTIONS)}")
        if self.few_examples not in ("cap", "skip"):
            raise ValueError(f"unknown evaluate.few_examples {self.few_examples!r}; known: cap, skip")
        if not all(isinstance(shots, int) for shots in self.shots):
            raise ValueError(f"evaluate.shots is {self.shots!r}; write numbers, such as 1,2,4")
        if not self.shots or min(self.shots) < 1 or self.seeds < 1:
            raise ValueError(f"evaluate.shots {self.shots} and evaluate.seeds {self.seeds} must be positive")
        if not 0 < self.logit_scale < float("inf") or len(set(self.shots)) < len(self.shots):
            raise ValueError(
                f"evaluate.logit_scale {self.logit_scale} must be positive, evaluate.shots {self.shots} without repeats"
            )
        if len({*self.datasets}) < len(self.datasets):
            raise ValueError(f"evaluate.datasets {self.datasets} names a set twice")
        object.__setattr__(self, "own", _own(self.own))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
    """One of `count` equal parts of the datasets, `index` from 0, as a job of an array takes it."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"share {self.index}/{self.count} is none; write i/n with i from 0 to n − 1")


def _own(own: Mapping[str, Any]) -> dict[str, DatasetSettings]:
    from models.config import build

    return {
        name: each if isinstance(each, DatasetSettings) else build(DatasetSettings, f"evaluate.own.{name}", each)
        for name, each in own.items()
    }
