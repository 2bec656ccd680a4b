"""Faults that a run must survive; each function returns its observations and fails if anything was lost."""

import os
import pathlib
import random
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
from tests.fault_injection.flaky_proxy import FlakyProxy
from tests.fault_injection.trials import (
    ROOT,
    Trial,
    check_same,
    complete_steps,
    digest,
    free_port,
    is_writing,
    kill,
    lines_of,
    parameters_of,
    preempted_steps,
    resumed_steps,
    wait_until,
)

LIMIT = 60  # seconds within which a process must exit after its peer is lost


def killed(trial: Trial, moments: int, *, seed: int = 0) -> str:
    """Send SIGKILL at random moments, every third time while a checkpoint is being written."""
    rng, workdir, inside, lost = random.Random(seed), trial.folder / "killed", 0, []
    undisturbed = trial.undisturbed()
    for moment in range(moments):
        process = trial.start(workdir)
        if moment % 10 == 9:
            time.sleep(rng.uniform(0, 6))  # during start-up
        else:
            before = lines_of(workdir)
            wait_until(lambda: lines_of(workdir) > before or lines_of(workdir) == 0, process)  # noqa: B023
            time.sleep(rng.uniform(0, 1.2))
            if moment % 3 == 0 and wait_until(lambda: is_writing(workdir), process):
                inside += 1
        if process.poll() is not None:
            break  # the run completed first
        last = read_metrics(workdir / "metrics.jsonl")
        kill(process)
        done = complete_steps(workdir)
        lost.append((last[-1]["step"] if last else 0) - (done[-1] if done else 0))
    trial.finish(workdir)
    check_same(undisturbed, workdir)
    resumed = resumed_steps(trial.output(workdir))
    assert resumed == sorted(resumed) and max(lost) <= 2 * trial.every
    left = [path.name for path in (workdir / "checkpoints").iterdir() if not path.name[5:].isdigit()]
    assert not [name for name in left if "tmp" in name], left
    return f"{len(lost)} kills, {inside} while a checkpoint was written; at most {max(lost)} steps repeated"


def killed_in_export(trial: Trial, moments: int, *, seed: int = 0) -> str:
    """Send SIGKILL while an export is being written over an existing one."""
    workdir, rng, inside = trial.undisturbed(), random.Random(seed), 0
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
        if (
            workdir / "export"
        ).exists():  # between the removal of the old one and the rename of the new one it is absent
            assert digest(workdir / "export") == before
    trial.finish(workdir, job="export")
    assert digest(workdir / "export") == before and not list(workdir.glob(".export.partial-*"))
    open_checkpoint(workdir / "export")
    return f"{moments} kills, {inside} while the export was written; it was always complete"


def preempted(trial: Trial, moments: int, *, seed: int = 0) -> str:
    """Send SIGTERM at random moments: during start-up, the first compilation, training and checkpoint writes."""
    rng, workdir, codes, ends = random.Random(seed), trial.folder / "preempted", [], []
    undisturbed = trial.undisturbed()
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
        steps = preempted_steps(trial.output(workdir))
        if codes[-1] == 0:
            break  # the run completed first
        if steps and steps[-1]:
            assert complete_steps(workdir)[-1] == steps[-1]  # no step is lost
    assert set(codes) <= {75, 0}, codes
    trial.finish(workdir)
    check_same(undisturbed, workdir)
    steps = preempted_steps(trial.output(workdir))
    assert list(dict.fromkeys(resumed_steps(trial.output(workdir)))) == sorted(set(steps) - {0})
    return f"{codes.count(75)} times exit code 75, at most {max(ends):.1f} s until exit; no step lost"


def _pair(trial: Trial, workdir: pathlib.Path) -> list[subprocess.Popen]:
    port = free_port()
    given = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    return [trial.start(workdir, *given, f"--process_id={number}") for number in range(2)]


