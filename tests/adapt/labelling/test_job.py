"""`launch.py label` as a process: a real checkpoint, a real browser, and kills."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from adapt.labelling.history import LabelHistory
from tests.adapt.labelling.sessions import Client, label_by_keyboard, make_pictures

ROOT = pathlib.Path(__file__).resolve().parents[3]


class Job:
    """A process of `launch.py label`."""

    def __init__(self, images, out, *options):
        command = [sys.executable, "launch.py", "label", "--checkpoint=checkpoints/photos", "--no_browser"]
        self.process = subprocess.Popen(
            [*command, f"--images={images}", f"--out={out}", *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines = []

    def client(self):
        """Wait until the address is printed, and return a client."""
        for line in self.process.stdout:
            self.lines.append(line)
            found = re.search(r"http://127\.0\.0\.1:(\d+)/(\w+)/", line)
            if found:
                return Client(int(found[1]), token=found[2])
        raise AssertionError("".join(self.lines))

    def end(self, sent):
        """Send a signal and return the exit code."""
        self.process.send_signal(sent)
        self.lines += self.process.stdout.readlines()
        return self.process.wait(60)


@pytest.fixture
def start():
    """A function that starts a `Job`, which is killed at the end of the test."""
    jobs = []

    def start_job(*arguments):
        jobs.append(Job(*arguments))
        return jobs[-1]

    yield start_job
    for job in jobs:
        job.process.kill()
        job.process.wait()
        job.process.stdout.close()


def wait_for(client, holds, seconds=300):
    deadline = time.monotonic() + seconds
    while not holds(state := client.state()):
        assert time.monotonic() < deadline, state
        time.sleep(0.1)
    return state


@pytest.mark.slow
def test_killed_at_any_moment_nothing_is_lost(tmp_path, start):
    truth = make_pictures(tmp_path / "pictures", per_class=60)
    names = sorted(truth)
    rng = np.random.default_rng(0)
    given = {}
    port = None
    for kill in range(3):
        job = start(tmp_path / "pictures", tmp_path / "out", *([f"--port={port}"] if port else []))
        client = job.client()
        assert port in (None, client.port)
        port = client.port
        assert client.state()["labelled"] == len(given)
        for _ in range(int(rng.integers(3, 12))):
            number = int(rng.integers(len(names)))
            assert client.request("api/label", {"pictures": [number], "class": truth[names[number]]})[0] == 200
            given[names[number]] = truth[names[number]]
        if kill == 1:
            wait_for(client, lambda state: not state["embedding"])
        assert job.end(signal.SIGKILL) == -signal.SIGKILL
    assert dict(LabelHistory(tmp_path / "out").labels) == given
    job = start(tmp_path / "pictures", tmp_path / "out", f"--port={port}")
    client = job.client()
    state = wait_for(client, lambda state: not state["embedding"])
    assert (state["labelled"], state["embedded"]) == (len(given), len(truth))
    assert job.end(signal.SIGINT) == 0
    assert "run the same command to continue" in "".join(job.lines)


@pytest.mark.slow
def test_a_page_continues_after_the_server_was_killed_and_started_again(tmp_path, start, browser):
    truth = make_pictures(tmp_path / "pictures", per_class=20)
    job = start(tmp_path / "pictures", tmp_path / "out")
    client = job.client()
    page = browser.new_page()
    page.set_default_timeout(300_000)  # milliseconds: the checkpoint is opened by another process first
    page.goto(client.address)
    page.wait_for_selector("#suggestions .picture.current")
    for _ in range(30):
        label_by_keyboard(page, truth)
    assert page.locator(".column").count() == 4
    page.evaluate("() => { window.old = true; }")
    job.end(signal.SIGKILL)
    page.wait_for_selector("#lost:not([hidden])")
    start(tmp_path / "pictures", tmp_path / "out", f"--port={client.port}").client()
    page.wait_for_function(  # the page was loaded again, with the numbers of the new start
        "() => !window.old && document.getElementById('progress').textContent.startsWith('30 labelled')"
    )
    assert page.locator("#lost").is_hidden()
    page.keyboard.press("u")
    page.wait_for_function("() => document.getElementById('progress').textContent.startsWith('29 labelled')")
    page.close()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--images={tmp}/nothing"], "does not exist"),
        (["--images={tmp}/empty"], "contains no images"),
        (["--out={tmp}/pictures/out"], "would be taken for pictures"),
        (["--out={tmp}/pictures"], "would be taken for pictures"),
        (["--out={tmp}/pictures/IMG_000.png"], "is a file"),
        (["--images={tmp}/out/classes", "--out={tmp}/out"], "where an export moves files"),
        (["--classes=cat,Cat"], "'cat' twice"),
        (["--classes=../x"], "cannot be the name of a folder"),
        (["--template=no braces"], "has no {{}} for the class name"),
        (["--host=192.0.2.1"], "cannot listen on --host=192.0.2.1"),
    ],
)
def test_options_that_cannot_work_are_one_sentence(tmp_path, monkeypatch, capsys, options, sentence):
    import launch

    monkeypatch.chdir(ROOT)
    make_pictures(tmp_path / "pictures", per_class=1)
    (tmp_path / "empty").mkdir()
    make_pictures(tmp_path / "out" / "classes", per_class=1)
    given = {"--images": f"{tmp_path}/pictures", "--out": f"{tmp_path}/out"}
    given |= dict(option.format(tmp=tmp_path).split("=", 1) for option in options)
    arguments = ["label", "--checkpoint=checkpoints/photos", "--no_browser"]
    assert launch.main([*arguments, *(f"{name}={value}" for name, value in given.items())]) == 1
    error = capsys.readouterr().err
    assert sentence.format() in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "labels.jsonl").exists()


def test_a_second_job_in_the_folder_is_refused(tmp_path, capsys, monkeypatch):
    import launch
    from foundation.files.folder_lock import lock_folder

    monkeypatch.chdir(ROOT)
    make_pictures(tmp_path / "pictures", per_class=1)
    with lock_folder(tmp_path / "out", ".label.lock", job="label job", option="--out"):
        code = launch.main(
            ["label", "--checkpoint=checkpoints/photos", f"--images={tmp_path}/pictures", f"--out={tmp_path}/out"]
        )
    assert code == 1
    assert "in use by another label job" in capsys.readouterr().err
    assert os.listdir(tmp_path / "out") == [".label.lock"]
