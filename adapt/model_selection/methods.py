"""Which method suits a support: each by its best setting, on examples of the support that are left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from adapt.adapters.base import Adapter, settings_of
from adapt.adapters.registry import METHODS, TRAINING_FREE, create, find
from adapt.adapters.support import Support, make_support
from adapt.model_selection.hyperparameters import DEFAULTS, select

AUTO = "auto"
DEFAULT_WITH_TEXT, DEFAULT_WITHOUT_TEXT = "tip_adapter", "prototypes"
_KEY = 0


class Candidate(NamedTuple):
    """A method with the best of the `tried` settings. `accuracy` is that on what was left out, NaN where nothing was;
    `error` says why the method cannot be used, and there is no adapter then."""

    method: str
    adapter: Adapter | None = None
    accuracy: float = float("nan")
    tried: int = 0
    selected_by: str = ""
    error: str | None = None

    @property
    def settings(self) -> str:
        """The settings that were searched, as `beta=5.5, k=3`."""
        if self.adapter is None:
            return ""
        found = {name: value for name, value in settings_of(self.adapter).items() if name in self.adapter.grid}
        return ", ".join(
            f"{name}={f'{value:g}' if isinstance(value, float | int) else value}" for name, value in found.items()
        )


class Choice(NamedTuple):
    """The chosen candidate, all that were compared in their order, and the chosen one's logits of the examples when
    their fold is left out, `[n, classes]`; None where none can be left out."""

    chosen: Candidate
    candidates: list[Candidate]
    left_out: np.ndarray | None


def choose(
    method: str,
    features: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    class_text_features: np.ndarray | None = None,
    tell: Callable[[Candidate], None] = lambda candidate: None,
) -> Choice:
    """Returns a method with settings for examples `[n, dim]` with labels `[n]`.

    A named method gets its settings by `select`. "auto" compares every training-free method that can do with or without
    `class_text_features` `[classes, dim]` as they are, and takes the most accurate on what was left out, of equals the
    first, which is the simpler. Where no class has two examples, nothing can be left out: "auto" is then Tip-Adapter
    with text and prototypes without, with their defaults. `tell` is called with each candidate. Raises `ValueError`
    where no method can be used.
    """
    arguments = {"class_text_features": class_text_features, "num_classes": num_classes}
    support = make_support(features, labels, **arguments)
    several = bool(np.bincount(labels).max() > 1)
    names: Sequence[str] = (method,)
    if method == AUTO and several:
        names = [name for name in TRAINING_FREE if class_text_features is not None or not METHODS[name].needs_text]
    elif method == AUTO:
        names = (DEFAULT_WITHOUT_TEXT if class_text_features is None else DEFAULT_WITH_TEXT,)
    candidates = []
    for name in names:
        candidates.append(_candidate(name, features, labels, arguments))
        tell(candidates[-1])
    while usable := [number for number, candidate in enumerate(candidates) if candidate.error is None]:
        best = max(usable, key=lambda number: np.nan_to_num(candidates[number].accuracy))
        chosen = candidates[best]
        if not several:
            return Choice(chosen, candidates, None)
        left_out = np.asarray(_left_out(chosen.adapter, support, jax.random.key(_KEY)))
        if np.isfinite(left_out).all():
            return Choice(chosen, candidates, left_out)
        candidates[best] = Candidate(chosen.method, error="its logits of left-out pictures are not finite")
        tell(candidates[best])
    raise ValueError("no method can be used: " + "; ".join(f"{one.method}: {one.error}" for one in candidates))


def check_method(method: str, *, text: bool) -> None:
    """Raises `ValueError` for an unknown method, and for one that needs text where there is none."""
    if method == AUTO:
        return
    try:
        needs_text = find(method).needs_text
    except ValueError as error:
        raise ValueError(f"{error}, or {AUTO} to compare the training-free ones") from error
    if needs_text and not text:
        raise ValueError(f"{method} needs the class names; leave --template=none out or name another --method")


def _candidate(name: str, features: np.ndarray, labels: np.ndarray, arguments: dict[str, Any]) -> Candidate:
    try:
        found = select(name, features, labels, key=jax.random.key(_KEY), **arguments)
    except (ValueError, ArithmeticError, RuntimeError) as error:  # a method that fails must not take the others along
        return Candidate(name, error=str(error).partition("\n")[0] or type(error).__name__)
    if found.selected_by == DEFAULTS:
        return Candidate(name, create(name), selected_by=DEFAULTS)
    return Candidate(name, found.adapter, float(np.max(found.accuracy)), len(found.settings), found.selected_by)


@jax.jit
def _left_out(adapter: Adapter, support: Support, key: jax.Array) -> jax.Array:
    return adapter.logits(adapter.left_out_by_folds(support, key=key))
