"""The level of the classes: above splits, below folds and domains; the pattern `FOLDER/*`; and a fuzz test."""

import itertools
import logging
import random

import numpy as np
import pytest

from adapt.photos.folders import EmbeddedFolder, in_class_folders
from adapt.photos.pipeline import SortingTask
from data.fewshot.open import find_settings, open_dataset
from data.sources.open import open_source
from data.sources.split_folders import training_folder
from tests.data.shard_files import png
from tests.data.sources.test_split_folders import classes_of, tree


@pytest.mark.parametrize(("support", "query"), [("train", "test"), ("Training", "VAL"), ("support", "query")])
@pytest.mark.parametrize("above", ["", "images/", "a/b/"])
def test_classes_may_be_above_their_splits(tmp_path, caplog, support, query, above):
    caplog.set_level(logging.INFO)
    name = tree(tmp_path / "set", f"{above}{{ant,bee}}/{support}/{{0,1}}.png", f"{above}{{ant,bee}}/{query}/0.png")
    source = open_source(name, tmp_path)
    assert classes_of(source) == ["ant", "bee"] and len(source) == 4
    assert all(f"/{support}/" in source.key(index) for index in range(4))
    assert "the class folders ant, bee, … have the splits" in caplog.text
    opened = open_dataset(name, tmp_path)
    assert opened.class_names == ("ant", "bee")
    assert [np.bincount(part.labels).tolist() for part in (opened.support, opened.query)] == [[2, 2], [1, 1]]
    named = open_dataset(f"{name}/{above}".rstrip("/") + f":{query}:{support}", tmp_path)
    assert (len(named.support), len(named.query)) == (2, 4)
    folder = training_folder(name)
    assert folder.split == support
    SortingTask(support=name, query=name, out=tmp_path / "out").check()
    paths = [f"ant/{support}/0.png", f"ant/{query}/0.png", f"bee/{support}/x/0.png", f"{support}/0.png", "0.png"]
    embedded = in_class_folders(EmbeddedFolder(folder.path, paths, np.arange(5)[:, None], []), folder.split)
    assert embedded.paths == [paths[0], paths[2]] and embedded.features.tolist() == [[0], [2]]
    assert [each.path.rpartition("set/")[2].removeprefix(above) for each in embedded.left_out] == ["0.png"]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["{photo,art}/{train,test}/{ant,bee}/1.png"], r"several folders \(art, photo\) with the splits test, train"),
        (["{a,b}/{train,test}/{good,broken}/1.png", "{a,b}/mask/1.png"], r"several folders \(a, b\)"),
        (["ant/{train,test}/1.png", "bee/1.png"], r"splits in them \(ant\) next to folders without \(bee\)"),
        (["{ant,bee}/{train,test}/1.png", "cat/1.png"], r"splits in them \(ant, bee\) next to folders without \(cat\)"),
        (["ant/{train,test}/1.png", "bee/{training,val}/1.png"], "class folders with different splits: test, train in"),
        (["{fold1,fold2}/{ant,bee}/1.png"], "either can be the classes"),
        (["{fold1,fold2,fold3,fold4}/{ant,bee}/1.png"], "folders fold1, fold2, fold3, fold4 with the same folders"),
        (["{batch_a,batch_b}/{ant,bee}/1.png"], r"\(ant, bee\), so either .* support and a query folder: .*:batch_a:b"),
        (["{dslr,webcam}/images/{ant,bee,cat}/1.png"], "either can be the classes"),
        (["{first,second}/{Ant,bee,cat}/1.png", "second/dog/1.png"], "either can be the classes"),
        (["first/{Ant,bee }/1.png", "second/{ant,Bee}/1.png"], r"\(Ant, bee \), so"),
        (["{first,second}/{ant,bee}/1.png", "first/stray.png"], "either can be the classes"),
        (["{cam0,cam1,cam2}/{ant,bee}/1.png"], "either can be the classes"),
        (["{1,2,3}/{ant,bee}/1.png"], "either can be the classes"),
        (["{base,novel}/{ant,bee}/1.png", "novel/{cat,dog,elk}/1.png"], "either can be the classes"),
        (["{test1,test2}/{ant,bee}/1.png"], "either can be the classes"),
    ],
)
def test_a_level_that_is_not_clear_stops_every_job(tmp_path, paths, message):
    name = tree(tmp_path / "set", *paths)
    for call in (
        lambda: open_source(name, tmp_path),
        lambda: find_settings(name, {}),
        SortingTask(support=name, query=name, out=tmp_path / "out").check,
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    "paths", [["{ant,bee,cat}/{left,right}/1.png"], ["{ant,bee}/{left,right}/1.png", "{ant,bee}/1.png"]]
)
def test_a_doubt_is_a_warning_in_every_job(tmp_path, said, paths):
    name = tree(tmp_path / "set", *paths)
    for root in (name, tree(tmp_path / "other", *(f"{{train,test}}/{path}" for path in paths))):
        for call in (open_source, open_dataset):
            said.clear()
            call(root, tmp_path)
            [line] = [line for line in said if "not the folders in them (left, right)" in line][:1]
            assert line.startswith("warning: ") and "give one folder, such as" in line
        said.clear()
        training_folder(root).log()
        assert any(line.startswith("warning: ") for line in said)
    said.clear()
    assert classes_of(open_source(f"{name}/*", tmp_path))[:2] == ["ant", "bee"]
    assert not any(line.startswith("warning") for line in said)


