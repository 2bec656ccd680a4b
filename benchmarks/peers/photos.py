"""The included encoder of photos: class means of its features against raw pixels, and its speed against PyTorch.

python -m benchmarks.peers.photos --datasets=FOLDER,FOLDER [--shots=1,4,16] [--seeds=5]
python -m benchmarks.peers.photos --speed [--images=64] [--repeats=5]

A dataset is a folder with `train-*.tar` and `test-*.tar`, or another name of `launch.py evaluate --datasets`. Support
images are drawn from the training split, all test images are classified. "untrained" is the same tower with random
weights, "pixels" the image resized to 16 × 16, as 768 values.

The peer of `--speed` is the original PyTorch code with the same weights: the towers alone, each side in a process of
its own, at its fastest batch size and number of threads, in turns. CPU time per image hardly depends on what else the
machine does.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine, seconds_of
from benchmarks.peers.embedding import EmbeddingSide, fastest
from benchmarks.peers.installed import missing_peers
from benchmarks.side_process import serve, start_side

CHECKPOINT = pathlib.Path(__file__).parents[2] / "checkpoints" / "photos"
PIXELS, BATCHES = 16, (1, 2, 4, 8, 16, 32)
SIDES = ("ours", "original")

Embed = Callable[[Callable[[int], Any], int], np.ndarray]  # of (image(number), count): features [count, dim]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and return 0, or name what is missing and return 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.photos", description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", help="comma-separated datasets of the accuracies")
    parser.add_argument("--data_dir", default="runs/data", help="folder of data and indexes (default: runs/data)")
    parser.add_argument("--shots", default="1,4,16", help="support images per class (default: 1,4,16)")
    parser.add_argument("--seeds", type=int, default=5, help="draws of the support set (default: 5)")
    parser.add_argument("--speed", action="store_true", help="measure images per second instead")
    parser.add_argument("--images", type=int, default=64, help="images per round of --speed (default: 64)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of --speed (default: 5)")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.child:
        side = {"ours": ours, "original": original}[args.child](args.images)
        serve(side.facts, side.parts)
        return 0
    if not args.speed and not args.datasets:
        parser.error("pass --datasets for accuracies, or --speed")
    message = missing_peers("torch", "efficientnet_lite_pytorch", requirements="requirements-parity.txt")
    if args.speed and message:
        print(message, file=sys.stderr)
        return 1
    print(compare_speed(args) if args.speed else compare_accuracy(args))
    return 0


def compare_accuracy(args: argparse.Namespace) -> str:
    """Return a table of the mean accuracy of class means per dataset, features and number of shots."""
    from adapt.embedding.encoder import Encoder

    shots = tuple(int(each) for each in args.shots.split(","))
    with tempfile.TemporaryDirectory() as folder:
        encoders = [Encoder(CHECKPOINT), Encoder(write_untrained(pathlib.Path(folder) / "untrained"))]
        rows = list(accuracy_rows(args, shots, [*(each.embed_images for each in encoders), embed_pixels]))
    return "\n".join(
        [
            f"class means, accuracy in % at {'/'.join(map(str, shots))} shots, mean of {args.seeds} draws",
            "",
            "| dataset | classes | checkpoints/photos | untrained | pixels | chance |",
            "|---|---|---|---|---|---|",
            *rows,
        ]
    )


def accuracy_rows(args: argparse.Namespace, shots: Sequence[int], embed: Sequence[Embed]) -> Iterator[str]:
    """Yield the row of each dataset, with a cell for each of the functions `embed`."""
    from data.fewshot.open import open_dataset

    for name in args.datasets.split(","):
        dataset = open_dataset(name, args.data_dir)
        found = [accuracies(dataset, each, shots=shots, seeds=args.seeds) for each in embed]
        cells = ["/".join(f"{100 * value:.1f}" for value in row) for row in found]
        classes = len(dataset.class_names)
        yield f"| {pathlib.Path(name).name} | {classes} | {' | '.join(cells)} | {100 / classes:.1f} |"


def write_untrained(folder: pathlib.Path) -> pathlib.Path:
    """Write the included checkpoint with random weights instead of its own."""
    import jax

    from models.checkpoints.io import open_checkpoint, save_checkpoint
    from models.towers import create_model

    checkpoint = open_checkpoint(CHECKPOINT)
    parameters = jax.device_get(create_model(checkpoint.settings).init(0))
    return save_checkpoint(folder, checkpoint._replace(parameters=parameters), dtype="float32")


def embed_pixels(image: Callable[[int], Any], count: int) -> np.ndarray:
    """Return images as rows of pixels `[count, 768]`, with their mean over all values removed."""
    from PIL import Image

    size = (PIXELS, PIXELS)
    rows = np.stack([np.asarray(image(row).resize(size, Image.Resampling.BICUBIC)).ravel() for row in range(count)])
    return rows.astype(np.float32) - 127.5


def accuracies(dataset: Any, embed: Embed, *, shots: Sequence[int], seeds: int) -> list[float]:
    """Return the accuracy of class means on the queries of a dataset for each number of shots."""
    import adapt
    from adapt.evaluation.tasks import build_task, counted_queries

    task = build_task("few_shot", dataset, shots=shots, seeds=seeds)
    queries = task.query_sets[0]
    support_features = embed(dataset.support.image, len(dataset.support))
    features = embed(queries.images.image, len(queries.labels))
    values: dict[int, list[float]] = {number: [] for number in shots}
    for each in task.support_sets:
        classifier = adapt.create("prototypes").fit(
            support_features[each.rows], each.labels, num_classes=len(dataset.class_names)
        )
        right = np.asarray(classifier(features)).argmax(axis=1) == queries.labels
        values[each.shots].append(float(right[counted_queries(task, each, queries)].mean()))
    return [statistics.mean(values[number]) for number in shots]


def compare_speed(args: argparse.Namespace) -> str:
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
