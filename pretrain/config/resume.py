"""The settings that a run was started with, and what may change when it is resumed."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from foundation.files.atomic import write_json
from pretrain.config.training import RunSettings

# Settings that may change: the parameters do not depend on them, or by rounding at most.
_WITHOUT_EFFECT = (
    *("log_every", "checkpoint_every", "keep_checkpoints", "keep_every", "keep_best"),
    *("evaluate_every", "keep_evaluated_exports"),
    *("data.threads", "data.workers", "data.max_bad_share", "data.bad_window"),
)
_SECTIONS_WITHOUT_EFFECT = ("recovery.", "monitor.")
_ROUNDING = (
    *("mesh.fsdp", "mesh.rules", "microbatch_size", "remat", "attention", "scan_unroll"),
    *("objective.block_size", "objective.gather_limit", "objective.implementation"),
)
_SOURCES = ("data.sources", "image_features", "text_features", "captions")
_LENGTH = ("steps", "examples", "epochs")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResumeOptions:
    """Further changes that are allowed when a run is resumed.

    extend: the length of the run, to a larger one.
    data_moved: the paths of its sources, if the samples are the same.
    """

    extend: bool = False
    data_moved: bool = False


class SettingChange(NamedTuple):
    """A setting that differs from that of the run in the workdir, by dotted name."""

    name: str
    before: Any
    now: Any


def compare_settings(
    workdir: pathlib.Path,
    settings: RunSettings,
    *,
    kept: RunSettings | None,
    num_samples: int,
    options: ResumeOptions,
) -> list[str]:
    """Return a sentence for each setting that differs from those `kept` in `workdir`; empty if there is no run.

    Raises `ValueError` naming the first setting that differs and must not change when a run is resumed.
    """
    if kept is None:
        return []
    changes = _differences(_as_json(kept), _as_json(settings))
    sentences = [_describe(workdir, change, options) for change in changes if change.name not in _LENGTH]
    lengths = [change for change in changes if change.name in _LENGTH]
    if lengths:
        before, now = kept.num_steps(num_samples), settings.num_steps(num_samples)
        if not options.extend:
            longer = "add --extend to make the run longer, " if now > before else ""
            raise _refused(workdir, next((each for each in lengths if each.now is not None), lengths[0]), longer)
        if now < before:
            raise ValueError(f"--extend makes a run longer, but {workdir} has {before} steps, and this config {now}.")
        sentences.append(
            f"the run is extended from {before} to {now} steps; the learning rate follows the schedule of {now} steps "
            "from here"
        )
    return sentences


def write_settings(path: pathlib.Path, settings: RunSettings) -> None:
    """Write the settings to a file in the workdir."""
    write_json(path, _as_json(settings))


def _describe(workdir: pathlib.Path, change: SettingChange, options: ResumeOptions) -> str:
    name, before, now = change
    sentence = f"{name} was {before!r} and is {now!r} from here"
    if name in _WITHOUT_EFFECT or name.startswith(_SECTIONS_WITHOUT_EFFECT):
        return sentence
    if name in _ROUNDING:
        return f"{sentence}; results differ by rounding from those of an unchanged run"
    if name in _SOURCES and len(before) == len(now):
        if options.data_moved:
            return f"{sentence}, with the same samples"
        raise _refused(workdir, change, "add --data_moved if it is the same data at another path, ")
    raise _refused(workdir, change)


def _refused(workdir: pathlib.Path, change: SettingChange, way_out: str = "") -> ValueError:
    return ValueError(
        f"{workdir} contains a run with {change.name} = {change.before!r}, but this config sets {change.now!r}. Resume "
        f"it with its own config, {way_out}or use another --workdir."
    )


def _as_json(settings: RunSettings) -> dict[str, Any]:
    """Return the settings as their file stores them."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[SettingChange]:
    """Return the settings that differ."""
    found = []
    for name in sorted(set(before) | set(now)):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(SettingChange(prefix + name, old, new))
    return found
