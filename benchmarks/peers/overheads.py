"""The cost of checkpoints, logging and checks in a run, and the time that a run takes to start.

    python -m benchmarks.peers.overheads            # the step with and without them, in turns
    python -m benchmarks.peers.overheads --start    # from the command to the first step of B/16, three times

The first command trains one model in this process, in turns of `--seconds`: with a log line every ten steps, the loss
check, the watchdog and one checkpoint per turn, and without any of them. A turn takes a minute, hence one checkpoint
per minute. There is no peer: the limit is the bare step.
"""

from __future__ import annotations

import argparse
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.machine import describe_machine

ROOT = pathlib.Path(__file__).parents[2]

os.environ.setdefault("JAX_PLATFORMS", "cpu")


PROGRAM = """
import atexit, sys, time
import jax

times = []
def record(event, duration, **_):
    if event.startswith("/jax/core/compile/"):
        now = time.monotonic()
        times.append((now - duration, now))
jax.monitoring.register_event_duration_secs_listener(record)

def report():  # threads compile in parallel: the time in which at least one of them compiled
    seconds, last = 0.0, 0.0
    for begin, end in sorted(times):
        seconds += max(0.0, end - max(begin, last))
        last = max(last, end)
    print("compiling took", seconds, flush=True)
atexit.register(report)
import launch
sys.exit(launch.main(sys.argv[1:]))
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the overhead, or with --start the start times; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.overheads",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="length of a turn (default: 60)")
    parser.add_argument("--turns", type=int, default=3, help="turns of each kind (default: 3)")
    parser.add_argument(
        "--config", default="configs/emoji.py", help="config of the first command (default: the quickstart)"
    )
    parser.add_argument("--start", action="store_true", help="measure the start of B/16 instead")
    args = parser.parse_args(arguments)
    print(describe_machine())
    if args.start:
        print_starts()
    else:
        print_overheads(args)
    return 0


def print_overheads(args: argparse.Namespace) -> None:
    """Print the rates of both kinds of turn, and their ratio."""
    import jax

    from arguments import load_config
    from pretrain.checkpointing.manager import Checkpoints
    from pretrain.config.run import read_settings
    from pretrain.distributed import sharding
    from pretrain.loss_rollback import WATCHED_METRICS, check_loss
    from pretrain.monitoring.metric_writer import MetricsWriter
    from pretrain.monitoring.throughput import Throughput, count_pair_flops
    from pretrain.monitoring.watchdog import Watchdog
    from pretrain.train_step import abstract_batch, build_train_step

    settings = read_settings(load_config(args.config, []).pretrain)
    mesh = sharding.create_mesh(settings.mesh.fsdp)
    training = build_train_step(settings, mesh, model=settings.model(settings.max_vocab_size()))
    batch = {
        name: jax.device_put(jax.numpy.ones(shape.shape, shape.dtype), shape.sharding)
        for name, shape in abstract_batch(settings, mesh).items()
    }
    state = training.init()
    rates: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder)
        checkpoints, writer = Checkpoints(workdir / "checkpoints"), MetricsWriter(workdir)
        throughput = Throughput(settings.monitor, mesh.devices.flatten(), pair_flops=sum(count_pair_flops(settings)))
        for turn in range(2 * args.turns + 2):
            watched = turn % 2 == 1
            watchdog = Watchdog(workdir / "stall", seconds=1800 if watched else 0, end=False)
            began, steps, metrics, saved = time.monotonic(), 0, None, False
            while time.monotonic() - began < args.seconds:
                jax.block_until_ready(metrics)
                if watched and metrics is not None:
                    check_loss({name: float(metrics[name]) for name in WATCHED_METRICS}, steps, settings.recovery)
                state, metrics = training.step(state, batch)
                steps += 1
                if not watched:
                    continue
                watchdog.beat()
                if steps % 10 == 0:
                    values = {name: float(value) for name, value in metrics.items()} | throughput.read(1.0)
                    writer.write(int(state.step), values)
                if not saved and time.monotonic() - began > args.seconds / 4:
                    checkpoints.save(state)
                    saved = True
            jax.block_until_ready(metrics)
            watchdog.close()
            if turn > 1:  # the first two compile
                rates[watched].append(steps / (time.monotonic() - began))
        checkpoints.close()
        writer.close()
    bare, full = (statistics.median(rates[kind]) for kind in (False, True))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6
    shown = {kind: ", ".join(f"{rate:.3f}" for rate in rates[kind]) for kind in rates}
    print(f"{args.config}, state of {size:.0f} MB, turns of {args.seconds:.0f} s, jax {jax.__version__}")
    print(f"steps/s, bare: {shown[False]}; with checkpoints, log and checks: {shown[True]}")
    print(f"overhead, by medians: {bare / full - 1:.2%}")


class StartTimes(NamedTuple):
    """Seconds from the command until data and model were known, until the first step began, and until it ended.

    `compiling` are the seconds of those in which at least one thread traced or compiled.
    """

    model: float
    first_step: float
    first_step_end: float
    compiling: float


def print_starts() -> None:
    """Print the start times of B/16: first, with the tokenizer kept, and with the compiled programs kept as well."""
    common = ["--config=configs/siglip_b16.py"]
    settings = ["batch_size=4", "mesh.fsdp=1", "steps=2", "optimizer.warmup_steps=1", "optimizer.cooldown_steps=1"]
    settings += ["log_every=1", "data.sources=emoji:noto,"]
    common += [f"--config.pretrain.{setting}" for setting in settings]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("first", "tokenizer kept", "programs kept"):
            cache = f"{folder}/cache" if name != "tokenizer kept" else f"{folder}/another"
            tokenizer = "train:2000" if name == "first" else f"{folder}/first/tokenizer"
            given = [*common, f"--workdir={folder}/{name}", f"--config.pretrain.tokenizer.name={tokenizer}"]
            variables = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
            times = measure_start(given, environment=variables)
            print(
                f"{name}: {times.first_step:.1f} s from the command to the first step, {times.first_step_end:.1f} s to "
                f"its end, {times.model:.1f} s until data and model were known; {times.compiling:.1f} s of it traced "
                f"or compiled (ratio {times.first_step / times.compiling:.2f})",
                flush=True,
            )


def measure_start(arguments: Sequence[str], *, environment: Mapping[str, str]) -> StartTimes:
    """Return the start times of `launch.py pretrain` for two steps; the second step tells how long the first took."""
    command = [sys.executable, "-c", PROGRAM, "pretrain", *arguments]
    began = time.monotonic()
    process = subprocess.Popen(command, env=os.environ | environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    model = first = second = compiling = math.nan
    for line in process.stdout or ():
        now = time.monotonic() - began
        if line.startswith("model:"):
            model = now
        if line.startswith("first step"):
            first = now
        if line.startswith("step 2/"):
            second = now - first
        if found := re.match(r"compiling took ([\d.]+)", line):
            compiling = float(found.group(1))
    if process.wait():
        raise RuntimeError(f"launch.py ended with exit code {process.returncode}; its error is above")
    return StartTimes(model, first - second, first, compiling)


if __name__ == "__main__":
    sys.exit(main())