def lost_process(trial: Trial, ways: tuple[tuple[int, int], ...]) -> str:
    """Kill or stop one of two processes: the other exits with one sentence, and the restarted run is bit-identical."""
    undisturbed, workdir, took = trial.folder / "pair", trial.folder / "lost", []
    assert [process.wait(900) for process in _pair(trial, undisturbed)] == [0, 0]
    for victim, how in ways:
        processes, before = _pair(trial, workdir), lines_of(workdir)
        assert wait_until(lambda: lines_of(workdir) > before, processes[0])  # noqa: B023
        processes[victim].send_signal(how)
        began = time.monotonic()
        assert processes[1 - victim].wait(LIMIT) not in (0, 1, 75)  # 76, or JAX aborts
        took.append(time.monotonic() - began)
        processes[victim].kill()
        processes[victim].wait()
        output = trial.output(workdir)
        assert "another process of this run has ended" in output or "another task died" in output
        trial.log(workdir).write_text("")
    assert [process.wait(900) for process in _pair(trial, workdir)] == [0, 0]
    check_same(undisturbed, workdir)
    return f"{len(ways)} losses; the other process exited within {max(took):.0f} s, the restarted run is bit-identical"


def devices(trial: Trial, counts: tuple[int, ...] = (8, 4, 1, 8)) -> str:
    """Resume with other numbers of devices: the same batches, and parameters equal to 1e-5."""
    undisturbed, workdir = trial.undisturbed(), trial.folder / "devices"
    copied = '--config.pretrain.mesh.rules=(("token_embedding$", ()),)'  # replicated: the number of tokens is odd
    for count in counts:
        process = trial.start(workdir, copied, f"--config.pretrain.mesh.fsdp={min(count, 2)}", devices=count)
        before = lines_of(workdir)
        if wait_until(lambda: lines_of(workdir) > before, process, seconds=300):  # noqa: B023
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, 75), trial.output(workdir)[-2000:]
    trial.finish(workdir, copied, "--config.pretrain.mesh.fsdp=2", devices=8)
    lines = [[line["step"] for line in read_metrics(folder / "metrics.jsonl")] for folder in (undisturbed, workdir)]
    assert lines[0] == lines[1]
    (step, one), (again, other) = parameters_of(undisturbed), parameters_of(workdir)
    named = [
        {path_name(path): np.asarray(leaf, np.float64) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (one, other)
    ]
    felt = [name for name in named[0] if not name.endswith("attention/key/bias")]  # a softmax is invariant to it
    errors = {name: np.linalg.norm(named[0][name] - named[1][name]) / np.linalg.norm(named[0][name]) for name in felt}
    worst = max(errors, key=errors.__getitem__)
    assert step == again and errors[worst] < 1e-5, (worst, errors[worst])
    return f"{' → '.join(map(str, counts))} devices; parameters differ by at most {errors[worst]:.0e}"


def disk_full(trial: Trial, moments: int, *, seed: int = 0) -> str:
    """Fill the disk at random moments, every second time while a checkpoint is being written."""
    rng, undisturbed, disk, codes = random.Random(seed), trial.undisturbed(), trial.folder / "disk", []
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
                if moment % 2 == 0:
                    wait_until(lambda: is_writing(workdir), process)
            _fill(disk / "filler")
            codes.append(process.wait(120))
            (disk / "filler").unlink()
            if codes[-1] == 0:
                break
            errors = [line for line in trial.output(workdir).splitlines() if line.startswith("error: ")]
            assert codes[-1] == 1 and errors, trial.output(workdir)[-2000:]
        trial.finish(workdir)
        check_same(undisturbed, workdir)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert "Traceback" not in trial.output(workdir)
    return f"{codes.count(1)} times a full disk, each one sentence and exit code 1; the run resumed when space was free"


def _fill(path: pathlib.Path) -> None:
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"0" * size)
            except OSError:
                continue


def damaged(trial: Trial, trials: int, *, seed: int = 0) -> str:
    """Truncate or delete a file of the newest checkpoint, or flip one of its bits."""
    rng, undisturbed, fallbacks, exported = random.Random(seed), trial.undisturbed(), 0, 0
    steps = complete_steps(undisturbed)
    files = [path for path in sorted((undisturbed / "checkpoints" / f"step_{steps[-1]}").rglob("*")) if path.is_file()]
    for number in range(trials):
        workdir = trial.folder / f"damaged-{number}"
        shutil.copytree(undisturbed, workdir, ignore=shutil.ignore_patterns("export", "tensorboard"))
        victim = workdir / rng.choice(files).relative_to(undisturbed)
        damage = _damage(victim, rng)
        log = trial.log(workdir)
        if number % 4 == 0:
            trial.finish(workdir, job="export")
            exported += f"warning: the checkpoint of step {steps[-1]} cannot be read" in log.read_text()
        trial.finish(workdir)
        check_same(undisturbed, workdir)
        if f"falling back to the checkpoint of step {steps[-2]}" in log.read_text():
            fallbacks += 1
            assert complete_steps(workdir.parent / workdir.name)[-1] == steps[-1]
            assert (workdir / "damaged_checkpoints" / f"step_{steps[-1]}").is_dir(), damage
        shutil.rmtree(workdir)
    return (
        f"{trials} damaged files; {fallbacks} times the previous checkpoint was used, else the damage did no harm; "
        f"never a wrong bit; {exported} of {-(-trials // 4)} exports used the previous checkpoint"
    )


