"""What of a run is watched, beside its metrics."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True, kw_only=True)
class MonitorSettings:
    """How a run is watched.

    `wandb` is a project of Weights & Biases. The steps from the first to the last of `profile` are traced into
    `profile/`. `peak_tflops` of a device, for MFU, is needed where its kind is not known; `price_per_hour` is that of
    all machines together, in any currency. Where no step ends for `stall_seconds` (0: never) the stacks of all threads
    are written to `stalls/`, and with `end_when_stalled` the process ends.
    """

    wandb: str | None = None
    profile: tuple[int, ...] = ()
    peak_tflops: float | None = None
    price_per_hour: float | None = None
    stall_seconds: float = 1800.0
    end_when_stalled: bool = False

    def __post_init__(self) -> None:
        for name in ("peak_tflops", "price_per_hour"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"monitor.{name} is {value}; it must be a positive number, or None")
        if not 0 <= self.stall_seconds < math.inf:
            raise ValueError(f"monitor.stall_seconds is {self.stall_seconds}; it must be a number from 0 on")
        if self.profile and not (len(self.profile) == 2 and 1 <= self.profile[0] <= self.profile[1]):
            raise ValueError(f"monitor.profile is {self.profile}; name the first and the last step, such as (100, 105)")
