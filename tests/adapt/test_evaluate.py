"""The whole evaluation of a tiny export on a tiny shard, computed again from the embeddings it left."""

import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import adapt
from adapt.encoder import Encoder
from adapt.evaluate import EvaluateSettings, evaluate, read_results
from adapt.selection import Grid
from adapt.support import draw_support
from models.checkpoint import Checkpoint, save_checkpoint
from models.preprocessing import Preprocessing
from models.tokenizer import train_tokenizer
from tests.adapt import references
from tests.data.shard_files import labelled, write_shard
from tests.models.towers_of import open_golden

SAMPLES = [
    (key, image, fields | {"texts": [f"thing {number}", f"kind of {number * 7 % 10}"]})
    for number, (key, image, fields) in enumerate(labelled(27)[1:])
]
LABELS = np.array([fields["label"] for _, _, fields in SAMPLES])  # 8, 9 and 9 of the three classes


class Evaluated(NamedTuple):
    checkpoint: pathlib.Path
    encoder: Encoder
    settings: EvaluateSettings
    out: pathlib.Path
    rows: Sequence[dict[str, Any]]
    said: Sequence[str]

    def again(self, out: pathlib.Path, **changes: Any) -> list[dict[str, Any]]:
        """Evaluates to `out`, with the embeddings that the first run left unless there are some already."""
        if not (out / "embeddings").exists():
            shutil.copytree(self.out / "embeddings", out / "embeddings")
        settings = EvaluateSettings(**{**vars(self.settings), **changes})
        return evaluate(self.checkpoint, settings, out=out, data_dir=out, say=lambda line: None)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    model, parameters = open_golden()
    rng = np.random.default_rng(0)  # as they are the weights tell hardly anything apart
    parameters = jax.tree.map(lambda array: array + rng.normal(0, 0.4, array.shape).astype("f4"), parameters)
    scalars = {"logit_scale": 2.0, "logit_bias": -3.0}
    tokenizer = train_tokenizer(["thing 0 1 2", "kind of 345 6789"], vocab_size=61, length=model.text.length)
    preprocessing = Preprocessing(size=(model.vision.image_size,) * 2)
    checkpoint = save_checkpoint(folder / "export", Checkpoint(model, parameters, scalars, preprocessing, tokenizer))
    shard = str(write_shard(folder / "s.tar", SAMPLES))
    settings = EvaluateSettings(datasets=(shard,), retrieval=(shard,), shots=(1, 2, 3), seeds=3, min_examples=8)
    said = []
    rows = evaluate(checkpoint, settings, out=folder / "out", data_dir=folder, say=said.append)
    return Evaluated(checkpoint, Encoder(checkpoint), settings, folder / "out", rows, said)


@pytest.fixture(scope="module")
def features(evaluated):
    """The embeddings of all images and of the classes' names."""
    found = [load_file(path)["embeddings"] for path in (evaluated.out / "embeddings").iterdir()]
    assert all(np.array_equal(found[0], other) for other in found)
    return found[0], evaluated.encoder.embed_texts(["kind 0", "kind 1", "kind 2"])


def few_shot(rows, method):
    return [row for row in rows if row["task"] == "few_shot" and row["method"] == method]


def right(method, settings, support, queries, features):
    """Returns how many of the queries the reference classifies rightly from the support."""
    images, texts = features
    logits = references.logits(method, settings, images[support], LABELS[support], texts, images[queries])
    return int(np.sum(logits.argmax(axis=1) == LABELS[queries]))


def test_there_is_a_row_for_every_method_shots_and_draw_and_two_directions_of_retrieval(evaluated):
    for method in evaluated.settings.methods:
        cases = [(row["shots"], row["seed"]) for row in few_shot(evaluated.rows, method)]
        shots = (0,) if method == "zero_shot" else (1, 2, 3)
        assert sorted(cases) == [(k, seed) for k in shots for seed in range(3)]
    retrieval = [row["metric"] for row in evaluated.rows if row["task"] == "retrieval"]
    assert retrieval == [f"{way} recall@{k}" for way in ("text→image", "image→text") for k in (1, 5, 10)]
    assert {row["classes"] for row in few_shot(evaluated.rows, "knn")} == {3}
    assert {row["queries"] for row in few_shot(evaluated.rows, "knn")} == {len(SAMPLES) - 9}
    assert len(evaluated.said) == 1 + len(evaluated.settings.methods)


@pytest.mark.parametrize("method", adapt.TRAINING_FREE)
def test_every_accuracy_is_that_of_the_reference_on_the_same_draw(evaluated, features, method):
    for row in few_shot(evaluated.rows, method):
        draw = draw_support(LABELS, max_shots=3, seed=row["seed"])
        count = right(method, row["settings"], draw.at(max(row["shots"], 1)), draw.query, features)
        assert round(row["value"] * row["queries"]) == count, row
        assert row["value"] == pytest.approx(count / row["queries"], rel=1e-6)