def _damage(path: pathlib.Path, rng: random.Random) -> str:
    kind = rng.choice(("truncated", "deleted", "flipped"))
    content = bytearray(path.read_bytes())
    if kind == "deleted":
        path.unlink()
    elif kind == "truncated" or not content:
        path.write_bytes(bytes(content[: rng.randrange(len(content))] if content else b""))
    else:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(content))
    return f"{path.name} {kind}"


def clock(trial: Trial) -> str:
    """Set the clock that Python reads back by an hour while the run trains, and by another hour before it resumes."""
    undisturbed, workdir, offset = trial.undisturbed(), trial.folder / "clock", trial.folder / "offset"
    site = trial.folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import pathlib, time\nreal = time.time\n"
        f"time.time = lambda: real() + float(pathlib.Path({str(offset)!r}).read_text())\n"
    )
    settings = {"PYTHONPATH": str(site)}

    def jump(seconds: int) -> None:
        offset.with_suffix(".new").write_text(str(seconds))
        offset.with_suffix(".new").replace(offset)  # atomically: the run reads it at every call

    jump(0)
    process = trial.start(workdir, environment=settings)
    assert wait_until(lambda: lines_of(workdir) >= 2, process)
    jump(-3600)
    assert wait_until(lambda: lines_of(workdir) >= 5, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    jump(-7200)
    trial.finish(workdir, environment=settings)
    check_same(undisturbed, workdir)
    lines = read_metrics(workdir / "metrics.jsonl")
    assert all(line["seconds"] > 0 and line["run_seconds"] > 0 for line in lines)
    return "an hour back during training, another before resuming: the same bits, no negative times"


def data_gone(trial: Trial) -> str:
    """Put the data on a read-only file system, then remove them."""
    undisturbed, workdir, place = trial.undisturbed(), trial.folder / "gone", trial.folder / "shards"
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
    assert "error: no file matches" in trial.output(workdir) and "Traceback" not in trial.output(workdir)
    (trial.folder / "away").rename(place)
    trial.finish(workdir)
    check_same(undisturbed, workdir)
    return (
        "read-only: no difference; removed: one sentence and exit code 1, and the run resumed when the data were back"
    )


def object_store(trial: Trial) -> str:
    """Read shards from an S3 server that fails 10 % of requests and stalls 1 %, then shut it down."""
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
        undisturbed, reliable, workdir = trial.undisturbed(), trial.folder / "reliable", trial.folder / "flaky"
        took = []
        for folder, address in ((reliable, f"http://127.0.0.1:{port}"), (workdir, proxy.address)):
            began = time.monotonic()
            trial.finish(folder, *arguments, environment=settings | {"AWS_ENDPOINT_URL": address})
            took.append(time.monotonic() - began)
        (_, one), (_, two) = parameters_of(undisturbed), parameters_of(workdir)
        assert all(jax.tree.leaves(jax.tree.map(np.array_equal, one, two)))
        requests, failed, stalled = proxy.requests, proxy.failed, proxy.stalled
        assert failed > 5, requests

        gone = trial.folder / "without-server"
        process = trial.start(gone, *arguments, environment=settings)
        wait_until(lambda: lines_of(gone) >= 2, process)
        server.kill()
        code = process.wait(120)
        assert code == 1 and "cannot be read after" in trial.output(gone) and "Traceback" not in trial.output(gone)
    finally:
        proxy.close()
        server.kill()
        server.wait()
    return (
        f"{requests} requests, {failed} failed, {stalled} stalled: the same bits, in {took[1] / took[0]:.1f} times the "
        "time of a reliable server; after the server is shut down, one sentence and exit code 1"
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
