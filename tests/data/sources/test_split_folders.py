"""Split folders and class folders: names, cases, layouts, jobs; what is ambiguous; and a fuzz test."""

import itertools
import logging
import pathlib
import random

import numpy as np
import pytest

from adapt.photos.pipeline import SortingTask
from data.fewshot.labelled import DatasetSettings
from data.fewshot.open import find_settings, open_dataset
from data.sources.folders.split_names import possible_roles, split_roles
from data.sources.open import open_source
from data.sources.split_folders import find_layout, splits_with_images, training_folder
from tests.data.shard_files import labelled, png, write_shard

PAIRS = [
    ("train", "test"),
    ("Training", "Testing"),
    ("TRAIN", "VAL"),
    ("train", "valid"),
    ("train", "validation"),
    ("train_set", "test_set"),
    ("training set", "test set"),
    ("trainset", "testset"),
    ("train_images", "test_images"),
    ("TrainImages", "ValImages"),
    ("train2017", "val2017"),
    ("cars_train", "cars_test"),
    ("seg_train", "seg_test"),
    ("training-data", "validation-data"),
    ("trainval", "test"),
    ("train", "dev"),
    ("train", "Evaluation"),
    ("support", "query"),
    ("Gallery", "Probe"),
]
OTHER_PAIRS = [("train_v1", "test_v2"), ("train_lr", "test_hr"), ("train-clean", "test-noisy"), ("TrainA", "valB_2")]


def tree(root, *paths):
    """Create image files; `a/{b,c}` is two of them."""
    for number, path in enumerate(itertools.chain(*map(expand, paths))):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png(number, (8, 8)))
    return str(root)


def expand(path):
    before, begin, rest = path.partition("{")
    if not begin:
        return [path]
    names, _, after = rest.partition("}")
    return list(itertools.chain(*(expand(before + name + after) for name in names.split(","))))


def classes_of(source):
    return sorted({source.texts(index)[0] for index in range(len(source))})


