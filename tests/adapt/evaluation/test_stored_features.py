"""Evaluating stored features: the same results as with their checkpoint, and comparable encoders."""

import pathlib
import re

import numpy as np
import pytest

import adapt
import launch
from adapt.adapters.registry import TRANSDUCTIVE
from adapt.embedding.encoder import Encoder
from adapt.evaluation.config import EvaluateSettings
from adapt.evaluation.online import EvaluationInTraining
from adapt.evaluation.results import read_results
from adapt.evaluation.run import evaluate
from adapt.evaluation.stored.feature_sets import find_feature_sets
from adapt.evaluation.stored.run import evaluate_features
from adapt.report.html_report import write_report
from adapt.report.results_index import ResultsIndex, TaskKey, read_runs
from data.pipeline.image_ops import decode
from models.checkpoints.io import save_checkpoint
from tests.data.shard_files import labelled, write_shard
from tests.logged import logged
from tests.models.tiny_models import tiny_checkpoint

SAMPLES = labelled(48)
LABELS = np.array([fields["label"] for _, _, fields in SAMPLES])
METHODS = ("zero_shot", "prototypes", "tip_adapter")
COMPARED = (
    "task",
    "dataset",
    "method",
    "question",
    "shots",
    "seed",
    "value",
    "query_error",
    "queries",
    "classes",
    "selection",
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "export", tiny_checkpoint("siglip"))


@pytest.fixture(scope="module")
def images(checkpoint):
    return Encoder(checkpoint).embed_images([np.asarray(decode(image, key)) for key, image, _ in SAMPLES])


@pytest.fixture(scope="module")
def texts(checkpoint):
    return Encoder(checkpoint).embed_texts([f"a photo of a kind {number}." for number in range(3)])


def write(folder, images, *, texts=None, pool=False, labels=LABELS):
    folder.mkdir(parents=True)
    for part, rows in (("support", slice(None, None, 1 if pool else 2)), ("query", slice(1, None, 2))):
        if part == "support" or not pool:
            np.save(folder / f"{part}.npy", images[rows])
            (folder / f"{part}_labels.txt").write_text("".join(f"kind {label}\n" for label in labels[rows]))
    (folder / "classes.txt").write_text("kind 0\nkind 1\nkind 2\n")
    if texts is not None:
        np.save(folder / "texts.npy", texts)
    return folder


def settings(*features, **changes):
    return EvaluateSettings(**{"features": features, "shots": (1, 2), "seeds": 2, "methods": METHODS} | changes)


def compared(rows):
    return [{field: row[field] for field in COMPARED} for row in rows if row["task"] != "baseline"]


@pytest.mark.parametrize(
    ("pool", "protocol"),
    [
        (False, {}),
        (True, {}),
        (False, {"support_balance": "natural", "label_noise": 0.3, "shots": (2, 4)}),
        (True, {"support_balance": "zipf", "zipf_exponent": 2.0}),
    ],
    ids=["query", "pool", "natural", "zipf"],
)
def test_features_of_a_checkpoint_give_its_results(checkpoint, images, texts, tmp_path, pool, protocol):
    parts = {"support": SAMPLES} if pool else {"support": SAMPLES[::2], "query": SAMPLES[1::2]}
    things = {part: str(write_shard(tmp_path / f"{part}.tar", samples)) for part, samples in parts.items()}
    chosen = {"tasks": ("zero_shot", "few_shot", "base_to_new"), "min_examples": 1} | protocol
    with_images = settings(datasets=("things",), custom_datasets={"things": things}, baselines=(), **chosen)
    expected = evaluate({"tiny": checkpoint}, with_images, out=tmp_path / "a", data_dir=tmp_path)
    folder = write(tmp_path / "tiny" / "things", images, texts=texts, pool=pool)
    rows = evaluate_features(settings(str(folder), **chosen), out=tmp_path / "b")
    assert compared(rows) == compared(expected)
    assert {row["checkpoint"] for row in rows} == {"tiny"} and all(row["stored_features"] for row in rows)
    assert {row["settings"].get("templates") for row in rows if row["task"] == "zero_shot"} == {"stored"}
    assert rows == read_results(tmp_path / "b")


