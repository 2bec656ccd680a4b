"""Images to embeddings here and with transformers in PyTorch: the same SigLIP checkpoint, files and cores.

python -m benchmarks.peers.embedding [--variant=B/16] [--image_size=224] [--images=64] [--repeats=3] [--dtype=float32]

Both sides open one Hugging Face directory with random weights. "From files" is what `launch.py embed` does: JPEG files
of 500 × 375 pixels are read, decoded, resized and embedded; the peer is the documented loop of Pillow, the image
processor and `get_image_features`, a batch after the other. "Towers" starts from pixels in memory. Each side is a
process of its own, in the batch size that it is fastest with of those tried, and the sides take turns. On a machine
with an NVIDIA GPU both compute there; give `--dtype=bfloat16` then.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import io
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.machine import busy_seconds, describe_machine, measure_peak

PHOTO = (500, 375)
BATCHES = {"cpu": (4, 8, 16, 32), "gpu": (64, 256)}
PEAK_SIZE = 2048
PARTS = ("from files", "towers")


def main() -> int:
    """Prints the table, or a sentence about what is missing; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.embedding", description=__doc__.splitlines()[0])
    parser.add_argument("--variant", default="B/16", help="size of the towers")
    parser.add_argument("--image_size", type=int, default=224, help="pixels")
    parser.add_argument("--images", type=int, default=64, help="images in a round")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of weights and products")
    parser.add_argument("--child", choices=("ours", "transformers"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if min(args.images, args.repeats, args.image_size) < 1:
        parser.error("--images, --repeats and --image_size must be at least 1")
    if args.child:
        serve({"ours": ours, "transformers": transformers}[args.child](args), args)
        return 0
    if importlib.util.find_spec("torch") is None:
        print("error: PyTorch is not installed; `pip install -r requirements-parity.txt`", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        args.folder = pathlib.Path(folder)
        write_checkpoint(args)
        write_photos(args.folder / "photos", args.images)
        print(compare(args))
    return 0


def write_checkpoint(args: argparse.Namespace) -> None:
    """Writes a SigLIP with random weights."""
    import jax

    from models.checkpoints.io import Checkpoint, save_checkpoint
    from models.config import ModelSettings, TextSettings, VisionSettings
    from models.preprocessing import Preprocessing
    from models.text.tokenizer import train_tokenizer
    from models.towers import create_model
    from models.variants import tower_fields

    sizes = tower_fields("siglip", args.variant)
    tokenizer = train_tokenizer(["a photo of a thing"], vocab_size=60, length=64)
    settings = ModelSettings(
        vision=VisionSettings(image_size=args.image_size, **sizes.vision),
        text=TextSettings(vocab_size=tokenizer.vocab_size, length=64, **sizes.text),
    )
    parameters = jax.device_get(create_model(settings).init(0))
    preprocessing = Preprocessing(size=(args.image_size,) * 2)
    scalars = {"logit_scale": 2.3, "logit_bias": -10.0}
    save_checkpoint(args.folder / "export", Checkpoint(settings, parameters, scalars, preprocessing, tokenizer))


def write_photos(folder: pathlib.Path, count: int) -> None:
    """Writes pictures that decode at the price of photos: smooth shapes with some noise."""
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(PHOTO, Image.Resampling.BICUBIC)
        noisy = np.asarray(coarse).astype(np.int16) + rng.normal(0, 6, (PHOTO[1], PHOTO[0], 3)).astype(np.int16)
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / f"{number:05d}.jpg", quality=85)


def compare(args: argparse.Namespace) -> str:
    """Returns the table of both sides, each measured `args.repeats` times in turn."""
    began, busy_before = time.monotonic(), busy_seconds()
    options = [f"--{name}={getattr(args, name)}" for name in ("variant", "image_size", "images", "dtype", "folder")]
    children, facts = {}, {}
    for side in ("ours", "transformers"):
        command = [sys.executable, "-m", "benchmarks.peers.embedding", *options, f"--child={side}"]
        environment = {**os.environ, **({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if side == "ours" else {})}
        children[side] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        facts[side] = json.loads(ask(children[side], None))  # before the other starts, which would slow it
    rates: dict[tuple[str, str], list[float]] = {}
    for round in range(args.repeats):
        print(f"round {round + 1} of {args.repeats}", file=sys.stderr, flush=True)
        for part in PARTS:
            for side, child in children.items():
                rates.setdefault((side, part), []).append(args.images / float(ask(child, part)))
    for child in children.values():
        child.communicate()
    difference = np.abs(np.subtract(*(np.array(fact["embedding"]) for fact in facts.values()))).max()
    elapsed, ours_busy = time.monotonic() - began, sum(os.times()[:4])
    others = max(0.0, busy_seconds() - busy_before - ours_busy) / (elapsed * os.cpu_count())
    lines = [
        f"{describe_machine(facts['ours']['device'])}; "
        + ", ".join(f"{n} {v}" for f in facts.values() for n, v in f["versions"].items()),
        f"SigLIP {args.variant} at {args.image_size} px, {args.dtype}, {args.images} JPEGs of {PHOTO[0]} × {PHOTO[1]}, "
        f"{args.repeats} rounds; others used {others:.0%} of the cores",
        f"largest difference of an embedding's numbers between the sides: {difference:.1e} of up to "
        f"{np.abs(facts['ours']['embedding']).max():.2g}",
        "",
        "| | images/s, median (least–most) | batch | ours/peer |",
        "|---|---|---|---|",
    ]
    for part in PARTS:
        for side in ("ours", "transformers"):
            found = rates[side, part]
            ratios = [a / b for a, b in zip(rates["ours", part], rates["transformers", part], strict=True)]
            ratio = f"{statistics.median(ratios):.2f}" if side == "ours" else ""
            lines.append(
                f"| {side}, {part} | {statistics.median(found):.2f} ({min(found):.2f}–{max(found):.2f}) | "
                f"{facts[side]['batch']} | {ratio} |"
            )
    limit = facts["ours"]["peak"] / facts["ours"]["flops"]
    lines.append(
        f"| limit: the products of the image tower at {facts['ours']['peak'] / 1e9:,.0f} GFLOP/s, which a product of "
        f"{PEAK_SIZE} × {PEAK_SIZE} reaches | {limit:.2f} | | |"
    )
    return "\n".join(lines)


def ask(child: subprocess.Popen, part: str | None) -> str:
    """Sends a child the name of a part to measure, and returns its answer."""
    if part is not None:
        child.stdin.write(part + "\n")
        child.stdin.flush()
    line = child.stdout.readline()
    if not line:
        raise RuntimeError(f"a side of the benchmark ended early, with exit code {child.wait()}")
    return line


def serve(side: tuple[dict[str, Callable[[], Any]], dict[str, Any]], args: argparse.Namespace) -> None:
    """Says what a side is, then measures the parts that it is asked for."""
    parts, facts = side
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        parts[line.strip()]()
        print(time.perf_counter() - began, flush=True)


def photos(args: argparse.Namespace) -> list[pathlib.Path]:
    return sorted((args.folder / "photos").iterdir())


def fastest(run: Callable[[int], Any], sizes: tuple[int, ...]) -> int:
    """Returns the batch size with the most rows a second."""
    rates = {}
    for size in sizes:
        run(size)
        began = time.perf_counter()
        run(size)
        rates[size] = size / (time.perf_counter() - began)
    return max(rates, key=rates.__getitem__)


def ours(args: argparse.Namespace) -> tuple[dict[str, Callable[[], Any]], dict[str, Any]]:
    """Returns what our side does for each part, and what it is."""
    import jax
    import jax.numpy as jnp

    from adapt.embedding.encoder import Encoder
    from data.pipeline.image_ops import decode
    from data.sources.image_folders import ImageFiles
    from models.flops import count_image_flops

    encoder = Encoder(args.folder / "export", dtype=args.dtype)
    source = ImageFiles(str(args.folder / "photos"))
    pixels = np.random.default_rng(0).integers(0, 256, (args.images, args.image_size, args.image_size, 3), np.uint8)

    def from_files() -> np.ndarray:
        def picture(number: int) -> Any:
            record = source[number]
            return decode(record.image, record.key)

        return encoder.embed_images(picture, args.images)

    def towers() -> None:
        jax.block_until_ready(
            [encoder.embed_pixels(pixels[start : start + size]) for start in range(0, len(pixels), size)]
        )

    size = encoder.batch_size
    embedding = from_files()[0]
    towers()
    square = jnp.ones((PEAK_SIZE, PEAK_SIZE), jnp.float32 if args.dtype == "float32" else jnp.bfloat16)
    product = jax.jit(lambda a: a @ a)
    facts = {
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "flax")},
        "device": jax.default_backend(),
        "batch": size,
        "embedding": embedding.tolist(),
        "peak": measure_peak(lambda: product(square).block_until_ready(), PEAK_SIZE),
        "flops": count_image_flops(encoder.settings),
    }
    return {"from files": from_files, "towers": towers}, facts


def transformers(args: argparse.Namespace) -> tuple[dict[str, Callable[[], Any]], dict[str, Any]]:
    """Returns what the peer does for each part, and what it is."""
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, SiglipModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(os.cpu_count())
    dtype = getattr(torch, args.dtype)
    model = SiglipModel.from_pretrained(args.folder / "export", dtype=dtype).eval().to(device)
    processor = AutoImageProcessor.from_pretrained(args.folder / "export")
    paths = photos(args)
    pixels = torch.randn(args.images, 3, args.image_size, args.image_size).to(dtype)

    def embed(batch: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return model.get_image_features(pixel_values=batch.to(device, dtype)).pooler_output.float().cpu()

    size = fastest(lambda size: embed(pixels[:size]), BATCHES["cpu" if device == "cpu" else "gpu"])

    def from_files() -> torch.Tensor:
        rows = []
        for start in range(0, len(paths), size):
            images = [Image.open(io.BytesIO(path.read_bytes())).convert("RGB") for path in paths[start : start + size]]
            rows.append(embed(processor(images, return_tensors="pt")["pixel_values"]))
        return torch.cat(rows)

    def towers() -> None:
        for start in range(0, len(pixels), size):
            embed(pixels[start : start + size])

    facts = {
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        "batch": size,
        "embedding": from_files()[0].tolist(),
    }
    return {"from files": from_files, "towers": towers}, facts


if __name__ == "__main__":
    sys.exit(main())
