"""Peers of the loader: how fast open_clip and tf.data turn the same photos into training batches.

python -m benchmarks.peers.data_loading_peers open_clip|tf_data --shards='/data/train-*.tar' [--image_size=224]
    [--batch_size=64] [--workers=0] [--seconds=10] [--scale=0.5,1]

Shards are as img2dataset writes them: KEY.jpg beside KEY.json with `texts`, of which the first is the caption. Both
peers read the encoded photos in shuffled order, decode, crop at random, resize with antialiased bicubic interpolation
and batch; the last step is NumPy arrays in this process. open_clip is its own training pipeline, with float32
normalised pixels and tokens, as it has them. tf_data is TensorFlow Datasets with the crop fused into the decoder,
bytes for pixels, and captions left as bytes: no tokenizer. Prints one line of JSON.

Needs: pip install open_clip_torch[training]==3.3.0 tensorflow-cpu tensorflow-datasets importlib_resources, and the
torchvision that goes with the torch installed (https://download.pytorch.org/whl/cpu has both for machines without
CUDA).
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import hashlib
import importlib.metadata
import itertools
import json
import multiprocessing
import os
import pathlib
import sys
import tarfile
import tempfile
import time
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks.machine import busy_seconds, describe_machine

WARM_UP = 2  # batches before the timed ones
ENDLESS = 10**12  # samples
SHUFFLE = 5000  # encoded samples that wait to be drawn, as in open_clip
ASPECT = (3 / 4, 4 / 3)  # width over height of a crop, as in torchvision
VERSION = "1.0.0"  # of the prepared data set
PACKAGES = {
    "open_clip": ("open_clip_torch", "torch", "torchvision", "webdataset", "pillow", "numpy"),
    "tf_data": ("tensorflow_cpu", "tensorflow", "tensorflow-datasets", "numpy"),
}


class Rate(NamedTuple):
    """What the timed part took; `others` is how many cores other processes kept busy meanwhile."""

    images_per_second: float
    cpu_seconds_per_image: float
    images: int
    seconds: float
    others: float


def main() -> int:
    """Prints the figures of one peer, or a sentence about what is missing; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.data_loading_peers", description=__doc__.splitlines()[0]
    )
    parser.add_argument("peer", choices=tuple(PACKAGES))
    parser.add_argument("--shards", required=True, help="glob pattern of .tar files")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0, help="processes of open_clip; threads of tf.data, 0: its own")
    parser.add_argument("--seconds", type=float, default=10, help="length of the timed part")
    parser.add_argument("--warm_up", type=int, default=WARM_UP, help="batches before the timed part")
    parser.add_argument("--scale", default="0.5,1", help="range of the share of a photo's area that a crop keeps")
    parser.add_argument(
        "--data_dir", default=os.path.join(tempfile.gettempdir(), "data_peers"), help="where tf_data keeps its copy"
    )
    args = parser.parse_args()
    low, _, high = args.scale.partition(",")
    options = dict(image_size=args.image_size, batch_size=args.batch_size, scale=(float(low), float(high)))
    try:
        if args.peer == "open_clip":
            batches = open_clip_recipe(args.shards, workers=args.workers, **options)
        else:
            name = prepare_tfds(args.shards, args.data_dir)
            batches = tf_data(name, args.data_dir, threads=args.workers, **options)
        with contextlib.closing(batches):
            rate = measure(batches, seconds=args.seconds, warm_up=args.warm_up)
    except ModuleNotFoundError as error:
        print(
            f"error: {error.name} is not installed; benchmarks/peers/data_loading_peers.py says what to install",
            file=sys.stderr,
        )
        return 1
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    line = {"peer": args.peer, "versions": versions(PACKAGES[args.peer]), "machine": describe_machine()}
    line |= {key: round(value, 6) for key, value in rate._asdict().items()}
    line |= {"workers": args.workers, "image_size": args.image_size, "batch_size": args.batch_size}
    print(json.dumps(line | {"scale": options["scale"], "shards": args.shards}))
    return 0


def measure(batches: Iterator[tuple[np.ndarray, np.ndarray]], *, seconds: float, warm_up: int = WARM_UP) -> Rate:
    """Returns the rate at which batches come, drained one after another for so many seconds after the first ones."""
    for _ in range(warm_up):
        next(batches)
    busy, cpu, began, images = busy_seconds(), cpu_seconds(), time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < seconds or not images:
        images += len(next(batches)[0])
    busy, cpu = busy_seconds() - busy, cpu_seconds() - cpu
    return Rate(images / elapsed, cpu / images, images, elapsed, max(0.0, busy - cpu) / elapsed)


