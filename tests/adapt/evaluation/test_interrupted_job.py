"""`launch.py evaluate` as a process writes the same bytes on any number of devices and after any number of kills."""

import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

import launch
from models.checkpoints.io import save_checkpoint
from tests.data.shard_files import labelled, write_shard
from tests.models.tiny_models import tiny_checkpoint

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """Arguments of a job on a tiny checkpoint and shards of more images than a batch, without the workdir."""
    folder = tmp_path_factory.mktemp("job")
    checkpoint = save_checkpoint(folder / "export", tiny_checkpoint("siglip"))
    samples = labelled(341)
    (folder / "things").mkdir()
    write_shard(folder / "things/train-00000.tar", samples[:300])
    write_shard(folder / "things/test-00000.tar", samples[300:])
    found = ["evaluate", f"--checkpoint=tiny={checkpoint}", f"--datasets={folder / 'things'}", f"--data_dir={folder}"]
    return [*found, "--methods=prototypes,knn", "--shots=1,2", "--seeds=2"]


@pytest.fixture(scope="module")
def whole(arguments, tmp_path_factory):
    """The folder of an uninterrupted evaluation on one device."""
    workdir = tmp_path_factory.mktemp("whole")
    assert launch.main([*arguments, f"--workdir={workdir}"]) == 0
    return workdir / "evaluation"


# launch.py that kills itself as soon as it has written a unit. Two threads write units: the lock makes it one.
KILLED_AFTER_A_UNIT = """
import os, signal, sys, threading
import adapt.evaluation.results, launch
Unit, lock = adapt.evaluation.results.Unit, threading.Lock()
write = Unit.write
def write_and_die(*args, **named):
    with lock:
        write(*args, **named)
        os.kill(os.getpid(), signal.SIGKILL)
Unit.write = write_and_die
sys.exit(launch.main(sys.argv[1:]))
"""


def start(arguments, workdir, *, devices, program=("launch.py",)):
    """Start the job on `devices` fake CPU devices."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "")}
    command = [sys.executable, *program, *arguments, f"--workdir={workdir}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT, env=environment)


def killed(arguments, workdir):
    """Run the job until a signal kills it, right after its first new unit."""
    process = start(arguments, workdir, devices=1, program=("-c", KILLED_AFTER_A_UNIT))
    errors = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, errors.decode()


def finish(process):
    """Wait for a job, which must succeed."""
    errors = process.communicate()[1]
    assert process.returncode == 0, errors.decode()


def contents(folder, pattern):
    """Return the bytes of the matching files by their path in the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob(pattern) if path.is_file()}


@pytest.mark.slow
def test_another_number_of_devices_gives_the_same_bytes(arguments, whole, tmp_path):
    finish(start(arguments, tmp_path, devices=8))
    embeddings = contents(whole, "embeddings/*/*.npy")
    assert len(embeddings) == 7 and contents(tmp_path / "evaluation", "embeddings/*/*.npy") == embeddings
    assert contents(tmp_path / "evaluation", "results.jsonl") == contents(whole, "results.jsonl")


@pytest.mark.slow
def test_killed_after_any_unit_the_job_resumes_to_the_same_bytes_and_recomputes_no_unit(arguments, whole, tmp_path):
    folder = tmp_path / "evaluation"

    def finished():
        return {path.name: path.stat().st_mtime_ns for path in folder.glob("units/*.jsonl")}

    done = {}
    for number in (1, 2):
        killed(arguments, tmp_path)
        now = finished()
        assert len(now) == number and done.items() <= now.items()
        done = now
    finish(start(arguments, tmp_path, devices=1))
    assert done.items() < finished().items()
    for pattern in ("results.jsonl", "units/*.jsonl", "predictions/*.npy", "embeddings/*/*.npy"):
        assert contents(folder, pattern) == contents(whole, pattern), pattern


@pytest.mark.slow
def test_three_shards_one_of_them_killed_write_the_rows_of_one_process(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("birds", "fish", "trees"):
        labels = np.repeat(np.arange(4), 12)
        parts = {part: rng.normal(size=(48, 8)) + np.eye(8)[labels] for part in ("support", "query")}
        (tmp_path / "tiny").mkdir(exist_ok=True)
        np.savez(tmp_path / "tiny" / f"{name}.npz", **parts, support_labels=labels, query_labels=labels)
    arguments = ["evaluate", f"--features={tmp_path / 'tiny'}", "--shots=1,4", "--seeds=2", "--methods=prototypes,knn"]
    assert launch.main([*arguments, f"--workdir={tmp_path / 'whole'}"]) == 0
    folder = tmp_path / "shards" / "evaluation"
    others = [start([*arguments, f"--shard={index}/3"], tmp_path / "shards", devices=1) for index in (0, 2)]
    killed([*arguments, "--shard=1/3"], tmp_path / "shards")
    for process in others:
        finish(process)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("units/*.jsonl")}
    assert not (folder / "results.jsonl").exists() and len(before) == 5
    finish(start([*arguments, "--shard=1/3"], tmp_path / "shards", devices=1))
    assert contents(folder, "results.jsonl") == contents(tmp_path / "whole" / "evaluation", "results.jsonl")
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