@pytest.mark.parametrize("method", TRANSDUCTIVE)
def test_a_transductive_method_sees_no_image_of_a_pool_that_a_support_set_of_the_seed_contains(
    images, texts, tmp_path, method
):
    folder = write(tmp_path / "tiny" / "things", images, texts=texts, pool=True)
    evaluated = evaluate_features(settings(str(folder), methods=(method,), tasks=("few_shot",)), out=tmp_path / "out")
    assert all(row["transductive"] and row["method"] == method for row in evaluated)
    predictions = np.load(tmp_path / "out" / "predictions" / evaluated[0]["predictions"])
    for row in evaluated:
        predicted = predictions[row["case"]]
        if row["shots"] == 2:  # the most: all images that do not count are in this support set
            support, queries = np.flatnonzero(predicted < 0), np.flatnonzero(predicted >= 0)
            adapter = adapt.create(method, **row["settings"])
            fitted = adapter.fit(images[support], LABELS[support], class_text_features=texts)
            np.testing.assert_array_equal(predicted[queries], fitted.predict(images[queries]))


def test_without_text_features_what_needs_them_is_left_out_with_a_line(images, tmp_path):
    folder = write(tmp_path / "tiny" / "things", images)
    with logged() as messages:
        rows = evaluate_features(settings(str(folder)), out=tmp_path / "out")
    start = "note: tiny has no text features for things: "
    assert messages.count(f"{start}task zero_shot, which needs class texts, is left out") == 1
    assert messages.count(f"{start}zero_shot, which need class texts, are left out") == 1
    assert sum("raw pixels and untrained towers are not evaluated" in line for line in messages) == 1
    assert {row["method"] for row in rows} == {"prototypes", "tip_adapter"}
    with pytest.raises(ValueError, match="nothing was evaluated"):
        evaluate_features(settings(str(folder), tasks=("zero_shot",)), out=tmp_path / "none")


def test_encoders_are_compared_on_the_same_rows_in_one_report(images, texts, tmp_path, capsys):
    noisy = images + np.random.default_rng(0).normal(0, 0.3, images.shape).astype(np.float32)
    write(tmp_path / "one" / "things", images, texts=texts)
    write(tmp_path / "two" / "things", noisy, texts=texts)
    workdir = tmp_path / "run"
    command = ["evaluate", f"--features={tmp_path / 'one'},second={tmp_path / 'two'}", f"--workdir={workdir}"]
    assert launch.main([*command, "--shots=1,2", "--seeds=4", "--methods=prototypes,zero_shot"]) == 0
    assert "things: rows have no ids, so row i of one is taken to be row i of second" in capsys.readouterr().out
    runs = read_runs(workdir)
    index = ResultsIndex(runs)
    assert [run.name for run in runs] == ["one", "second"]
    found = index.difference("one", "second", key=TaskKey("things"), method="prototypes", shots=2)
    means = [index.interval(name, TaskKey("things"), method="prototypes", shots=2).mean for name in ("one", "second")]
    assert found.mean == pytest.approx(means[1] - means[0])
    assert launch.main(["report", f"--workdir={workdir}"]) == 0
    page = (workdir / "report.html").read_text(encoding="utf-8")
    assert "one and second: without baselines, because stored features have no pictures" in page
    assert "things of second: stored features at" in page and "is the checkpoint with fingerprint" not in page
    assert "The pictures are examples" not in page and "Worst-classified classes: things" in page


def test_encoders_with_other_labels_are_not_compared_which_is_reported(images, tmp_path):
    write(tmp_path / "one" / "things", images)
    write(tmp_path / "two" / "things", images, labels=np.roll(LABELS, 2))
    chosen = settings(str(tmp_path / "one"), str(tmp_path / "two"), methods=("prototypes",))
    with logged() as messages:
        evaluate_features(chosen, out=tmp_path / "run" / "evaluation")
    assert any("one and two have different support labels" in line for line in messages)
    index = ResultsIndex(read_runs(tmp_path / "run"))
    assert index.difference("one", "two", key=TaskKey("things"), method="prototypes", shots=2) is None


def test_changed_features_are_evaluated_again_and_others_are_not(images, texts, tmp_path):
    folder = write(tmp_path / "one" / "things", images, texts=texts)
    first = evaluate_features(settings(str(folder)), out=tmp_path / "out")
    with logged() as messages:
        assert evaluate_features(settings(str(folder)), out=tmp_path / "out") == first
    assert not any("few_shot" in line for line in messages)
    np.save(folder / "query.npy", np.roll(images[1::2], 1, axis=0))
    changed = evaluate_features(settings(str(folder)), out=tmp_path / "out")
    assert [row["value"] for row in changed] != [row["value"] for row in first]


