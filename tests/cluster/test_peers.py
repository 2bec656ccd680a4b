"""SkyPilot and xpk read what is written for them (requirements-cluster.txt)."""

import argparse
import pathlib

import pytest

from cluster.plan import plan_tasks
from cluster.submit import prepare
from tests.cluster.submitted import HOSTILE, SETTINGS

TASKS = plan_tasks(
    ["pretrain"],
    config="configs/mine.py",
    workdir=pathlib.Path("/runs/x"),
    overrides=["--config.data_dir=" + "".join(set(HOSTILE) - set("\"'\\"))],
    points=[{"pretrain.seed": 0}, {"pretrain.seed": 1}],
)


def test_skypilot_reads_its_tasks(tmp_path, monkeypatch):
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
        assert task.setup == "pip install -r requirements.txt\n"


def test_xpk_reads_its_commands(tmp_path):
    pytest.importorskip("xpk", reason="xpk is not installed (requirements-cluster.txt)")
    from xpk.parser.core import set_parser

    parser = argparse.ArgumentParser()
    set_parser(parser)
    for seed, command in enumerate(prepare("gke", TASKS, SETTINGS, workdir=tmp_path).commands):
        args = parser.parse_args(command[1:])
        assert args.workload == f"siglip-b16-{seed}" and args.tpu_type == "v5litepod-256" and args.num_slices == 1
        assert args.cluster == "c" and args.project == "p" and args.zone == "us-east5-b"
        assert args.command.endswith(f"--config.pretrain.seed={seed}") and int(args.max_restarts) == 100
        assert str(args.restart_on_exit_codes) in ("75", "[75]", "['75']")
