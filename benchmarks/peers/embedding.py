"""Images per second of embedding, against transformers in PyTorch: the same SigLIP checkpoint, files and cores.

python -m benchmarks.peers.embedding [--variant=B/16] [--image_size=224] [--images=64] [--repeats=3] [--dtype=float32]
python -m benchmarks.peers.embedding --max_patches=256 [--image_size=256]

Both sides open one Hugging Face directory with random weights. "From files" is what `launch.py embed` does: read,
decode, resize and embed JPEG files of 500 × 375 pixels. The peer is the documented loop of Pillow, the image processor
and `get_image_features`, batch by batch. "Towers" starts from pixels in memory. Each side runs in a process of its own
at its fastest batch size of those tried, and the sides take turns. With an NVIDIA GPU both sides compute there; pass
`--dtype=bfloat16` then.

With `--max_patches` the checkpoint is a SigLIP 2 of variable resolution (NaFlex), opened by the peer as `Siglip2Model`,
and the files have several aspect ratios; `--image_size` is that of the position embeddings.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.machine import busy_seconds, describe_machine, measure_peak
from benchmarks.peers.installed import missing_peers
from benchmarks.side_process import serve, start_side

PHOTO = (500, 375)
ASPECTS = (PHOTO, (375, 500), (500, 333), (500, 281), (400, 400), (600, 200))  # with --max_patches
BATCHES = {"cpu": (4, 8, 16, 32), "gpu": (64, 256)}
PEAK_SIZE = 2048
PARTS = ("from files", "towers")


class EmbeddingSide(NamedTuple):
    """A side: the function of each part, and the facts that it reports."""

    parts: dict[str, Callable[[], Any]]
    facts: dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and return 0, or name what is missing and return 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.embedding", description=__doc__.splitlines()[0])
    parser.add_argument("--variant", default="B/16", help="size of the towers (default: B/16)")
    parser.add_argument("--image_size", type=int, default=224, help="image size in pixels (default: 224)")
    parser.add_argument("--max_patches", type=int, help="largest number of patches of a NaFlex (default: no NaFlex)")
    parser.add_argument("--images", type=int, default=64, help="images per round (default: 64)")
    parser.add_argument("--repeats", type=int, default=3, help="number of rounds (default: 3)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="type of weights and products"
    )
    parser.add_argument("--child", choices=("ours", "transformers"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if min(args.images, args.repeats, args.image_size, args.max_patches or 1) < 1:
        parser.error("--images, --repeats, --image_size and --max_patches must be at least 1")
    if args.child:
        side = {"ours": ours, "transformers": transformers}[args.child](args)
        serve(side.facts, side.parts)
        return 0
    if message := missing_peers("torch", requirements="requirements-parity.txt"):
        print(message, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        args.folder = pathlib.Path(folder)
        write_checkpoint(args)
        write_photos(args.folder / "photos", args.images, shapes=ASPECTS if args.max_patches else (PHOTO,))
        print(compare(args))
    return 0


def write_checkpoint(args: argparse.Namespace) -> None:
    """Write a SigLIP, or a SigLIP 2 NaFlex, with random weights."""
    import jax

    from models.checkpoints.io import Checkpoint, save_checkpoint
    from models.config import ModelSettings, TextSettings, VisionSettings
    from models.preprocessing import BICUBIC, BILINEAR, Preprocessing
    from models.text.tokenizer import train_tokenizer
    from models.towers import create_model
    from models.variants import tower_fields

    sizes = tower_fields("siglip", args.variant)
    tokenizer = train_tokenizer(["a photo of a thing"], vocab_size=60, length=64)
    settings = ModelSettings(
        vision=VisionSettings(image_size=args.image_size, max_patches=args.max_patches, **sizes.vision),
        text=TextSettings(vocab_size=tokenizer.vocab_size, length=64, **sizes.text),
    )
    parameters = jax.device_get(create_model(settings).init(0))
    filters = BILINEAR if args.max_patches else BICUBIC
    preprocessing = Preprocessing(size=(args.image_size,) * 2, resample=filters)
    scalars = {"logit_scale": 2.3, "logit_bias": -10.0}
    save_checkpoint(args.folder / "export", Checkpoint(settings, parameters, scalars, preprocessing, tokenizer))


def write_photos(folder: pathlib.Path, count: int, *, shapes: Sequence[tuple[int, int]] = (PHOTO,)) -> None:
    """Write images that take as long to decode as photos, of each (width, height): smooth shapes with some noise."""
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        shape = shapes[number % len(shapes)]
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(shape, Image.Resampling.BICUBIC)
        noisy = np.asarray(coarse).astype(np.int16) + rng.normal(0, 6, (shape[1], shape[0], 3)).astype(np.int16)
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / f"{number:05d}.jpg", quality=85)


def compare(args: argparse.Namespace) -> str:
    """Return the table of both sides, which take `args.repeats` turns."""
    began, busy_before = time.monotonic(), busy_seconds()
    options = [f"--{name}={getattr(args, name)}" for name in ("variant", "image_size", "images", "dtype", "folder")]
    options += [f"--max_patches={args.max_patches}"] if args.max_patches else []
    kind = (
        f"SigLIP {args.variant} at {args.image_size} px, {args.dtype}, {args.images} JPEGs of {PHOTO[0]} × {PHOTO[1]}"
    )
    if args.max_patches:
        kind = (
            f"SigLIP 2 NaFlex {args.variant}, up to {args.max_patches} patches, {args.dtype}, {args.images} JPEGs of "
        )
        kind += ", ".join(f"{width} × {height}" for width, height in ASPECTS)
    sides = {}
    for name in ("ours", "transformers"):  # one after the other: a start would slow the other side's warm-up
        given = [*options, f"--child={name}"]
        sides[name] = start_side("benchmarks.peers.embedding", given, huge_pages=name == "ours")
    facts = {name: side.facts for name, side in sides.items()}
    rates: dict[tuple[str, str], list[float]] = {}
    for round in range(args.repeats):
        print(f"round {round + 1} of {args.repeats}", file=sys.stderr, flush=True)
        for part in PARTS:
            for name, side in sides.items():
                rates.setdefault((name, part), []).append(args.images / side.measure(part))
    for side in sides.values():
        side.close()
    difference = np.abs(np.subtract(*(np.array(fact["embedding"]) for fact in facts.values()))).max()
    elapsed, ours_busy = time.monotonic() - began, sum(os.times()[:4])
    others = max(0.0, busy_seconds() - busy_before - ours_busy) / (elapsed * os.cpu_count())
    lines = [
        f"{describe_machine(facts['ours']['device'])}; "
        + ", ".join(f"{n} {v}" for f in facts.values() for n, v in f["versions"].items()),
        f"{kind}, {args.repeats} rounds; other processes used {others:.0%} of the cores",
        f"largest absolute difference of an embedding between the sides: {difference:.1e}, of values up to "
        f"{np.abs(facts['ours']['embedding']).max():.2g}",
        "",
        "| | images/s, median (min–max) | batch | ours/peer |",
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
        f"| limit: the image tower's matrix products at {facts['ours']['peak'] / 1e9:,.0f} GFLOP/s, the peak of "
        f"a product of {PEAK_SIZE} × {PEAK_SIZE} | {limit:.2f} | | |"
    )
    return "\n".join(lines)


def photos(args: argparse.Namespace) -> list[pathlib.Path]:
    """Return the image files."""
    return sorted((args.folder / "photos").iterdir())


def fastest(run: Callable[[int], Any], sizes: tuple[int, ...]) -> int:
    """Return the batch size with the most rows per second."""
    rates = {}
    for size in sizes:
        run(size)
        began = time.perf_counter()
        run(size)
        rates[size] = size / (time.perf_counter() - began)
    return max(rates, key=rates.__getitem__)


def ours(args: argparse.Namespace) -> EmbeddingSide:
    """Return this project's side."""
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
        jax.block_until_ready([embed(batch) for batch in batches])

    size = encoder.batch_size
    if args.max_patches:
        embed, batches = encoder.embed_patches, patched_batches(args, size)
    else:
        embed, batches = encoder.embed_pixels, [pixels[start : start + size] for start in range(0, len(pixels), size)]
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
    return EmbeddingSide({"from files": from_files, "towers": towers}, facts)