def test_transfer_takes_support_and_texts_of_another_data_set(images, texts, tmp_path):
    write(tmp_path / "one" / "things", images, texts=texts)
    write(tmp_path / "one" / "copies", images, texts=texts)
    chosen = settings(
        str(tmp_path / "one"), datasets=("things",), tasks=("transfer", "zero_shot"), transfer_from="copies"
    )
    rows = evaluate_features(chosen, out=tmp_path / "out")
    assert {(row["task"], row["dataset"], row["question"]) for row in rows} == {
        ("transfer", "things", "copies"),
        ("zero_shot", "things", ""),
    }
    values = {row["value"] for row in rows if row["method"] == "zero_shot"}
    assert len(values) == 1  # the queries are classified among their own classes


def test_names_of_encoders_and_data_sets_follow_from_the_folders(images, tmp_path):
    write(tmp_path / "clip" / "things", images)
    np.savez(tmp_path / "clip" / "digits.npz", support=images, support_labels=LABELS)
    found = find_feature_sets([str(tmp_path / "clip"), f"b={tmp_path / 'clip' / 'things'}"])
    assert {name: list(sets) for name, sets in found.items()} == {"clip": ["digits", "things"], "b": ["things"]}
    found = find_feature_sets([f"x={tmp_path / 'clip' / 'digits.npz'}:support:support"])
    assert found["x"]["digits"].parts == ("support", "support")
    assert list(find_feature_sets([str(tmp_path / "clip")], datasets=["things"])["clip"]) == ["things"]
    for items, message in (
        ([str(tmp_path / "clip"), str(tmp_path / "clip" / "things")], "has the data set 'things' of 'clip' twice"),
        ([str(tmp_path)], "is not a data set of features and contains none"),
        ([str(tmp_path / "clip" / "things" / "support.npy")], "which is an .npz or a folder with support.npy"),
        ([str(tmp_path / "clop")], "there are no features at .*clop. Did you mean"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            find_feature_sets(items)
    with pytest.raises(ValueError, match=r"unknown data set of evaluate.features 'thing'. Did you mean 'things'"):
        find_feature_sets([str(tmp_path / "clip")], datasets=["thing"])


def test_the_example_of_the_documentation_writes_a_data_set(images, texts, tmp_path, monkeypatch):
    page = (pathlib.Path(__file__).parents[3] / "docs" / "guides" / "evaluation.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(import numpy as np\n.*?)```", page, re.DOTALL)[1]
    (tmp_path / "features" / "clip").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    given = {"support": images[::2], "support_labels": LABELS[::2], "query": images[1::2], "query_labels": LABELS[1::2]}
    exec(code, given | {"class_names": ["a", "b", "c"], "class_text_features": texts})
    rows = evaluate_features(settings("features/clip", methods=("prototypes",)), out=tmp_path / "out")
    assert {(row["checkpoint"], row["dataset"]) for row in rows} == {("clip", "flowers")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoint=a"], "--checkpoint=a cannot be used with --features"),
        (["--cache=a"], "--cache=a cannot be used with --features"),
        (["--retrieval=a.tar"], "evaluate.retrieval needs images and texts, not evaluate.features"),
        (["--canonicalize=none"], "evaluate.canonicalize prepares texts"),
    ],
)
def test_options_that_need_a_checkpoint_are_refused(tmp_path, capsys, options, message):
    assert launch.main(["evaluate", "--features=x", f"--workdir={tmp_path}", *options]) == 1
    assert message in capsys.readouterr().err


def test_features_are_not_evaluated_in_training(tmp_path):
    with pytest.raises(ValueError, match=r"evaluate.features cannot be evaluated in training"):
        EvaluationInTraining(settings("x"), tmp_path)


def test_a_report_of_features_and_a_checkpoint_names_both(checkpoint, images, tmp_path):
    write(tmp_path / "tiny" / "things", images)
    evaluate_features(settings(str(tmp_path / "tiny"), methods=("prototypes",)), out=tmp_path / "runs/a/evaluation")
    shard = str(write_shard(tmp_path / "s.tar", SAMPLES))
    things = settings(datasets=("s",), custom_datasets={"s": {"support": shard}}, methods=("prototypes",), baselines=())
    evaluate({"net": checkpoint}, things, out=tmp_path / "runs/b/evaluation", data_dir=tmp_path)
    runs = [run for name in "ab" for run in read_runs(tmp_path / "runs" / name, name=name)]
    page = write_report(runs, tmp_path / "runs", title="both").read_text(encoding="utf-8")
    assert "things of a: stored features at" in page and "b is the checkpoint with fingerprint" in page
