"""The study of the quickstart trains, scores, resumes and writes its table, on a few random features."""

import csv

import numpy as np
import pytest

from benchmarks.study import page
from benchmarks.study.captions import icons, icons_page
from configs.quickstart import get_config


def tiny_config():
    config = get_config()
    config.align.update({"batch_size": 16, "log_every": 1, "checkpoint_every": 10})
    config.align.text.update({"width": 16, "heads": 2, "mlp_width": 32})
    config.align.tokenizer.name = "train:60"
    config.align.optimizer.warmup_steps = 1
    return config


def some_icons(concepts, count, seed):
    """Return `count` icons of each concept, whose features are close to one vector per concept."""
    names = np.repeat(concepts, count)
    centres = {name: np.random.default_rng(len(name) + ord(name[-1])).normal(size=12) for name in concepts}
    noise = np.random.default_rng(seed).normal(size=(len(names), 12))
    features = np.array([centres[name] for name in names]) + 0.1 * noise
    return icons.Icons(features.astype(np.float32), names, np.array(["a", "b"] * (len(names) // 2)))


@pytest.fixture
def study(tmp_path, monkeypatch):
    task = icons.Task(
        some_icons(["arrow a", "arrow b", "box c", "box d"], 8, 0),
        some_icons(["arrow c", "box a"], 6, 1),
        some_icons(["arrow c", "box a"], 4, 2),
    )
    monkeypatch.setattr(icons, "get_config", tiny_config)
    monkeypatch.setattr(icons, "tasks", lambda: {"validation": task, "test": task})
    monkeypatch.setattr(icons, "as_pixels", lambda part, split: part)
    monkeypatch.setattr(icons, "LENGTHS", {"plain": (2.0,), "context": (2.0, 3.0)})
    monkeypatch.setattr(icons, "VARIANTS", [(0.5, "plain, equal texts left out", 2.0)])
    monkeypatch.setattr(icons, "FOLDER", tmp_path)
    monkeypatch.setattr(icons, "TRIALS", tmp_path / "trials.jsonl")
    for module in (icons, icons_page):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(icons_page, "VARIANTS_AT", ("0.5", "2.0"))
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text(
        "a\n<!-- icons -->\nold\n<!-- end of icons -->\nb\n<!-- icon variants -->\n<!-- end of icon variants -->\n"
    )
    return tmp_path


@pytest.mark.slow
def test_the_study_chooses_lengths_trains_pairs_of_runs_and_writes_the_table(study):
    icons.main(["--shares=0.5", "--seeds=2", "--variants"])
    with open(study / "icons.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen_from = {(row["arm"], row["epochs"]) for row in rows if row["task"] == "validation"}
    assert chosen_from == {
        ("plain", "2.0"),
        ("context", "2.0"),
        ("context", "3.0"),
        ("plain, equal texts left out", "2.0"),
    }
    trained = {(row["arm"], row["seed"]) for row in rows if row["task"] == "test"}
    assert trained == {("plain", "0"), ("plain", "1"), ("context", "0"), ("context", "1")} | {
        ("encoder", "0"),
        ("raw_pixels", "0"),
    }
    knn = [float(row["accuracy"]) for row in rows if row["arm"] == "encoder" and row["method"] == "knn"]
    assert knn == [1.0, 1.0]
    measured = {row["method"] for row in rows if row["task"] == "test" and row["arm"] == "context"}
    assert measured == {"zero_shot", "image_recall", "mended", "gda", *icons.METHODS}
    trials = (study / "trials.jsonl").read_text()
    icons.main(["--shares=0.5", "--seeds=2"])
    assert (study / "trials.jsonl").read_text() == trials  # nothing is trained again
    icons_page.main()
    text = (study / "page.md").read_text()
    assert text.startswith("a\n<!-- icons -->\n| wrong captions |") and text.count("| 50% |") == 3
    assert text.count("| plain, equal texts left out |") == 1
    assert "raw pixels" in text and "<svg" in (study / "icons.svg").read_text()


def test_gains_are_those_of_the_same_seeds():
    cell = ("knn", "4")
    runs = {
        ("0.5", "plain"): {"0": dict.fromkeys(icons_page.CELLS, 0.5), "1": dict.fromkeys(icons_page.CELLS, 0.1)},
        ("0.5", "context"): {"0": dict.fromkeys(icons_page.CELLS, 0.75)},
    }
    assert icons_page.gains(runs, "0.5")[cell] == [0.25]


def test_image_recall_searches_icons_by_other_artists_in_support_and_query():
    support = icons.Icons(np.eye(3)[[0, 0, 1]], np.array(["cat", "dog", "dog"]), np.array(["a", "a", "b"]))
    query = icons.Icons(np.eye(3)[[1, 2]], np.array(["dog", "unknown"]), np.array(["c", "c"]))
    task = icons.Task(support, support, query)
    # The cat's twin is by its own artist, and both of its strangers are dogs; the two dogs along the second axis meet.
    assert icons.image_recall(support.features, query.features[:1], task) == 3 / 4


class OneHot:
    """An encoder whose image features are given, and whose texts are the unit vectors of two names."""

    def embed_texts(self, names):
        return np.eye(2)[[["cat", "dog"].index(name) for name in names]]

    def embed_features(self, *, images):
        return images


def test_a_caption_is_mended_where_the_right_name_matches_better():
    concepts = np.repeat(["cat", "dog"], 50)
    trial = icons.Trial("test", 0.5, "plain", 1.0, 0)
    right = np.repeat(np.eye(2), 50, axis=0)
    for features, share in ((right, 1.0), (right[::-1], 0.0)):
        assert icons.mended(trial, icons.Icons(features, concepts, concepts), OneHot()) == share
