"""The process that embeds pictures: its results, its errors, and its end."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from adapt.embedding.encoder import Encoder
from adapt.labelling.embedding import FeatureStore, embed_missing, load_stored
from adapt.labelling.embedding_process import embed_in_process
from adapt.labelling.pictures import PictureFolder
from tests.adapt.labelling.sessions import make_pictures

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def encoder():
    return Encoder(ROOT / "checkpoints" / "photos")


@pytest.fixture
def pictures(tmp_path):
    make_pictures(tmp_path / "pictures", per_class=5)
    (tmp_path / "pictures" / "bad.png").write_bytes(b"no picture")
    return PictureFolder(str(tmp_path / "pictures"))


def states(pictures):
    return {number: pictures.state(number) for number in range(len(pictures))}


def ignore(*arguments):
    pass


def test_another_process_gives_the_same_features_and_stores_them(pictures, encoder, tmp_path):
    found, expected, bad = {}, {}, {}

    def adding(to):
        return lambda numbers, features: to.update(zip(numbers, features, strict=True))

    options = {"on_bad": bad.__setitem__, "stop": threading.Event()}
    embed_in_process(pictures, encoder, tmp_path / "a", states(pictures), on_features=adding(found), **options)
    assert list(bad) == [pictures.number("bad.png")]
    store = FeatureStore(tmp_path / "b", encoder.dim)
    embed_missing(pictures, encoder, store, states(pictures), on_features=adding(expected), **options)
    assert found.keys() == expected.keys() == set(range(16)) - bad.keys()
    for number, features in found.items():
        np.testing.assert_allclose(features, expected[number], atol=1e-6)
    assert load_stored(pictures, FeatureStore(tmp_path / "a", encoder.dim), on_features=ignore).keys() == bad.keys()


def test_an_error_there_is_raised_here(pictures, encoder, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ValueError, match=r"Not a directory|File exists"):
        embed_in_process(
            pictures,
            encoder,
            tmp_path / "file" / "store",
            states(pictures),
            on_features=ignore,
            on_bad=ignore,
            stop=threading.Event(),
        )


def test_a_killed_process_is_an_error_that_says_so(pictures, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("adapt.labelling.embedding_process._embed", os._exit)  # which fails, as its argument is a pipe
    with pytest.raises(ChildProcessError, match="exit code 1, perhaps for lack of memory"):
        embed_in_process(
            pictures,
            encoder,
            tmp_path / "store",
            states(pictures),
            on_features=ignore,
            on_bad=ignore,
            stop=threading.Event(),
        )


PARENT = """
import pathlib, sys, threading
from adapt.embedding.encoder import Encoder
from adapt.labelling.embedding_process import embed_in_process
from adapt.labelling.pictures import PictureFolder

if __name__ == "__main__":
    pictures = PictureFolder(sys.argv[1])
    missing = {number: pictures.state(number) for number in range(len(pictures))}

    def report(numbers, features):
        print("embedded", flush=True)
        threading.Event().wait()  # the other process then waits for this one to read

    encoder = Encoder("checkpoints/photos")
    folder = pathlib.Path(sys.argv[2])
    embed_in_process(
        pictures, encoder, folder, missing, on_features=report, on_bad=print, stop=threading.Event()
    )
"""


def children(process):
    found = pathlib.Path(f"/proc/{process}/task/{process}/children")
    if not found.exists():
        pytest.skip("the system does not list the children of a process")
    return [int(each) for each in found.read_text().split()]


def is_running(process):
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_has_a_low_priority_and_ends_with_a_killed_job(tmp_path):
    make_pictures(tmp_path / "pictures", per_class=100)
    (tmp_path / "parent.py").write_text(PARENT)
    command = [sys.executable, tmp_path / "parent.py", tmp_path / "pictures", tmp_path / "store"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    job = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert job.stdout.readline() == "embedded\n"
        own = os.getpriority(os.PRIO_PROCESS, job.pid)
        (process,) = [each for each in children(job.pid) if os.getpriority(os.PRIO_PROCESS, each) > own]
    finally:
        job.send_signal(signal.SIGKILL)
        job.wait()
        job.stdout.close()
    deadline = time.monotonic() + 30
    while is_running(process):
        assert time.monotonic() < deadline
        time.sleep(0.05)
