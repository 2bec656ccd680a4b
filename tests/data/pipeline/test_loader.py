"""Batches are the same on any number of hosts, processes and threads, including when records are unusable."""

import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import time
import zlib

import numpy as np
import pytest

from data.pipeline.augmentation import Augmentation
from data.pipeline.bad_records import BadRecordTracker
from data.pipeline.loader import BatchLoader, choose_caption
from data.pipeline.sampler import BatchSampler
from data.sources.base import BadRecord, Record
from data.sources.open import open_source, open_sources
from tests.data.pipeline.test_image_ops import bomb, encoded, photo
from tests.data.shard_files import labelled, write_shard, write_tar

ROOT = pathlib.Path(__file__).parents[3]


def tokenize(texts: list[str]) -> np.ndarray:
    """Stand in for a tokenizer: return the length of each text and the number at its end."""
    return np.array([(len(text), int(text.split()[-1])) for text in texts], np.int32)


def make_loader(source, *, batch_size=4, seed=3, weights=(), lengths=None):
    return BatchLoader(
        source=source,
        sampler=BatchSampler(lengths=lengths or (len(source),), batch_size=batch_size, seed=seed, weights=weights),
        image_shape=(8, 8),
        num_patches=16,
        augmentation=Augmentation(flip=0.5, color_jitter=0.2, keep_patches=0.5),
        tokenize=tokenize,
    )


@pytest.fixture
def loader(tmp_path):
    return make_loader(open_source(str(write_shard(tmp_path / "s.tar", labelled(11))), tmp_path))


def take(batches, count):
    try:
        return [{name: array.copy() for name, array in batch.items()} for batch in itertools.islice(batches, count)]
    finally:
        batches.close()


def digest(batch):
    content = b"".join(name.encode() + np.ascontiguousarray(batch[name]).tobytes() for name in sorted(batch))
    return hashlib.sha256(content).hexdigest()


def test_batches_from_a_later_start_equal_those_of_the_whole_run(loader):
    whole = take(loader.batches(0, rows=slice(0, 4)), 6)
    late = take(loader.batches(4, rows=slice(0, 4), threads=1), 2)
    assert [digest(batch) for batch in whole[4:]] == [digest(batch) for batch in late]
    assert whole[0]["images"].shape == (4, 8, 8, 3) and whole[0]["tokens"].shape == (4, 2)
    assert set(whole[0]) == {"images", "tokens", "kept_patches"}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """A mixture of three sources of different lengths that includes bad records."""
    folder = tmp_path_factory.mktemp("mixture")
    samples = labelled(17, size=(24, 18))
    samples[3] = ("0003", b"no picture", samples[3][2])
    samples[9] = ("0009", samples[9][1], {"texts": []})
    paths = [write_shard(folder / "a.tar", samples), write_shard(folder / "b.tar", labelled(3))]
    write_shard(folder / "c-0.tar", labelled(40))
    write_shard(folder / "c-1.tar", labelled(5))
    source = open_sources([*map(str, paths), str(folder / "c-*.tar")], folder)
    return make_loader(source, batch_size=16, weights=(2, 1, 1.5), lengths=(17, 3, 45))


@pytest.fixture(scope="module")
def reference(mixture):
    """Hashes of the first batches, made one row at a time."""
    hashes = []
    for step in range(8):
        rows = [mixture.rows(step, range(row, row + 1)) for row in range(16)]
        whole = {name: np.concatenate([row[name] for row in rows]) for name in rows[0] if name != "failures"}
        hashes.append(digest(whole))
    return hashes


@pytest.mark.slow
@pytest.mark.parametrize(("hosts", "workers"), [(1, 0), (2, 0), (4, 0), (8, 0), (1, 1), (2, 2)])
def test_batches_are_identical_for_any_hosts_and_workers_after_any_interruption(mixture, reference, hosts, workers):
    height = 16 // hosts
    for start, count in ((0, 8),) if workers else ((0, 8), (3, 2), (7, 1)):
        parts = [
            take(mixture.batches(start, rows=slice(h * height, (h + 1) * height), workers=workers, threads=2), count)
            for h in range(hosts)
        ]
        merged = [
            {name: np.concatenate([p[name] for p in batch]) for name in batch[0]} for batch in zip(*parts, strict=True)
        ]
        assert [digest(batch) for batch in merged] == reference[start : start + count]


def test_tokens_belong_to_the_sampled_records(loader):
    [_, _, batch] = take(loader.batches(0, rows=slice(0, 4)), 3)
    assert np.array_equal(batch["tokens"][:, 1], loader.sampler.sample_ids(2))


