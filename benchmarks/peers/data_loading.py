"""The data loader, against open_clip's pipeline and tf.data: the same photos, transforms and machine.

python -m benchmarks.peers.data_loading --shards='/data/train-*.tar' [--rounds=3] [--seconds=6] [--workers=2]

The photos come from .tar shards with pairs of KEY.jpg and KEY.json, which holds `texts`. They become batches of 96 px,
and batches of 224 px after they are enlarged to 500 × 375, the size of web photos. All contestants crop at random,
resize with antialiased bicubic interpolation and batch; ours also tokenizes captions and places batches on the device.
data_loading_peers.py holds the peers and lists their packages; peers that are not installed are reported and left out.
Contestants take turns, each in a process of its own. The limit is decoding alone. Two more figures are the rate of
indexing shards and the cost of opening a large dataset.
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
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.machine import describe_machine, seconds_of
from benchmarks.peers.data_loading_peers import find_shards, measure, versions

BATCH = 64
SCALE = (0.5, 1.0)  # fraction of the photo's area that a crop keeps
ENLARGED, QUALITY = (500, 375), 90  # pixels, JPEG quality
LARGE_SAMPLES = 2000
VOCABULARY, LENGTH = 8000, 64  # of our tokenizer
MANY_SHARDS, MANY_SAMPLES = 10_000, 10_000  # of the simulated dataset, samples per shard
INDEXED_SAMPLES = 60_000, 8000  # in the indexed shards with photos of this set, and of 100 kB
PACKAGES = ("jax", "grain", "pillow", "cykooz-resizer", "tokenizers", "numpy")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.data_loading", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--shards", required=True, help="glob pattern of .tar files with photos")
    parser.add_argument("--rounds", type=int, default=3, help="turns per contestant (default: 3)")
    parser.add_argument("--seconds", type=float, default=6, help="seconds that are timed per turn (default: 6)")
    parser.add_argument("--workers", type=int, default=2, help="processes of open_clip and of our loader (default: 2)")
    parser.add_argument("--sizes", default="96,224", help="image sizes in pixels, of 96 and 224 (default: both)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--image_size", type=int, default=96, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
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
        for size in map(int, args.sizes.split(",")):
            pattern = args.shards if size == 96 else enlarge(args.shards, pathlib.Path(folder) / "large")
            compare(pattern, args, size=size, folder=folder)
        measure_opening(args.shards, pathlib.Path(folder))
    return 0


def compare(pattern: str, args: argparse.Namespace, *, size: int, folder: str) -> None:
    """Print the rates of all contestants at one size, medians over turns."""
    here = [sys.executable, "-m", "benchmarks.peers.data_loading", "--child=load"]
    peer = [sys.executable, "-m", "benchmarks.peers.data_loading_peers"]
    common = [f"--shards={pattern}", f"--image_size={size}", f"--seconds={args.seconds}"]
    contestants = {
        f"ours, {args.workers} processes": [*here, *common, f"--workers={args.workers}"],
        f"ours, {args.workers} threads": [*here, *common, "--workers=0", f"--threads={args.workers}"],
        f"open_clip, {args.workers} processes": [*peer, "open_clip", *common, f"--workers={args.workers}"],
        "tf.data with TFDS": [*peer, "tf_data", *common, f"--data_dir={folder}/tfds"],
    }
    contestants[f"open_clip, {args.workers} processes"].append("--warm_up=140")  # until its shuffle is full
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    for _ in range(args.rounds):
        for name, command in contestants.items():
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"{name}: left out ({done.stderr.strip().splitlines()[-1]})", flush=True)
            else:
                turns[name].append(json.loads(done.stdout.splitlines()[-1]))
    width, height, weight = describe_photos(pattern)
    decode = decode_seconds(pattern)
    print(f"\n{size} px from photos of {width} × {height} px, {weight / 1e3:.0f} kB; batches of {BATCH}")
    print(f"{'':36}{'images/s':>10}{'CPU ms/image':>14}{'images/s per core':>19}{'other cores':>13}")
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
    """Measure our loader and print its rate, in a process of its own."""
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
    """Write the first photos, enlarged, to shards in `folder`; return their pattern."""
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
    """Yield name and content of the members of all shards."""
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
    """Yield the first photos of the shards."""
    photos = (content for name, content in read_members(pattern) if name.endswith(".jpg"))
    yield from itertools.islice(photos, count)


def describe_photos(pattern: str) -> tuple[int, int, float]:
    """Return width and height of the first photo, and the mean size in bytes of some."""
    photos = list(read_photos(pattern, 300))
    return *Image.open(io.BytesIO(photos[0])).size, statistics.mean(map(len, photos))


def decode_seconds(pattern: str) -> float:
    """Return the seconds per photo of decoding with Pillow's libjpeg-turbo on one core."""
    photos = list(read_photos(pattern, 300))
    return min(seconds_of(lambda: [Image.open(io.BytesIO(photo)).load() for photo in photos], 5)) / len(photos)


def measure_opening(pattern: str, folder: pathlib.Path) -> None:
    """Print the rate of indexing shards, and time and memory of opening a large indexed dataset."""
    from data.io.storage import find_files
    from data.sources.tar_index import build_index, ensure_indexes, index_path, write_index

    photos = list(read_photos(pattern, 2000))
    for name, samples, content in (
        ("photos of this set", INDEXED_SAMPLES[0], photos),
        ("photos of 100 kB", INDEXED_SAMPLES[1], [b"\0" * 100_000]),
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
    (many / ".tar-index").mkdir(parents=True)  # keeps the indexes where the child process finds them
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
            f"memory in addition to an empty process, after looking up 20,000 samples: {line['megabytes']:.0f} MB"
        )


def resident_megabytes() -> float:
    """Return the memory of this process now, without shared pages."""
    resident, shared = map(int, pathlib.Path("/proc/self/statm").read_text(encoding="utf-8").split()[1:3])
    return (resident - shared) * resource.getpagesize() / 1e6


def print_memory(pattern: str) -> int:
    """Open the simulated dataset, look up samples everywhere in it, and print the cost, in a process of its own."""
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
