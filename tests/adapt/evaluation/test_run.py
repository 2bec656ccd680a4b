"""A whole evaluation of a tiny export on a tiny shard, recomputed from the embeddings that it wrote."""

import json
import shutil
from typing import get_args

import numpy as np
import pytest

import adapt
from adapt.embedding.encoder import Encoder
from adapt.evaluation.results import read_results
from adapt.evaluation.run import EvaluateSettings, evaluate
from adapt.evaluation.scoring import score
from adapt.model_selection.hyperparameters import Grid
from adapt.report.results_index import ResultsIndex, Run, TaskKey
from data.fewshot.labelled import Metric
from foundation.shard import Shard
from tests.adapt.adapters import references
from tests.adapt.evaluation.tiny_run import LABELS, SAMPLES, draw, embedded, evaluate_tiny, queries
from tests.data.shard_files import labelled, write_shard
from tests.logged import logged


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    return evaluate_tiny(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def features(evaluated):
    return embedded(evaluated)


def few_shot(rows, method):
    return [row for row in rows if row["task"] == "few_shot" and row["method"] == method]


def right(method, settings, support, queries, features):
    """Return how many of the queries the reference classifies correctly from the support."""
    images, texts = features
    logits = references.logits(method, settings, images[support], LABELS[support], texts, images[queries])
    return int(np.sum(logits.argmax(axis=1) == LABELS[queries]))


@pytest.mark.slow
def test_every_method_shots_and_seed_has_a_row_and_so_do_both_directions_of_retrieval(evaluated):
    for method in evaluated.settings.methods:
        cases = [(row["shots"], row["seed"]) for row in few_shot(evaluated.rows, method)]
        shots = (0,) if method == "zero_shot" else (1, 2, 3)
        assert sorted(cases) == [(k, seed) for k in shots for seed in range(3)]
    retrieval = [row["metric"] for row in evaluated.rows if row["task"] == "retrieval"]
    assert retrieval == [f"{way} recall@{k}" for way in ("text→image", "image→text") for k in (1, 5, 10)]
    assert {row["classes"] for row in few_shot(evaluated.rows, "knn")} == {3}
    assert {row["queries"] for row in few_shot(evaluated.rows, "knn")} == {len(SAMPLES) - 9}
    assert len(evaluated.messages) == 2 + len(evaluated.settings.methods)


def test_distances_are_to_the_nearest_image_of_the_row_s_own_support_set(evaluated, features):
    images = references.unit(features[0])
    index = ResultsIndex([Run("tiny", evaluated.rows, {}, [], [], [], evaluated.out)])
    for method in evaluated.settings.methods:
        rows = index.rows("tiny", TaskKey("things"), method=method, shots=3)
        distances, (predictions, _) = index.distances("tiny", rows), index.predictions("tiny", rows)
        for row, distance, predicted in zip(rows, distances, predictions, strict=True):
            support = draw(3, row["seed"])
            np.testing.assert_allclose(distance, 1 - (images @ images[support].T).max(axis=1), atol=1e-5)
            np.testing.assert_array_equal(np.flatnonzero(predicted < 0), np.sort(support))


@pytest.mark.parametrize("method", adapt.TRAINING_FREE)
def test_every_accuracy_equals_the_reference_on_the_same_draw(evaluated, features, method):
    for row in few_shot(evaluated.rows, method):
        support = draw(max(row["shots"], 1), row["seed"])
        count = right(method, row["settings"], support, queries(row["seed"]), features)
        assert round(row["value"] * row["queries"]) == count, row
        assert row["value"] == pytest.approx(count / row["queries"], rel=1e-6)


@pytest.mark.parametrize("method", ["prototypes", "knn", "tip_adapter"])
def test_the_selected_setting_is_the_first_best_on_the_support_alone(evaluated, features, method):
    settings = Grid(method).settings
    for row in few_shot(evaluated.rows, method):
        if row["shots"] == 1:
            assert (row["settings"], row["selection"]) == (settings[0], "defaults")
            continue
        support = draw(row["shots"], row["seed"])
        others = [np.delete(support, left_out) for left_out in range(len(support))]
        scores = [
            sum(right(method, values, rest, [one], features) for rest, one in zip(others, support, strict=True))
            for values in settings
        ]
        assert row["settings"] == settings[int(np.argmax(scores))]
        assert row["selection"] == "leave-one-out on the support"


def test_the_results_file_contains_the_rows(evaluated):
    lines = (evaluated.out / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == read_results(evaluated.out) == evaluated.rows
    assert {row["checkpoint_fingerprint"] for row in evaluated.rows} == {evaluated.encoder.fingerprint}


@pytest.mark.parametrize("caption", ["first", "all"])
def test_recall_equals_a_loop_over_the_captions(evaluated, features, monkeypatch, tmp_path, caption):
    rows = evaluated.rows
    if caption == "all":
        monkeypatch.delattr(Encoder, "embed_images")  # with other captions, no image is embedded again
        rows = evaluated.again(tmp_path, caption="all", datasets=())
    captions = [fields["texts"] for _, _, fields in SAMPLES]
    texts = evaluated.encoder.embed_texts([c[0] if caption == "first" else ", ".join(c) for c in captions])
    cosines = references.unit(texts) @ references.unit(features[0]).T
    rows = [row for row in rows if row["task"] == "retrieval"]
    assert len(rows) == 6 and {row["settings"]["caption"] for row in rows} == {caption}
    for row in rows:
        table = cosines if row["metric"].startswith("text") else cosines.T
        rank = [sum(line >= line[i]) - 1 for i, line in enumerate(table)]
        assert row["value"] == np.mean(np.array(rank) < row["k"])


def test_examples_show_the_nearest_images(evaluated):
    (path,) = (evaluated.out / "examples").iterdir()
    examples = json.loads(path.read_text())
    assert {row["examples"] for row in evaluated.rows if row["task"] == "retrieval"} == {path.stem}
    assert len(examples) == 12
    for example in examples:
        assert len(example["images"]) == 6
        assert all(image["uri"].startswith("data:image/webp;base64,") for image in example["images"])
        assert all(image["match"] == (image["text"] == example["text"]) for image in example["images"])


def test_a_text_must_find_its_image_and_an_image_any_of_its_texts(evaluated, features, tmp_path):
    rows = [row for row in evaluated.again(tmp_path, caption="each", datasets=()) if row["task"] == "retrieval"]
    captions = [text for _, _, fields in SAMPLES for text in fields["texts"]]
    texts = references.unit(evaluated.encoder.embed_texts(captions))
    cosines = texts @ references.unit(features[0]).T
    for row in rows:
        if row["metric"].startswith("text"):
            ranks = [sum(line >= line[i // 2]) - 1 for i, line in enumerate(cosines)]
        else:
            own = cosines.T.reshape(len(SAMPLES), len(SAMPLES), 2)
            best = np.array([line[i].max() for i, line in enumerate(own)])
            ranks = [(np.delete(line, i, axis=0) >= best[i]).sum() for i, line in enumerate(own)]
        assert row["value"] == np.mean(np.array(ranks) < row["k"]), row["metric"]
        assert row["queries"] == len(ranks)


def test_a_second_run_embeds_nothing_and_recomputes_no_finished_unit(evaluated, monkeypatch, tmp_path):
    def refuse(*arguments, **options):
        raise AssertionError("computed again")

    monkeypatch.setattr(Encoder, "iterate_images", refuse)
    assert evaluated.again(tmp_path) == evaluated.rows
    monkeypatch.setattr("adapt.evaluation.checkpoint_evaluator.run_grid", refuse)
    assert evaluated.again(tmp_path) == evaluated.rows
    unit = next((tmp_path / "units").glob("*-knn-*"))
    content = unit.read_text()
    unit.write_text(content[: len(content) // 2])  # as if killed in the middle of a write
    with pytest.raises(AssertionError, match="computed again"):
        evaluated.again(tmp_path)
    monkeypatch.undo()
    assert evaluated.again(tmp_path) == evaluated.rows
    assert unit.read_text() == content


def test_the_shards_of_an_evaluation_give_the_results_of_one_job(evaluated, tmp_path):
    shutil.copytree(evaluated.out / "embeddings", tmp_path / "embeddings")
    settings = EvaluateSettings(**{**vars(evaluated.settings), "datasets": ("things", "digits"), "shots": (1, 2)})
    settings = EvaluateSettings(**{**vars(settings), "methods": ("zero_shot", "knn"), "seeds": 2})

    def run(out, **options):
        given = {"out": out, "data_dir": tmp_path, "cache": tmp_path / "embeddings"}
        with logged() as messages:
            return evaluate({"tiny": evaluated.checkpoint}, settings, **given, **options), messages

    whole, _ = run(tmp_path / "whole")
    _, messages = run(tmp_path / "parts", shard=Shard(index=1, count=2))
    assert "4 of 7 units belong to other shards" in messages[-1]
    with pytest.raises(FileNotFoundError, match=r"has 3 finished units but no results\.jsonl: .* to resume it\."):
        read_results(tmp_path / "parts")
    run(tmp_path / "parts", shard=Shard(index=0, count=2))
    assert (tmp_path / "whole/results.jsonl").read_bytes() == (tmp_path / "parts/results.jsonl").read_bytes()
    assert read_results(tmp_path / "parts") == whole


@pytest.fixture(scope="module")
def split(evaluated, tmp_path_factory):
    """Rows and folder of several tasks on two datasets with splits and classes of uneven size."""
    folder, samples = tmp_path_factory.mktemp("split"), labelled(120, classes=5)
    few = [sample for sample in samples if sample[2]["label"] != 1 or int(sample[0]) % 20 == 1]
    for name, train, test in (("birds", few[:50], few[50:]), ("cars", samples[100:], samples[90:97])):
        (folder / name).mkdir()
        write_shard(folder / name / "train-00000.tar", train)
        write_shard(folder / name / "test-00000.tar", test)
    birds = {part: str(folder / f"birds/{split}-*.tar") for part, split in (("support", "train"), ("query", "test"))}
    settings = EvaluateSettings(
        datasets=("birds", str(folder / "cars")),
        custom_datasets={
            "birds": birds | {"template": "{}", "templates": ("{}", "thing {}"), "metric": "mean_per_class_accuracy"}
        },
        tasks=("zero_shot", "linear_probe", "base_to_new", "forgetting", "transfer"),
        methods=("zero_shot", "prototypes"),
        transfer_from=str(folder / "cars"),
        shots=(1, 2),
        seeds=2,
    )
    options = {"out": folder / "out", "data_dir": folder}
    with logged() as messages:
        rows = evaluate({"tiny": evaluated.checkpoint}, settings, **options)
    asked = np.array([fields["label"] for _, _, fields in few[50:]])
    return rows, folder / "out", asked, messages


@pytest.mark.slow
def test_every_row_of_every_task_follows_from_the_saved_predictions(split):
    rows, out, asked, messages = split
    assert "note: cars lacks the classes, images or queries that task transfer needs: it is left out" in messages
    counts = {}
    for row in rows:
        counts[row["dataset"], row["task"]] = counts.get((row["dataset"], row["task"]), 0) + 1
        span = slice(*row["span"])
        predictions = np.load(out / "predictions" / row["predictions"])[row["case"], span]
        labels = np.load(out / "predictions" / row["labels"])[span]
        if row["dataset"] == "birds":
            kept = {"base": asked < 3, "new": asked >= 3}.get(row["question"], asked >= 0)
            assert labels.tolist() == (asked[kept] + (5 if row["task"] == "transfer" else 0)).tolist()
            shares = [np.mean(predictions[labels == label] == label) for label in sorted(set(labels.tolist()))]
            expected = np.mean(shares)
        else:
            expected = np.mean(predictions == labels)
        assert row["value"] == pytest.approx(expected, rel=1e-12), row
        assert (row["queries"], row["classes_asked"]) == (len(labels), len(set(labels.tolist())))
        candidates = {"base": 3, "new": 2} if row["task"] == "base_to_new" else {}
        assert row["classes"] == candidates.get(row["question"], 5)
    halves = 2 * (1 + 2 * 2)  # query sets, each by zero_shot and by prototypes at every shots and seed
    whole = {"zero_shot": 1, "linear_probe": 1, "base_to_new": halves, "forgetting": halves}
    expected = {(name, task): count for name in ("birds", "cars") for task, count in whole.items()}
    several = {
        ("birds", "zero_shot"): 2,
        ("birds", "transfer"): 1 + 2 * 2,
    }  # cars has one template and is the source of transfer
    assert counts == expected | several


def test_zero_shot_rows_of_every_task_follow_from_the_cached_embeddings_and_the_texts(evaluated, split):
    rows, out, asked, _ = split
    arrays = [np.load(path) for path in (out / "embeddings").glob("*/*.npy")]
    (images,) = [array for array in arrays if len(array) == len(asked)]
    single, other = (
        references.unit(evaluated.encoder.embed_texts([f"{before}kind {label}" for label in range(5)]))
        for before in ("", "thing ")
    )
    texts = {"single": single, "ensemble": references.unit(single + other)}
    among = {("base_to_new", "base"): [0, 1, 2], ("base_to_new", "new"): [3, 4]}
    seen = set()
    for row in rows:
        if row["dataset"] != "birds" or row["method"] != "zero_shot":
            continue
        kept = {"base": asked < 3, "new": asked >= 3}.get(row["question"], asked >= 0)
        variant = row["settings"].get("templates", "ensemble")
        logits = references.unit(images[kept]) @ texts[variant].T
        classes = among.get((row["task"], row["question"]), list(range(5)))
        guesses = np.array(classes)[np.argmax(logits[:, classes], axis=1)]
        shares = [np.mean(guesses[asked[kept] == label] == label) for label in sorted(set(asked[kept].tolist()))]
        assert row["value"] == pytest.approx(np.mean(shares), rel=1e-6), row
        seen.add((row["task"], row["question"], variant))
    assert len(seen) == 7


def test_mean_per_class_accuracy_weighs_every_class_that_occurs_equally():
    predictions, labels = np.array([0, 0, 0, 1, 1, -1, 0]), np.array([0, 0, 0, 0, 1, 1, 3])
    found = {
        metric: score(predictions, labels, candidates=np.ones(5, bool), metric=metric) for metric in get_args(Metric)
    }
    assert found["accuracy"]["value"] == 4 / 6
    assert found["mean_per_class_accuracy"]["value"] == (3 / 4 + 1 / 1 + 0 / 1) / 3
    for each in found.values():
        assert (each["queries"], each["classes"], each["classes_asked"]) == (6, 5, 3)  # -1 does not count
    with pytest.raises(ValueError, match="no query is left, because the support sets contain all images"):
        score(np.array([-1]), np.array([0]), candidates=np.ones(5, bool), metric="accuracy")
