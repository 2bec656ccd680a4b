"""Metrics in Weights & Biases."""

import json
import time

import pytest

from pretrain.train import pretrain
from tests.data.shard_files import labelled, write_shard
from tests.pretrain.tiny import config


@pytest.mark.slow
def test_metrics_are_sent_to_weights_and_biases_as_one_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed (requirements-dev.txt)")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    shard = str(write_shard(tmp_path / "s.tar", labelled(21)))
    settings = config(shard, monitor={"wandb": "test"}, steps=4)
    pretrain(settings, tmp_path, data_dir=tmp_path)
    [file] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    run = json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert run in file.name
    deadline = time.monotonic() + 60  # wandb writes the file in a process of its own, perhaps after `finish` returns
    while b"gradient_norm" not in (content := file.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert b"gradient_norm" in content and b"tower" not in content and b"learning_rate" in content
    pretrain(settings, tmp_path, data_dir=tmp_path)  # resumes the same run
    assert all(run in path.name for path in tmp_path.glob("wandb/offline-run-*/*.wandb"))
