"""Data sets of stored features: what is read from folders, archives and ids, and what stops or is reported."""

import json

import numpy as np
import pytest

from data.features.identical_rows import find_identical_rows
from data.features.labelled import open_labelled_features
from tests.logged import logged

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(3, 8))
LABELS = np.array([0, 1, 2, 2, 1, 0, 0])
QUERY_LABELS = np.array([2, 1, 0, 1])
SUPPORT = (CENTRES[LABELS] + RNG.normal(0, 0.1, (7, 8))).astype(np.float32)
QUERY = (CENTRES[QUERY_LABELS] + RNG.normal(0, 0.1, (4, 8))).astype(np.float32)
TEXTS = CENTRES.astype(np.float16)
CLASSES = ["wren", "robin", "rook"]
WHOLE = {
    "support": SUPPORT,
    "support_labels": LABELS,
    "query": QUERY,
    "query_labels": QUERY_LABELS,
    "classes": np.array(CLASSES),
    "texts": TEXTS,
}


def write(folder, **changes):
    """Write a data set as files: arrays as `.npy`, lists as `.txt`; None leaves a file out."""
    folder.mkdir(exist_ok=True)
    for name, values in (WHOLE | changes).items():
        if isinstance(values, list):
            (folder / f"{name}.txt").write_text("".join(f"{value}\n" for value in values), encoding="utf-8")
        elif values is not None:
            np.save(folder / f"{name}.npy", values)
    return folder


def opened(path, **options):
    return open_labelled_features(path, name="birds", **options)


def names_of(dataset, part):
    return [dataset.class_names[label] for label in getattr(dataset, part).labels]


NAMES = [CLASSES[label] for label in LABELS], [CLASSES[label] for label in QUERY_LABELS]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"support_labels": LABELS.astype(np.uint8), "query_labels": QUERY_LABELS.tolist()},
        {"support_labels": NAMES[0], "query_labels": np.array(NAMES[1])},
        {"support_labels": np.array(NAMES[0], "S"), "query_labels": np.array(NAMES[1]), "classes": CLASSES},
        {"support_labels": [name.upper() for name in NAMES[0]], "query_labels": NAMES[1]},
    ],
    ids=["numbers", "lines", "names", "bytes", "case"],
)
def test_labels_are_numbers_or_names(tmp_path, changes):
    dataset = opened(write(tmp_path / "x", **changes))
    assert dataset.class_names == tuple(CLASSES)
    assert (names_of(dataset, "support"), names_of(dataset, "query")) == NAMES
    np.testing.assert_array_equal(dataset.support.features, SUPPORT)
    np.testing.assert_array_equal(dataset.texts, TEXTS.astype(np.float32))


def test_an_archive_has_the_same_parts(tmp_path):
    np.savez(tmp_path / "birds.npz", **WHOLE, support_ids=np.array(list("abcdefg")))
    folder, archive = opened(write(tmp_path / "x")), opened(tmp_path / "birds.npz")
    assert folder.fingerprint == archive.fingerprint and archive.support.ids == tuple("abcdefg")
    assert folder.query.ids == archive.query.ids == ("0", "1", "2", "3")
    assert archive.query.labels.tolist() == QUERY_LABELS.tolist()


def test_parts_can_be_named(tmp_path):
    arrays = {
        "support_1": SUPPORT[:3],
        "support_labels_1": LABELS[:3],
        "support_4": SUPPORT,
        "support_labels_4": LABELS,
    }
    np.savez(tmp_path / "x.npz", **arrays, val=QUERY, val_labels=QUERY_LABELS)
    dataset = opened(tmp_path / "x.npz", parts=("support_4", "val"))
    assert len(dataset.support) == 7 and len(dataset.query) == 4
    assert dataset.class_names == ("class 0", "class 1", "class 2") and dataset.texts is None
    with pytest.raises(ValueError, match=r"It has: support_1, support_4, val. Name two of them as .*:SUPPORT:QUERY"):
        opened(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=r"has no features 'test'. It has: support_1, support_4, val"):
        opened(tmp_path / "x.npz", parts=("support_4", "test"))


