"""Runs that are hurt on purpose lose nothing: the short form of benchmarks/faults.py."""

import os
import signal
import subprocess

import pytest

from tests import faults
from tests.trials import Trial


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    return Trial(tmp_path_factory.mktemp("trial"), steps=300, every=20)


def can_mount(folder) -> bool:
    tried = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True)
    if tried.returncode == 0:
        subprocess.run(["umount", str(folder)], check=True)
    return os.geteuid() == 0 and tried.returncode == 0


def test_kills_lose_the_steps_since_the_last_checkpoint_alone(trial):
    assert "inside a checkpoint's writing" in faults.killed(trial, 3)


def test_a_kill_in_an_export_leaves_a_whole_one(trial):
    assert "always whole" in faults.killed_in_export(trial, 2)


def test_sigterm_loses_no_step(trial):
    assert "no step lost" in faults.told_to_end(trial, 3)


def test_a_damaged_checkpoint_gives_no_wrong_parameter(trial):
    assert "never a wrong bit" in faults.damaged(trial, 3)


def test_a_clock_that_jumps_back_changes_nothing(trial):
    assert "the same bits" in faults.clock(trial)


def test_a_lost_process_ends_the_other_with_a_sentence(tmp_path):
    assert "the restart was exact" in faults.lost_process(Trial(tmp_path, steps=40, every=10), ((1, signal.SIGKILL),))


def test_other_numbers_of_devices_come_to_the_same_parameters(tmp_path):
    assert "parameters differ by" in faults.devices(Trial(tmp_path, steps=24, every=6), (8, 1))


def test_full_disks_and_lost_data_are_sentences(trial, tmp_path):
    if not can_mount(tmp_path):
        pytest.skip("mounting small and read-only disks needs more rights than this process has")
    assert "went on when there was room" in faults.disk_full(trial, 2)
    assert "went on when the data were back" in faults.data_gone(trial)
