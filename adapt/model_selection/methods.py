"""The method that suits a support set: each is tried with its best settings on left-out support examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from adapt.adapters.base import Adapter
from adapt.adapters.pytrees import settings_of
from adapt.adapters.registry import METHODS, TRAINING_FREE, create
from adapt.adapters.support import make_support
from adapt.model_selection.calibration import left_out_logits
from adapt.model_selection.hyperparameters import DEFAULTS, select
from foundation.error_text import error_text
from foundation.suggestions import unknown_name

AUTO = "auto"
DEFAULT_WITH_TEXT, DEFAULT_WITHOUT_TEXT = "tip_adapter", "prototypes"
_SEED = 0


class Candidate(NamedTuple):
    """A method that was tried.

    method: its name.
    adapter: the adapter with the best settings; None if the method cannot be used.
    accuracy: on left-out support examples; NaN if nothing could be left out.
    tried: the number of settings that were compared.
    selected_by: how the settings were chosen, see `Selection`.
    error: why the method cannot be used, or None.
    """

    method: str
    adapter: Adapter | None = None
    accuracy: float = float("nan")
    tried: int = 0
    selected_by: str = ""
    error: str | None = None

    @property
    def settings(self) -> str:
        """The chosen values of the searched settings, such as "beta=5.5, k=3"."""
        if self.adapter is None:
            return ""
        values = {name: value for name, value in settings_of(self.adapter).items() if name in self.adapter.grid}
        return ", ".join(
            f"{name}={f'{value:g}' if isinstance(value, float | int) else value}" for name, value in values.items()
        )


class MethodChoice(NamedTuple):
    """The `chosen` candidate, and all `candidates` in the order in which they were tried.

    `left_out_logits` `[n, classes]` are the logits of the support examples by the chosen adapter, fitted without the
    example's fold; None if nothing could be left out.
    """

    chosen: Candidate
    candidates: list[Candidate]
    left_out_logits: np.ndarray | None


def choose_method(
    method: str,
    features: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    class_text_features: np.ndarray | None = None,
    on_candidate: Callable[[Candidate], None] = lambda candidate: None,
) -> MethodChoice:
    """Return a method with settings for support features `[n, dim]` with labels `[n]`.

    The settings of a named method are chosen by `select`. "auto" compares all training-free methods that can be used
    with or without `class_text_features` `[classes, dim]`, and takes the most accurate on left-out support examples;
    of equal ones the first, which is the simplest. If no class has two examples, nothing can be left out: "auto" is
    then `tip_adapter` with class texts and `prototypes` without, with default settings.

    `on_candidate` is called with each candidate. Raises `ValueError` if no method can be used.
    """
    arguments = {"class_text_features": class_text_features, "num_classes": num_classes}
    support = make_support(features, labels, **arguments)
    can_leave_out = bool(np.bincount(labels).max() > 1)
    names: Sequence[str] = (method,)
    if method == AUTO and can_leave_out:
        names = [name for name in TRAINING_FREE if class_text_features is not None or not METHODS[name].needs_text]
    elif method == AUTO:
        names = (DEFAULT_WITHOUT_TEXT if class_text_features is None else DEFAULT_WITH_TEXT,)
    candidates = []
    for name in names:
        candidates.append(_try_method(name, features, labels, arguments))
        on_candidate(candidates[-1])
    while usable := [number for number, candidate in enumerate(candidates) if candidate.error is None]:
        best = max(usable, key=lambda number: np.nan_to_num(candidates[number].accuracy))
        chosen = candidates[best]
        logits = left_out_logits(chosen.adapter, support, key=jax.random.key(_SEED))
        if logits is None or np.isfinite(logits).all():
            return MethodChoice(chosen, candidates, logits)
        candidates[best] = Candidate(chosen.method, error="its logits of left-out examples are not finite")
        on_candidate(candidates[best])
    raise ValueError("no method can be used: " + "; ".join(f"{one.method}: {one.error}" for one in candidates))


def check_method(method: str, *, text: bool) -> None:
    """Raise `ValueError` for an unknown method, and for one that needs class texts if there are none."""
    if method == AUTO:
        return
    if method not in METHODS:
        raise ValueError(
            f"{unknown_name('method', method, [AUTO, *METHODS])}. Use {AUTO} to compare the training-free methods."
        )
    if METHODS[method].needs_text and not text:
        raise ValueError(f"{method} needs class texts. Leave out --template=none, or use another --method.")


def _try_method(name: str, features: np.ndarray, labels: np.ndarray, arguments: dict[str, Any]) -> Candidate:
    try:
        selection = select(name, features, labels, key=jax.random.key(_SEED), **arguments)
    except (ValueError, ArithmeticError, RuntimeError) as error:  # one failing method must not stop the comparison
        return Candidate(name, error=error_text(error))
    if selection.selected_by == DEFAULTS:
        return Candidate(name, create(name), selected_by=DEFAULTS)
    return Candidate(
        name,
        selection.adapter,
        float(np.max(selection.accuracy)),
        tried=len(selection.settings),
        selected_by=selection.selected_by,
    )
