"""Peers of the data loader: the rate at which open_clip and tf.data turn photos into training batches.

python -m benchmarks.peers.data_loading_peers open_clip|tf_data --shards='/data/train-*.tar' [--image_size=224]
    [--batch_size=64] [--workers=0] [--seconds=10] [--scale=0.5,1]

Shards are as img2dataset writes them: pairs of KEY.jpg and KEY.json, whose first of `texts` is the caption. Both peers
read the encoded photos in shuffled order, decode, crop at random, resize with antialiased bicubic interpolation and
batch, down to NumPy arrays in this process. open_clip is its own training pipeline with float32 normalised pixels and
tokens. tf_data is TensorFlow Datasets with the crop fused into the decoder, uint8 pixels, and captions as bytes; it has
no tokenizer. Prints one line of JSON.

Needs requirements-bench.txt, tensorflow-datasets, importlib_resources, and the torchvision of the installed torch
(https://download.pytorch.org/whl/cpu has both for machines without CUDA).
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
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.machine import busy_seconds, describe_machine

WARM_UP = 2  # batches before timing starts
ENDLESS = 10**12  # samples
SHUFFLE = 5000  # encoded samples in the shuffle buffer, as in open_clip
ASPECT = (3 / 4, 4 / 3)  # width over height of a crop, as in torchvision
VERSION = "1.0.0"  # of the prepared dataset
PACKAGES = {
    "open_clip": ("open_clip_torch", "torch", "torchvision", "webdataset", "pillow", "numpy"),
    "tf_data": ("tensorflow_cpu", "tensorflow", "tensorflow-datasets", "numpy"),
}


class Rate(NamedTuple):
    """Rate and cost of the timed part; `others` is the number of cores that other processes kept busy."""

    images_per_second: float
    cpu_seconds_per_image: float
    images: int
    seconds: float
    others: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures of one peer and return 0, or name what is missing and return 1."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.data_loading_peers", description=__doc__.splitlines()[0]
    )
    parser.add_argument("peer", choices=tuple(PACKAGES))
    parser.add_argument("--shards", required=True, help="glob pattern of .tar files")
    parser.add_argument("--image_size", type=int, default=224, help="pixels (default: 224)")
    parser.add_argument("--batch_size", type=int, default=64, help="samples per batch (default: 64)")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes of open_clip, or threads of tf.data (0: all cores)"
    )
    parser.add_argument("--seconds", type=float, default=10, help="seconds that are timed (default: 10)")
    parser.add_argument("--warm_up", type=int, default=WARM_UP, help="batches before timing starts (default: 2)")
    parser.add_argument(
        "--scale", default="0.5,1", help="range of the fraction of the area that a crop keeps (default: 0.5,1)"
    )
    parser.add_argument(
        "--data_dir",
        default=os.path.join(tempfile.gettempdir(), "data_peers"),
        help="folder of tf_data's copy of the photos",
    )
    args = parser.parse_args(arguments)
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
            f"error: {error.name} is not installed; benchmarks/peers/data_loading_peers.py lists what to install",
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
    """Return the rate of draining batches for `seconds`, after `warm_up` batches."""
    for _ in range(warm_up):
        next(batches)
    busy, cpu, began, images = busy_seconds(), cpu_seconds(), time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < seconds or not images:
        images += len(next(batches)[0])
    busy, cpu = busy_seconds() - busy, cpu_seconds() - cpu
    return Rate(images / elapsed, cpu / images, images, elapsed, max(0.0, busy - cpu) / elapsed)


def cpu_seconds() -> float:
    """Return the user and system time of this process and its children so far, running ones included."""
    total = sum(os.times()[:4])
    for child in multiprocessing.active_children():
        fields = pathlib.Path(f"/proc/{child.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def open_clip_recipe(
    pattern: str, *, image_size: int, batch_size: int, workers: int, scale: tuple[float, float]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield images `[batch, 3, size, size]` float32, normalised, and tokens `[batch, 77]` int64, without end.

    The pipeline is `get_wds_dataset` of open_clip_train/data.py, with its transform and tokenizer. One stage is added
    after its shuffle: it moves the caption from the JSON to the `txt` that the pipeline expects. The shards are listed
    repeatedly, like those of a large dataset, so that ends of epochs and incomplete batches cost the peer nothing.
    """
    import open_clip
    import webdataset
    from open_clip_train import data as recipe

    shards = find_shards(pattern)
    if len(shards) < workers:
        raise ValueError(f"{workers} workers for {len(shards)} shards; open_clip needs at least one shard per worker")
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
    """Return the sample with its first text as `txt`, without the JSON, which would be parsed again."""
    fields = json.loads(sample.pop("json"))
    return sample | {"txt": fields["texts"][0].encode("utf-8")}


def tf_data(
    name: str, data_dir: str, *, image_size: int, batch_size: int, scale: tuple[float, float], threads: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield images `[batch, size, size, 3]` uint8 and captions `[batch]` as bytes objects, without end.

    `threads` bounds the pool that reads and decodes; with 0 TensorFlow uses all cores. Captions are not tokenized.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf
    import tensorflow_datasets as tfds

    tf.config.set_visible_devices([], "GPU")  # leave it to the caller

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
        read_config=tfds.ReadConfig(try_autocache=False),  # a large dataset would not fit
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
    """Write the shards as a TensorFlow dataset, unless it exists, and return its name.

    It has as many TFRecord files as there are shards; photos keep their bytes.
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
    """Yield key, `image` and `texts` of each sample; raise `ValueError` for members that only one peer reads."""
    for path in shards:
        waiting: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path, "r:") as shard:
            for member in filter(tarfile.TarInfo.isfile, shard):
                name, suffix = os.path.splitext(member.name)
                if suffix not in (".jpg", ".json"):
                    raise ValueError(
                        f"{path} holds {member.name}; the comparison needs shards of .jpg and .json files only"
                    )
                sample = waiting.setdefault(name, {})
                sample[suffix] = shard.extractfile(member).read()
                if len(sample) == 2:
                    texts = json.loads(sample[".json"])["texts"]
                    yield f"{path}/{name}", {"image": sample[".jpg"], "texts": texts}
                    del waiting[name]


def find_shards(pattern: str) -> list[str]:
    """Return the sorted paths that match a glob pattern; raise `FileNotFoundError` if there are none."""
    paths = sorted(glob.glob(os.path.expanduser(pattern)))
    if not paths:
        raise FileNotFoundError(f"no shard matches {pattern!r}")
    return paths


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of the installed ones among the packages."""
    found = {"python": sys.version.split()[0]}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


if __name__ == "__main__":
    sys.exit(main())