LAYOUTS = {  # paths with S for the training split and Q for the other
    "plain": ["{S,Q}/{ant,bee}/{0,1}.png"],
    "in one folder": ["images/{S,Q}/{ant,bee}/{0,1}.png"],
    "deeper": ["a/b/{S,Q}/{ant,bee}/{0,1}.png"],
    "wrapped": ["S/images/{ant,bee}/{0,1}.png", "Q/Q/{ant,bee}/{0,1}.png"],
    "next to stray files": ["{S,Q}/{ant,bee}/{0,1}.png", "sample.png", "{S,Q}/stray.png"],
    "next to another folder": ["{S,Q}/{ant,bee}/{0,1}.png", "pictures of the paper/1.png", ".hidden/x/1.png"],
    "subfolders of classes": ["{S,Q}/{ant,bee}/deep/{0,1}.png"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("colons", ["", "12:30:45/a:b:c"])
def test_splits_are_recognised_by_every_job(tmp_path, layout, colons):
    for number, (support, query) in enumerate(PAIRS + OTHER_PAIRS if not colons else PAIRS[:2]):
        root = tmp_path / colons / str(number)
        paths = [path.replace("S", support).replace("Q", query) for path in LAYOUTS[layout]]
        name = tree(root, *paths)
        assert classes_of(open_source(name, tmp_path)) == ["ant", "bee"], (support, query)
        assert len(open_source(name, tmp_path)) == 4
        assert (pathlib.Path(training_folder(name).path) / "ant").is_dir()
        SortingTask(support=name, query=name, out=tmp_path / "out").check()
        settings = find_settings(name, {})
        assert f"/{support}" in settings.support and f"/{query}" in settings.query
        if number < 2:
            opened = open_dataset(name, tmp_path)
            assert opened.class_names == ("ant", "bee") and opened.name == str(number)
            assert [np.bincount(part.labels).tolist() for part in (opened.support, opened.query)] == [[2, 2]] * 2
            named = find_settings(f"{find_layout(name).root}:{query}:{support}", {})
            assert (
                training_folder(named.support).path == settings.query
                and training_folder(named.query).path == settings.support
            )


def test_the_roles_of_names():
    for pair in PAIRS:
        assert list(split_roles(pair)) == list(pair) and len(set(split_roles(pair).values())) == 2
        assert list(split_roles(name.upper() for name in pair)) == [name.upper() for name in pair]
    for names in (
        ["cat", "dog"],
        ["bullet_train", "steam_train"],
        ["train_station", "test_tube"],
        ["trainer", "tester", "value", "attest", "contest", "valley", "evaluate"],
        ["test1", "test2"],
        ["invalid"],
        ["train station"],
        ["support", "customer_support", "car"],
        ["customer_support", "search_query"],
        ["日本", "тест"],
        [],
    ):
        assert split_roles(names) == {}
    for pair in (("carsTrain", "carsTest"), ("trainDir", "testDir"), ("traindir", "valdir"), ("trn", "tst")):
        assert list(split_roles(pair)) == list(pair) and len(set(split_roles(pair).values())) == 2
    for pair in OTHER_PAIRS:
        assert split_roles(pair) == {} and list(possible_roles(pair)) == list(pair)
        assert len(set(possible_roles(pair).values())) == 2
    assert split_roles(["train_val"]) == {"train_val": "train"} and split_roles(["test_train"]) == {}


@pytest.mark.parametrize(
    ("paths", "classes"),
    [
        (["images/{ant,bee}/1.png"], ["ant", "bee"]),
        (["a/b/c/{ant,bee}/1.png"], ["ant", "bee"]),
        (["{train,car,bus}/1.png"], ["bus", "car", "train"]),
        (["{valid,invalid}/1.png"], ["invalid", "valid"]),
        (["{bullet_train,steam_train}/1.png"], ["bullet train", "steam train"]),
        (["{train_station,test_tube,jar}/1.png"], ["jar", "test tube", "train station"]),
        (["{support,ant}/1.png"], ["ant", "support"]),
        (["{ant,bee}/{train,test}/1.png"], ["ant", "bee"]),
        (["{ant,bee,cat}/{left,right}/1.png"], ["ant", "bee", "cat"]),
        (["{ant,bee}/deep/1.png"], ["ant", "bee"]),
        (["ant/1.png"], ["ant"]),
        (["ant/deep/1.png"], ["ant"]),
        (["train/{ant,bee}/1.png"], ["ant", "bee"]),
        (["{ant,bee}/1.png", "test/notes.txt"], ["ant", "bee"]),
        (["train/{ant,bee}/1.png", "val/1.png"], ["ant", "bee"]),
        (["images/{ant,bee}/1.png", "annotations/1.xml"], ["ant", "bee"]),
        (["images/{train,val}/{ant,bee}/1.png", "labels/{train,val}/1.txt"], ["ant", "bee"]),
    ],
)
def test_class_folders_are_found(tmp_path, paths, classes):
    assert classes_of(open_source(tree(tmp_path / "set", *paths), tmp_path)) == classes


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["{Training,Testing}/1.png"], "has the splits Testing, Training, but their images are not in class folders"),
        (["{train,test,ant,bee}/1.png"], r"named like splits \(test, train\) next to others \(ant, bee\)"),
        (["{test,ant,bee}/1.png"], r"named like splits \(test\) next to others \(ant, bee\)"),
        (["train/{a,b}/1.png", "car/1.png"], r"named like splits \(train\) next to others \(car\)"),
        (
            ["{images,masks}/{ant,bee}/1.png"],
            "has images in images, masks, which does not look like one folder per class",
        ),
        (["images/1.png", "cat/1.png"], "has images in images and in cat, which does not look"),
        (
            ["{train_station,test_tube}/1.png"],
            r"splits test_tube, train_station, but .* If they are the classes, give .*\*",
        ),
        (["{train_v1,train_v2,test}/{ant,bee}/1.png"], "not exactly one for training"),
        (["{test,val}/{ant,bee}/1.png"], "has the splits test, val, and not exactly one for training"),
        (["{train,training,test}/{ant,bee}/1.png"], "not exactly one for training"),
        (["train/1.png", "val/{ant,bee}/1.png"], "not exactly one for training"),
    ],
)
def test_what_is_ambiguous_is_reported_by_every_job(tmp_path, paths, message):
    name = tree(tmp_path / "set", *paths)
    with pytest.raises(ValueError, match=message):
        open_source(name, tmp_path)
    with pytest.raises(ValueError, match=message):
        SortingTask(support=name, query=name, out=tmp_path / "out").check()
    if "training" not in message:
        with pytest.raises(ValueError, match=message):
            find_settings(name, {})