def test_the_ways_out_work(tmp_path, said):
    name = tree(tmp_path / "set", "{fold1,fold2}/{ant,bee}/{0,1}.png")
    assert classes_of(open_source(f"{name}/fold1", tmp_path)) == ["ant", "bee"]
    opened = open_dataset(f"{name}:fold1:fold2", tmp_path)
    assert (len(opened.support), len(opened.query), opened.class_names) == (4, 4, ("ant", "bee"))
    assert classes_of(open_source(f"{name}/*", tmp_path)) == ["fold1", "fold2"]
    drawn = open_dataset(f"{name}/*", tmp_path)
    assert drawn.class_names == ("fold1", "fold2") and drawn.name == "set"
    assert f"{name}: fold1, fold2 are taken for the classes" in said
    SortingTask(support=f"{name}/*", query=name, out=tmp_path / "out").check()
    assert training_folder(f"{name}/*").path == name


def test_folders_given_by_name_need_no_clear_level(tmp_path):
    name = tree(tmp_path / "set", "{art,photo}/{ant,bee}/0.png", "sketch/{train,test}/{ant,bee}/0.png")
    opened = open_dataset(f"{name}:art:photo", tmp_path)
    assert (len(opened.support), len(opened.query), opened.class_names) == (2, 2, ("ant", "bee"))
    with pytest.raises(ValueError, match=r"sketch has the splits test, train\. Name the folder of one of them"):
        open_dataset(f"{name}:art:sketch", tmp_path)


@pytest.mark.parametrize("names", ["{train,test,ant}", "{train_station,test_tube}", "{test,val}"])
def test_a_pattern_takes_all_folders_for_classes(tmp_path, names):
    name = tree(tmp_path / "set", f"{names}/1.png")
    assert len(classes_of(open_source(f"{name}/*", tmp_path))) == names.count(",") + 1


def test_a_pattern_of_files_is_one_of_files(tmp_path):
    name = tree(tmp_path / "set", "ant/1.png", "1.png")
    (tmp_path / "set" / "t.csv").write_text("path,caption\n1.png,an ant\n")
    assert open_source(f"{name}/*.csv", tmp_path).texts(0) == ("an ant",)
    for pattern in (f"{name}/*", f"{name}/*/none", f"{name}/nothing/*"):
        with pytest.raises((ValueError, FileNotFoundError)):
            open_source(pattern, tmp_path)


def test_remote_classes_may_be_above_their_splits(tmp_path):
    import fsspec

    store = fsspec.filesystem("memory")
    for name, split in itertools.product(("ant", "bee"), ("train", "test")):
        store.pipe(f"/above/{name}/{split}/1.png", png(0, (8, 8)))
    opened = open_dataset("memory://above/", tmp_path)
    assert (len(opened.support), len(opened.query), opened.class_names) == (2, 2, ("ant", "bee"))


SPLITS = ["train", "test", "val", "Training", "test_hr", "train_v1", "support", "query", "fold1", "fold2", "part_3"]
CLASSES = ["ant", "bee", "cat", "dog"]


def test_random_layouts_never_mix_splits_and_classes(tmp_path):
    """Splits above or below classes, with missing folders and stray images, give the classes or an error."""
    draw = random.Random(1)
    opened = 0
    for trial in range(200):
        root = tmp_path / str(trial)
        splits, classes = draw.sample(SPLITS, draw.randrange(2, 4)), draw.sample(CLASSES, draw.randrange(2, 5))
        above = draw.random() < 0.5
        for split, name in itertools.product(splits, classes):
            if draw.random() < 0.9:
                folder = root.joinpath(*((name, split) if above else (split, name)))
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "1.png").write_bytes(b"")
        if draw.random() < 0.2:
            (root / "stray.png").write_bytes(b"")
        try:
            source = open_source(str(root), tmp_path)
        except ValueError as error:
            assert str(root) in str(error)
            continue
        if above and not any(f"/{split}/" in source.key(0) for split in splits):
            continue
        opened += 1
        assert set(source.class_names) <= set(classes), (splits, classes, above, source.class_names)
        used = {split for split in splits for row in range(len(source)) if f"/{split}/" in f"/{source.key(row)}"}
        assert len(used) == 1 or above, (splits, used)
    assert opened > 40