def test_other_arrays_of_an_archive_are_no_parts(tmp_path):
    np.savez(tmp_path / "x.npz", features=SUPPORT, labels=LABELS, paths=np.array(list("abcdefg")), scale=np.float32(1))
    assert opened(tmp_path / "x.npz").query is None
    (tmp_path / "cut.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:-200])
    (tmp_path / "other.npz").write_bytes(b"features")
    for name in ("cut", "other"):
        with pytest.raises(ValueError, match=rf"{name}.npz cannot be read as an .npz"):
            opened(tmp_path / f"{name}.npz")


def test_one_set_without_query_is_one_pool_which_is_logged(tmp_path):
    with logged() as messages:
        dataset = opened(write(tmp_path / "x", query=None, query_labels=None))
    assert dataset.query is None
    assert any("support rows are drawn from support, and the remaining rows are queries" in line for line in messages)
    with logged() as messages:
        same = opened(write(tmp_path / "y", query=SUPPORT, query_labels=LABELS))
    assert same.query is None and any("support and query have the same rows" in line for line in messages)


def test_labels_without_names_may_have_gaps(tmp_path):
    changes = {"classes": None, "texts": None, "support_labels": LABELS * 7 + 3, "query_labels": QUERY_LABELS * 7 + 3}
    dataset = opened(write(tmp_path / "x", **changes))
    assert dataset.class_names == ("class 3", "class 10", "class 17")
    assert dataset.query.labels.tolist() == QUERY_LABELS.tolist()


def embedded(folder, rows, ids, kind="images"):
    folder.mkdir(parents=True)
    np.save(folder / f"{kind}.npy", rows)
    (folder / f"{kind}.ids.jsonl").write_text("".join(json.dumps(each) + "\n" for each in ids))
    return folder


def test_labels_follow_from_the_folders_in_the_ids_that_embed_writes(tmp_path):
    embedded(tmp_path / "x" / "train", SUPPORT, [f"{name}/{row}.jpg" for row, name in enumerate(NAMES[0])])
    embedded(tmp_path / "x" / "test", QUERY, [f"photos/{name}/{row}.jpg" for row, name in enumerate(NAMES[1])])
    embedded(tmp_path / "x" / "texts", TEXTS, CLASSES, kind="texts")
    dataset = opened(tmp_path / "x")
    assert (names_of(dataset, "support"), names_of(dataset, "query")) == NAMES
    assert dataset.class_names == tuple(CLASSES)
    np.testing.assert_array_equal(dataset.texts, TEXTS.astype(np.float32))


def test_splits_in_the_ids_are_support_and_query(tmp_path):
    parts = [("train", NAMES[0]), ("test", NAMES[1])]
    ids = [f"{split}/{name}/{row}.jpg" for split, names in parts for row, name in enumerate(names)]
    embedded(tmp_path / "x", np.concatenate([SUPPORT, QUERY]), ids)
    with logged() as messages:
        dataset = opened(tmp_path / "x")
    assert (names_of(dataset, "support"), names_of(dataset, "query")) == NAMES
    np.testing.assert_array_equal(dataset.query.features, QUERY)
    assert any("support rows are drawn from train, queries are those of test" in line for line in messages)


@pytest.mark.parametrize(
    "ids",
    [
        ["train/a/1", "train/b/2", "test/a/3", "test/b/4", "a/5", "b/6", "b/7"],
        ["train/1", "train/2", "train/3", "train/4", "test/1", "test/2", "test/3"],
        ["val/a/1", "val/b/2", "test/a/3", "test/b/4", "test/b/5", "val/b/6", "val/b/7"],
    ],
    ids=["classes", "flat", "no train"],
)
def test_ids_that_name_splits_and_something_else_are_refused(tmp_path, ids):
    with pytest.raises(ValueError, match="which are neither classes nor a training and a test split"):
        opened(embedded(tmp_path / "x", SUPPORT, ids))


def test_ids_of_a_training_split_alone_have_classes_below(tmp_path):
    dataset = opened(embedded(tmp_path / "x", SUPPORT, [f"train/{name}/1.jpg" for name in NAMES[0]]))
    assert names_of(dataset, "support") == NAMES[0]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_texts_with_class_names_as_ids_are_put_in_the_order_of_the_classes(tmp_path, order):
    write(tmp_path / "x", texts=TEXTS[order])
    (tmp_path / "x" / "texts.ids.jsonl").write_text("".join(f'"{CLASSES[row]}"\n' for row in order))
    np.testing.assert_array_equal(opened(tmp_path / "x").texts, TEXTS.astype(np.float32))


def test_classes_without_support_rows_are_left_out_with_their_texts_and_queries(tmp_path):
    kept = LABELS > 0
    dataset = opened(write(tmp_path / "x", support=SUPPORT[kept], support_labels=LABELS[kept]))
    assert dataset.class_names == ("robin", "rook") and len(dataset.query) == 3
    np.testing.assert_array_equal(dataset.texts, TEXTS[1:].astype(np.float32))
    assert names_of(dataset, "query") == ["rook", "robin", "robin"]
    assert "1 of 3 classes, such as 'wren'" in dataset.notes[0] and "1 of 4 query rows" in dataset.notes[1]


NOT_FINITE, ZERO = SUPPORT.copy(), SUPPORT.copy()
NOT_FINITE[2, 3], ZERO[4] = np.nan, 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"support_labels": LABELS[:-1]}, "support has 7 rows, but 6 labels"),
        (
            {"support_labels": LABELS + 1},
            "go up to 3, but there are 3 class names, .* seem to count from 1: subtract 1",
        ),
        ({"query_labels": QUERY_LABELS + 5}, r"labels of query go up to 7, but there are 3 class names"),
        ({"support_labels": LABELS + 1, "classes": None}, "but there are 3 rows of texts, numbered from 0"),
        ({"query_labels": QUERY_LABELS + 1, "classes": None, "texts": None}, "0 to 2, of the other 1 to 3"),
        ({"query_labels": QUERY_LABELS - 1}, "label -1 of row 2 of query is negative"),
        ({"support_labels": LABELS.astype(float)}, "has dtype float64. Store integers, or strings"),
        ({"support_labels": np.eye(3)[LABELS]}, r"has shape \[7, 3\]; labels and names are \[rows\]"),
        ({"support_labels": np.array([*LABELS[1:], None])}, "cannot be read"),
        ({"support_labels": NAMES[0]}, "labels of support are names and those of query are numbers"),
        (
            {"support_labels": NAMES[0], "query_labels": NAMES[1], "classes": None},
            "the class of each of the 3 rows of te",
        ),
        (
            {"support_labels": ["wern", *NAMES[0][1:]], "query_labels": NAMES[1]},
            "1 labels of support are not among the 3 class names, such as 'wern'. Did you mean 'wren'",
        ),
        ({"support_labels": np.array([b"\xe9"] * 7)}, "has bytes that are not UTF-8"),
        ({"support_labels": LABELS.astype(np.uint64) + 2**63}, "has the value 9223372036854775810, which is too large"),
        ({"support_labels": ["", *NAMES[0][1:]]}, "line 1 of .*support_labels.txt is empty"),
        ({"classes": ["2", "0", "1"]}, "can be numbers of the classes or their names"),
        ({"classes": [*CLASSES, "jay"]}, "has 3 rows of texts, but 4 class names"),
        ({"support_labels": None}, "has no labels, and they have no ids"),
        ({"query": QUERY[:, :5]}, r"different dimensions \(support 8, query 5, texts 8\)"),
        ({"texts": TEXTS[:, :5]}, r"different dimensions \(support 8, query 8, texts 5\)"),
        ({"support": NOT_FINITE}, r"row 2 of .*support.npy has a value that is not finite"),
        ({"support": ZERO}, r"row 4 of .*support.npy has length 0"),
        ({"support": SUPPORT.astype(int)}, "has dtype int64"),
        ({"query": SUPPORT, "query_labels": LABELS[::-1].copy()}, "the same features, but other labels"),
        ({"support_labels": LABELS * 0}, "1 of 3 classes have at least 1 rows, and two are needed"),
        ({"query": None, "val": QUERY}, "has no query features, but it has support, val. Name support and query"),
        ({"train": QUERY, "train_labels": QUERY_LABELS}, "has features of several kinds"),
        ({"text": TEXTS}, "has both text and texts|has both texts and text"),
    ],
)
def test_parts_that_do_not_fit_together_are_one_sentence(tmp_path, changes, message):
    folder = write(tmp_path / "x", **changes)
    with pytest.raises(ValueError, match=message) as error:
        opened(folder)
    assert "\n" not in str(error.value)


