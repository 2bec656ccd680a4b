"""Training steps on CPUs, against PyTorch: the same architecture, batch, loss and number of threads.

python -m benchmarks.peers.train_step_cpu [--config=configs/emoji.py] [--steps=N] [--repeats=N]

Our side is the compiled step of a run, which also normalises pixels, clips gradients and computes metrics. The peer is
transformers' SiglipModel with its own loss in eager mode on normalised pixels, updated by torch.optim.AdamW. All
patches are kept. Each row is a process of its own, and the rows take turns. Run it on an idle machine: PyTorch's
threads wait for one another, so other processes slow its rows most.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from arguments import find_config, load_config
from benchmarks.machine import HUGE_PAGES, busy_seconds, describe_machine, measure_peak, page_policy
from benchmarks.peers.installed import missing_peers
from benchmarks.side_process import serve, start_side

if TYPE_CHECKING:
    from ml_collections import ConfigDict

WARM_UP = 3  # steps; the first one compiles
PEAK_SIZE = 2048


class StepRow(NamedTuple):
    """A row of the table: its name, the side that computes it, and whether large arrays are in huge pages."""

    name: str
    child: str
    huge_pages: bool


OURS = StepRow("this project, SigLIP loss", "sigmoid", True)
CONTEXT = StepRow("this project, context objective", "context", True)
PEERS = (StepRow("PyTorch eager, SigLIP loss", "torch", False), StepRow("PyTorch eager, SigLIP loss", "torch", True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and return 0, or name what is missing and return 1."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.train_step_cpu", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--config",
        default="configs/emoji.py",
        help="config file (default: configs/emoji.py)",
    )
    parser.add_argument("--steps", type=int, default=15, help="steps per round (default: 15)")
    parser.add_argument("--repeats", type=int, default=3, help="number of rounds (default: 3)")
    parser.add_argument("--child", choices=("sigmoid", "context", "torch"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if min(args.steps, args.repeats) < 1:
        parser.error("--steps and --repeats must be at least 1")
    try:
        config = load_config(find_config(args.config), []).pretrain
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.child:
        if args.child == "torch":
            serve_torch(config, steps=args.steps)
        else:
            serve_jax(config, steps=args.steps, context=args.child == "context")
        return 0
    if message := missing_peers("torch", requirements="requirements-parity.txt"):
        print(message, file=sys.stderr)
        return 1
    print(compare(config, args))
    return 0


def compare(config: ConfigDict, args: argparse.Namespace) -> str:
    """Return the table of all rows, which take `args.repeats` turns."""
    rows = (OURS, *PEERS, CONTEXT)
    rates: dict[StepRow, list[float]] = {row: [] for row in rows}
    began, busy_before = time.monotonic(), busy_seconds()
    with contextlib.ExitStack() as stack:
        sides = {}
        for row in rows:
            given = [f"--child={row.child}", f"--config={args.config}", f"--steps={args.steps}"]
            variables = {"JAX_PLATFORMS": "cpu", "TRANSFORMERS_VERBOSITY": "error"}
            sides[row] = start_side(
                "benchmarks.peers.train_step_cpu", given, huge_pages=row.huge_pages, environment=variables
            )
            stack.callback(sides[row].close)
        facts = {row: side.facts for row, side in sides.items()}
        for round in range(args.repeats):
            print(f"round {round + 1} of {args.repeats}", file=sys.stderr, flush=True)
            for row, side in sides.items():
                rates[row].append(args.steps * config.batch_size / side.measure("steps"))
    elapsed, busy, ours = time.monotonic() - began, busy_seconds() - busy_before, sum(os.times()[:4])
    others = max(0.0, busy - ours) / (elapsed * os.cpu_count())
    if len({facts[row]["parameters"] for row in (OURS, *PEERS)}) > 1:
        raise RuntimeError(f"the sides have different numbers of parameters: {facts}")
    versions = {name: version for fact in facts.values() for name, version in fact["versions"].items()}
    peaks = {
        name: max(fact["peak"] for fact in facts.values() if name in fact["versions"]) for name in ("jax", "torch")
    }
    parameters = facts[OURS]["parameters"]
    return describe(config, args, rates=rates, parameters=parameters, versions=versions, peaks=peaks, others=others)


def describe(
    config: ConfigDict,
    args: argparse.Namespace,
    *,
    rates: dict[StepRow, list[float]],
    parameters: int,
    versions: dict[str, str],
    peaks: dict[str, float],
    others: float,
) -> str:
    """Return machine, table and limit as text.

    `peaks` are in GFLOP/s; `others` is the fraction of the cores that other processes used during the benchmark.
    """
    vision, text = config.vision, config.text
    flops, peak, ours = pair_flops(config, context=False), max(peaks.values()), statistics.median(rates[OURS])
    lines = [
        f"{args.config}, all patches kept: {config.batch_size} pairs per step, {parameters:,} parameters, float32",
        f"images: {vision.image_size}/{vision.patch_size}, width {vision.width}, {vision.depth} layers; "
        f"texts: {text.length} tokens, width {text.width}, {text.depth} layers",
        f"machine: {describe_machine()}, a thread each; transparent huge pages: {page_policy()}",
        f"other processes used {others:.0%} of the cores"
        + "; that is too much: repeat the benchmark on an idle machine" * (others > 0.05),
        f"versions: {', '.join(f'{name} {version}' for name, version in versions.items())}",
        f"{args.repeats} rounds of {args.steps} steps in turn, after {WARM_UP} steps of warm-up",
        "",
        f"{'':36}{'pairs/s, median [min–max]':>28}{'ours/peer':>12}{'of the limit':>14}",
    ]
    for row in (OURS, CONTEXT, *PEERS):
        median = statistics.median(rates[row])
        share = median * pair_flops(config, context=row is CONTEXT) / (1e9 * peak)
        measured = f"{median:.0f} [{min(rates[row]):.0f}–{max(rates[row]):.0f}]"
        ratio = f"{ours / median:.2f}" if row in PEERS else ""
        lines.append(f"{row.name + ' *' * row.huge_pages:36}{measured:>28}{ratio:>12}{share:>14.0%}")
    lines += [
        "",
        f"* with GLIBC_TUNABLES={HUGE_PAGES}, as launch.py starts every run",
        f"limit: {1e9 * peak / flops:.0f} pairs/s, at {flops / 1e6:.0f} MFLOP of matrix products per pair "
        f"(3 × forward) and {peak:.0f} GFLOP/s",
        f"peak: the best of ten float32 products of {PEAK_SIZE} × {PEAK_SIZE} matrices per process: "
        + ", ".join(f"{name} {value:.0f} GFLOP/s" for name, value in peaks.items()),
    ]
    return "\n".join(lines)


def pair_flops(config: ConfigDict, *, context: bool) -> int:
    """Return the operations of the matrix products per pair in a training step, with all patches kept."""
    from pretrain.config.run import read_settings
    from pretrain.monitoring.throughput import count_pair_flops

    settings = read_settings(config)
    objective = dataclasses.replace(settings.objective, base="sigmoid", context=context)
    augmentation = dataclasses.replace(settings.augmentation, keep_patches=1.0)
    return sum(count_pair_flops(dataclasses.replace(settings, objective=objective, augmentation=augmentation)))


def serve_jax(config: ConfigDict, *, steps: int, context: bool) -> None:
    """Measure the training step of this project."""
    import jax
    import jax.numpy as jnp

    from models.towers import count_parameters
    from pretrain.config.run import read_settings
    from pretrain.distributed import sharding
    from pretrain.train_step import build_train_step

    settings = read_settings(config)
    objective = dataclasses.replace(settings.objective, base="sigmoid", context=context)
    settings = dataclasses.replace(settings, dtype="float32", objective=objective)
    mesh = sharding.create_mesh(settings.mesh.fsdp)
    training = build_train_step(settings, mesh, model=settings.model(settings.max_vocab_size()))
    batch, state = make_batch(config), training.init()

    def step() -> None:
        nonlocal state
        state, metrics = training.step(state, sharding.place_batch(batch, mesh))
        jax.block_until_ready(metrics)

    matrix, product = jnp.asarray(make_matrix()), jax.jit(jnp.matmul)
    facts = {
        "versions": {"jax": jax.__version__},
        "parameters": count_parameters(state.parameters),
        "peak": measure_peak(lambda: product(matrix, matrix).block_until_ready(), PEAK_SIZE) / 1e9,
    }
    serve_steps(facts, step, steps=steps)


def serve_torch(config: ConfigDict, *, steps: int) -> None:
    """Measure the training step of the peer."""
    import torch
    import transformers

    def tower(sizes: Any, **more: Any) -> dict[str, Any]:
        widths = {"hidden_size": sizes.width, "intermediate_size": sizes.mlp_width}
        return widths | {"num_hidden_layers": sizes.depth, "num_attention_heads": sizes.heads} | more

    torch.set_num_threads(os.cpu_count())
    vision, text = config.vision, config.text
    model = transformers.SiglipModel(
        transformers.SiglipConfig(
            vision_config=tower(vision, image_size=vision.image_size, patch_size=vision.patch_size),
            text_config=tower(
                text,
                vocab_size=count_vocabulary(config),
                max_position_embeddings=text.length,
                projection_size=vision.width,
                pad_token_id=0,
                bos_token_id=None,
                eos_token_id=0,
            ),
        )
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batch = make_batch(config)
    pixels = torch.tensor(batch["images"].transpose(0, 3, 1, 2) / 127.5 - 1, dtype=torch.float32).contiguous()
    tokens = torch.tensor(batch["tokens"], dtype=torch.int64)

    def step() -> None:
        optimizer.zero_grad()
        model(input_ids=tokens, pixel_values=pixels, return_loss=True).loss.backward()
        optimizer.step()

    matrix = torch.tensor(make_matrix())
    facts = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "peak": measure_peak(lambda: matrix @ matrix, PEAK_SIZE) / 1e9,
    }
    serve_steps(facts, step, steps=steps)


def serve_steps(facts: dict[str, Any], step: Callable[[], None], *, steps: int) -> None:
    """Warm up, then measure `steps` steps whenever asked to."""

    def run() -> None:
        for _ in range(steps):
            step()

    for _ in range(WARM_UP):
        step()
    serve(facts, {"steps": run})


def make_batch(config: ConfigDict) -> dict[str, np.ndarray]:
    """Return the batch of both sides, in the form that the input pipeline yields."""
    rng, size = np.random.default_rng(0), config.vision.image_size
    return {
        "images": rng.integers(0, 256, (config.batch_size, size, size, 3), np.uint8),
        "tokens": rng.integers(0, count_vocabulary(config), (config.batch_size, config.text.length), np.int32),
    }


def count_vocabulary(config: ConfigDict) -> int:
    """Return the number of token ids of the config's `train:VOCAB`."""
    return int(config.tokenizer.name.removeprefix("train:"))


def make_matrix() -> np.ndarray:
    """Return the matrix whose square measures the peak."""
    return np.random.default_rng(0).normal(size=(PEAK_SIZE, PEAK_SIZE)).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
