"""Faults that a run must survive, each as a function: it returns what was seen, and raises where something was lost."""

import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import jax
import numpy as np

from models.checkpoints.io import open_checkpoint
from pretrain.monitoring.metric_writer import read_metrics
from pretrain.optim.param_rules import path_name
from tests.flaky_proxy import FlakyProxy
from tests.trials import (
    ROOT,
    Trial,
    check_same,
    complete_steps,
    continued_at,
    digest,
    free_port,
    is_writing,
    kill,
    lines_of,
    parameters_of,
    wait_until,
)

LIMIT = 60  # seconds within which the others of a lost process must end


def killed(trial: Trial, moments: int, *, seed: int = 0) -> str:
    """Kill -9 at random moments, every third while a checkpoint is being written."""
    rng, workdir, inside, lost = random.Random(seed), trial.folder / "killed", 0, []
    whole = trial.whole()
    for moment in range(moments):
        process = trial.start(workdir)
        if moment % 10 == 9:
            time.sleep(rng.uniform(0, 6))  # while it starts
        else:
            before = lines_of(workdir)
            wait_until(lambda: lines_of(workdir) > before or lines_of(workdir) == 0, process)  # noqa: B023
            time.sleep(rng.uniform(0, 1.2))
            if moment % 3 == 0 and wait_until(lambda: is_writing(workdir), process):
                inside += 1
        if process.poll() is not None:
            break  # it was faster
        last = read_metrics(workdir / "metrics.jsonl")
        kill(process)
        done = complete_steps(workdir)
        lost.append((last[-1]["step"] if last else 0) - (done[-1] if done else 0))
    trial.finish(workdir)
    check_same(whole, workdir)
    continued = continued_at(trial.said(workdir))
    assert continued == sorted(continued) and max(lost) <= 2 * trial.every
    left = [path.name for path in (workdir / "checkpoints").iterdir() if not path.name[5:].isdigit()]
    assert not [name for name in left if "tmp" in name], left
    return f"{len(lost)} kills, {inside} inside a checkpoint's writing; at most {max(lost)} steps done again"


def killed_in_export(trial: Trial, moments: int, *, seed: int = 0) -> str:
    """Kill -9 while an export is being written over one that is there."""
    workdir, rng, inside = trial.whole(), random.Random(seed), 0
    trial.finish(workdir, job="export")
    before = digest(workdir / "export")
    for _ in range(moments):
        process = trial.start(workdir, job="export")
        if wait_until(lambda: any(workdir.glob(".export.partial-*")), process):
            inside += 1
            time.sleep(rng.uniform(0, 0.15))
        if process.poll() is None:
            process.kill()
        process.wait()
        if (workdir / "export").exists():  # in the moment between the old and the new one there is none
            assert digest(workdir / "export") == before
    trial.finish(workdir, job="export")
    assert digest(workdir / "export") == before and not list(workdir.glob(".export.partial-*"))
    open_checkpoint(workdir / "export")
    return f"{moments} kills, {inside} inside the writing; what is there is always whole"


def told_to_end(trial: Trial, moments: int, *, seed: int = 0) -> str:
    """SIGTERM at random moments: in the start, in the first compilation, while it trains and writes."""
    rng, workdir, codes, ends = random.Random(seed), trial.folder / "told", [], []
    whole = trial.whole()
    for moment in range(moments):
        process, before = trial.start(workdir), lines_of(workdir)
        if moment % 5 == 0:
            time.sleep(rng.uniform(0.5, 5))
        elif wait_until(lambda: lines_of(workdir) > before, process):  # noqa: B023
            time.sleep(rng.uniform(0, 0.8))
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        codes.append(process.wait(60))
        ends.append(time.monotonic() - began)
        told = [int(step) for step in re.findall(r"told to end at step (\d+) of", trial.said(workdir))]
        if codes[-1] == 0:
            break  # it was faster
        if told and told[-1]:
            assert complete_steps(workdir)[-1] == told[-1]  # no step is lost
    assert set(codes) <= {75, 0}, codes
    trial.finish(workdir)
    check_same(whole, workdir)
    told = [int(step) for step in re.findall(r"told to end at step (\d+) of", trial.said(workdir))]
    assert list(dict.fromkeys(continued_at(trial.said(workdir)))) == sorted(set(told) - {0})
    return f"{codes.count(75)} times exit code 75, {max(ends):.1f} s at most until it ended; no step lost"


def _pair(trial: Trial, workdir: pathlib.Path) -> list[subprocess.Popen]:
    port = free_port()
    given = [f"--coordinator=127.0.0.1:{port}", "--processes=2"]
    return [trial.start(workdir, *given, f"--process={number}") for number in range(2)]


