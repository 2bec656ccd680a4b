"""The loader here against open_clip's recipe and tf.data: the same photos, the same transforms, one machine.

python -m benchmarks.peers.data_loading --shards='/data/train-*.tar' [--rounds=3] [--seconds=6] [--workers=2]

Photos in .tar shards, KEY.jpg beside KEY.json with `texts`, become batches of 96 px as they are, and of 224 px after
they have been enlarged to 500 × 375 as web photos are. All crop at random, resize with antialiased bicubic
interpolation and batch; here captions are tokenized too and the batches end on the device. data_loading_peers.py has
the peers and says what else they need; those that are not installed are left out and said so. Each contestant runs in a
process of its own, in turns. Beside them stand the limit, decoding alone, and what opening a data set costs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.machine import describe_machine, seconds_of
from benchmarks.peers.data_loading_peers import find_shards, measure, versions

BATCH = 64
SCALE = (0.5, 1.0)  # share of a photo's area that a crop keeps
ENLARGED, QUALITY = (500, 375), 90  # pixels, JPEG quality
LARGE_SAMPLES = 2000
VOCABULARY, LENGTH = 8000, 64  # of the tokenizer here
MANY_SHARDS, MANY_SAMPLES = 10_000, 10_000  # of the simulated data set, samples in each shard
PACKAGES = ("jax", "grain", "pillow", "cykooz-resizer", "tokenizers", "numpy")


def main() -> int:
    """Prints the tables; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.data_loading", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--shards", required=True, help="glob pattern of .tar files with photos")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every contestant")
    parser.add_argument("--seconds", type=float, default=6, help="length of the timed part of a turn")
    parser.add_argument("--workers", type=int, default=2, help="processes of open_clip and of the loader here")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--image_size", type=int, default=96, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child == "load":
        return print_rate(args)
    if args.child == "memory":
        return print_memory(args.shards)
    try:
        find_shards(args.shards)
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{describe_machine()}; {', '.join(f'{name} {version}' for name, version in versions(PACKAGES).items())}")
    with tempfile.TemporaryDirectory() as folder:
        large = enlarge(args.shards, pathlib.Path(folder) / "large")
        for size, pattern in ((96, args.shards), (224, large)):
            compare(pattern, size, args, folder)
        measure_opening(args.shards, pathlib.Path(folder))
    return 0


def compare(pattern: str, size: int, args: argparse.Namespace, folder: str) -> None:
    """Prints the rates of all contestants at one size, the median of their turns."""
    here = [sys.executable, "-m", "benchmarks.peers.data_loading", "--child=load"]
    peer = [sys.executable, "-m", "benchmarks.peers.data_loading_peers"]
    common = [f"--shards={pattern}", f"--image_size={size}", f"--seconds={args.seconds}"]
    contestants = {
        f"here, {args.workers} processes": [*here, *common, f"--workers={args.workers}"],
        f"here, {args.workers} threads": [*here, *common, "--workers=0", f"--threads={args.workers}"],
        f"open_clip's recipe, {args.workers} processes": [*peer, "open_clip", *common, f"--workers={args.workers}"],
        "tf.data by TFDS": [*peer, "tf_data", *common, f"--data_dir={folder}/tfds"],
    }
    contestants[f"open_clip's recipe, {args.workers} processes"].append("--warm_up=140")  # until its shuffle is full
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    for _ in range(args.rounds):
        for name, command in contestants.items():
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"{name}: left out, {done.stderr.strip().splitlines()[-1]}", flush=True)
            else:
                turns[name].append(json.loads(done.stdout.splitlines()[-1]))
    width, height, weight = describe_photos(pattern)
    decode = decode_seconds(pattern)
    print(f"\n{size} px from photos of {width} × {height} px, {weight / 1e3:.0f} kB; batches of {BATCH}")
    print(f"{'':36}{'images/s':>10}{'CPU ms/image':>14}{'images/s per core':>19}{'others busy':>13}")
    for name, lines in turns.items():
        if lines:
            rate, cost, busy = (
                statistics.median(line[key] for line in lines)
                for key in ("images_per_second", "cpu_seconds_per_image", "others")
            )
            print(f"{name:36}{rate:10,.0f}{1e3 * cost:14.3f}{1 / cost:19,.0f}{busy:13.2f}")
    print(
        f"{'limit: decoding alone, one core':36}{1 / decode:10,.0f}{1e3 * decode:14.3f}{1 / decode:19,.0f}", flush=True
    )


def print_rate(args: argparse.Namespace) -> int:
    """The child that measures the loader here."""
    import jax

    from data.pipeline.augmentation import Augmentation
    from data.pipeline.loader import BatchLoader
    from data.pipeline.sampler import BatchSampler
    from data.sources.open import open_source
    from models.text.tokenizer import train_tokenizer
    from pretrain.input_pipeline import read_captions

    with tempfile.TemporaryDirectory() as cache:
        source = open_source(args.shards, cache)
        tokenizer = train_tokenizer(read_captions(source), vocab_size=VOCABULARY, length=LENGTH)
        examples = BatchLoader(
            source=source,
            sampler=BatchSampler(lengths=(len(source),), batch_size=BATCH, seed=0),
            image_shape=(args.image_size,) * 2,
            num_patches=1,
            augmentation=Augmentation(crop_area=SCALE),
            tokenize=tokenizer,
            caption="first",
        )
        batches = examples.batches(
            0, rows=slice(0, BATCH), threads=args.threads, workers=args.workers, place=jax.device_put
        )
        try:
            rate = measure(((batch["images"], batch["tokens"]) for batch in batches), seconds=args.seconds, warm_up=10)
        finally:
            batches.close()
    print(json.dumps(rate._asdict()))
    return 0


