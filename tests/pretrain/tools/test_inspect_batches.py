"""Inspection of the batches that a run will see."""

import html
import re

import numpy as np
import pytest
from PIL import Image

from pretrain.config.run import read_settings
from pretrain.input_pipeline import create_loader, open_data, prepare_tokenizer
from pretrain.tools.inspect_batches import inspect, read_batches
from pretrain.train import pretrain
from tests.data.shard_files import labelled, png, write_shard
from tests.logged import logged
from tests.pretrain.tiny import config


@pytest.fixture
def shard(tmp_path):
    samples = labelled(30, size=(40, 30))
    samples[5] = ("0005", png(5)[:50], samples[5][2])
    samples[7] = ("0007", samples[7][1], {"texts": ["<b>bold</b> & 日本 " + "many words " * 20]})
    samples[9] = ("0009", samples[9][1], {})
    return str(write_shard(tmp_path / "s.tar", samples))


def test_the_page_and_the_sheet_show_the_batch_and_unusable_records(shard, tmp_path):
    with logged() as said:
        page = inspect(config(shard), tmp_path / "run", data_dir=tmp_path, step=2, steps=10, shown=6)
    assert page == tmp_path / "run" / "inspect" / "step-00000002.html"
    text = page.read_text(encoding="utf-8")
    assert text.count("<figure>") == 6 and text.count("data:image/webp") == 6
    assert "s.tar/0005" in text and "corrupt image" in text and "no caption" in text
    assert "batches 2 to 11 of 8 pairs; 30 samples" in said[0]
    assert any(re.search(r"2 unusable records were replaced: 1 (corrupt image|no caption)", line) for line in said)
    assert "<b>bold" not in text
    with Image.open(page.with_suffix(".png")) as sheet:
        assert sheet.width > 6 * 160 and np.asarray(sheet.convert("L")).std() > 10
    assert not (tmp_path / "run" / "tokenizer").exists() and not (tmp_path / "run" / "pretrain.json").exists()


def test_hostile_names_and_captions_are_escaped(tmp_path):
    hostile = """<script>alert('x')</script> " onerror=x שלום \u202eevil"""
    samples = [
        (f"{number}{hostile.replace('/', '')}", image, {"texts": [hostile]})
        for number, (_, image, _) in enumerate(labelled(30))
    ]
    samples[5] = (samples[5][0], png(5)[:50], samples[5][2])  # listed with its name
    shard = str(write_shard(tmp_path / "<img src=x onerror=y>.tar", samples))
    page = inspect(config(shard), tmp_path / "run", data_dir=tmp_path, step=0, steps=8, shown=8)
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text and "<img src=x" not in text
    shown = html.unescape(text)
    assert "שלום" in shown and "<img src=x onerror=y>.tar/5<script>" in shown
    tags = re.findall(r"<[^>]*>", text)
    assert not any("onerror" in tag or "alert" in tag for tag in tags)


def inspected(shard, folder, *, keep_patches, step):
    """Return a run's loader, its tokenizer, and the inspection of two batches."""
    settings = read_settings(config(shard, augmentation={"keep_patches": keep_patches}))
    source = open_data(settings, folder)
    tokenizer = prepare_tokenizer(folder / "tokenizer", source, settings)
    loader = create_loader(settings, source, tokenizer)
    return loader, tokenizer, read_batches(loader, tokenizer, settings, step=step, steps=2, shown=8)


def test_the_page_shows_what_the_run_reads(shard, tmp_path):
    loader, tokenizer, found = inspected(shard, tmp_path, keep_patches=1.0, step=3)
    batches = loader.batches(3, rows=slice(0, 8))
    batch = next(batches)
    batches.close()
    for row, pixels, tokens in zip(found.rows, batch["images"], batch["tokens"], strict=True):
        assert np.array_equal(row.image, pixels) and row.caption == tokenizer.decode(tokens)
        assert 1 <= row.tokens <= 6
    assert found.lengths.total() == found.sources.total() == 16


def test_dropped_patches_are_whitened(shard, tmp_path):
    loader, _, found = inspected(shard, tmp_path, keep_patches=0.5, step=0)
    for number, row in enumerate(found.rows):
        example = {name: array[0] for name, array in loader.rows(0, range(number, number + 1)).items()}
        same = [
            np.array_equal(row.image[y : y + 4, x : x + 4], example["images"][y : y + 4, x : x + 4])
            for y in (0, 4)
            for x in (0, 4)
        ]
        assert np.flatnonzero(same).tolist() == example["kept_patches"].tolist()


@pytest.mark.slow
def test_inspecting_a_run_uses_its_tokenizer_and_does_not_change_it(shard, tmp_path):
    values = config(shard, steps=2, data={"sources": (shard,), "max_bad_share": 0.5})
    pretrain(values, tmp_path / "run", data_dir=tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    inspect(values, tmp_path / "run", data_dir=tmp_path, step=0, steps=1, shown=1)
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize(("change", "name"), [({"step": -1}, "step"), ({"steps": 0}, "steps"), ({"shown": 0}, "rows")])
def test_numbers_that_are_too_small_are_refused(shard, tmp_path, change, name):
    with pytest.raises(ValueError, match=f"--{name} is .*; it must be at least"):
        inspect(config(shard), tmp_path, data_dir=tmp_path, **{"step": 0, "steps": 1, "shown": 1, **change})
