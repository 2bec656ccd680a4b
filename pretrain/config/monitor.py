"""Settings of the `monitor` section: tracking, profiling and the watchdog."""

from __future__ import annotations

import dataclasses

from foundation.settings import NonNegativeFloat, PositiveFloat


@dataclasses.dataclass(frozen=True, kw_only=True)
class MonitorSettings:
    """Monitoring settings.

    wandb: project of Weights & Biases that also gets the metrics.
    profile: the first and the last step to trace into `profile/`.
    peak_tflops: peak of a device, for MFU; needed only for devices that are not in `device_peaks.py`.
    price_per_hour: price of all machines together, in any currency.
    stall_seconds: when no step ends for this long, the stacks of all threads are written to `stalls/` (0: never).
    end_when_stalled: whether the process ends then, with exit code 1.
    """

    wandb: str | None = None
    profile: tuple[int, ...] = ()
    peak_tflops: PositiveFloat | None = None
    price_per_hour: PositiveFloat | None = None
    stall_seconds: NonNegativeFloat = 1800.0
    end_when_stalled: bool = False

    def __post_init__(self) -> None:
        if self.profile and not (len(self.profile) == 2 and 1 <= self.profile[0] <= self.profile[1]):
            raise ValueError(
                f"monitor.profile is {self.profile}; it must be the first and the last step, such as (100, 105)"
            )
