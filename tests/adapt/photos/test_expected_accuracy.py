"""The interval of the expected accuracy, and the warnings of the page and the log."""

import math

import numpy as np
import pytest

from adapt.photos.expected_accuracy import expect_accuracy
from adapt.photos.problems import find_problems
from tests.adapt.photos.results import make_result


def wilson(correct, total, z=1.959963984540054):
    """The score interval as E. B. Wilson (1927) defines it: the p with |p̂ − p| = z √(p (1 − p) / n)."""
    share = correct / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return middle - half, middle + half


@pytest.mark.parametrize(("correct", "total"), [(0, 4), (4, 4), (7, 12), (38, 40), (199, 200)])
def test_the_interval_is_wilsons(correct, total):
    expected = expect_accuracy(correct / total, np.arange(total) % 2)
    assert (expected.correct, expected.total, expected.chance) == (correct, total, 0.5)
    np.testing.assert_allclose((expected.low, expected.high), wilson(correct, total), atol=1e-12)


def test_without_held_out_images_there_is_no_interval():
    assert expect_accuracy(math.nan, np.arange(3)) is None


@pytest.mark.parametrize(
    ("accuracy", "support", "near_chance"),
    [(1.0, 2, False), (1.0, 4, False), (0.75, 4, True), (0.9, 40, False), (0.6, 400, True), (0.5, 4, True)],
)
def test_accuracy_near_chance_is_recognised(tmp_path, accuracy, support, near_chance):
    result = make_result(tmp_path, ["a", "b"], [0, 1], accuracy=accuracy, support=support)
    assert result.expected_accuracy.near_chance == near_chance
    assert bool(find_problems(result)) == near_chance


def test_chance_is_the_share_of_the_largest_class():
    assert expect_accuracy(0.9, np.array([0] * 90 + [1] * 10)).near_chance
    assert not expect_accuracy(0.99, np.array([0] * 90 + [1] * 110)).near_chance


@pytest.mark.parametrize(
    ("checkpoint", "better"),
    [
        ("checkpoints/drawings", "such as checkpoints/photos for photos, google/siglip-base-patch16-224"),
        ("checkpoints/photos/", "such as google/siglip-base-patch16-224."),
        ("google/siglip-base-patch16-224", "such as google/siglip-so400m-patch14-384."),
        ("google/siglip-so400m-patch14-384", "larger pictures with --image_size."),
        (None, "Add support images."),
    ],
)
def test_the_warning_names_a_better_checkpoint(tmp_path, checkpoint, better):
    result = make_result(tmp_path, ["a", "b"], [0, 1], accuracy=0.625, checkpoint=checkpoint)
    (problem,) = find_problems(result)
    assert ("5 of 8 held-out support images are classified correctly" in problem and problem.endswith(better)) or (
        better in problem
    )


def test_classes_without_images_are_named(tmp_path):
    names = [f"class {number}" for number in range(12)]
    result = make_result(tmp_path, ["a", "b"], [0, 1], class_names=names)
    (problem,) = find_problems(result)
    assert problem.startswith("No image is classified as class 2, class 3,") and "class 9 and 2 more. If" in problem


def test_without_a_held_out_image_a_warning_names_uncalibrated_probabilities(tmp_path):
    result = make_result(tmp_path, ["a.png", "b.png"], [0, 1], support=1, accuracy=float("nan"))
    (problem,) = find_problems(result)
    assert "the probabilities are not calibrated. Add a second image of each class" in problem
