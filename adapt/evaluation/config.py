"""Settings of an evaluation: the `evaluate` section of a config."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from adapt.adapters.registry import TRAINING_FREE, find
from adapt.choices import BASELINES, TASKS
from adapt.evaluation.protocols.support_protocol import ZIPF, SupportProtocol
from data.fewshot.labelled import DatasetSettings
from foundation.settings import NonNegativeInt, PositiveFloat, PositiveInt, UnitFloat, build, check
from foundation.suggestions import unknown_name
from models.text.canonicalize import CANONICALIZATIONS


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """Settings of an evaluation.

    datasets: labelled sets, as `data.fewshot.open.open_dataset` names them.
    features: data sets of stored features, evaluated instead of checkpoints: folders of encoders, or data sets, as
        `adapt.evaluation.stored.feature_sets.find_feature_sets` reads them. `datasets` then names those to evaluate
        (default: all).
    custom_datasets: settings of the datasets that the config itself defines, by name.
    tasks: names in `TASKS`.
    retrieval: sources of captioned images, as `data.sources.open.open_source` names them.
    caption: the text that describes an image in retrieval: its "first", "all" of them joined, or "each" on its own.
    shots: numbers of support images per class.
    seeds: number of support sets drawn for each number of shots.
    methods: adapters, by default all that need no training. Their hyper-parameters are selected on the support set
        alone (`adapt.select`); at one shot, where that is impossible, the defaults are used.
    baselines: names in `BASELINES`, evaluated in addition to each checkpoint in the task "few_shot": class means and
        nearest neighbours on raw pixels, and on the image tower of the checkpoint with random weights.
    min_examples: classes with fewer support images are left out.
    support_balance: distribution of support images over the classes: "balanced" draws `shots` images of each,
        "natural" and "zipf" draw shots × classes images, one or more of each class, with the class frequencies of the
        support split or with long-tailed ones.
    zipf_exponent: exponent of the class frequencies of "zipf"; 1 is Zipf's law, larger is steeper.
    label_noise: share of the support labels that are replaced by wrong ones.
    few_examples: "cap" uses all images of a class with fewer images than shots, "skip" skips that number of shots.
    transfer_from: the dataset of the support images of the task "transfer".
    logit_scale: scale of all text logits, whatever scale a checkpoint learned, so that checkpoints are comparable.
    image_size: pixels of an image's side (default: those of each checkpoint); position embeddings are resampled.
    max_patches: largest number of patches of an image with its aspect ratio, for SigLIP 2 NaFlex (default: those of
        each checkpoint); not with `image_size`.
    canonicalize: preparation of texts, one of `CANONICALIZATIONS` (default: as each checkpoint was trained).
    """

    RENAMED: ClassVar[dict[str, str]] = {"own": "custom_datasets"}

    datasets: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    custom_datasets: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tasks: tuple[str, ...] = ("zero_shot", "few_shot")
    retrieval: tuple[str, ...] = ()
    caption: Literal["first", "all", "each"] = "each"
    shots: tuple[PositiveInt, ...] = (1, 2, 4, 8, 16)
    seeds: PositiveInt = 5
    methods: tuple[str, ...] = TRAINING_FREE
    baselines: tuple[str, ...] = tuple(BASELINES)
    min_examples: NonNegativeInt = 0
    support_balance: Literal["balanced", "natural", "zipf"] = "balanced"
    zipf_exponent: PositiveFloat = 1.0
    label_noise: UnitFloat = 0.0
    few_examples: Literal["cap", "skip"] = "cap"
    transfer_from: str = ""
    logit_scale: PositiveFloat = 100.0
    image_size: PositiveInt | None = None
    max_patches: PositiveInt | None = None
    canonicalize: str | None = None

    @property
    def support_protocol(self) -> SupportProtocol:
        """The protocol of the support sets."""
        exponent = self.zipf_exponent if self.support_balance == ZIPF else 0.0
        return SupportProtocol(self.support_balance, exponent, self.label_noise)

    def __post_init__(self) -> None:
        check(self, "evaluate")
        self._check_datasets()
        for method in self.methods:
            find(method)
        for task in self.tasks:
            if task not in TASKS:
                raise ValueError(unknown_name("evaluate.tasks", task, TASKS))
        for baseline in self.baselines:
            if baseline not in BASELINES:
                raise ValueError(unknown_name("evaluate.baselines", baseline, BASELINES))
        if self.canonicalize not in (None, *CANONICALIZATIONS):
            raise ValueError(unknown_name("evaluate.canonicalize", self.canonicalize, CANONICALIZATIONS))
        if not self.methods and set(self.tasks) - {"zero_shot"}:
            raise ValueError(f"evaluate.methods is empty, and evaluate.tasks {self.tasks} need methods.")
        if (self.datasets or self.features) and not self.tasks:
            raise ValueError(f"evaluate.tasks is empty. Choose from {', '.join(TASKS)}.")
        object.__setattr__(self, "custom_datasets", _dataset_settings(self.custom_datasets))

    def _check_datasets(self) -> None:
        if self.features:
            self._check_features()
        elif not self.datasets and not self.retrieval:
            raise ValueError("nothing to evaluate. Set evaluate.datasets, evaluate.retrieval or evaluate.features.")
        if len({*self.datasets}) < len(self.datasets):
            raise ValueError(f"evaluate.datasets {self.datasets} contains a dataset twice. Remove one of the two.")
        if not self.shots:
            raise ValueError("evaluate.shots is empty. Set one or more numbers, for example 1,2,4.")
        if len(set(self.shots)) < len(self.shots):
            raise ValueError(f"evaluate.shots {self.shots} contains a number twice. Remove one of the two.")
        if "transfer" in self.tasks and not self.transfer_from:
            raise ValueError(
                "evaluate.tasks contains transfer, but evaluate.transfer_from is empty. Set it to the dataset of the "
                "support images."
            )

    def _check_features(self) -> None:
        """Raise `ValueError` for settings that need images or texts themselves."""
        if self.retrieval:
            raise ValueError("evaluate.retrieval needs images and texts, not evaluate.features. Leave one of them out.")
        if self.canonicalize is not None:
            raise ValueError(
                "evaluate.canonicalize prepares texts, but evaluate.features has the features of texts. Leave it out."
            )


def _dataset_settings(values: Mapping[str, Any]) -> dict[str, DatasetSettings]:
    return {
        name: each
        if isinstance(each, DatasetSettings)
        else build(DatasetSettings, f"evaluate.custom_datasets.{name}", each)
        for name, each in values.items()
    }