def patched_batches(args: argparse.Namespace, rows: int) -> list[Any]:
    """Return the batches of all files as patches, grouped as `Encoder` does."""
    from PIL import Image

    from adapt.embedding.patch_batches import cut_patches, plan_batches, stack_images
    from models.checkpoints.describe import describe_checkpoint

    checkpoint = describe_checkpoint(args.folder / "export")
    size = {"patch_size": checkpoint.settings.vision.patch_size, "max_patches": args.max_patches}
    images = [cut_patches(Image.open(path), **size, preprocessing=checkpoint.preprocessing) for path in photos(args)]
    plans = plan_batches([len(image.patches) for image in images], rows=rows, max_patches=args.max_patches)
    return [stack_images([images[n] for n in plan.places], rows=plan.rows, slots=plan.slots) for plan in plans]


def transformers(args: argparse.Namespace) -> EmbeddingSide:
    """Return the peer's side."""
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(os.cpu_count())
    dtype = getattr(torch, args.dtype)
    model = AutoModel.from_pretrained(args.folder / "export", dtype=dtype).eval().to(device)
    processor = AutoImageProcessor.from_pretrained(args.folder / "export")
    paths = photos(args)
    if args.max_patches:
        prepared = dict(processor([Image.open(path) for path in paths], return_tensors="pt"))
    else:
        prepared = {"pixel_values": torch.randn(args.images, 3, args.image_size, args.image_size).to(dtype)}

    def embed(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        batch = {name: each.to(device, dtype if each.is_floating_point() else None) for name, each in batch.items()}
        with torch.inference_mode():
            return model.get_image_features(**batch).pooler_output.float().cpu()

    def rows(start: int, size: int) -> dict[str, torch.Tensor]:
        return {name: each[start : start + size] for name, each in prepared.items()}

    size = fastest(lambda size: embed(rows(0, size)), BATCHES["cpu" if device == "cpu" else "gpu"])

    def from_files() -> torch.Tensor:
        found = []
        for start in range(0, len(paths), size):
            images = [Image.open(io.BytesIO(path.read_bytes())).convert("RGB") for path in paths[start : start + size]]
            found.append(embed(processor(images, return_tensors="pt")))
        return torch.cat(found)

    def towers() -> None:
        for start in range(0, len(paths), size):
            embed(rows(start, size))

    facts = {
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        "batch": size,
        "embedding": from_files()[0].tolist(),
    }
    return EmbeddingSide({"from files": from_files, "towers": towers}, facts)


if __name__ == "__main__":
    sys.exit(main())
