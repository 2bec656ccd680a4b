"""Advice in plain English: whether the context objective is likely to pay on a data set, and with which batch size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pretrain.tools.caption_noise import (
    LEAST_PAIRS,
    BatchCompanions,
    NoiseRange,
    count_companions,
    estimate_noise,
)
from pretrain.tools.pair_sample import PairSample

TEMPERATURE = 0.03  # of the attention, times √dim


class Rule(NamedTuple):
    """The least share of attention on companions at which context paid, for a least share of wrong captions.

    `alpha` is the weight of the base loss with which it gained `gain`.
    """

    wrong_from: float
    attention_from: float
    alpha: float
    gain: str


# docs/results/study.md. Right captions: heads on CLIP's features, where context paid from half of the attention on the
# same class and cost below a third. Wrong captions: the quickstart's icons, half of the names wrong, batches of 2,048,
# for which this estimate reads 33 %, and one seed on 25,000 mixed pairs, which read 20 to 25 % in batches of 4,096
# (paid) and 16 to 19 % in batches of 1,024 (did not).
RIGHT = Rule(wrong_from=0.0, attention_from=0.5, alpha=0.5, gain="up to 1.4 points zero-shot and 0.5 few-shot")
WRONG = Rule(wrong_from=0.4, attention_from=0.2, alpha=0.2, gain="about 1 point zero-shot and 1 to 2 few-shot")
COSTS_BELOW = 1 / 3  # share of attention, with right captions
MOSTLY_WRONG = 2 / 3  # share of wrong captions; icons with 80 %, which read 72 to 94 %, gained nothing


class ContextEstimate(NamedTuple):
    """The basis of the advice: the sample's size and encoder, the caption noise, and the companions by batch size."""

    pairs: int
    encoder: str
    noise: NoiseRange
    curve: tuple[BatchCompanions, ...]

    @property
    def assumed_noise(self) -> float:
        """The share of wrong captions that attention shares are corrected for: the middle of the range."""
        return self.noise.middle if self.noise.identifiable else 0.0

    @property
    def shares(self) -> np.ndarray:
        """The share of attention on companions for each batch size of the curve."""
        return np.array([point.attention_share(self.assumed_noise) for point in self.curve])

    def share_at(self, batch_size: int) -> float:
        """Return the share for a batch size, between those measured; larger batches count as the largest."""
        return float(np.interp(np.log2(batch_size), np.log2([point.batch_size for point in self.curve]), self.shares))

    def companions_at(self, batch_size: int) -> float:
        """Return the mean number of companions of an image, which is proportional to the number of other images."""
        largest = self.curve[-1]
        return largest.per_image * (batch_size - 1) / (largest.batch_size - 1)

    def smallest_batch(self, share: float) -> int | None:
        """Return the smallest measured batch size from which on the share is reached, or None."""
        reached = [point.batch_size for point, found in zip(self.curve, self.shares, strict=True) if found >= share]
        return reached[0] if reached else None


def estimate(sample: PairSample, *, seed: int = 0) -> ContextEstimate:
    """Return the estimate for a sample of at least 512 pairs."""
    noise = estimate_noise(sample.images, sample.texts, seed=seed)
    curve = count_companions(
        sample.images, sample.comparable, similar=sample.similar, temperature=TEMPERATURE, seed=seed
    )
    return ContextEstimate(len(sample.images), sample.encoder, noise, tuple(curve))


def too_few(pairs: int) -> str:
    """Return the line for a data set that is too small for an estimate."""
    return f"context objective: no estimate from {pairs:,} usable pairs; it needs at least {LEAST_PAIRS}"


def describe(found: ContextEstimate, *, batch_size: int, from_scratch: bool) -> list[str]:
    """Return the estimate and the verdict as lines of text."""
    lines = [
        f"context objective, estimated from {found.pairs:,} random pairs with the image features of {found.encoder}",
        _describe_noise(found.noise),
        f"companions: in a batch of {batch_size:,}, an image has about {found.companions_at(batch_size):.3g} others "
        f"with similar texts; {_attention(found, batch_size)} would go to them at temperature {TEMPERATURE}",
        "attention on companions by batch size: "
        + ", ".join(
            f"{point.batch_size:,}: {share:.0%}"
            for point, share in zip(found.curve[::2], found.shares[::2], strict=True)
        ),
        _verdict(found, batch_size),
    ]
    if from_scratch:
        lines.append(
            "the towers start untrained: until they find companions, context gains nothing or costs. Start it later "
            "(objective.context_start_step), or post-train with it (docs/guides/post-training.md)"
        )
    return lines


def _describe_noise(noise: NoiseRange) -> str:
    if not noise.identifiable:
        return (
            "wrong captions: unknown. The captions of similar images hardly agree: images have no companions, or "
            "almost all captions belong to other images"
        )
    return (
        f"wrong captions: {noise.low:.0%} to {noise.high:.0%} of the captions belong to other images or say nothing "
        "that those of similar images say"
    )


def _attention(found: ContextEstimate, batch_size: int) -> str:
    least = "at least " if batch_size > found.curve[-1].batch_size else "about "
    return f"{least}{found.share_at(batch_size):.0%} of the attention"


def _verdict(found: ContextEstimate, batch_size: int) -> str:
    noise, share = found.noise, found.share_at(batch_size)
    if not noise.identifiable:
        return "context may pay or not; the data does not show it. Compare a run with objective.context=False"
    if noise.low >= MOSTLY_WRONG:
        return (
            "context is unlikely to pay: most captions are wrong, and companions with right ones are too few to "
            "outvote them. With 80% wrong it gained nothing over plain training that ended earlier; set "
            "objective.context=False, and clean the captions"
        )
    wrong, unclear = noise.low >= WRONG.wrong_from, noise.low < WRONG.wrong_from <= noise.high
    rule = WRONG if wrong or unclear else RIGHT
    settings = f"objective.alpha={rule.alpha} and objective.context_temperature={TEMPERATURE}"
    captions = "many captions are wrong" if wrong else "many captions may be wrong" if unclear else "captions are right"
    if share >= rule.attention_from:
        likely = "may pay" if unclear else "is likely to pay"
        return f"context {likely} in batches of {batch_size:,} with {settings}: {captions}; it gained {rule.gain}"
    smallest = found.smallest_batch(rule.attention_from)
    costs = " and likely to cost accuracy" if rule is RIGHT and share < COSTS_BELOW else ""
    advice = (
        f"with {settings} it {'may pay' if unclear else 'is likely to pay'} from batches of about {smallest:,}"
        if smallest is not None and smallest > batch_size
        else f"no batch of up to {found.curve[-1].batch_size:,} has enough companions; set objective.context=False"
    )
    return (
        f"context is unlikely to pay in batches of {batch_size:,}{costs}: {captions}, and less than "
        f"{rule.attention_from:.0%} of the attention would meet companions; {advice}"
    )
