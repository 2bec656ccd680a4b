"""A small labelled set for the benchmark of labelling."""

import numpy as np

from adapt.adapters.ops import normalize_numpy
from benchmarks.labelling.sets import LabelledSet


def labelled_set(*, noise=0.6, seed=0):
    """Return 100 pictures and 40 queries of four classes."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((4, 8))

    def near(labels):
        return normalize_numpy(centers[labels] + noise * rng.standard_normal((len(labels), 8))).astype(np.float32)

    labels, query_labels = rng.permutation(np.arange(100) % 4), np.arange(40) % 4
    return LabelledSet(near(labels), labels, near(query_labels), query_labels)
