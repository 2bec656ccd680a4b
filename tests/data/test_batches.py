"""The plan and the batches made from it."""

import itertools

import numpy as np
import pytest

from data.batches import TrainingExamples
from data.images import Augmentation
from data.plan import Plan
from data.sources import open_source
from tests.data.shard_files import labelled, png, write_shard


@pytest.fixture
def examples(tmp_path):
    source = open_source(str(write_shard(tmp_path / "s.tar", labelled(11))), tmp_path)
    return TrainingExamples(
        source=source,
        plan=Plan(num_samples=11, batch_size=4, seed=3),
        image_size=8,
        num_patches=16,
        augmentation=Augmentation(),
        tokenize=lambda text: np.array([len(text), int(text.split()[1])], np.int32),
    )


def take(batches, count):
    return [{name: array.copy() for name, array in batch.items()} for batch in itertools.islice(batches, count)]


@pytest.mark.parametrize(("num_samples", "batch_size"), [(11, 4), (100, 7), (3, 256), (1, 2)])
def test_every_epoch_visits_every_sample_once(num_samples, batch_size):
    plan = Plan(num_samples=num_samples, batch_size=batch_size, seed=0)
    steps = -(-3 * num_samples // batch_size)
    ids = np.concatenate([plan.sample_ids(step) for step in range(steps)])
    for epoch in range(3):
        assert sorted(ids[epoch * num_samples : (epoch + 1) * num_samples]) == list(range(num_samples))


def test_epochs_and_seeds_have_different_orders():
    first = Plan(num_samples=50, batch_size=50, seed=0)
    assert not np.array_equal(first.sample_ids(0), first.sample_ids(1))
    assert not np.array_equal(first.sample_ids(0), Plan(num_samples=50, batch_size=50, seed=1).sample_ids(0))


def test_ten_billion_samples_need_no_memory():
    ids = Plan(num_samples=10_000_000_000, batch_size=8, seed=0).sample_ids(10**8)
    assert len(set(ids)) == 8 and ids.max() < 10_000_000_000


def test_batches_started_in_the_middle_are_those_of_the_whole_run(examples):
    whole = take(examples.batches(0, rows=slice(0, 4)), 6)
    late = take(examples.batches(4, rows=slice(0, 4), threads=1), 2)
    for a, b in zip(whole[4:], late, strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in ("images", "tokens"))
    assert whole[0]["images"].shape == (4, 8, 8, 3) and whole[0]["tokens"].shape == (4, 2)


def test_rows_of_two_hosts_are_the_rows_of_one(examples):
    whole = take(examples.batches(0, rows=slice(0, 4)), 3)
    parts = [take(examples.batches(0, rows=rows), 3) for rows in (slice(0, 2), slice(2, 4))]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert np.array_equal(batch["images"], np.concatenate([first["images"], second["images"]]))


def test_the_tokens_are_those_of_the_sample_in_the_plan(examples):
    batch = next(examples.batches(2, rows=slice(0, 4)))
    assert np.array_equal(batch["tokens"][:, 1], examples.plan.sample_ids(2))


def test_a_broken_picture_stops_with_its_name(tmp_path):
    samples = labelled(4)
    samples[2] = ("0002", png(2)[:50], samples[2][2])
    examples = TrainingExamples(
        source=open_source(str(write_shard(tmp_path / "s.tar", samples)), tmp_path),
        plan=Plan(num_samples=4, batch_size=4, seed=0),
        image_size=8,
        num_patches=16,
        augmentation=Augmentation(),
        tokenize=lambda text: np.zeros(2, np.int32),
    )
    with pytest.raises(ValueError, match=r"s\.tar/0002: the picture cannot be decoded"):
        next(examples.batches(0, rows=slice(0, 4)))


def test_captions(examples):
    import dataclasses

    from data.batches import choose_caption

    texts, rng = ("a", "b", "c"), np.random.default_rng(0)
    assert choose_caption(texts, "first", rng) == "a"
    assert choose_caption(texts, "all", rng) == "a, b, c"
    assert {choose_caption(texts, "random", rng) for _ in range(50)} == set(texts)
    assert {choose_caption(("a", "b"), "shuffled", rng) for _ in range(50)} == {"a, b", "b, a"}
    with pytest.raises(ValueError, match="known: first, random, all, shuffled"):
        dataclasses.replace(examples, caption="longest")


def test_dropped_patches_are_chosen_for_each_row(examples):
    import dataclasses

    dropping = dataclasses.replace(examples, augmentation=Augmentation(keep_patches=0.5))
    kept = next(dropping.batches(0, rows=slice(0, 4)))["kept_patches"]
    assert kept.shape == (4, 8) and kept.dtype == np.int32
    assert (np.diff(kept) > 0).all() and kept.min() >= 0 and kept.max() < 16
    assert len({tuple(row) for row in kept}) == 4
    assert "kept_patches" not in next(examples.batches(0, rows=slice(0, 4)))