def lost_process(trial: Trial, ways: tuple[tuple[int, int], ...]) -> str:
    """One of two processes is killed, or stopped: the other ends with a sentence, and the restart goes on exactly."""
    whole, workdir, took = trial.folder / "pair", trial.folder / "lost", []
    assert [process.wait(900) for process in _pair(trial, whole)] == [0, 0]
    for victim, how in ways:
        processes, before = _pair(trial, workdir), lines_of(workdir)
        assert wait_until(lambda: lines_of(workdir) > before, processes[0])  # noqa: B023
        processes[victim].send_signal(how)
        began = time.monotonic()
        assert processes[1 - victim].wait(LIMIT) not in (0, 1, 75)  # 76, or JAX aborts
        took.append(time.monotonic() - began)
        processes[victim].kill()
        processes[victim].wait()
        said = trial.said(workdir)
        assert "another process of this run has ended" in said or "another task died" in said
        trial.log(workdir).write_text("")
    assert [process.wait(900) for process in _pair(trial, workdir)] == [0, 0]
    check_same(whole, workdir)
    return f"{len(ways)} losses; the other ended within {max(took):.0f} s, the restart was exact"


def devices(trial: Trial, counts: tuple[int, ...] = (8, 4, 1, 8)) -> str:
    """The run goes on with other numbers of devices: the same batches, and parameters equal to 1e-5."""
    whole, workdir = trial.whole(), trial.folder / "devices"
    copied = '--config.pretrain.mesh.rules=(("token_embedding$", ()),)'  # of an odd number of tokens
    for count in counts:
        process = trial.start(workdir, copied, f"--config.pretrain.mesh.fsdp={min(count, 2)}", devices=count)
        before = lines_of(workdir)
        if wait_until(lambda: lines_of(workdir) > before, process, seconds=300):  # noqa: B023
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, 75), trial.said(workdir)[-2000:]
    trial.finish(workdir, copied, "--config.pretrain.mesh.fsdp=2", devices=8)
    lines = [[line["step"] for line in read_metrics(folder / "metrics.jsonl")] for folder in (whole, workdir)]
    assert lines[0] == lines[1]
    (step, one), (again, other) = parameters_of(whole), parameters_of(workdir)
    named = [
        {path_name(path): np.asarray(leaf, np.float64) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (one, other)
    ]
    felt = [name for name in named[0] if not name.endswith("attention/key/bias")]  # which a softmax does not feel
    errors = {name: np.linalg.norm(named[0][name] - named[1][name]) / np.linalg.norm(named[0][name]) for name in felt}
    worst = max(errors, key=errors.__getitem__)
    assert step == again and errors[worst] < 1e-5, (worst, errors[worst])
    return f"{' → '.join(map(str, counts))} devices; parameters differ by {errors[worst]:.0e} at most"


def disk_full(trial: Trial, moments: int, *, seed: int = 0) -> str:
    """The disk is filled at random moments, every second while a checkpoint is being written."""
    rng, whole, disk, codes = random.Random(seed), trial.whole(), trial.folder / "disk", []
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)], check=True)
    workdir = disk / "full"
    try:
        for moment in range(moments):
            process, before = trial.start(workdir), lines_of(workdir)
            if moment % 5 == 4:
                time.sleep(rng.uniform(0, 5))
            elif wait_until(lambda: lines_of(workdir) > before, process):  # noqa: B023
                time.sleep(rng.uniform(0, 0.5))
                if moment % 2:
                    wait_until(lambda: is_writing(workdir), process)
            _fill(disk / "filler")
            codes.append(process.wait(120))
            (disk / "filler").unlink()
            if codes[-1] == 0:
                break
            errors = [line for line in trial.said(workdir).splitlines() if line.startswith("error: ")]
            assert codes[-1] == 1 and errors, trial.said(workdir)[-2000:]
        trial.finish(workdir)
        check_same(whole, workdir)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert "Traceback" not in trial.said(workdir)
    return f"{codes.count(1)} times a full disk, each a sentence and exit code 1; the run went on when there was room"


def _fill(path: pathlib.Path) -> None:
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"0" * size)
            except OSError:
                continue


def damaged(trial: Trial, trials: int, *, seed: int = 0) -> str:
    """Files of the newest checkpoint are truncated, deleted, or one bit of them is flipped."""
    rng, whole, back, exported = random.Random(seed), trial.whole(), 0, 0
    steps = complete_steps(whole)
    files = [path for path in sorted((whole / "checkpoints" / f"step_{steps[-1]}").rglob("*")) if path.is_file()]
    for number in range(trials):
        workdir = trial.folder / f"damaged-{number}"
        shutil.copytree(whole, workdir, ignore=shutil.ignore_patterns("export", "tensorboard"))
        victim = workdir / rng.choice(files).relative_to(whole)
        what = _harm(victim, rng)
        said = trial.log(workdir)
        if number % 4 == 0:
            trial.finish(workdir, job="export")
            exported += f"warning: the checkpoint of step {steps[-1]} cannot be read" in said.read_text()
        trial.finish(workdir)
        check_same(whole, workdir)
        if f"going back to the checkpoint of step {steps[-2]}" in said.read_text():
            back += 1
            assert complete_steps(workdir.parent / workdir.name)[-1] == steps[-1]
            assert (workdir / "damaged_checkpoints" / f"step_{steps[-1]}").is_dir(), what
        shutil.rmtree(workdir)
    return (
        f"{trials} harms; {back} times the checkpoint before was taken, the others did no harm; never a wrong bit; "
        f"{exported} of {-(-trials // 4)} exports took the one before"
    )


