"""A real one-node SLURM: tasks train together, are preempted and resume; evaluations and sweeps are job arrays."""

import json
import os
import pathlib
import re
import subprocess
import sys
import time

import numpy as np
import pytest

import launch
from models.checkpoints.io import save_checkpoint
from pretrain.checkpointing.manager import restore_parameters
from pretrain.monitoring.metric_writer import read_metrics
from tests.cluster.targets.slurm_node import free_port, missing, slurm_node, wait_for
from tests.data.shard_files import labelled, write_shard
from tests.models.tiny_models import tiny_checkpoint
from tests.pretrain.distributed.test_two_processes import named
from tests.pretrain.tiny import config

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

ROOT = pathlib.Path(__file__).parents[3]
SWEEP = """
from configs import grid

def get_sweep():
    return grid({"pretrain.seed": (0, 1), "pretrain.steps": (4,)})
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with slurm_node(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with a shard and the config of a run that trains and is evaluated on it."""
    folder = tmp_path_factory.mktemp("project")
    shard = write_shard(folder / "s.tar", labelled(30))
    evaluate = {"datasets": (str(shard),), "retrieval": (), "shots": (1,), "seeds": 2, "methods": ("knn",)}
    sections = {"data_dir": str(folder / "data"), "evaluate": evaluate | {"min_examples": 4}}
    sections |= {"pretrain": config(str(shard), steps=60, log_every=10, checkpoint_every=1000)}
    (folder / "config.py").write_text(
        f"from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({sections!r})\n"
    )
    return folder


def submit(slurm, *arguments, tasks=1) -> str:
    """Submit with launch.py; return the job id."""
    given = [f"--config.submit.slurm.tasks_per_node={tasks}", "--config.submit.slurm.time=10", "--target=slurm"]
    command = [sys.executable, "launch.py", "submit", *given, *arguments]
    environment = {**slurm, "JAX_COORDINATOR_PORT": str(free_port())}
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert ran.returncode == 0, ran.stderr
    return re.search(r"Submitted batch job (\d+)", ran.stdout).group(1)


def output_of(workdir: pathlib.Path) -> str:
    return "\n".join(path.read_text() for path in sorted((workdir / "submit").glob("*.log")))


@pytest.mark.slow
def test_two_tasks_train_together_and_are_requeued_after_preemption(slurm, project, tmp_path):
    workdir = tmp_path / "run"
    job = submit(slurm, f"--config={project / 'config.py'}", f"--workdir={workdir}", tasks=2)
    deadline = time.monotonic() + 200
    while len(read_metrics(workdir / "metrics.jsonl")) < 2:
        assert time.monotonic() < deadline, output_of(workdir)
        time.sleep(0.05)
    subprocess.run(["scancel", "--signal=TERM", job], env=slurm, check=True)
    assert wait_for(job, slurm) == ["COMPLETED"], output_of(workdir)
    said = output_of(workdir)
    [ended] = set(re.findall(r"received SIGTERM at step (\d+) of 60; run the same command to resume there", said))
    assert f"resuming at step {ended}" in said and "2 device(s) of 2 processes" in said
    assert [line["step"] for line in read_metrics(workdir / "metrics.jsonl")] == list(range(10, 61, 10))
    jobs = [json.loads(line) for line in (workdir / "jobs.jsonl").read_text().splitlines()]
    assert [line["what"] for line in jobs] == [f"steps 0–{ended} of 8 pairs", f"steps {ended}–60 of 8 pairs"]

    alone = tmp_path / "alone"
    assert launch.main(["pretrain", f"--config={project / 'config.py'}", f"--workdir={alone}"]) == 0
    ours, one = (named(restore_parameters(folder / "checkpoints")[1]) for folder in (workdir, alone))
    felt = [name for name in one if not name.endswith("attention/key/bias")]  # a softmax is invariant to it
    errors = {name: np.linalg.norm(ours[name] - one[name]) / np.linalg.norm(one[name]) for name in felt}
    assert max(errors.values()) < 1e-3, errors  # 60 steps with different rounding


