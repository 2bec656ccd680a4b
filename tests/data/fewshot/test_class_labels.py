"""Labels and class names of shards: in words or numbers of any size, in CLIP_benchmark's text files, in settings."""

import json
import tracemalloc

import fsspec
import numpy as np
import pytest

from data.fewshot.labelled import DatasetSettings, read_labels
from data.fewshot.open import open_dataset
from data.sources.base import parse_class, parse_label
from data.sources.open import open_source
from tests.data.shard_files import png, write_tar

NAMES = ("circle", "T-shirt", "black cross")


def write_cls(path, contents, *, first=0):
    """Write a shard with one sample for each content of a `.cls` file."""
    files = [((f"{n:04}.png", png(first + n, (8, 8))), (f"{n:04}.cls", text)) for n, text in enumerate(contents)]
    return write_tar(path, [file for pair in files for file in pair])


def write_json(path, fields):
    files = [
        ((f"{n:04}.png", png(n, (8, 8))), (f"{n:04}.json", json.dumps(row).encode())) for n, row in enumerate(fields)
    ]
    return write_tar(path, [file for pair in files for file in pair])


@pytest.fixture
def folder(tmp_path):
    """A dataset in CLIP_benchmark's layout; label 1 has no image in `train/`."""
    root = tmp_path / "shapes"
    for number, split in enumerate(("train", "test")):
        labels = [b"0", b"2", b"0\n", b" 2"] if split == "train" else [b"2", b"0", b"2"]
        write_cls(root / split / "0.tar", labels, first=10 * number)
        (root / split / "nshards.txt").write_text("1")
    (root / "classnames.txt").write_text("\n".join(NAMES))
    (root / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\nart of {c}\n")
    return root


def test_a_folder_of_clip_benchmark_is_a_dataset(folder, tmp_path):
    opened = open_dataset(str(folder), tmp_path / "data")
    assert opened.class_names == ("circle", "black cross")
    assert opened.support.labels.tolist() == [0, 1, 0, 1] and opened.query.labels.tolist() == [1, 0, 1]
    assert opened.templates == ("a photo of a {}.", "art of {}") and opened.template == "a photo of a {}."
    assert np.array_equal(opened.query.image(0), opened.query.image(0))


@pytest.mark.parametrize("source", ["{}/test/*.tar", "{}/test/0.tar", "{}/test/{{0..0}}.tar", "{}:test:train"])
def test_parts_of_the_layout_find_its_class_names(folder, tmp_path, source):
    opened = open_dataset(source.format(folder), tmp_path / "data")
    assert opened.class_names == ("circle", "black cross") and opened.support.labels.tolist() == [1, 0, 1]
    assert opened.templates == ("a photo of a {}.", "art of {}")


def test_class_names_of_remote_shards_are_found(folder, tmp_path):
    store = fsspec.filesystem("memory")
    store.put(str(folder), "/shapes", recursive=True)
    try:
        opened = open_dataset("memory://shapes/test/*.tar", tmp_path / "data")
        assert opened.class_names == ("circle", "black cross") and opened.templates == ("a photo of a {}.", "art of {}")
    finally:
        store.rm("/shapes", recursive=True)


@pytest.mark.parametrize(
    "content",
    [
        "circle\r\nT-shirt\r\nblack cross\r\n",
        "\ufeffcircle\nT-shirt\nblack cross",
        "circle \n T-shirt\nblack cross\n\n\n",
    ],
)
def test_class_names_are_read_from_every_kind_of_text_file(folder, tmp_path, content):
    (folder / "classnames.txt").write_bytes(content.encode())
    assert open_dataset(str(folder), tmp_path / "data").class_names == ("circle", "black cross")


def test_two_classes_may_have_the_same_word_in_the_list(folder, tmp_path):
    (folder / "classnames.txt").write_text("crane\nheron\ncrane\n")  # as in ImageNet
    opened = open_dataset(str(folder), tmp_path / "data")
    assert opened.class_names == ("crane", "crane") and opened.query.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("circle\nsquare\n", r"classnames\.txt has 2 lines, but the largest label is 2\. Write the class of label 0"),
        ("circle\n\ncross\n", r"classnames\.txt: line 2 is blank\. Write one class name per line"),
        (None, r"label 0 has no class name\. Name the classes by `class` .* a file classnames\.txt next to the shards"),
    ],
)
def test_an_unsuitable_list_of_class_names_is_an_error(folder, tmp_path, content, message):
    (folder / "classnames.txt").unlink() if content is None else (folder / "classnames.txt").write_text(content)
    with pytest.raises(ValueError, match=message):
        open_dataset(str(folder), tmp_path / "data")


def test_missing_shards_are_reported(folder, tmp_path, said):
    (folder / "train" / "nshards.txt").write_text("4\n")
    open_dataset(str(folder), tmp_path / "data")
    [line] = [line for line in said if "warning" in line]
    assert "train/*.tar has 1 shards, but" in line and "says 4; using 1" in line


def test_class_names_of_the_settings_name_labels_by_number_or_order(folder, tmp_path):
    for names, expected in ((("a", "b", "c"), ("a", "c")), (("a", "c"), ("a", "c"))):
        settings = DatasetSettings(support=f"{folder}/train/*.tar", class_names=names)
        assert open_dataset("own", tmp_path / "data", custom_datasets={"own": settings}).class_names == expected


