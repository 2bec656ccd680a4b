"""Evaluations with imbalanced support sets, wrong labels and unknown classes, from settings to rows."""

import numpy as np
import pytest

import adapt
from adapt.adapters.ops import normalize_numpy
from adapt.evaluation.config import EvaluateSettings
from adapt.evaluation.protocols.auroc import auroc
from adapt.evaluation.protocols.label_noise import add_label_noise
from adapt.evaluation.protocols.support_protocol import STANDARD, protocol_of
from adapt.evaluation.results import read_results
from adapt.evaluation.sampling import draw_nested
from adapt.evaluation.stored.run import evaluate_features
from adapt.evaluation.summary import mean_scalars
from adapt.photos.outliers import far_threshold
from tests.logged import logged

CLASSES, DIM = 6, 12
SIZES = (60, 40, 20, 10, 10, 6)
METHODS = ("zero_shot", "prototypes", "tip_adapter")


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Clouds around class centers, with texts near the centers; the second half of the classes lies apart."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(CLASSES, DIM))
    folder = tmp_path_factory.mktemp("encoder") / "clouds"
    folder.mkdir()
    for part, sizes in (("support", SIZES), ("query", (20,) * CLASSES)):
        labels = np.repeat(np.arange(CLASSES), sizes)
        np.save(folder / f"{part}.npy", (centers[labels] + rng.normal(0, 1.0, (len(labels), DIM))).astype("f4"))
        np.save(folder / f"{part}_labels.npy", labels)
    np.save(folder / "texts.npy", (centers + rng.normal(0, 0.5, centers.shape)).astype("f4"))
    return folder


def run(features, out, **changes):
    chosen = {"features": (str(features),), "tasks": ("few_shot",), "shots": (1, 4), "seeds": 2, "methods": METHODS}
    return evaluate_features(EvaluateSettings(**chosen | changes), out=out)


def test_every_row_says_its_protocol_and_old_rows_are_standard(features, tmp_path):
    rows = run(
        features, tmp_path, support_balance="zipf", zipf_exponent=2.0, label_noise=0.25, tasks=("zero_shot", "few_shot")
    )
    drawn = [row for row in rows if row["task"] == "few_shot"]
    assert {protocol_of(row) for row in drawn} == {("zipf", 2.0, 0.25)} and rows == read_results(tmp_path)
    assert all(protocol_of(row) is None for row in rows if row["task"] == "zero_shot")
    for row in drawn:
        images = 0 if row["method"] == "zero_shot" else CLASSES * row["shots"]
        assert (row["examples_drawn"], row["wrong_labels"]) == (images, round(images * 0.25))
    old = {field: value for field, value in drawn[0].items() if field not in STANDARD.fields}
    assert protocol_of(old) == STANDARD
    assert "clouds/zipf2-noise0.25/prototypes@4" in mean_scalars(rows)


def test_a_protocol_is_never_resumed_from_the_results_of_another(features, tmp_path):
    few = {"methods": ("prototypes",), "shots": (1,)}
    plain = run(features, tmp_path, **few)
    noisy = run(features, tmp_path, label_noise=0.01, **few)  # no label is wrong, and the draws are the same
    natural = run(features, tmp_path, support_balance="natural", **few)
    assert [row["label_noise"] for row in noisy] == [0.01, 0.01] and natural[0]["support_balance"] == "natural"
    assert [row["value"] for row in noisy] == [row["value"] for row in plain] == [row["value"] for row in natural]
    with logged() as messages:
        assert run(features, tmp_path, **few) == plain
    assert not any("few_shot" in line for line in messages)


def test_wrong_labels_reach_the_method_and_its_selection(features, tmp_path):
    plain, noisy = (
        run(features, tmp_path / name, shots=(4,), label_noise=share) for name, share in (("a", 0.0), ("b", 0.5))
    )
    support, labels, texts = (np.load(features / f"{name}.npy") for name in ("support", "support_labels", "texts"))
    query, asked = np.load(features / "query.npy"), np.load(features / "query_labels.npy")
    for row in (row for row in noisy if row["method"] == "tip_adapter"):
        drawn = draw_nested(labels, CLASSES, shots=4, seed=row["seed"]).rows
        wrong = add_label_noise(labels[drawn], share=0.5, seed=row["seed"], shots=4)
        selected = adapt.select("tip_adapter", support[drawn], wrong, class_text_features=texts)
        assert row["settings"] == dict(selected.best_params)
        classifier = adapt.create("tip_adapter", **row["settings"]).fit(
            support[drawn], wrong, class_text_features=texts
        )
        assert row["value"] == pytest.approx((np.asarray(classifier(query)).argmax(axis=1) == asked).mean())
    zero_shot = [[row["value"] for row in rows if row["method"] == "zero_shot"] for rows in (plain, noisy)]
    assert zero_shot[0] == zero_shot[1]
    supports = [{row["support"] for row in rows if row["method"] == "prototypes"} for rows in (plain, noisy)]
    assert not supports[0] & supports[1]


def test_open_set_rows_are_those_of_the_classifier_on_known_classes(features, tmp_path):
    rows = run(features, tmp_path, tasks=("open_set",), shots=(4,), seeds=1)
    found = {(row["method"], row["question"]): row for row in rows}
    support, labels = np.load(features / "support.npy"), np.load(features / "support_labels.npy")
    query, asked = np.load(features / "query.npy"), np.load(features / "query_labels.npy")
    texts = np.load(features / "texts.npy")[: CLASSES // 2]
    drawn = draw_nested(labels, CLASSES, shots=4, seed=0).rows
    drawn = drawn[labels[drawn] < CLASSES // 2]
    known = asked < CLASSES // 2
    unit_support, unit_query = normalize_numpy(support[drawn]), normalize_numpy(query)
    cosines = (unit_query @ unit_support.T).max(axis=1)
    row = found["tip_adapter", "far flag"]
    assert row["value"] == pytest.approx(auroc(cosines[known], cosines[~known]).value, abs=1e-3)
    assert row["flagged_unknown"] == pytest.approx((cosines[~known] < far_threshold(unit_support)).mean(), abs=0.02)
    settings = found["tip_adapter", "known"]["settings"]
    classifier = adapt.create("tip_adapter", **settings).fit(support[drawn], labels[drawn], class_text_features=texts)
    logits = np.asarray(classifier(query), np.float64)
    assert found["tip_adapter", "known"]["value"] == pytest.approx((logits.argmax(axis=1) == asked)[known].mean())
    ordered = np.sort(logits, axis=1)
    log_odds = ordered[:, -1] - np.logaddexp(ordered[:, 0], ordered[:, 1])  # three classes
    for name, scores in (("max logit", ordered[:, -1]), ("max probability", log_odds)):
        row = found["tip_adapter", name]
        assert row["value"] == pytest.approx(auroc(scores[known], scores[~known]).value, abs=2e-3)
        assert (row["metric"], row["classes"], row["queries"]) == ("auroc", CLASSES // 2, len(asked))
    assert ("zero_shot", "far flag") not in found and found["zero_shot", "max logit"]["value"] > 0.5
