"""The verdicts on the context objective, and the inspection that prints them."""

import json
import re

import numpy as np
import pytest

from pretrain.tools.caption_noise import BatchCompanions, NoiseRange
from pretrain.tools.context_advice import ContextEstimate, describe
from pretrain.tools.inspect_batches import inspect
from pretrain.tools.inspect_pairs import inspect_pairs
from tests.data.shard_files import labelled, write_shard
from tests.logged import logged
from tests.pretrain.align.tiny import align_config, captions_config
from tests.pretrain.tiny import config


def estimated(low, high, *, shares, identifiable=True):
    """Return an estimate with shares of attention in batches of 256, 1,024 and 4,096."""
    noise = NoiseRange(low, high, identifiable)
    factor = (1 - (low + high) / 2) ** 2 if identifiable else 1.0
    sizes = zip((256, 1024, 4096), shares, strict=True)
    curve = tuple(BatchCompanions(size, 8 * (size - 1) / 255, share * factor, 0.0) for size, share in sizes)
    return ContextEstimate(8192, "checkpoints/photos", noise, curve)


def verdict(found, batch_size=1024):
    return describe(found, batch_size=batch_size, from_scratch=False)[-1]


def test_wrong_captions_and_companions_speak_for_context():
    found = estimated(0.45, 0.6, shares=(0.1, 0.17, 0.3))
    assert verdict(found, 4096).startswith("context is likely to pay in batches of 4,096 with objective.alpha=0.2")
    line = verdict(found, 1024)
    assert line.startswith("context is unlikely to pay in batches of 1,024: many captions are wrong")
    assert line.endswith("it is likely to pay from batches of about 4,096")


def test_mostly_wrong_captions_speak_against_context():
    line = verdict(estimated(0.72, 0.94, shares=(0.3, 0.4, 0.5)))
    assert line.startswith("context is unlikely to pay: most captions are wrong") and "context=False" in line


def test_right_captions_and_few_companions_speak_against_context():
    line = verdict(estimated(0.0, 0.05, shares=(0.1, 0.2, 0.3)))
    assert "and likely to cost accuracy: captions are right" in line
    assert line.endswith("no batch of up to 4,096 has enough companions; set objective.context=False")
    assert "cost" not in verdict(estimated(0.0, 0.05, shares=(0.3, 0.4, 0.6)))
    assert "is likely to pay in batches of 4,096" in verdict(estimated(0.0, 0.05, shares=(0.3, 0.4, 0.6)), 4096)


def test_a_range_around_the_threshold_gives_a_guarded_verdict():
    assert "context may pay" in verdict(estimated(0.3, 0.5, shares=(0.1, 0.3, 0.4)))
    unknown = estimated(0.0, 1.0, shares=(0.1, 0.3, 0.4), identifiable=False)
    assert "the data does not show it" in verdict(unknown)
    assert (
        "images have no companions, or almost all captions" in describe(unknown, batch_size=64, from_scratch=False)[1]
    )


def test_companions_are_proportional_to_the_batch_and_shares_interpolated():
    found = estimated(0.0, 0.0, shares=(0.1, 0.2, 0.3))
    assert found.companions_at(4096) == pytest.approx(8 * 4095 / 255)
    assert found.share_at(512) == pytest.approx(0.15) and found.share_at(1 << 20) == pytest.approx(0.3)
    assert "at least 30% of the attention" in "".join(describe(found, batch_size=1 << 20, from_scratch=True))


def test_small_data_sets_get_no_estimate(tmp_path):
    shard = str(write_shard(tmp_path / "s.tar", labelled(30)))
    with logged() as said:
        page = inspect(config(shard), tmp_path / "run", data_dir=tmp_path, step=0, steps=1, shown=1, pairs=8192)
    line = "context objective: no estimate from 30 usable pairs; it needs at least 512"
    assert line in said and line in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_page_advises_on_the_images_of_a_data_set(tmp_path):
    shard = str(write_shard(tmp_path / "s.tar", labelled(600)))
    with logged() as said:
        page = inspect(config(shard), tmp_path / "run", data_dir=tmp_path, step=0, steps=1, shown=1, pairs=600)
    expected = r"context objective, estimated from \d+ random pairs with the image features of checkpoints/photos"
    assert any(re.fullmatch(expected, line) for line in said)  # fewer than 600 where embedding them takes too long
    assert "Context objective" in page.read_text(encoding="utf-8")


def write_concepts(folder, count=1200, concepts=30):
    """Write image features, text features and captions of images that share concepts."""
    rng = np.random.default_rng(0)
    concept = rng.integers(concepts, size=count)
    for name, dim in (("images", 16), ("texts", 12)):
        features = rng.normal(size=(concepts, dim))[concept] + 0.2 * rng.normal(size=(count, dim))
        np.save(folder / f"{name}.npy", features.astype(np.float32))
    lines = (json.dumps({"text": f"picture of thing{number} in color{row % 5}"}) for row, number in enumerate(concept))
    (folder / "captions.jsonl").write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize("texts", ["features", "captions"])
def test_an_align_config_is_advised_on_with_its_own_features(texts, tmp_path):
    write_concepts(tmp_path)
    images = tmp_path / "images.npy"
    values = (
        align_config(images) | {"text_features": (str(tmp_path / "texts.npy"),)}
        if texts == "features"
        else captions_config(images, tmp_path / "captions.jsonl")
    )
    page = inspect_pairs(values | {"batch_size": 256}, tmp_path / "run", data_dir=tmp_path, pairs=1000)
    lines = page.read_text(encoding="utf-8").splitlines()
    assert "1,000 random pairs with the image features of an encoder without description" in lines[0]
    assert lines[1].startswith("wrong captions: 0% to ")
    assert "context is likely to pay in batches of 256" in lines[-1]
    with pytest.raises(ValueError, match="--pairs is 10; the estimate for an align config needs at least 512"):
        inspect_pairs(values, tmp_path / "run", data_dir=tmp_path, pairs=10)
