"""What saving, logging and checking cost a run, and how long it takes to start.

    python benchmarks/peers/overheads.py            the step with and without checkpoints, turn by turn
    python benchmarks/peers/overheads.py --start    from the command to the first step of B/16, three times

The first trains one model in this process, in turns of `--seconds`: with a log line every ten steps, watchdog and one
checkpoint a turn, and with none of them; a turn is a minute, so that it is a checkpoint a minute. There is no peer: the
limit is the bare step.
"""

import argparse
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")


PROGRAM = """
import atexit, sys, time
import jax

times = []
def note(event, duration, **_):
    if event.startswith("/jax/core/compile/"):
        now = time.monotonic()
        times.append((now - duration, now))
jax.monitoring.register_event_duration_secs_listener(note)

def tell():  # threads compile side by side: the time in which one of them did
    seconds, last = 0.0, 0.0
    for begin, end in sorted(times):
        seconds += max(0.0, end - max(begin, last))
        last = max(last, end)
    print("compiling took", seconds, flush=True)
atexit.register(tell)
import launch
sys.exit(launch.main(sys.argv[1:]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--start", action="store_true")
    args = parser.parse_args()
    from benchmarks.machine import describe_machine

    print(describe_machine())
    start() if args.start else overheads(args)


def overheads(args: argparse.Namespace) -> None:
    """Prints the rates of both kinds of turn, and their ratio."""
    import jax

    import configs
    from arguments import known_settings
    from pretrain.checkpointing.manager import Checkpoints
    from pretrain.config.run import read_settings
    from pretrain.distributed import sharding
    from pretrain.loss_rollback import WATCHED, check_loss
    from pretrain.monitoring.metric_writer import MetricsWriter
    from pretrain.monitoring.throughput import Throughput
    from pretrain.monitoring.watchdog import Watchdog
    from pretrain.train_step import abstract_batch, build_train_step

    settings = read_settings(configs.load(args.config, [], known=known_settings).pretrain)
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
        throughput = Throughput(settings, mesh.devices.flatten())
        for turn in range(2 * args.turns + 2):
            watched = turn % 2 == 1
            watchdog = Watchdog(workdir / "stall", seconds=1800 if watched else 0, end=False)
            began, steps, metrics, saved = time.monotonic(), 0, None, False
            while time.monotonic() - began < args.seconds:
                jax.block_until_ready(metrics)
                if watched and metrics is not None:
                    check_loss({name: float(metrics[name]) for name in WATCHED}, steps, settings.recovery)
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
    print(f"steps a second, bare: {shown[False]}; saved, logged and watched: {shown[True]}")
    print(f"overhead of the medians: {bare / full - 1:.2%}")


def start() -> None:
    """Prints the seconds from the command to the first step of B/16, and of those in which it traced or compiled.

    The first run trains its tokenizer too, the second is given that one, and for the third the programs are there.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name in ("first", "tokenizer there", "compiled before"):
            kept = "cache" if name != "tokenizer there" else "another"
            environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{folder}/{kept}"}
            environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
            given = ["batch_size=4", "mesh.fsdp=1", "steps=2", "optimizer.warmup_steps=1", "optimizer.cooldown_steps=1"]
            tokenizer = "train:2000" if name == "first" else f"{folder}/first/tokenizer"
            given += [f"tokenizer.name={tokenizer}", "log_every=1", "data.sources=emoji:noto,"]
            command = [sys.executable, "-c", PROGRAM, "pretrain", "--config=configs/siglip_b16.py"]
            command += [f"--workdir={folder}/{name}", *(f"--config.pretrain.{each}" for each in given)]
            began = time.monotonic()
            process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)
            model = first = compiling = second = 0.0
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
            assert process.wait() == 0
            begun = first - second  # the first step takes as long as the second
            print(
                f"{name}: {begun:.1f} s from the command to the first step, {first:.1f} s to its end; {model:.1f} s "
                f"until data and model were known; within {compiling:.1f} s it traced or compiled, of which it "
                f"is {begun / compiling:.2f} times"
            )


if __name__ == "__main__":
    main()