def test_labels_in_two_files_are_refused(tmp_path):
    folder = write(tmp_path / "x")
    (folder / "support_labels.txt").write_text("0\n" * 7)
    with pytest.raises(ValueError, match=r"has both support_labels.npy and support_labels.txt"):
        opened(folder)


def test_parts_of_different_encoders_are_refused(tmp_path):
    folder = write(tmp_path / "x")
    for part, weights in (("support", "a"), ("query", "a"), ("texts", "b")):
        (folder / f"{part}.json").write_text(json.dumps({"checkpoint": "f", "rows": 1, "weights": weights}))
    with pytest.raises(ValueError, match="name different encoders"):
        opened(folder)


MANY = {"support": np.concatenate([SUPPORT, SUPPORT * 2, SUPPORT * 3]), "support_labels": np.tile(LABELS, 3)}
BACKGROUND = {"classes": ["none", *CLASSES], "support_labels": LABELS + 1, "query_labels": QUERY_LABELS + 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": np.concatenate([QUERY[:2], SUPPORT[3:5]])}, "2 of 4 query rows are identical to a support row"),
        (
            MANY | {"texts": TEXTS[[1, 2, 0]]},
            "classify 0.0% of 21 rows correctly, not clearly better than chance (33.3%)",
        ),
        (BACKGROUND | {"texts": None}, "no row has the label of class 0 ('none'), the lowest label is 1"),
    ],
)
def test_suspicious_features_are_reported(tmp_path, changes, message):
    with logged() as messages:
        opened(write(tmp_path / "x", **changes))
    assert sum(line.startswith("warning: birds: ") and message in line for line in messages) == 1