def _harm(path: pathlib.Path, rng: random.Random) -> str:
    how = rng.choice(("truncated", "deleted", "flipped"))
    content = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
    elif how == "truncated" or not content:
        path.write_bytes(bytes(content[: rng.randrange(len(content))] if content else b""))
    else:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(content))
    return f"{path.name} {how}"


def clock(trial: Trial) -> str:
    """The clock that Python reads jumps back by an hour while the run trains, and by another between two sessions."""
    whole, workdir, offset = trial.whole(), trial.folder / "clock", trial.folder / "offset"
    site = trial.folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import pathlib, time\nreal = time.time\n"
        f"time.time = lambda: real() + float(pathlib.Path({str(offset)!r}).read_text())\n"
    )
    settings = {"PYTHONPATH": str(site)}

    def jump(seconds: int) -> None:
        offset.with_suffix(".new").write_text(str(seconds))
        offset.with_suffix(".new").replace(offset)  # the run reads it all the time

    jump(0)
    process = trial.start(workdir, environment=settings)
    assert wait_until(lambda: lines_of(workdir) >= 2, process)
    jump(-3600)
    assert wait_until(lambda: lines_of(workdir) >= 5, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    jump(-7200)
    trial.finish(workdir, environment=settings)
    check_same(whole, workdir)
    lines = read_metrics(workdir / "metrics.jsonl")
    assert all(line["seconds"] > 0 and line["run_seconds"] > 0 for line in lines)
    return "an hour back in the middle, another between two sessions: the same bits, no negative times"


def data_gone(trial: Trial) -> str:
    """The data are on a read-only file system, and then gone."""
    whole, workdir, place = trial.whole(), trial.folder / "gone", trial.folder / "shards"
    subprocess.run(["mount", "--bind", str(place), str(place)], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", str(place)], check=True)
    try:
        process = trial.start(workdir)
        wait_until(lambda: lines_of(workdir) >= 2, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
    place.rename(trial.folder / "away")
    assert trial.start(workdir).wait(120) == 1
    assert "error: no file matches" in trial.said(workdir) and "Traceback" not in trial.said(workdir)
    (trial.folder / "away").rename(place)
    trial.finish(workdir)
    check_same(whole, workdir)
    return "read-only: no difference; gone: a sentence and exit code 1, and it went on when the data were back"


def object_store(trial: Trial) -> str:
    """Shards on an S3 server that fails 10 % of requests and stalls 1 %, and then is gone for good."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    proxy = FlakyProxy(f"http://127.0.0.1:{port}", failing=0.10, stalling=0.01, stall_seconds=3.0)
    settings = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    try:
        _upload(trial.folder / "shards", f"http://127.0.0.1:{port}", settings)
        settings |= {"AWS_ENDPOINT_URL": proxy.address}
        arguments = ["--config.pretrain.data.sources=s3://bucket/*.tar,"]
        whole, steady, workdir = trial.whole(), trial.folder / "steady", trial.folder / "flaky"
        took = []
        for folder, address in ((steady, f"http://127.0.0.1:{port}"), (workdir, proxy.address)):
            began = time.monotonic()
            trial.finish(folder, *arguments, environment=settings | {"AWS_ENDPOINT_URL": address})
            took.append(time.monotonic() - began)
        (_, one), (_, two) = parameters_of(whole), parameters_of(workdir)
        assert all(jax.tree.leaves(jax.tree.map(np.array_equal, one, two)))
        requests, failed, stalled = proxy.requests, proxy.failed, proxy.stalled
        assert failed > 5, requests

        gone = trial.folder / "without-server"
        process = trial.start(gone, *arguments, environment=settings)
        wait_until(lambda: lines_of(gone) >= 2, process)
        server.kill()
        code = process.wait(120)
        assert code == 1 and "cannot be read after" in trial.said(gone) and "Traceback" not in trial.said(gone)
    finally:
        proxy.close()
        server.kill()
        server.wait()
    return (
        f"{requests} requests, {failed} failed, {stalled} stalled: the same bits, in {took[1] / took[0]:.1f} times the "
        "time of a steady one; a store that is gone is a sentence and exit code 1"
    )


def _upload(folder: pathlib.Path, address: str, settings: dict[str, str]) -> None:
    program = (
        "import pathlib, sys, s3fs; s = s3fs.S3FileSystem(); s.mkdir('bucket')\n"
        "for path in pathlib.Path(sys.argv[1]).iterdir(): s.put_file(str(path), f'bucket/{path.name}')"
    )
    for _ in range(200):
        try:
            urllib.request.urlopen(address, timeout=1)
            break
        except OSError:
            time.sleep(0.1)
    environment = {**os.environ, **settings, "AWS_ENDPOINT_URL": address}
    subprocess.run([sys.executable, "-c", program, str(folder)], env=environment, cwd=ROOT, check=True)
