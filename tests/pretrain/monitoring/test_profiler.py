"""Profiles of training steps."""

import pathlib
import subprocess
import sys

import pytest

from tests.data.shard_files import labelled, write_shard

ROOT = pathlib.Path(__file__).parents[3]


@pytest.mark.slow
def test_steps_are_traced_for_tensorboard(tmp_path):
    shard = write_shard(tmp_path / "s.tar", labelled(21))
    program = (
        "import sys\nfrom foundation import log\nfrom pretrain.train import pretrain\n"
        "from tests.pretrain.tiny import config\nlog.configure()\n"
        "pretrain(config(sys.argv[1], monitor={'profile': (3, 4)}), sys.argv[2], data_dir=sys.argv[2])"
    )  # in a process of its own: a profile covers all threads of a process
    run = subprocess.run(
        [sys.executable, "-c", program, shard, tmp_path / "run"], capture_output=True, text=True, cwd=ROOT
    )
    assert f"steps 3 to 4 are traced in {tmp_path / 'run' / 'profile'}" in run.stdout, run.stderr
    [trace] = (tmp_path / "run" / "profile").rglob("*.xplane.pb")
    assert b"XlaModule" in trace.read_bytes() or trace.stat().st_size > 10_000