@pytest.mark.parametrize(("labels", "count"), [(LABELS, 0), (np.sort(LABELS), 1)], ids=["rows", "sorted"])
def test_labels_in_another_order_than_the_folders_of_the_ids_are_reported(tmp_path, labels, count):
    folder = write(tmp_path / "x", support_labels=labels)
    (folder / "support.ids.jsonl").write_text("".join(f'"{name}/{row}.jpg"\n' for row, name in enumerate(NAMES[0])))
    with logged() as messages:
        opened(folder)
    assert sum("the labels do not follow the 3 folders in the ids" in line for line in messages) == count


@pytest.mark.parametrize("changes", [{}, MANY])
def test_nothing_is_reported_for_features_in_order(tmp_path, changes):
    with logged() as messages:
        opened(write(tmp_path / "x", **changes))
    assert not [line for line in messages if "warning" in line] and len(messages) == 3
    assert "float16, not normalised" in messages[2] and messages[2].endswith("rows are scaled to length 1")


def test_identical_rows_are_found_but_a_row_is_not_identical_to_itself():
    rows = np.array([[1, 0], [0, 1], [1, 0], [-0.0, 1]], np.float32)
    assert find_identical_rows(rows, rows).tolist() == [0, 1, 0, 1]
    assert find_identical_rows(rows, rows, own_rows=np.arange(4)).tolist() == [2, 3, 0, 1]
    assert find_identical_rows(rows[:2], rows[2:] + 1).tolist() == [-1, -1]
