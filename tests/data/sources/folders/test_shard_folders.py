"""Folders of shards, of split folders of shards, and CLIP_benchmark's `dataset_type.txt`."""

import logging
import shutil

import pytest

from adapt.photos.pipeline import SortingTask
from data.fewshot.open import find_settings, open_dataset
from data.sources.folders.split_names import shard_splits
from data.sources.open import open_source
from tests.data.shard_files import labelled, png, write_shard, write_tar
from tests.data.sources.test_split_folders import tree


@pytest.mark.parametrize(
    "names", [["0.tar", "1.tar"], ["00000.tar", "00001.tar"], ["a.tar", "b.tar"], ["cc-0.tar", "x.tar"]]
)
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_folder_of_shards_is_its_shards(tmp_path, names, slash):
    for name in names:
        write_shard(tmp_path / "set" / name, labelled(6))
    (tmp_path / "set" / "0_stats.json").write_text("{}")
    name = f"{tmp_path}/set{slash}"
    assert len(open_source(name, tmp_path)) == 12
    assert find_settings(name, {}).support == f"{tmp_path}/set/*.tar"
    assert len(open_dataset(name, tmp_path).support) == 12


def test_an_archive_next_to_class_folders_is_not_used(tmp_path):
    name = tree(tmp_path / "set", "{ant,bee}/{0,1}.png")
    write_shard(tmp_path / "set" / "original.tar", labelled(6))
    assert len(open_source(name, tmp_path)) == 4 == len(open_dataset(name, tmp_path).support)


@pytest.mark.parametrize(
    ("training", "query"),
    [
        ("train-0000", "test-0000"),
        ("train_0", "val_0"),
        ("TRAIN", "Test"),
        ("train/0", "test/0"),
        ("Training/x", "dev/x"),
    ],
)
def test_pretraining_takes_the_training_shards(tmp_path, caplog, training, query):
    caplog.set_level(logging.INFO)
    write_shard(tmp_path / "set" / f"{training}.tar", labelled(6))
    write_shard(tmp_path / "set" / f"{query}.tar", labelled(3))
    name = str(tmp_path / "set")
    assert len(open_source(name, tmp_path)) == 6
    assert "shards from the split" in caplog.text
    opened = open_dataset(name, tmp_path)
    assert (len(opened.support), len(opened.query)) == (6, 3)
    with pytest.raises(ValueError, match=r"has shards \(.*\.tar\), not folders"):
        SortingTask(support=name, query=name, out=tmp_path / "out").check()


def test_shards_of_several_splits_without_one_for_training_are_reported(tmp_path):
    for split in ("test", "val"):
        write_shard(tmp_path / "set" / f"{split}-0.tar", labelled(3))
        write_shard(tmp_path / "other" / split / "0.tar", labelled(3))
    with pytest.raises(
        ValueError, match=r"shards of test, val, and not exactly one .*such as .*set/test-\[0-9\]\*\.tar"
    ):
        open_source(str(tmp_path / "set"), tmp_path)
    assert len(open_source(f"{tmp_path}/set/test-[0-9]*.tar", tmp_path)) == 3
    with pytest.raises(ValueError, match=r"the splits test, val, and not exactly one .*such as .*other/test/\*\.tar"):
        open_source(str(tmp_path / "other"), tmp_path)


def test_the_splits_in_names_of_shards():
    assert shard_splits(["train-00000-of-00010.tar", "train-00001-of-00010.tar"]) == {"train": "train-[0-9]*.tar"}
    assert shard_splits(["train.tar", "test_001.tar", "a.tar", "0.tar", "train.csv"]) == {
        "train": "train.tar",
        "test": "test_[0-9]*.tar",
    }


@pytest.fixture
def retrieval(tmp_path):
    """Shards with two captions per image, one per line, as CLIP_benchmark writes them."""
    files = [((f"{n}.png", png(n, (8, 8))), (f"{n}.txt", f"ant {n}\nbee {n}\n".encode())) for n in range(3)]
    write_tar(tmp_path / "set" / "test" / "0.tar", [file for pair in files for file in pair])
    (tmp_path / "set" / "dataset_type.txt").write_text("retrieval\n")
    return tmp_path / "set"


@pytest.mark.parametrize("form", ["{}", "{}/test", "{}/test/*.tar", "{}/test/0.tar"])
def test_the_captions_of_a_retrieval_dataset_are_lines(tmp_path, retrieval, form):
    name = form.format(retrieval)
    source = open_source(name, tmp_path)
    assert source[1].texts == source.texts(1) == ("ant 1", "bee 1")
    with pytest.raises(ValueError, match=r"has captions, not classes .* Give its shards to --retrieval .*test/.*\.tar"):
        open_dataset(name, tmp_path)
    (retrieval / "dataset_type.txt").unlink()
    plain = open_source(name, tmp_path)
    assert plain.texts(1) == ("ant 1\nbee 1",) and plain.fingerprint != source.fingerprint


def test_a_multilabel_dataset_is_reported(tmp_path, retrieval):
    (retrieval / "dataset_type.txt").write_text("multilabel")
    with pytest.raises(ValueError, match=r"has several labels per image \(dataset_type.txt says multilabel\)"):
        open_dataset(str(retrieval), tmp_path)
    shutil.move(retrieval / "dataset_type.txt", retrieval / "test")
    with pytest.raises(ValueError, match="several labels per image"):
        open_dataset(str(retrieval), tmp_path)