def checksums(texts):
    """Stand in for a tokenizer of any text: return checksums."""
    return np.array([[0, zlib.crc32(text.encode()) & 0x7FFFFFFF] for text in texts], np.int32)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The members of the first 80 samples of a real shard, and their captions."""
    folder = tmp_path_factory.mktemp("real")
    source = open_source("emoji:noto", folder)
    with tarfile.open(next(folder.rglob("*.tar"))) as shard:
        parts = [(member.name, shard.extractfile(member).read()) for member in itertools.islice(shard, 160)]
    return parts, [source.texts(index) for index in range(80)]


def damage(parts):
    """Return members in which samples 41 to 50 are bad, each for another reason, and a dict from key to reason."""
    damaged, jpeg = dict(parts), encoded(photo((64, 64)), "jpeg")
    keys = [name.partition(".")[0] for name, _ in parts[80::2]]

    def replace(key, suffix, content, other=None):
        del damaged[f"{key}.{suffix}"]
        damaged[f"{key}.{other or suffix}"] = content

    replace(keys[0], "png", damaged[f"{keys[0]}.png"][:300])
    replace(keys[1], "png", jpeg[:400], "jpg")
    replace(keys[2], "png", b"<html>404 not found</html>")
    replace(keys[3], "png", b"")
    replace(keys[4], "png", bomb(30_000, 30_000))
    replace(keys[5], "json", b'{"texts": ["", "  "]}')
    replace(keys[6], "json", b"caf\xe9", "txt")
    replace(keys[7], "json", damaged[f"{keys[7]}.json"][:40])
    del damaged[f"{keys[8]}.png"]
    del damaged[f"{keys[9]}.json"]
    reasons = ["corrupt image", "corrupt image", "not an image", "empty image", "too many pixels", "no caption"]
    reasons += ["text not UTF-8", "fields not readable", "no image", "no caption"]
    return sorted(damaged.items()), dict(zip(keys, reasons, strict=False))


@pytest.mark.slow
def test_every_kind_of_bad_record_in_a_real_shard_is_replaced_and_reported(tmp_path, real):
    parts, captions = real
    members, expected = damage(parts)
    path = write_tar(tmp_path / "s.tar", members)
    last = parts[-2][1]  # the image of the last sample, inside which the shard is cut
    with open(path, "r+b") as shard:
        shard.truncate(path.read_bytes().rindex(last) + 100)
    expected[parts[-2][0].partition(".")[0]] = "cut off"
    source = open_source(str(path), tmp_path)
    loader = dataclasses.replace(make_loader(source, batch_size=16), tokenize=checksums)
    good = {int(checksums([text])[0, 1]) for texts in captions[:40] + captions[50:79] for text in texts}
    outcomes = []
    for workers in (0, 2):
        tracker = BadRecordTracker(max_share=1.0, window=1000, path=tmp_path / f"bad-{workers}.jsonl")
        batches = take(loader.batches(0, rows=slice(0, 16), workers=workers, bad_records=tracker), 12)
        # Prefetched batches are counted too: compare only those that both runs have read.
        lines = [json.loads(line) for line in (tmp_path / f"bad-{workers}.jsonl").read_text().splitlines()]
        outcomes.append(([digest(batch) for batch in batches], [line for line in lines if line["step"] < 12]))
        assert all(set(batch["tokens"][:, 1].tolist()) <= good for batch in batches)
    assert outcomes[0] == outcomes[1]
    assert {line["key"]: line["reason"] for line in outcomes[0][1]} == {f"s.tar/{k}": r for k, r in expected.items()}


def test_too_many_bad_records_raise_an_error(tmp_path, real):
    path = write_tar(tmp_path / "s.tar", damage(real[0])[0])
    loader = make_loader(open_source(str(path), tmp_path), batch_size=16)
    loader = dataclasses.replace(loader, tokenize=checksums)
    tracker = BadRecordTracker(max_share=0.05, window=1000)
    with pytest.raises(
        ValueError, match=r"51 of the last \d+ records cannot be used \(.*\); data.max_bad_share allows"
    ):
        take(loader.batches(0, rows=slice(0, 16), bad_records=tracker), 500)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_without_usable_records_raises_an_error(tmp_path, workers):
    samples = [(f"{i}", b"no picture", {"texts": ["a 1"]}) for i in range(5)]
    loader = make_loader(open_source(str(write_shard(tmp_path / "s.tar", samples)), tmp_path))
    tracker = BadRecordTracker(max_share=1.0, window=1000)
    with pytest.raises(
        ValueError, match=r"none of the 32 records tried for one row of a batch can be used; the last error is: s\.tar/"
    ):
        take(loader.batches(0, rows=slice(0, 4), workers=workers, bad_records=tracker), 1)


class FailingStorage:
    """A source whose storage fails."""

    fingerprint = "x"

    def __len__(self):
        return 9

    def __getitem__(self, index):
        raise OSError("the disk went away")

    def key(self, index):
        return str(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_storage_failure_is_not_a_bad_record(workers):
    with pytest.raises(OSError, match="the disk went away"):
        take(make_loader(FailingStorage()).batches(0, rows=slice(0, 4), workers=workers), 1)


def test_three_samples_fill_a_batch_of_256(tmp_path):
    loader = make_loader(open_source(str(write_shard(tmp_path / "s.tar", labelled(3))), tmp_path), batch_size=256)
    [batch] = take(loader.batches(0, rows=slice(0, 256)), 1)
    assert sorted(np.bincount(batch["tokens"][:, 1])) == [85, 85, 86]


def test_with_more_hosts_than_shards_each_host_gets_its_rows(loader):
    rows = [take(loader.batches(0, rows=slice(row, row + 1)), 1)[0]["tokens"][0, 1] for row in range(4)]
    assert np.array_equal(rows, loader.sampler.sample_ids(0))


def test_batches_are_placed_before_they_are_requested(loader):
    placed = []

    def place(batch):
        placed.append(time.monotonic())
        return {"tokens": batch["tokens"] * 2}

    batches = loader.batches(0, rows=slice(0, 4), place=place)
    first = next(batches)
    deadline = time.monotonic() + 10
    while len(placed) < 2:
        assert time.monotonic() < deadline, "the second batch was not placed before it was requested"
        time.sleep(0.01)
    assert np.array_equal(first["tokens"][:, 1], 2 * loader.sampler.sample_ids(0))
    batches.close()


def test_caption_modes(loader):
    record, rng = Record(key="k", image=b"", texts=("a", "b", "c")), np.random.default_rng(0)
    assert choose_caption(record, "first", rng=rng) == "a"
    assert choose_caption(record, "all", rng=rng) == "a, b, c"
    assert {choose_caption(record, "random", rng=rng) for _ in range(50)} == {"a", "b", "c"}
    two = dataclasses.replace(record, texts=("a", "b"))
    assert {choose_caption(two, "shuffled", rng=rng) for _ in range(50)} == {"a, b", "b, a"}
    with pytest.raises(BadRecord, match="the sample has no caption"):
        choose_caption(dataclasses.replace(record, texts=()), "first", rng=rng)
    with pytest.raises(ValueError, match=r"unknown data\.caption 'longest'\..* Known: first, random, all, shuffled$"):
        dataclasses.replace(loader, caption="longest")


def test_kept_patches_differ_between_rows(loader):
    [batch] = take(loader.batches(0, rows=slice(0, 4)), 1)
    kept = batch["kept_patches"]
    assert kept.shape == (4, 8) and kept.dtype == np.int32
    assert (np.diff(kept) > 0).all() and kept.min() >= 0 and kept.max() < 16
    assert len({tuple(row) for row in kept}) == 4
    whole = dataclasses.replace(loader, augmentation=Augmentation())
    assert "kept_patches" not in take(whole.batches(0, rows=slice(0, 4)), 1)[0]


STARTED_BY = """
import dataclasses
import multiprocessing, sys
from multiprocessing import resource_tracker
from data.sources.open import open_source
from tests.data.pipeline.test_loader import PaddedTokenizer, make_loader

if __name__ == "__main__":
    loader = dataclasses.replace(make_loader(open_source(sys.argv[1], sys.argv[2])), tokenize=PaddedTokenizer())
    resource_tracker.ensure_running()
    multiprocessing.set_executable("/bin/false")  # a worker that ends before it has read what it is sent
    batches = loader.batches(0, rows=slice(0, 4), workers=int(sys.argv[3]))
    try:
        next(batches)
    except OSError as error:
        print(error)
    batches.close()
"""


class PaddedTokenizer:
    """A tokenizer that is larger than the buffer of a pipe."""

    def __init__(self):
        self.vocabulary = bytes(1 << 20)

    def __call__(self, texts):
        return tokenize(texts)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_that_end_while_they_start_are_an_error_and_no_hang(tmp_path, workers):
    shard = str(write_shard(tmp_path / "s.tar", labelled(11)))
    done = subprocess.run(
        [sys.executable, "-c", STARTED_BY, shard, str(tmp_path), str(workers)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.stdout.startswith("a data worker process ended unexpectedly"), done.stderr
    assert not list(tmp_path.glob("data-worker-*"))
