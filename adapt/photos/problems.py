"""Reasons not to trust the result of sorting images, each with the way out."""

from __future__ import annotations

import numpy as np

from adapt.photos.sorting_result import SortingResult

_SHOWN = 8  # names of empty classes in a warning


def find_problems(result: SortingResult) -> list[str]:
    """Return a sentence for each reason not to trust a result, with the way out."""
    problems = []
    expected = result.expected_accuracy
    better = _better_checkpoint(result.checkpoint)
    if expected is not None and expected.near_chance:
        problems.append(
            f"{expected.correct} of {expected.total} held-out support images are classified correctly, so the accuracy "
            f"is {expected.low:.0%} to {expected.high:.0%}, which may be little better than always answering the "
            f"largest class ({expected.chance:.0%}). Add support images{better}."
        )
    if expected is None:
        problems.append(
            "No support image can be held out, so the accuracy is not known and the probabilities are not calibrated. "
            "Add a second image of each class."
        )
    counts = np.bincount(result.predicted, minlength=len(result.class_names))
    empty = [name for name, count in zip(result.class_names, counts, strict=True) if not count]
    if empty:
        more = f" and {len(empty) - _SHOWN:,} more" if len(empty) > _SHOWN else ""
        problems.append(
            f"No image is classified as {', '.join(empty[:_SHOWN])}{more}. If there are such images, add support "
            f"images of the class{better}."
        )
    return problems


def _better_checkpoint(name: str | None) -> str:
    """Return ", or use a better checkpoint: …" for a checkpoint, or an empty string for features of any encoder."""
    if name is None:
        return ""
    last = name.rstrip("/").rpartition("/")[2]
    if last == "drawings":
        better = "checkpoints/photos for photos, google/siglip-base-patch16-224 for anything"
    elif "so400m" in last:
        return ", or larger pictures with --image_size"
    else:
        better = f"google/siglip-{'so400m-patch14-384' if 'siglip' in last else 'base-patch16-224'}"
    return f", or use a better checkpoint, such as {better}"