def enlarge(pattern: str, folder: pathlib.Path) -> str:
    """Writes the first photos, enlarged, to shards in `folder`; returns their pattern."""
    folder.mkdir()
    members = itertools.islice(read_members(pattern), 2 * LARGE_SAMPLES)
    for number in range(4):
        with tarfile.open(folder / f"train-{number:05d}.tar", "w") as shard:
            for name, content in itertools.islice(members, 2 * LARGE_SAMPLES // 4):
                content = _enlarged(content) if name.endswith(".jpg") else content
                info = tarfile.TarInfo(name)
                info.size = len(content)
                shard.addfile(info, io.BytesIO(content))
    return str(folder / "train-*.tar")


def read_members(pattern: str) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of the members of all shards."""
    for path in find_shards(pattern):
        with tarfile.open(path) as shard:
            for member in shard:
                yield member.name, shard.extractfile(member).read()


def _enlarged(encoded: bytes) -> bytes:
    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(encoded)).convert("RGB").resize(ENLARGED, Image.Resampling.BICUBIC)
    image.save(buffer, "jpeg", quality=QUALITY)
    return buffer.getvalue()


def read_photos(pattern: str, count: int) -> Iterator[bytes]:
    """Yields the first photos of the shards."""
    photos = (content for name, content in read_members(pattern) if name.endswith(".jpg"))
    yield from itertools.islice(photos, count)


def describe_photos(pattern: str) -> tuple[int, int, float]:
    """Returns width and height of the first photo, and the mean weight in bytes of some."""
    photos = list(read_photos(pattern, 300))
    return *Image.open(io.BytesIO(photos[0])).size, statistics.mean(map(len, photos))


def decode_seconds(pattern: str) -> float:
    """Returns the seconds that libjpeg-turbo, in Pillow, takes to decode one photo, on one core."""
    photos = list(read_photos(pattern, 300))
    return min(seconds_of(lambda: [Image.open(io.BytesIO(photo)).load() for photo in photos], 5)) / len(photos)


def measure_opening(pattern: str, folder: pathlib.Path) -> None:
    """Prints how fast shards are indexed, and what it takes to open a large data set that is."""
    from data.io.storage import find_files
    from data.sources.tar_index import build_index, ensure_indexes, index_path, write_index

    photos = list(read_photos(pattern, 2000))
    for name, samples, content in (
        ("photos of this set", 60_000, photos),
        ("photos of 100 kB", 8000, [b"\0" * 100_000]),
    ):
        path = folder / "indexed.tar"
        with tarfile.open(path, "w") as shard:
            for number in range(samples):
                for suffix, part in (("jpg", content[number % len(content)]), ("json", b'{"texts": ["a caption"]}')):
                    member = tarfile.TarInfo(f"{number:07d}.{suffix}")
                    member.size = len(part)
                    shard.addfile(member, io.BytesIO(part))
        path.read_bytes()
        file = find_files(str(path))[0]
        rate = file.size / min(seconds_of(lambda file=file: build_index(file), 3))
        print(
            f"\nindexing {file.size / 1e6:,.0f} MB of {name}, warm cache, one process: {rate / 1e6:,.0f} MB/s", end=""
        )
    print()
    path.unlink()

    many = folder / "many"
    many.mkdir()
    first = many / "00000.tar"
    with tarfile.open(first, "w") as shard:
        for number in range(MANY_SAMPLES):
            for suffix in ("jpg", "json"):
                shard.addfile(tarfile.TarInfo(f"{number:07d}.{suffix}"))
    file = find_files(str(first))[0]
    write_index(index_path(file, folder), build_index(file), file=file)
    for number in range(1, MANY_SHARDS):
        os.link(first, many / f"{number:05d}.tar")
        os.link(index_path(file, folder), index_path(find_files(str(many / f"{number:05d}.tar"))[0], folder))
    assert len(ensure_indexes(find_files(str(many / "*.tar")), folder)) == MANY_SHARDS
    for pattern in ("0000*.tar", "*.tar"):
        command = [
            sys.executable,
            "-m",
            "benchmarks.peers.data_loading",
            "--child=memory",
            f"--shards={many}/{pattern}",
        ]
        line = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(
            f"opening {line['samples']:,} samples in {line['shards']:,} shards: {line['seconds']:.2f} s; "
            f"memory above an empty process, after 20,000 samples have been looked up: {line['megabytes']:.0f} MB"
        )


def resident_megabytes() -> float:
    """Returns the memory that this process has to itself now, without what the page cache lends it."""
    resident, shared = map(int, pathlib.Path("/proc/self/statm").read_text(encoding="utf-8").split()[1:3])
    return (resident - shared) * resource.getpagesize() / 1e6


def print_memory(pattern: str) -> int:
    """The child that opens the simulated data set and looks samples up all over it."""
    from data.sources.open import open_source

    before = resident_megabytes()
    began = time.perf_counter()
    source = open_source(pattern, "unused")
    seconds = time.perf_counter() - began
    for index in np.random.default_rng(0).integers(len(source), size=20_000):
        source.key(int(index))
    megabytes = resident_megabytes() - before
    found = {"samples": len(source), "shards": len(find_shards(pattern)), "seconds": seconds, "megabytes": megabytes}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