@pytest.mark.parametrize("method", ["prototypes", "knn", "tip_adapter"])
def test_every_setting_is_the_first_of_the_best_on_the_support_alone(evaluated, features, method):
    settings = Grid(method).settings
    for row in few_shot(evaluated.rows, method):
        if row["shots"] == 1:
            assert (row["settings"], row["selection"]) == (settings[0], "defaults")
            continue
        support = draw_support(LABELS, max_shots=3, seed=row["seed"]).at(row["shots"])
        others = [np.delete(support, left_out) for left_out in range(len(support))]
        scores = [
            sum(right(method, values, rest, [one], features) for rest, one in zip(others, support, strict=True))
            for values in settings
        ]
        assert row["settings"] == settings[int(np.argmax(scores))]
        assert row["selection"] == "leave-one-out on the support"


def test_the_file_holds_the_rows(evaluated):
    lines = (evaluated.out / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == read_results(evaluated.out) == evaluated.rows
    assert {row["checkpoint_fingerprint"] for row in evaluated.rows} == {evaluated.encoder.fingerprint}


@pytest.mark.parametrize("caption", ["first", "all"])
def test_recall_is_that_of_a_loop_over_the_captions(evaluated, features, monkeypatch, tmp_path, caption):
    rows = evaluated.rows
    if caption == "all":
        monkeypatch.delattr(Encoder, "embed_images")  # another caption embeds no image again
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


def test_examples_show_the_nearest_pictures(evaluated):
    ((name, examples),) = json.loads((evaluated.out / "retrieval_examples.json").read_text()).items()
    assert name == evaluated.settings.retrieval[0] and len(examples) == 12
    for example in examples:
        assert len(example["images"]) == 6
        assert all(image["uri"].startswith("data:image/webp;base64,") for image in example["images"])
        assert all(image["match"] == (image["text"] == example["text"]) for image in example["images"])


def test_a_second_run_embeds_no_image_and_gives_the_same_rows(evaluated, monkeypatch, tmp_path):
    def refuse(*arguments):
        raise AssertionError("embedded again")

    monkeypatch.setattr(Encoder, "embed_images", refuse)
    assert evaluated.again(tmp_path) == evaluated.rows


@pytest.mark.parametrize("damage", [lambda content: content[:-50], lambda content: b""])
def test_a_damaged_cache_is_made_again(evaluated, tmp_path, damage):
    whole = {path.name: path.read_bytes() for path in (evaluated.out / "embeddings").iterdir()}
    (tmp_path / "embeddings").mkdir()
    for name, content in whole.items():
        (tmp_path / "embeddings" / name).write_bytes(damage(content))
    rows = evaluated.again(tmp_path, methods=("zero_shot",))
    assert rows == [row for row in evaluated.rows if row["method"] == "zero_shot"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "embeddings").iterdir()} == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ("knn", "svm")}, "unknown adapter 'svm'; known: zero_shot, prototypes, knn, tip_adapter, "),
        ({"min_examples": 3}, r"evaluate\.min_examples 3 must exceed the largest of evaluate\.shots, 3"),
        ({"shots": ()}, r"evaluate\.shots \(\)"),
        ({"shots": (0, 1)}, r"evaluate\.shots \(0, 1\)"),
        ({"seeds": 0}, r"evaluate\.seeds 0"),
        ({"caption": "longest"}, "unknown evaluate.caption 'longest'; known: first, all"),
    ],
)
def test_impossible_settings_are_refused(evaluated, change, message):
    with pytest.raises(ValueError, match=message):
        EvaluateSettings(**{**vars(evaluated.settings), **change})


def test_classes_that_are_too_small_are_left_out(evaluated, features, tmp_path):
    images, texts = features[0][LABELS > 0], references.unit(features[1][1:])
    labels = LABELS[LABELS > 0] - 1
    for row in evaluated.again(tmp_path, min_examples=9, methods=("zero_shot",), retrieval=()):
        query = draw_support(labels, max_shots=3, seed=row["seed"]).query
        guesses = np.argmax(images[query] @ texts.T, axis=1)
        assert (row["classes"], row["queries"]) == (2, 12)
        assert row["value"] == pytest.approx(np.mean(guesses == labels[query]), rel=1e-6)


def test_a_set_of_too_small_classes_is_refused(evaluated, tmp_path):
    with pytest.raises(ValueError, match=r"s\.tar: 0 of 3 classes have at least 10 examples .* fewer shots"):
        evaluated.again(tmp_path, min_examples=10)


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no results\.jsonl"):
        read_results(tmp_path)
