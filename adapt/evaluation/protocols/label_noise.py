"""Wrong labels in support sets."""

from __future__ import annotations

import numpy as np

_STREAM = 3  # of random numbers, apart from those of the draws


def add_label_noise(labels: np.ndarray, *, share: float, seed: int, shots: int) -> np.ndarray:
    """Return the labels `[n]` with round(share · n) of them wrong, each that of another class among them.

    Rows and wrong labels are uniform draws of the seed and the number of shots. Raises `ValueError` for noise among
    fewer than two classes.
    """
    wrong = round(share * len(labels))
    if not wrong:
        return labels
    among = np.unique(labels)
    if len(among) < 2:
        raise ValueError(
            f"evaluate.label_noise={share:g} needs two classes or more, and support is drawn from {len(among)}. Set it "
            "to 0, or leave the data set out."
        )
    rng = np.random.default_rng([seed, shots, _STREAM])
    rows = rng.choice(len(labels), wrong, replace=False)
    places = np.searchsorted(among, labels[rows])
    noisy = labels.copy()
    noisy[rows] = among[(places + rng.integers(1, len(among), wrong)) % len(among)]
    return noisy
