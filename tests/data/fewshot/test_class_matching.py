"""Classes of two splits whose names differ in case, blanks or composed characters; splits without common classes."""

import unicodedata

import pytest

from data.fewshot.class_matching import match_names
from data.fewshot.open import open_dataset
from data.sources.open import open_source
from tests.data.shard_files import labelled, write_shard
from tests.data.sources.test_split_folders import classes_of, tree


@pytest.mark.parametrize(
    ("known", "other"),
    [
        ("ant", "Ant"),
        ("ant", "ANT"),
        ("Ant", "ant "),
        (" ant", "ant"),
        ("Fuß", "FUSS"),
        ("é", unicodedata.normalize("NFD", "É")),
    ],
)
def test_names_that_differ_in_case_or_blanks_match(known, other):
    found = match_names("set", [known, "bee"], [other, "bee", "cat"])
    assert found.names == {other: known, "bee": "bee"}
    assert found.notes == (f"1 classes are matched in spite of another case or blanks, such as {other!r} to {known!r}",)
    assert match_names("set", [known, other], [known, other]) == ({known: known, other: other}, ())
    assert match_names("set", [known, "ant x"], [known]) == ({known: known}, ())


@pytest.mark.parametrize(
    ("known", "others", "message"),
    [
        (["A", "a"], ["a "], "class 'a ' of one part can be 'A' or 'a' of another. Name the classes alike"),
        (["ant"], ["ant", "Ant"], "class 'Ant' of one part can be 'ant' of another, as can 'ant'"),
        (["ant"], ["ANT", "Ant"], "class 'ANT' of one part can be 'ant' of another, as can 'Ant'"),
    ],
)
def test_names_that_match_several_are_an_error(known, others, message):
    with pytest.raises(ValueError, match=message):
        match_names("set", known, others)


def test_splits_with_other_cases_are_one_dataset(tmp_path):
    name = tree(tmp_path / "set", "train/{Ant,bee ,red_Fox}/{0,1}.png", "test/{ant,bee,red_fox}/0.png")
    opened = open_dataset(name, tmp_path)
    assert opened.class_names == ("Ant", "bee", "red Fox") and opened.query.labels.tolist() == [0, 1, 2]
    assert opened.notes[0].startswith("2 classes are matched in spite of another case")
    assert classes_of(open_source(name, tmp_path)) == ["Ant", "bee", "red Fox"]


def test_classes_with_too_few_support_images_are_left_out_of_the_queries_in_any_case(tmp_path):
    name = tree(tmp_path / "set", "train/{Ant,Bee}/{0,1,2}.png", "train/Cat/0.png", "test/{ant,bee,cat,dog}/0.png")
    opened = open_dataset(name, tmp_path, min_examples=2)
    assert opened.class_names == ("Ant", "Bee") and opened.query.labels.tolist() == [0, 1]
    assert opened.notes[-1] == "2 query classes, such as 'cat', have no support images and are left out"


def test_splits_without_common_classes_are_an_error(tmp_path):
    name = tree(tmp_path / "set", "train/{ant,bee}/{0,1}.png", "test/{cat,dog}/0.png")
    with pytest.raises(
        ValueError, match=r"no class of the query images \(cat, dog\) is a class of the support images \(ant"
    ):
        open_dataset(name, tmp_path)


def test_one_class_does_not_advise_a_lower_limit(tmp_path):
    for path in (tree(tmp_path / "set", "ant/{0,1}.png"), str(write_shard(tmp_path / "s.tar", labelled(4, classes=1)))):
        for least in (0, 20):
            with pytest.raises(
                ValueError, match=r"only one class has images \('(ant|kind 0)'\), and two .* Add images"
            ):
                open_dataset(path, tmp_path, min_examples=least)
    name = tree(tmp_path / "two", "{ant,bee}/{0,1}.png")
    with pytest.raises(ValueError, match=r"0 of 2 classes have at least 20 .* Lower evaluate.min_examples"):
        open_dataset(name, tmp_path, min_examples=20)
