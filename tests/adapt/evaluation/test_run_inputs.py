"""Evaluations of small, damaged or invalid inputs: which run, which raise, and what the notes say."""

import shutil

import numpy as np
import pytest

from adapt.evaluation.results import read_results
from adapt.evaluation.run import EvaluateSettings, evaluate
from foundation.settings import build
from tests.adapt.adapters import references
from tests.adapt.evaluation.tiny_run import LABELS, SAMPLES, embedded, evaluate_tiny, queries
from tests.data.shard_files import write_shard
from tests.logged import logged


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    return evaluate_tiny(tmp_path_factory.mktemp("run"), methods=("zero_shot", "knn"))


@pytest.fixture(scope="module")
def features(evaluated):
    return embedded(evaluated)


def test_when_all_shots_are_skipped_a_note_says_so_and_other_tasks_still_run(evaluated, tmp_path):
    shutil.copytree(evaluated.out / "embeddings", tmp_path / "embeddings")
    settings = {"few_examples": "skip", "shots": (50,), "retrieval": (), "methods": ("knn",)}
    settings = EvaluateSettings(**{**vars(evaluated.settings), **settings})
    with logged() as messages:
        rows = evaluate({"tiny": evaluated.checkpoint}, settings, out=tmp_path, data_dir=tmp_path)
    assert {row["task"] for row in rows} == {"zero_shot"} and read_results(tmp_path) == rows
    assert messages[1:] == [
        "note: things: the smallest class has 7 images to draw from, besides one kept as a query; 50 shots are skipped",
        "note: things has too few support images for task few_shot",
    ]


@pytest.mark.parametrize("damage", [lambda content: content[:-50], lambda content: b""])
def test_damaged_embeddings_are_computed_again(evaluated, tmp_path, damage):
    shutil.copytree(evaluated.out / "embeddings", tmp_path / "embeddings")
    paths = sorted((tmp_path / "embeddings").glob("*/*.npy"))
    whole = [path.read_bytes() for path in paths]
    for path, content in zip(paths, whole, strict=True):
        path.write_bytes(damage(content))
    rows = evaluated.again(tmp_path, methods=("zero_shot",))
    assert rows == [row for row in evaluated.rows if row["method"] == "zero_shot"]
    assert [path.read_bytes() for path in paths] == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ("knn", "svm")}, r"unknown method 'svm'\. Known: zero_shot, prototypes, knn, tip_adapter, "),
        (
            {"tasks": ("few_shots",)},
            r"unknown evaluate\.tasks 'few_shots'\. Did you mean 'few_shot'\? Known: zero_shot, few_shot, ",
        ),
        ({"tasks": ("transfer",)}, "evaluate.tasks contains transfer, but evaluate.transfer_from is empty"),
        (
            {"datasets": (), "retrieval": ()},
            r"nothing to evaluate\. Set evaluate\.datasets, evaluate\.retrieval or evaluate\.features\.",
        ),
        ({"datasets": ("digits", "digits")}, "contains a dataset twice"),
        ({"few_examples": "drop"}, r"unknown evaluate\.few_examples 'drop'\. Known: cap, skip$"),
        (
            {"custom_datasets": {"a": {"suport": "x"}}},
            r"unknown key evaluate\.custom_datasets\.a\.suport\. Did you mean 'support'\? Known: support, query",
        ),
        ({"shots": ()}, r"evaluate\.shots is empty"),
        ({"shots": (0, 1)}, r"evaluate\.shots\[0\] is 0; it must be a positive whole number"),
        ({"seeds": 0}, r"evaluate\.seeds is 0; it must be a positive whole number"),
        ({"caption": "longest"}, r"unknown evaluate\.caption 'longest'\. Known: first, all, each$"),
    ],
)
def test_invalid_settings_raise(evaluated, change, message):
    with pytest.raises(ValueError, match=message):
        EvaluateSettings(**{**vars(evaluated.settings), **change})


def test_the_old_key_own_is_accepted_with_a_warning():
    values = {"datasets": ("a",), "own": {"a": {"support": "x"}}}
    with logged() as messages:
        settings = build(EvaluateSettings, "evaluate", values)
    assert settings.custom_datasets["a"].support == "x"
    assert any("evaluate.own" in line and "evaluate.custom_datasets" in line for line in messages)


def test_classes_below_min_examples_are_left_out(evaluated, features, tmp_path):
    images, texts = features[0][LABELS > 0], references.unit(features[1][1:])
    labels = LABELS[LABELS > 0] - 1
    settings = {"min_examples": 9, "methods": ("zero_shot",), "retrieval": (), "tasks": ("few_shot",)}
    for row in evaluated.again(tmp_path, **settings):
        query = queries(row["seed"], labels)
        guesses = np.argmax(images[query] @ texts.T, axis=1)
        assert (row["classes"], row["queries"]) == (2, 12)
        assert row["value"] == pytest.approx(np.mean(guesses == labels[query]), rel=1e-6)


def test_a_dataset_of_classes_below_min_examples_raises(evaluated, tmp_path):
    with pytest.raises(ValueError, match="things: 0 of 3 classes have at least 10 images"):
        evaluated.again(tmp_path, min_examples=10)


def test_a_folder_without_results_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no results\.jsonl\. Run `launch\.py evaluate` to write it\."):
        read_results(tmp_path)


@pytest.mark.parametrize("pooled", [False, True])
def test_copies_of_support_images_among_the_queries_are_counted_and_noted(evaluated, tmp_path, pooled):
    copies = [(f"copy-{key}", image, fields) for key, image, fields in SAMPLES[:5]]
    if pooled:
        settings = {"support": str(write_shard(tmp_path / "s.tar", [*SAMPLES, *copies])), "template": "{}"}
    else:
        support = str(write_shard(tmp_path / "s.tar", SAMPLES[:15]))
        settings = {"support": support, "query": str(write_shard(tmp_path / "q.tar", [*SAMPLES[15:], *copies]))}
    changes = {"custom_datasets": {"things": settings}, "retrieval": (), "methods": ("knn",), "seeds": 2}
    with logged() as messages:
        rows = evaluated.again(tmp_path / "out", **changes)
    expected = 10 if pooled else 5  # in a pool, each of a pair is the copy of the other
    assert {row["identical_queries"] for row in rows if row["task"] == "few_shot"} == {expected}
    assert {row["identical_queries"] for row in rows if row["task"] == "zero_shot"} == {0}
    notes = [message for message in messages if "identical" in message]
    assert notes == [
        f"note: things: {expected} query images are identical to images that support sets are drawn from. They are "
        "counted as queries."
    ]