def cpu_seconds() -> float:
    """Returns user and system time of this process and its children so far, those that still work included."""
    total = sum(os.times()[:4])
    for child in multiprocessing.active_children():
        fields = pathlib.Path(f"/proc/{child.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def open_clip_recipe(
    pattern: str, *, image_size: int, batch_size: int, workers: int, scale: tuple[float, float]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields images `[batch, 3, size, size]` float32, normalised, and tokens `[batch, 77]` int64, without end.

    The pipeline is `get_wds_dataset` of open_clip_train/data.py itself, with its transform and tokenizer. One stage is
    added behind its shuffle: the caption moves from the JSON to the `txt` that the recipe expects. The shards are
    listed over and over, as a large data set lists others, so that neither ends of epochs nor batches left
    incomplete at one cost the peer anything.
    """
    import open_clip
    import webdataset
    from open_clip_train import data as recipe

    shards = find_shards(pattern)
    if len(shards) < workers:
        raise ValueError(f"{workers} workers for {len(shards)} shards: open_clip gives each worker shards of its own")
    settings = types.SimpleNamespace(
        train_data=shards * 1000,
        train_num_samples=ENDLESS,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        batch_size=batch_size,
        workers=workers,
        world_size=1,
        seed=0,
    )
    transform = open_clip.image_transform(image_size, is_train=True, aug_cfg={"scale": scale})
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=77)
    found = recipe.get_wds_dataset(settings, transform, is_train=True, tokenizer=tokenizer)
    stages = found.dataloader.pipeline[0].dataset.pipeline
    shuffle = stages.index(recipe.tarfile_to_samples_nothrow) + 1
    stages.insert(shuffle + 1, webdataset.map(caption_to_txt, handler=recipe.log_and_continue))
    for epoch in itertools.count():
        found.set_epoch(epoch)
        for images, tokens in found.dataloader:
            yield images.numpy(), tokens.numpy()


def caption_to_txt(sample: dict[str, Any]) -> dict[str, Any]:
    """Returns the sample with its first text as `txt` and without the JSON, which would be parsed again."""
    fields = json.loads(sample.pop("json"))
    return sample | {"txt": fields["texts"][0].encode("utf-8")}


def tf_data(
    name: str, data_dir: str, *, image_size: int, batch_size: int, scale: tuple[float, float], threads: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields images `[batch, size, size, 3]` uint8 and captions `[batch]` as bytes objects, without end.

    `threads` bounds the pool that reads and decodes; 0 leaves it to TensorFlow, which takes every core. Captions are
    not tokenized.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf
    import tensorflow_datasets as tfds

    tf.config.set_visible_devices([], "GPU")  # the caller's

    def example(sample: dict[str, Any]) -> tuple[Any, Any]:
        encoded = sample["image"]
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(encoded),
            tf.zeros([0, 0, 4], tf.float32),
            area_range=scale,
            aspect_ratio_range=ASPECT,
            min_object_covered=0,
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        crop = tf.io.decode_and_crop_jpeg(encoded, tf.concat([begin[:2], extent[:2]], 0), channels=3)
        image = tf.image.resize(crop, (image_size, image_size), method="bicubic", antialias=True)
        return tf.cast(tf.clip_by_value(image, 0, 255), tf.uint8), sample["texts"][0]

    samples = tfds.load(
        name,
        data_dir=data_dir,
        split="train",
        shuffle_files=True,
        decoders={"image": tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(try_autocache=False),  # a large data set would not fit
    )
    batches = (
        samples.repeat()
        .shuffle(SHUFFLE)
        .map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
        .batch(batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )
    if threads:
        options = tf.data.Options()
        options.threading.private_threadpool_size = threads
        options.threading.max_intra_op_parallelism = 1
        batches = batches.with_options(options)
    yield from batches.as_numpy_iterator()


def prepare_tfds(pattern: str, data_dir: str) -> str:
    """Writes shards into a folder as a data set of TensorFlow Datasets, once, and returns the name to load it by.

    The files are TFRecord, as many as there are shards; photos keep their bytes.
    """
    shards = find_shards(pattern)
    content = [(path, os.path.getsize(path), os.path.getmtime(path)) for path in shards]
    name = f"shards_{hashlib.sha256(repr(content).encode()).hexdigest()[:12]}"
    if os.path.exists(os.path.join(data_dir, name, VERSION)):  # moved there when it is complete
        return name
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "texts": tfds.features.Sequence(tfds.features.Text()),
    }
    with contextlib.redirect_stdout(sys.stderr):
        tfds.dataset_builders.store_as_tfds_dataset(  # a GeneratorBasedBuilder without a class
            name,
            VERSION,
            tfds.features.FeaturesDict(features),
            {"train": read_samples(shards)},
            data_dir=data_dir,
            file_format="tfrecord",
            download_config=tfds.download.DownloadConfig(num_shards=len(shards)),
        )
    return name


def read_samples(shards: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields a key and `image`, `texts` for each sample; raises `ValueError` for what only one peer reads."""
    for path in shards:
        waiting: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path, "r:") as shard:
            for member in filter(tarfile.TarInfo.isfile, shard):
                name, suffix = os.path.splitext(member.name)
                if suffix not in (".jpg", ".json"):
                    raise ValueError(f"{path} holds {member.name}; the peers are compared on .jpg with .json alone")
                sample = waiting.setdefault(name, {})
                sample[suffix] = shard.extractfile(member).read()
                if len(sample) == 2:
                    texts = json.loads(sample[".json"])["texts"]
                    yield f"{path}/{name}", {"image": sample[".jpg"], "texts": texts}
                    del waiting[name]


def find_shards(pattern: str) -> list[str]:
    """Returns the sorted paths that a glob pattern matches; raises `FileNotFoundError` where there is none."""
    paths = sorted(glob.glob(os.path.expanduser(pattern)))
    if not paths:
        raise FileNotFoundError(f"no shard matches {pattern!r}")
    return paths


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Returns the versions of those packages that are installed."""
    found = {"python": sys.version.split()[0]}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


if __name__ == "__main__":
    sys.exit(main())
