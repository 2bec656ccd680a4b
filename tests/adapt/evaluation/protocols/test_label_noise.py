"""Wrong labels: their exact number, their distribution, and that they do not depend on anything but the draw."""

import collections

import numpy as np
import pytest

from adapt.evaluation.protocols.label_noise import add_label_noise

LABELS = np.repeat(np.arange(5), 8)


@pytest.mark.parametrize(("share", "wrong"), [(0.0, 0), (0.01, 0), (0.2, 8), (0.21, 8), (0.5, 20), (1.0, 40)])
def test_the_number_of_wrong_labels_is_the_rounded_share(share, wrong):
    for seed in range(5):
        noisy = add_label_noise(LABELS, share=share, seed=seed, shots=8)
        assert (noisy != LABELS).sum() == wrong and noisy.max() < 5
        np.testing.assert_array_equal(noisy, add_label_noise(LABELS, share=share, seed=seed, shots=8))
    assert LABELS.tolist() == np.repeat(np.arange(5), 8).tolist()


def test_rows_and_wrong_classes_are_uniform():
    rows, classes = np.zeros(40), collections.Counter()
    for seed in range(500):
        noisy = add_label_noise(LABELS, share=0.2, seed=seed, shots=8)
        rows += noisy != LABELS
        classes.update(zip(LABELS[noisy != LABELS].tolist(), noisy[noisy != LABELS].tolist(), strict=True))
    assert abs(rows / 500 - 0.2).max() < 0.08
    assert len(classes) == 20 and min(classes.values()) > 130 and max(classes.values()) < 270  # 200 each


def test_noise_among_a_single_class_is_refused():
    with pytest.raises(
        ValueError, match=r"label_noise=0.5 needs two classes or more, and support is drawn from 1\. Set"
    ):
        add_label_noise(np.zeros(4, int), share=0.5, seed=0, shots=4)
