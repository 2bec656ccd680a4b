"""The datasets that come with the project: their shards, splits, authors and licences."""

import collections
import json
import tarfile

import numpy as np
import pytest

from data import emoji, icons, photos
from data.embedded.sets import SETS, embedded_names, embedded_shard
from data.fewshot.open import open_dataset
from data.icons.make_sheets import LEVELS, attribution
from data.pipeline.image_ops import decode
from data.sources.open import open_source
from foundation.files.json_lines import read_json_lines
from tests.data.shard_files import labelled, write_shard

EMOJI = {"noto": 1906, "twemoji": 1906, "fluent3d": 1607}
ICONS = {"train": 16795, "seen_query": 1664, "novel_support": 9616, "novel_query": 1084}
PHOTOS = {"trashnet": (360, 240), "clothing": (646, 320), "signdigits": (400, 300)}
COUNTS = {f"emoji:{artist}": count for artist, count in EMOJI.items()}
COUNTS |= {f"icons:{split}": count for split, count in ICONS.items()}
for name, counts in PHOTOS.items():
    COUNTS |= {f"photos:{name}:train": counts[0], f"photos:{name}:test": counts[1]}
PERMISSIVE = {"Apache-2.0", "BSD-3-Clause", "CC-BY-4.0", "ISC", "MIT", "OFL-1.1", "Unlicense"}


@pytest.fixture(scope="module")
def samples():
    """All samples of the icons by split."""
    return {split: list(icons.samples(split)) for split in icons.SPLITS}


def records(samples, *splits):
    return [sample.record for split in splits for sample in samples[split]]


def test_every_part_has_all_its_samples(samples):
    assert list(COUNTS) == embedded_names()
    for name, count in COUNTS.items():
        dataset, _, part = name.partition(":")
        found = samples[part] if dataset == "icons" else list(SETS[dataset].samples(part))
        assert len(found) == len({sample.number for sample in found}) == count, name


def test_no_concept_and_no_artist_of_the_queries_is_in_the_training_icons(samples):
    train = records(samples, "train")
    artists, concepts = {record["artist"] for record in train}, {record["class"] for record in train}
    for split in ("seen_query", "novel_query"):
        unseen = {record["artist"] for record in records(samples, split)}
        assert len(unseen) == 11 and not unseen & artists
    novel = {record["class"] for record in records(samples, "novel_support", "novel_query")}
    assert len(novel) == 375 and not novel & concepts and len(novel | concepts) == 1908
    assert {record["class"] for record in records(samples, "seen_query")} <= concepts
    support = {record["artist"] for record in records(samples, "novel_support")}
    assert not support & {record["artist"] for record in records(samples, "novel_query")}


def test_icons_are_numbered_once_in_all_splits_and_labelled_in_alphabetical_order(samples):
    every = [sample for split in icons.SPLITS for sample in samples[split]]
    assert sorted(sample.number for sample in every) == list(range(29159))
    names = {sample.record["label"]: sample.record["class"] for sample in every}
    assert [names[label] for label in sorted(names)] == sorted(set(names.values()))
    assert len({(sample.record["class"], sample.record["artist"]) for sample in every}) == len(every)


def test_every_icon_has_drawing_in_eight_grey_levels(samples):
    grey = {round(level * 255 / (LEVELS - 1)) for level in range(LEVELS)}
    for split in icons.SPLITS:
        pixels = np.stack([np.asarray(sample.image) for sample in samples[split]])
        assert pixels.shape[1:] == (32, 32) and set(np.unique(pixels)) == grey
        assert (pixels.reshape(len(pixels), -1).min(1) < 255).all(), "an empty image"