def test_labels_in_words_are_class_names(tmp_path):
    paths = [
        write_cls(tmp_path / "cls.tar", [b"red_fox", b"owl\n", b"red_fox"]),
        write_json(tmp_path / "label.tar", [{"label": name} for name in ("red_fox", "owl", "red_fox")]),
        write_json(tmp_path / "class.tar", [{"class": name} for name in ("red_fox", "owl", "red_fox")]),
    ]
    for path in paths:
        opened = open_dataset(str(path), tmp_path / "data")
        assert opened.class_names == ("owl", "red fox") and opened.support.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    "values",
    [
        (0, 1_000_000_000, 2_000_000_000, 3_000_000_000),
        (7, 2**53, 2**53 + 1, 2**53 + 2),
        (2**31 - 1, 2**31, 2**63, 2**64 + 1),
        (5, 6, 900, 10**30),
    ],
)
def test_labels_of_any_size_take_no_more_memory_than_classes(tmp_path, values):
    rows = [{"label": value, "class": f"kind {number}"} for number, value in enumerate(values)] * 2
    path = str(write_json(tmp_path / "s.tar", rows))
    cls = write_cls(tmp_path / "c.tar", [str(row["label"]).encode() for row in rows])
    tracemalloc.start()
    try:
        for _ in range(2):  # the second time from the cache
            opened = open_dataset(path, tmp_path / "data")
            assert opened.class_names == tuple(f"kind {number}" for number in range(4))
            assert opened.support.labels.tolist() == [0, 1, 2, 3] * 2
            labels = read_labels("c", open_source(str(cls), tmp_path / "data"), data_dir=tmp_path / "data")
            assert labels.labels.tolist() == [0, 1, 2, 3] * 2 and tuple(labels.values) == values
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"label": 1, "class": "a"}, {"class": "b"}], r"0001 has no label or no class"),
        ([{"class": "b"}, {"label": 1, "class": "a"}], r"0001 has no label or no class"),
        ([{"label": -1, "class": "a"}], r"0000 has no label or no class"),
        ([{}], r"0000 has no label or no class"),
    ],
)
def test_samples_without_labels_among_others_are_an_error(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(str(write_json(tmp_path / "s.tar", rows)), tmp_path / "data")


@pytest.mark.parametrize(
    ("value", "label"),
    [(3, 3), ("3", 3), (b"3\n", 3), ("3.0", 3), (3.0, 3), (str(2**60 + 1), 2**60 + 1), (2**70, 2**70), ("1e3", 1000)]
    + [("0", 0), (" 7 ", 7), ("-1", -1), ("+2", 2), ("10.", 10)]
    + [
        (value, None)
        for value in (
            "cat",
            b"",
            None,
            [3],
            0.5,
            "007",
            b"00\n",
            "1_0",
            "1_0.0",
            "٣",
            "٣.0",
            "-01",
            "1e",
            "0x1",
            "nan",
            float("inf"),
            float("nan"),
            "0 3",
            b"\xff",
        )
    ],
)
def test_whole_numbers_are_labels(value, label):
    assert parse_label(value) == label


def test_a_label_in_words_is_a_name_unless_there_is_one():
    assert parse_class("cat", None) == (None, "cat") and parse_class(b" cat\n", None) == (None, "cat")
    assert parse_class("cat", "dog") == (None, "dog") and parse_class("3", "dog") == (3, "dog")
    assert parse_class(b"\n", None) == parse_class(None, None) == (None, None)


@pytest.mark.parametrize("write", ["cls", "json", "csv"])
@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["007", "7", "0"], ("0", "007", "7")),
        (["00501", "90210"], ("00501", "90210")),
        (["1_0", "10"], ("10", "1_0")),
        (["٣", "3"], ("3", "٣")),
        (["747", "A320"], ("747", "A320")),
    ],
)
def test_labels_that_are_not_numbers_are_names(tmp_path, said, write, labels, names):
    path = tmp_path / f"s.{'csv' if write == 'csv' else 'tar'}"
    if write == "cls":
        write_cls(path, [label.encode() for label in labels] * 2)
    elif write == "json":
        write_json(path, [{"label": label} for label in labels] * 2)
    else:
        (tmp_path / "0.png").write_bytes(png(0, (8, 8)))
        path.write_text("path,caption,label\n" + "".join(f"0.png,a,{label}\n" for label in labels * 2))
    for _ in range(2):  # the second time from the cache
        source = open_source(str(path), tmp_path / "data")
        found = read_labels("set", source, data_dir=tmp_path / "data")
        assert tuple(found.class_names) == names
        assert [names[label] for label in found.labels] == labels * 2
    mixed = any(label.isascii() and label.isdecimal() and label[:1] != "0" for label in labels)
    assert any("all labels are taken as class names" in line for line in said) == mixed


def test_a_number_is_not_a_name_among_classes(tmp_path):
    for rows in ([{"label": 7, "class": "a"}, {"label": "007"}], [{"label": 7}, {"class": "b"}]):
        with pytest.raises(ValueError, match=r"0001 has no label or no class"):
            open_dataset(str(write_json(tmp_path / "s.tar", rows)), tmp_path / "data")


def test_padded_labels_are_lines_of_the_list_of_class_names(folder, tmp_path):
    for split in ("train", "test"):
        write_cls(folder / split / "0.tar", [b"000", b"002", b"000"], first=20)
    opened = open_dataset(str(folder), tmp_path / "data")
    assert opened.class_names == ("circle", "black cross") and opened.query.labels.tolist() == [0, 1, 0]
    write_cls(folder / "train" / "0.tar", [b"02", b"2", b"0"], first=20)  # two classes, not one
    labels = read_labels("x", open_source(f"{folder}/train/*.tar", tmp_path), data_dir=tmp_path)
    assert labels.class_names == ["0", "02", "2"]
