"""Images per second of the included encoder of photos, against the original PyTorch code with the same weights.

python -m benchmarks.peers.photos [--images=64] [--repeats=5]

Both sides embed pixels in memory, each in a process of its own, at its fastest batch size and number of threads, in
turns. CPU time per image hardly depends on what else the machine does. `launch.py evaluate` prints accuracies.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine, seconds_of
from benchmarks.peers.embedding import EmbeddingSide, fastest
from benchmarks.peers.installed import missing_peers
from benchmarks.side_process import serve, start_side

CHECKPOINT = pathlib.Path(__file__).parents[2] / "checkpoints" / "photos"
BATCHES = (1, 2, 4, 8, 16, 32)
SIDES = ("ours", "original")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and return 0, or name what is missing and return 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.photos", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64, help="images per round (default: 64)")
    parser.add_argument("--repeats", type=int, default=5, help="number of rounds (default: 5)")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.child:
        side = {"ours": ours, "original": original}[args.child](args.images)
        serve(side.facts, side.parts)
        return 0
    if message := missing_peers("torch", "efficientnet_lite_pytorch", requirements="requirements-parity.txt"):
        print(message, file=sys.stderr)
        return 1
    print(compare(args))
    return 0


def compare(args: argparse.Namespace) -> str:
    """Return the table of both sides, which take `args.repeats` turns."""
    sides = {}
    for name in SIDES:
        options = [f"--child={name}", f"--images={args.images}"]
        sides[name] = start_side("benchmarks.peers.photos", options, huge_pages=name == "ours")
    rates: dict[str, list[float]] = {name: [] for name in SIDES}
    for _ in range(args.repeats):
        for name, side in sides.items():
            rates[name].append(args.images / side.measure("towers"))
    for side in sides.values():
        side.close()
    facts = {name: side.facts for name, side in sides.items()}
    lines = [
        f"{describe_machine()}; " + ", ".join(f"{n} {v}" for f in facts.values() for n, v in f["versions"].items()),
        f"EfficientNet-Lite0 at 224 px, float32, {args.images} images, {args.repeats} rounds",
        "",
        "| | images/s, median (min–max) | CPU ms per image | batch | seconds until the first embedding |",
        "|---|---|---|---|---|",
    ]
    for name in SIDES:
        found, fact = rates[name], facts[name]
        lines.append(
            f"| {name} | {statistics.median(found):.1f} ({min(found):.1f}–{max(found):.1f}) | {fact['cpu']:.1f} | "
            f"{fact['batch']} | {fact['first']:.1f} |"
        )
    return "\n".join(lines)


def ours(images: int) -> EmbeddingSide:
    """Return this project's side."""
    import jax

    from adapt.embedding.encoder import Encoder

    began = time.perf_counter()
    encoder = Encoder(CHECKPOINT)
    size = encoder.batch_size
    pixels = np.random.default_rng(0).integers(0, 256, (images, 224, 224, 3), np.uint8)

    def towers() -> None:
        jax.block_until_ready([encoder.embed_pixels(batch) for batch in np.split(pixels, range(size, images, size))])

    encoder.embed_pixels(pixels[:size]).block_until_ready()
    first = time.perf_counter() - began
    cpu = cpu_milliseconds(towers, images)
    versions = {name: importlib.metadata.version(name) for name in ("jax", "flax")}
    return EmbeddingSide({"towers": towers}, {"versions": versions, "batch": size, "first": first, "cpu": cpu})


def original(images: int) -> EmbeddingSide:
    """Return the peer's side."""
    import torch

    from models.checkpoints.io import open_checkpoint
    from tests.parity.make_photos import original as create_original
    from tests.parity.make_photos import unfold

    checkpoint = open_checkpoint(CHECKPOINT)
    began = time.perf_counter()
    network = create_original(224).eval()
    unfold(checkpoint.parameters, network, checkpoint.settings)
    pixels = torch.randint(0, 256, (images, 3, 224, 224), dtype=torch.uint8)

    def embed(batch: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return network.extract_features((batch.float() - 127) / 128).mean((2, 3))

    embed(pixels[:1])
    first = time.perf_counter() - began
    sizes, rates = tuple(size for size in BATCHES if size <= images), {}
    for threads in (1, os.cpu_count()):
        torch.set_num_threads(threads)
        size = fastest(lambda size: embed(pixels[:size]), sizes)
        rates[size / seconds_of(lambda size=size: embed(pixels[:size]), 1)[0]] = threads, size
    threads, size = rates[max(rates)]
    torch.set_num_threads(threads)

    def towers() -> None:
        for batch in pixels.split(size):
            embed(batch)

    facts = {"versions": {"torch": torch.__version__}, "batch": f"{size}, {threads} threads", "first": first}
    return EmbeddingSide({"towers": towers}, facts | {"cpu": cpu_milliseconds(towers, images)})


def cpu_milliseconds(run: Callable[[], Any], images: int) -> float:
    """Return the CPU time of this process per image, in milliseconds, after a first run."""
    run()
    began = time.process_time()
    run()
    return 1000 * (time.process_time() - began) / images


if __name__ == "__main__":
    sys.exit(main())
