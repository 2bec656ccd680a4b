"""SkyPilot and xpk parse the files and commands of their targets (requirements-cluster.txt)."""

import argparse
import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml

from cluster.job_array import plan_tasks
from cluster.runtime.process_discovery import find_processes
from cluster.submit import prepare
from tests.cluster.submitted import HOSTILE, SETTINGS

TASKS = plan_tasks(
    ["pretrain"],
    config="configs/mine.py",
    workdir=pathlib.Path("/runs/x"),
    overrides=["--config.data_dir=" + "".join(set(HOSTILE) - set("\"'\\"))],
    points=[{"pretrain.seed": 0}, {"pretrain.seed": 1}],
)


def test_skypilot_parses_the_task_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sky = pytest.importorskip("sky", reason="skypilot is not installed (requirements-cluster.txt)")
    prepared = prepare("skypilot", TASKS, SETTINGS, workdir=tmp_path)
    for seed, (path, text) in enumerate(prepared.files.items()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        task = sky.Task.from_yaml(str(path))
        assert task.num_nodes == 2 and task.name == f"siglip-b16-{seed}" and f"pretrain.seed={seed}" in task.run
        [resources] = task.resources
        assert resources.accelerators == {"H100": 8} and resources.use_spot
        assert resources.job_recovery["recover_on_exit_codes"] == [75]
        assert task.setup == 'pip install -r requirements.txt "jax[cuda12]"\n'


def test_xpk_parses_the_commands(tmp_path):
    pytest.importorskip("xpk", reason="xpk is not installed (requirements-cluster.txt)")
    from xpk.parser.core import set_parser

    parser = argparse.ArgumentParser()
    set_parser(parser)
    for seed, command in enumerate(prepare("gke", TASKS, SETTINGS, workdir=tmp_path).commands):
        args = parser.parse_args(command[1:])
        assert args.workload == f"siglip-b16-{seed}" and args.tpu_type == "v5litepod-256" and args.num_slices == 1
        assert args.cluster == "c" and args.project == "p" and args.zone == "us-east5-b"
        assert args.command.endswith(f"--config.pretrain.seed={seed}") and int(args.max_restarts) == 100
        assert args.restart_on_exit_codes == "75,76" and args.termination_grace_period_seconds == "120"


@pytest.mark.parametrize(
    ("settings", "pods", "chips"),
    [
        (dataclasses.replace(SETTINGS.gke, num_slices=2), 64, {"google.com/tpu": 4}),
        (
            dataclasses.replace(SETTINGS.gke, tpu_type=None, device_type="h100-80gb-8", num_nodes=2),
            2,
            {"nvidia.com/gpu": 8},
        ),
    ],
    ids=["two slices of TPUs", "two hosts with GPUs"],
)
def test_xpk_job_set_forwards_sigterm_and_restarts_a_preempted_job(tmp_path, settings, pods, chips):
    pytest.importorskip("xpk", reason="xpk is not installed (requirements-cluster.txt)")
    job = tmp_path / "launch.py"
    job.write_text(
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        "pathlib.Path('began').touch()\n"
        "time.sleep(60)\n"
    )
    own = dataclasses.replace(SETTINGS, python=sys.executable, gke=dataclasses.replace(settings, folder=str(tmp_path)))
    [command] = prepare("gke", TASKS[:1], own, workdir=tmp_path).commands
    environment = {**os.environ, "HOME": str(tmp_path), "TELEMETRY_ENABLED": "false"}
    shown = subprocess.run(
        [sys.executable, "-m", "xpk.main", *command[1:], "--dry-run"], env=environment, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    text = re.search(r"^apiVersion: jobset.*?(?=^\[XPK\])", shown.stdout, re.DOTALL | re.MULTILINE).group()
    page = yaml.safe_load(text)
    assert page["kind"] == "JobSet" and page["metadata"]["name"] == "siglip-b16"
    [replicated] = page["spec"]["replicatedJobs"]
    spec = replicated["template"]["spec"]
    assert (replicated["replicas"], spec["parallelism"]) == (settings.num_slices, pods)
    assert page["spec"]["failurePolicy"]["maxRestarts"] == 100
    [rule] = [rule for rule in spec["podFailurePolicy"]["rules"] if rule["onExitCodes"]["operator"] == "NotIn"]
    assert {75, 76, 137} <= set(rule["onExitCodes"]["values"]) and 1 not in rule["onExitCodes"]["values"]
    pod = spec["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 120
    [container] = [each for each in pod["containers"] if "launch.py" in each["command"][-1]]
    assert container["image"] == "gcr.io/p/i" and chips.items() <= container["resources"]["limits"].items()
    if settings.device_type:  # TPU pods discover their processes themselves
        variables = {each["name"]: each.get("value", "1") for each in container["env"]}
        group = find_processes(variables)
        assert (group.source, group.num_processes, group.process_id) == ("JobSet", 2, 1)
        assert group.coordinator == variables["JAX_COORDINATOR_ADDRESS"] + ":" + variables["JAX_COORDINATOR_PORT"]

    ran = subprocess.Popen(container["command"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "began").exists():
        assert ran.poll() is None
        time.sleep(0.05)
    ran.send_signal(signal.SIGTERM)
    output, _ = ran.communicate(timeout=30)
    assert ran.returncode == 75 and "EXIT_CODE=75" in output
