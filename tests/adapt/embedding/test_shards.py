"""Sharded embedding: the files of an unsharded run, whichever shard ends last, and after kills."""

import os
import pathlib
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest

from adapt.embedding.encoder import Encoder
from adapt.embedding.export import embed_collections
from foundation.files.folder_lock import lock_folder
from foundation.shard import Shard
from models.checkpoints.io import save_checkpoint
from tests.logged import logged
from tests.models.tiny_models import tiny_checkpoint

ROOT = pathlib.Path(__file__).parents[3]
FILES = ("texts.npy", "texts.safetensors", "texts.ids.jsonl", "texts.json")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("run") / "export", tiny_checkpoint("siglip"))


@pytest.fixture(scope="module")
def whole(checkpoint, tmp_path_factory):
    """The folder of an unsharded run over 1,700 texts, which are 7 pieces."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "in.txt").write_text("".join(f"fish {number}\n" for number in range(1700)))
    embed_collections(Encoder(checkpoint), folder, texts=folder / "in.txt", data_dir=folder)
    return folder


@pytest.fixture
def embed(checkpoint, whole, tmp_path):
    encoder = Encoder(checkpoint)

    def run(index=0, count=1):
        shard = Shard(index=index, count=count)
        return embed_collections(encoder, tmp_path, texts=whole / "in.txt", data_dir=tmp_path, shard=shard)

    return run


def same(folder, whole):
    assert {path.name for path in folder.iterdir()} == {*FILES, ".texts.lock"}
    return all((folder / name).read_bytes() == (whole / name).read_bytes() for name in FILES)


def test_the_last_shard_joins_the_files_of_an_unsharded_run(embed, whole, tmp_path):
    with logged() as messages:
        assert embed(2, 3) == {} and embed(0, 3) == {} and embed(2, 3) == {}
    assert messages[-1] == "texts: 2 of 7 pieces belong to other shards; the last one joins them"
    assert len(list((tmp_path / "texts.parts").iterdir())) == 5 and not (tmp_path / "texts.npy").exists()
    assert embed(1, 3)["texts"].rows == 1700 and same(tmp_path, whole)
    assert embed(0, 3) == embed()  # finished


def test_more_shards_than_pieces_and_another_number_of_shards_join_too(embed, whole, tmp_path):
    assert embed(8, 9) == {} and embed(0, 9) == {} and embed(1, 4) == {}
    assert embed()["texts"].rows == 1700 and same(tmp_path, whole)


def test_a_running_shard_is_not_run_twice_nor_joined_over(embed, whole, tmp_path):
    embed(0, 2)
    with lock_folder(tmp_path, ".texts.shard-0-of-2.lock", job="embed job", option="--out"):
        with pytest.raises(ValueError, match="is in use by another embed job"):
            embed(0, 2)
        with pytest.raises(ValueError, match="is in use by another embed job"):
            embed()
        with logged() as messages:
            assert embed(1, 2) == {}
        assert messages[-1] == "texts: another shard is still running; the last one joins the pieces"
    assert embed(1, 2)["texts"].rows == 1700 and same(tmp_path, whole)


def test_more_shards_than_files_that_a_process_may_open(embed, whole, tmp_path):
    embed(0, 2)
    for index in range(300):
        (tmp_path / f".texts.shard-{index}-of-300.lock").touch()
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/dev/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 100, most))
    try:
        assert embed(1, 2)["texts"].rows == 1700
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    assert same(tmp_path, whole)


def test_a_damaged_piece_of_another_shard_is_removed_and_embedded_again(embed, whole, tmp_path):
    embed(0, 2)
    (tmp_path / "texts.parts" / "000000000512.npz").write_bytes(b"x" * 99)
    with pytest.raises(ValueError, match=r"000000000512\.npz was damaged and has been removed\. Run the same"):
        embed(1, 2)
    assert embed(0, 2)["texts"].rows == 1700 and same(tmp_path, whole)


def test_shards_that_end_at_the_same_time_join_once(embed, whole, tmp_path):
    for round_number in range(3):
        found = {}

        def run(index, found=found):
            found[index] = embed(index, 3)

        threads = [threading.Thread(target=run, args=(index,)) for index in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == [0, 1, 2] and any(found.values()) and same(tmp_path, whole), round_number
        for path in tmp_path.iterdir():
            path.unlink()


@pytest.mark.slow
def test_three_processes_one_of_them_killed_and_run_again(checkpoint, whole, tmp_path):
    def start(index):
        arguments = [f"--checkpoint={checkpoint}", f"--texts={whole / 'in.txt'}", f"--shard={index}/3"]
        command = [sys.executable, "-c", SLOW, "embed", *arguments, f"--out={tmp_path}"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=dict(os.environ))

    parts = tmp_path / "texts.parts"
    processes = [start(index) for index in range(3)]
    until = time.monotonic() + 60
    while not (parts / "000000000256.npz").is_file() and time.monotonic() < until:
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGKILL)  # after the first of its two pieces
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, -signal.SIGKILL, 0]
    assert "pieces belong to other shards" in outputs[0] + outputs[2] and not (tmp_path / "texts.npy").exists()
    before = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.npz")}
    assert len(before) == 6
    again = start(1)
    while again.poll() is None and not (parts / "000000001024.npz").is_file():
        time.sleep(0.01)
    kept = {name: (parts / name).stat().st_mtime_ns for name in before if (parts / name).is_file()}
    assert kept.items() <= before.items()  # nothing but the missing piece was embedded
    assert again.wait() == 0 and same(tmp_path, whole)


# launch.py whose pieces take a second each after they are saved, so that a process can be killed between two of them.
SLOW = """
import sys, time
import adapt.embedding.collection_files, launch
Piece = adapt.embedding.collection_files.Piece
save = Piece.save
def slow(*args, **arrays):
    save(*args, **arrays)
    time.sleep(1)
Piece.save = slow
sys.exit(launch.main(sys.argv[1:]))
"""