def test_every_icon_set_is_credited_with_author_and_licence(samples):
    sets = read_json_lines(icons.FOLDER / "sets.jsonl")
    text = (icons.FOLDER / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert text == attribution(sets, read_json_lines(icons.FOLDER / "concepts.jsonl"))
    licences = (icons.FOLDER / "LICENCES.md").read_text(encoding="utf-8")
    drawn = collections.Counter(record["set"] for record in records(samples, *icons.SPLITS))
    assert drawn.keys() == {each["id"] for each in sets}
    for each in sets:
        [row] = [line for line in text.splitlines() if line.startswith(f"| {each['id']} |")]
        assert all(value in row for value in (each["name"], each["artist"], each["license"], str(drawn[each["id"]])))
        assert each["license"] in PERMISSIVE and f"**{each['license']}**" in licences
    assert all(record["license"] in PERMISSIVE for record in records(samples, *icons.SPLITS))


@pytest.mark.parametrize("dataset", photos.DATASETS)
def test_photos_are_credited_and_have_64_pixels_on_the_shorter_side(dataset):
    text = (photos.FOLDER / "ATTRIBUTION.md").read_text(encoding="utf-8")
    [row] = [line for line in text.splitlines() if line.startswith(f"| `{dataset}.webp` |")]
    for split in ("train", "test"):
        for sample in photos.samples(f"{dataset}:{split}"):
            assert min(sample.image.size) == 64 and max(sample.image.size) <= 86
            assert np.asarray(sample.image).std() > 1, "an empty image"
            assert sample.record["license"] in row


@pytest.mark.parametrize(("name", "classes"), [("icons", 375), ("trashnet", 6), ("clothing", 17), ("signdigits", 10)])
def test_evaluation_has_support_and_query_images_of_the_same_classes(tmp_path, name, classes):
    dataset = open_dataset(name, tmp_path)
    assert len(dataset.class_names) == classes and not dataset.notes
    source = dataset.settings.support, dataset.settings.query
    assert (len(dataset.support), len(dataset.query)) == tuple(COUNTS[part] for part in source)
    assert set(dataset.query.labels) <= set(dataset.support.labels) == set(range(classes))
    assert dataset.query.image(0).mode == "RGB"


def test_shards_are_written_once_and_completely(tmp_path):
    shard = embedded_shard("photos:trashnet:test", tmp_path)
    assert shard == tmp_path / "photos" / "photos-trashnet-test-00000.tar"
    before = shard.stat().st_mtime_ns
    source = open_source("photos:trashnet:test", tmp_path)
    assert len(source) == 240 and shard.stat().st_mtime_ns == before
    assert [path.name for path in shard.parent.iterdir()] == [shard.name]
    sample = list(photos.samples("trashnet:test"))[7]
    assert np.array_equal(decode(source[7].image, "7"), sample.image)
    assert (source[7].label, source[7].class_name) == (sample.record["label"], sample.record["class"])
    with tarfile.open(shard) as members:
        names = members.getnames()
        assert names[:2] == ["0000360.png", "0000360.json"]
        assert json.load(members.extractfile(names[15])) == sample.record


def test_emoji_have_their_texts_and_classes(tmp_path):
    shard = open_source("emoji:fluent3d", tmp_path)
    assert sum(count >= 20 for count in collections.Counter(shard[i].label for i in range(len(shard))).values()) == 29
    assert decode(shard[0].image, "0").size == (64, 64)
    assert shard[0].texts[0] == "keycap: #" and shard[0].class_name == "keycap"


@pytest.mark.parametrize(("dataset", "limit"), [(emoji, 4_000_000), (icons, 3_000_000), (photos, 1_900_000)])
def test_embedded_datasets_stay_small(dataset, limit):
    assert sum(path.stat().st_size for path in dataset.FOLDER.iterdir() if path.is_file()) < limit


def test_a_folder_named_like_an_embedded_dataset_opens_by_its_path(tmp_path, monkeypatch, caplog):
    (tmp_path / "trashnet").mkdir()
    write_shard(tmp_path / "trashnet" / "a.tar", labelled(12))
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO"):
        assert len(open_dataset("trashnet", tmp_path / "data").class_names) == 6
    assert "Write ./trashnet for the folder of that name." in caplog.text
    assert len(open_dataset("./trashnet", tmp_path / "data").class_names) == 3


@pytest.mark.parametrize(
    ("split", "seen", "count"), [("novel_query", "novel_support", 21), ("seen_query", "train", 23)]
)
def test_the_documented_number_of_queries_equals_an_icon_by_a_seen_artist(samples, split, seen, count):
    copies = {(sample.record["class"], sample.image.tobytes()) for sample in samples[seen]}
    assert sum((each.record["class"], each.image.tobytes()) in copies for each in samples[split]) == count
