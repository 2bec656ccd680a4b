"""Rates become MFU, memory and cost."""

import pytest

from pretrain.config.run import read_settings
from pretrain.monitoring.device_peaks import TPU_CHIPS, peak_tflops
from pretrain.monitoring.throughput import Throughput, count_pair_flops, describe
from tests.pretrain.tiny import config


class Device:
    """A GPU as JAX describes one."""

    device_kind, process_index = "NVIDIA H100 80GB HBM3", 0

    def memory_stats(self):
        return {"peak_bytes_in_use": 61_000_000_000, "bytes_limit": 80_000_000_000}


def test_rates_become_mfu_memory_and_cost():
    settings = read_settings(config("none.tar", monitor={"price_per_hour": 60.0}))
    flops = sum(count_pair_flops(settings))
    found = Throughput(settings.monitor, [Device()] * 4, pair_flops=flops, spent=3600.0).read(8000.0)
    assert found["mfu"] == pytest.approx(2000 * flops / 989e12)
    assert found["pairs_per_second_per_device"] == 2000 and found["device_memory_gb"] == 61
    assert found["run_seconds"] == pytest.approx(3600, abs=5) and found["cost"] == pytest.approx(60, abs=0.1)
    line = "  ".join(describe(found | {"pairs_per_second": 8000.0, "data_wait_share": 0.02}))
    assert line.startswith("8000 pairs/s  2000 per device  MFU 0.0%  waiting 2%  memory 61.0 of 80 GB  cost 60.0")


def test_the_peak_of_an_unknown_device_can_be_set():
    unknown = read_settings(config("none.tar", monitor={"peak_tflops": 0.5}))
    assert peak_tflops("cpu") is None and "mfu" in Throughput(unknown.monitor, [Device()], pair_flops=1).read(1.0)


@pytest.mark.parametrize(
    ("kind", "tflops"),
    [("TPU v5 lite", 197), ("TPU v5p", 459), ("NVIDIA H100 PCIe", 756), ("NVIDIA L40S", 362), ("NVIDIA L4", 121)],
)
def test_the_longest_name_of_a_device_applies(kind, tflops):
    assert peak_tflops(kind) == tflops


def test_chips_of_described_topologies_have_a_peak_and_a_memory():
    assert {name: (chip.memory_gib, chip.tflops) for name, chip in TPU_CHIPS.items()} == {
        "v4": (32, 275),
        "v5e": (16, 197),
        "v5p": (95, 459),
        "v6e": (32, 918),
    }
