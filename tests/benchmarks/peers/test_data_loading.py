"""The benchmark of data loading runs at a tiny size, and leaves out peers that are not installed."""

import io
import json
import types

import numpy as np
import pytest
from PIL import Image

from benchmarks.peers import data_loading, data_loading_peers
from tests.data.shard_files import write_tar


@pytest.fixture
def shards(tmp_path):
    """The pattern of two shards with eight photos each."""
    members = []
    for number in range(16):
        buffer = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (24, 24, 3), np.uint8)
        Image.fromarray(pixels).save(buffer, "jpeg")
        members += [
            (f"{number:03d}.jpg", buffer.getvalue()),
            (f"{number:03d}.json", b'{"texts": ["a photo of noise"]}'),
        ]
    for number in range(2):
        write_tar(tmp_path / f"train-{number:05d}.tar", members[16 * number : 16 * number + 16])
    return str(tmp_path / "train-*.tar")


def test_data_loading_prints_our_rate_and_leaves_out_missing_peers(shards, tmp_path, monkeypatch, capsys):
    def run(command, **_):
        if "benchmarks.peers.data_loading_peers" in command:
            return types.SimpleNamespace(returncode=1, stderr="error: webdataset is not installed\n", stdout="")
        rate = data_loading_peers.Rate(1000.0, 0.002, 100, 0.1, 0.0)
        return types.SimpleNamespace(returncode=0, stderr="", stdout=json.dumps(rate._asdict()) + "\n")

    for name, value in {"LARGE_SAMPLES": 8, "INDEXED_SAMPLES": (20, 2)}.items():
        monkeypatch.setattr(data_loading, name, value)
    monkeypatch.setattr(data_loading, "measure_opening", lambda pattern, folder: None)
    monkeypatch.setattr(data_loading.subprocess, "run", run)
    assert data_loading.main([f"--shards={shards}", "--rounds=1", "--seconds=0.1"]) == 0
    out = capsys.readouterr().out
    assert out.count("open_clip, 2 processes: left out (error: webdataset is not installed)") == 2
    assert "96 px from photos of 24 × 24 px" in out and "224 px from photos of 500 × 375 px" in out
    assert out.count("ours, 2 threads") == 2 and "limit: decoding alone, one core" in out
    assert data_loading.main([f"--shards={tmp_path}/nothing-*.tar"]) == 1
    assert "no shard matches" in capsys.readouterr().err


def test_data_loading_measures_our_loader_and_the_opening_of_a_large_dataset(shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data_loading, "BATCH", 4)
    given = ["--child=load", "--image_size=16", "--seconds=0.05", "--workers=0", "--threads=1"]
    assert data_loading.main([*given, f"--shards={shards}"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["images_per_second"] > 0
    for name, value in {"MANY_SHARDS": 3, "MANY_SAMPLES": 10, "INDEXED_SAMPLES": (20, 2)}.items():
        monkeypatch.setattr(data_loading, name, value)
    folder = tmp_path / "opening"
    folder.mkdir()
    data_loading.measure_opening(shards, folder)
    out = capsys.readouterr().out
    assert "of photos of 100 kB, warm cache" in out and "opening 30 samples in 3 shards: " in out


@pytest.mark.parametrize(("peer", "package"), [("open_clip", "open_clip"), ("tf_data", "tensorflow")])
def test_data_loading_peers_run_or_name_the_missing_package(peer, package, shards, tmp_path, capsys):
    given = [f"--shards={shards}", "--image_size=16", "--batch_size=2", "--seconds=0.05", f"--data_dir={tmp_path}"]
    code = data_loading_peers.main([peer, *given])
    captured = capsys.readouterr()
    if code:
        assert code == 1 and "is not installed; benchmarks/peers/data_loading_peers.py lists" in captured.err
    else:
        assert json.loads(captured.out.splitlines()[-1])["images_per_second"] > 0
    assert data_loading_peers.main([peer, f"--shards={tmp_path}/nothing-*.tar"]) == 1