@pytest.mark.slow
def test_the_last_shard_of_an_evaluation_merges_the_results(slurm, project, tmp_path):
    checkpoint = save_checkpoint(tmp_path / "export", tiny_checkpoint("siglip"))
    for name in ("things", "others"):
        samples = labelled(60)
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name / "train-00000.tar", samples[:40])
        write_shard(tmp_path / name / "test-00000.tar", samples[40:])
    given = [f"--checkpoint=tiny={checkpoint}", f"--datasets={tmp_path / 'things'},{tmp_path / 'others'}"]
    given += [f"--data_dir={tmp_path}", "--methods=prototypes,knn", "--shots=1,2", "--seeds=2"]
    job = submit(slurm, "--jobs=evaluate", "--num_shards=2", f"--workdir={tmp_path / 'split'}", *given)
    assert wait_for(job, slurm) == ["COMPLETED", "COMPLETED"], output_of(tmp_path / "split")
    assert launch.main(["evaluate", f"--workdir={tmp_path / 'whole'}", *given]) == 0
    split, whole = ((tmp_path / name / "evaluation" / "results.jsonl").read_bytes() for name in ("split", "whole"))
    assert split == whole and whole.count(b"\n") > 10


@pytest.mark.slow
def test_a_sweep_is_a_job_array_and_the_report_compares_its_runs(slurm, project, tmp_path, capsys):
    swept = project / "swept.py"
    swept.write_text((project / "config.py").read_text() + SWEEP)
    workdir = tmp_path / "sweep"
    job = submit(slurm, f"--config={swept}", f"--workdir={workdir}", "--jobs=pretrain,export,evaluate")
    assert wait_for(job, slurm) == ["COMPLETED", "COMPLETED"], output_of(workdir)
    runs = ["seed=0,steps=4", "seed=1,steps=4"]
    assert sorted(path.name for path in workdir.iterdir() if path.name != "submit") == runs
    swept.write_text(swept.read_text().replace("(0, 1)", "(0, 1, 2, 3, 4)"))
    (workdir / "seed=2,steps=4").mkdir()
    (workdir / "seed=2,steps=4" / "pretrain.json").write_text("{}")
    (workdir / "seed=3,steps=4" / "evaluation").mkdir(parents=True)
    assert launch.main(["report", f"--config={swept}", f"--workdir={workdir}"]) == 0
    said = capsys.readouterr().out
    assert "seed=2,steps=4 was not evaluated and is left out" in said
    assert re.search(r"seed=3,steps=4 was not evaluated and is left out: .*results.jsonl", said)
    assert "seed=4,steps=4 has no files and is left out" in said
    page = (workdir / "report.html").read_text()
    assert all(run in page for run in runs)
    rows = (workdir / "report.csv").read_text().splitlines()
    assert {row.partition(",")[0].strip('"') for row in rows[1:]} <= {*runs, "seed=0", "seed=1"} and len(rows) > 4


@pytest.mark.slow
def test_a_failed_task_is_not_requeued(slurm, project, tmp_path):
    workdir = tmp_path / "run"
    given = [f"--config={project / 'config.py'}", f"--workdir={workdir}", "--config.pretrain.data.sources=gone.tar,"]
    job = submit(slurm, *given)
    assert wait_for(job, slurm) == ["FAILED"]
    assert "error: no file matches 'gone.tar'" in output_of(workdir) and os.listdir(workdir) == ["submit"]


ENDS = """#!/bin/bash
echo "process $SLURM_PROCID: restart ${SLURM_RESTART_COUNT:-0}"
if [ -z "$SLURM_RESTART_COUNT" ] && [[ "$*" == *seed=1* ]]; then sleep $((SLURM_PROCID * 8)); exit 75; fi
"""


@pytest.mark.slow
def test_only_the_preempted_task_of_an_array_is_requeued(slurm, project, tmp_path):
    """The processes of a task exit 8 s apart, longer than SLURM waits (KillWait) before it kills remaining ones."""
    swept, program = project / "swept.py", tmp_path / "program"
    swept.write_text((project / "config.py").read_text() + SWEEP)
    program.write_text(ENDS)
    program.chmod(0o755)
    given = [f"--config={swept}", f"--workdir={tmp_path}", f"--config.submit.python={program}"]
    job = submit(slurm, *given, tasks=2)
    assert wait_for(job, slurm) == ["COMPLETED", "COMPLETED"], output_of(tmp_path)
    starts = re.findall(r"process \d: restart \d", output_of(tmp_path))
    assert sorted(starts) == ["process 0: restart 0"] * 2 + ["process 0: restart 1"] + ["process 1: restart 0"] * 2 + [
        "process 1: restart 1"
    ]