def test_an_evaluation_needs_labels_in_both_splits(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    name = tree(tmp_path / "set", "train/{ant,bee}/{0,1}.png", "val/1.png")
    with pytest.raises(ValueError, match=r"set/val has images, but no class folders.* or give .*set/train to draw"):
        open_dataset(name, tmp_path)
    assert open_dataset(f"{name}/train", tmp_path).class_names == ("ant", "bee")
    tree(tmp_path / "set", "test/{ant,bee}/0.png")
    opened = open_dataset(name, tmp_path)
    assert (len(opened.support), len(opened.query)) == (4, 2)
    assert f"{name}: support images from {name}/train, query images from {name}/test" in caplog.messages
    custom = {"mine": DatasetSettings(support=f"{name}/train", query=name)}
    with pytest.raises(ValueError, match=r"has the splits test, train, val\. Name the folder of one of them"):
        open_dataset("mine", tmp_path, custom_datasets=custom)


def test_what_was_taken_is_stated(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for name, paths in {
        "a": "{Training,Testing}/{ant,bee}/1.png",
        "b": "images/{ant,bee}/1.png",
        "c": "{train,car}/1.png",
        "d": "{first,second,third}/{ant,bee}/1.png",
        "e": "{ant,bee}/1.png",
        "f": "{train,extra,test}/{ant,bee}/1.png",
    }.items():
        open_source(tree(tmp_path / name, paths), tmp_path)
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "images from the split Training, none from Testing",
        f"the class folders are in {tmp_path}/b/images",
        "train is taken for a class, as the folders next to it are",
        "first, second, third are taken for the classes, not the folders in them (ant, bee). If these are the classes, "
        f"give one folder, such as {tmp_path}/d/first; {tmp_path}/d/* confirms what was taken",
        "images from the split train, none from test",
        "extra next to the splits test, train is not used",
    ]
    assert splits_with_images(str(tmp_path / "a")) == ["Testing", "Training"]


def test_splits_of_shards_are_recognised_in_any_case(tmp_path):
    for split, count in (("TRAIN", 12), ("Val", 6)):
        (tmp_path / "birds" / split).mkdir(parents=True)
        write_shard(tmp_path / "birds" / split / "00000.tar", labelled(count))
        write_shard(tmp_path / f"{split}-00000.tar", labelled(count))
    for name in (tmp_path / "birds", tmp_path):
        opened = open_dataset(str(name), tmp_path)
        assert (len(opened.support), len(opened.query)) == (12, 6)


def test_remote_folders_have_the_same_layouts(tmp_path):
    import fsspec

    store = fsspec.filesystem("memory")
    for split, name, number in itertools.product(("Training", "Testing"), ("ant", "bee"), "01"):
        store.pipe(f"/splits/{split}/{name}/{number}.png", png(0, (8, 8)))
    assert classes_of(open_source("memory://splits/", tmp_path)) == ["ant", "bee"]
    opened = open_dataset("memory://splits/", tmp_path)
    assert (len(opened.support), len(opened.query), opened.class_names) == (4, 4, ("ant", "bee"))


def test_links_to_parent_folders_are_not_followed(tmp_path):
    name = tree(tmp_path / "set", "only/{ant,bee}/1.png", "x/1.png")
    (tmp_path / "set" / "x").rename(tmp_path / "set" / "only" / "ant" / "x")
    for folder in ("only", "only/ant"):
        (tmp_path / "set" / folder / "up").symlink_to("../..")
    (tmp_path / "set" / "loop").symlink_to(".")
    assert classes_of(open_source(name, tmp_path)) == ["ant", "bee"]


def test_random_folders_never_give_splits_as_classes_without_a_word(tmp_path, caplog):
    draw = random.Random(0)
    names = ["train", "Test", "val", "ant", "bee", "images", "valid", "x y", "日本", "2017", "a:b", ".h", "train_1"]
    for trial in range(150):
        root = tmp_path / str(trial)
        for _ in range(draw.randrange(1, 8)):
            folder = root.joinpath(*draw.choices(names, k=draw.randrange(1, 4)))
            folder.mkdir(parents=True, exist_ok=True)
            if draw.random() < 0.8:
                (folder / "1.png").write_bytes(b"")
        (root / "ant").mkdir(exist_ok=True)
        caplog.clear()
        try:
            source = open_source(str(root), tmp_path)
        except ValueError as error:
            assert str(root) in str(error)
            continue
        roles = split_roles(source.class_names)
        assert len(set(roles.values())) < 2 and not {"Test", "val"} & {*source.class_names}, source.class_names
        assert not roles or len(source.class_names) == 1 or "is taken for a class" in caplog.text
