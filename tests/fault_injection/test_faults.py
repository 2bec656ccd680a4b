"""Runs survive injected faults: the short form of benchmarks/faults.py."""

import os
import signal
import subprocess

import pytest

from tests.fault_injection import faults
from tests.fault_injection.trials import Trial


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    return Trial(tmp_path_factory.mktemp("trial"), steps=160, every=20)


def can_mount(folder) -> bool:
    tried = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True)
    if tried.returncode == 0:
        subprocess.run(["umount", str(folder)], check=True)
    return os.geteuid() == 0 and tried.returncode == 0


@pytest.mark.slow
def test_sigkill_loses_only_the_steps_since_the_last_checkpoint(trial):
    assert "while a checkpoint was written; at most" in faults.killed(trial, 2)


@pytest.mark.slow
def test_sigkill_during_an_export_leaves_a_complete_one(trial):
    assert "it was always complete" in faults.killed_in_export(trial, 1)


@pytest.mark.slow
def test_sigterm_loses_no_step(trial):
    assert "no step lost" in faults.preempted(trial, 2)


@pytest.mark.slow
def test_a_damaged_checkpoint_never_changes_a_parameter(trial):
    assert "never a wrong bit" in faults.damaged(trial, 2)


@pytest.mark.slow
def test_a_clock_that_is_set_back_changes_nothing(trial):
    assert "the same bits" in faults.clock(trial)


@pytest.mark.slow
def test_a_lost_process_ends_its_peer_with_one_sentence(tmp_path):
    assert "the restarted run is bit-identical" in faults.lost_process(
        Trial(tmp_path, steps=40, every=10), ((1, signal.SIGKILL),)
    )


@pytest.mark.slow
def test_other_numbers_of_devices_give_the_same_parameters(tmp_path):
    assert "parameters differ by at most" in faults.devices(Trial(tmp_path, steps=24, every=6), (8, 1))


@pytest.mark.slow
def test_full_disks_and_missing_data_are_one_sentence(trial, tmp_path):
    if not can_mount(tmp_path):
        pytest.skip("this process may not mount small and read-only disks")
    assert "the run resumed when space was free" in faults.disk_full(trial, 1)
    assert "the run resumed when the data were back" in faults.data_gone(trial)
