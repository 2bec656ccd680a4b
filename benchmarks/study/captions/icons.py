"""The quickstart's two runs by share of wrong captions, five seeds: when does the context objective pay?

    python -m benchmarks.study.captions.icons              # interrupted, the same command resumes
    python -m benchmarks.study.captions.icons --shares=0.5 --seeds=2

Each run has the length that is best for it. Lengths are chosen on concepts of `icons:train` that are held out, with
queries by a third of its artists; the novel concepts and unseen artists are looked at with the chosen lengths alone.
Rows go to docs/study/icons.csv; `python -m benchmarks.study.captions.icons_page` makes table and figure of them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

import adapt
from adapt.embedding.encoder import Encoder
from adapt.embedding.export import embed_collections
from adapt.evaluation.baselines.encoders import PixelEncoder
from adapt.evaluation.sampling import draw_nested
from benchmarks.study.files import RESULTS, RUNS, record_runs, write_csv
from cluster.runtime.exit_codes import EXIT_PREEMPTED
from configs.quickstart import get_config
from data.features.pairs import group_texts, swap_texts
from data.icons import SPLITS, samples
from foundation.files.folder_lock import lock_folder
from foundation.files.json_lines import append_json_line, read_json_lines
from pretrain.align.export import export_aligned
from pretrain.align.train import align

FOLDER = RUNS / "icons"
TRIALS = FOLDER / "trials.jsonl"
SHARES, SEEDS = (0.0, 0.25, 0.5, 0.8), 5
LENGTHS = {"plain": (5.0, 10.0, 20.0, 40.0), "context": (10.0, 20.0, 40.0)}  # epochs
METHODS, SHOTS, DRAWS = ("prototypes", "knn", "tip_adapter"), (1, 4), 5
METRIC = ("gda", 4)  # learns a metric from the support set; METHODS compare features as they are
CHOICE = ("tip_adapter", 4)  # the cell that chooses lengths
PLAIN = {"objective": {"context": False}}
ARMS: dict[str, dict[str, Any]] = {  # what each arm changes in the section align of configs/quickstart.py
    "plain": PLAIN,
    "context": {},
    "plain, equal texts positive": {"objective": {"context": False, "equal_texts": "positive"}},
    "plain, equal texts left out": {"objective": {"context": False, "equal_texts": "ignored"}},
    "context, equal texts positive": {"objective": {"equal_texts": "positive"}},
    "context, values without gradient": {"objective": {"stop_gradient": ("values",)}},
    "context, alpha 0.5": {"objective": {"alpha": 0.5}},
    "context, alpha 0.9": {"objective": {"alpha": 0.9}},
    "context, temperature 0.1": {"objective": {"context_temperature": 0.1}},
    "plain, learning rate 1e-3": PLAIN | {"optimizer": {"learning_rate": 1e-3}},
    "plain, weight decay 0.1": PLAIN | {"optimizer": {"weight_decay": 0.1}},
    "plain, batch 512": {"batch_size": 512, "objective": {"context": False, "logit_bias": -6.2}},
    "context, batch 512": {"batch_size": 512, "objective": {"logit_bias": -6.2}},
    "plain, batch 4,096": {"batch_size": 4096, "objective": {"context": False, "logit_bias": -8.3}},
    "context, batch 4,096": {"batch_size": 4096, "objective": {"logit_bias": -8.3}},
}
VARIANTS = [(0.5, arm, 20.0) for arm in ARMS] + [(0.0, "plain, equal texts positive", 40.0)]
HELD_OUT, QUERY_ARTISTS = 5, 3  # every fifth concept, every third artist


class Icons(NamedTuple):
    """Features `[icons, dim]`, the concept and the artist of each icon."""

    features: np.ndarray
    concepts: np.ndarray
    artists: np.ndarray

    def where(self, rows: np.ndarray) -> Icons:
        """Return the rows where a mask `[icons]` is true."""
        return Icons(*(each[rows] for each in self))


class Task(NamedTuple):
    """Icons to train on, and those of other concepts: support, and queries by other artists."""

    train: Icons
    support: Icons
    query: Icons


class Trial(NamedTuple):
    """A run: the task it is scored on, the share of wrong captions, its name in `ARMS`, length and seed.

    The arms "encoder" and "raw_pixels" are the stored features and raw pixels without training.
    """

    task: str
    share: float
    arm: str
    epochs: float
    seed: int


def open_icons(split: str) -> Icons:
    """Return the icons of a split with the features that the quickstart uses; they are computed once."""
    options = get_config().embed
    encoder = Encoder(options.checkpoint, image_size=options.image_size)
    written = embed_collections(encoder, FOLDER / split, images=f"icons:{split}", data_dir=FOLDER / "data")
    records = [sample.record for sample in samples(split)]
    features = np.load(written["images"].files["npy"])
    return Icons(features, *(np.array([record[name] for record in records]) for name in ("class", "artist")))


def as_pixels(icons: Icons, split: str) -> Icons:
    """Return the icons of a split with the raw pixels of `evaluate.baselines`, before it subtracts the mean."""
    images = [sample.image for sample in samples(split)]
    pixels = PixelEncoder().iterate_images(images.__getitem__, range(len(images)))
    return icons._replace(features=np.concatenate(list(pixels)))


def tasks() -> dict[str, Task]:
    """Return the tasks by name: "validation" within the training split, and "test"."""
    splits = {name: open_icons(name) for name in SPLITS if name != "seen_query"}
    train = splits["train"]
    held_out = np.isin(train.concepts, np.unique(train.concepts)[::HELD_OUT])
    asking = np.isin(train.artists, np.unique(train.artists)[::QUERY_ARTISTS])
    parts = (~held_out, held_out & ~asking, held_out & asking)
    return {
        "validation": Task(*(train.where(rows) for rows in parts)),
        "test": Task(train, splits["novel_support"], splits["novel_query"]),
    }


def train_encoder(trial: Trial, icons: Icons) -> Encoder:
    """Return the encoder that a run exports."""
    workdir = FOLDER / "run"
    shutil.rmtree(workdir, ignore_errors=True)
    data = workdir / "pairs"
    data.mkdir(parents=True)
    np.save(data / "images.npy", icons.features)
    lines = [json.dumps({"id": str(row), "text": concept}) for row, concept in enumerate(icons.concepts)]
    (data / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (data / "images.ids.jsonl").write_text("\n".join(json.dumps(str(row)) for row in range(len(lines))))
    section = get_config().align
    section.update(ARMS[trial.arm])
    section.update({"epochs": trial.epochs, "seed": trial.seed, "wrong_texts": trial.share})
    section.update({"image_features": (str(data),), "captions": (str(data / "texts.jsonl"),)})
    if align(section, workdir / "align", data_dir=workdir / "data").preempted:
        raise SystemExit(EXIT_PREEMPTED)  # the run is not finished, so it has no scores; the same command repeats it
    return Encoder(export_aligned(workdir / "align", workdir / "align" / "export"))


def score(task: Task, encoder: Encoder | None) -> Iterator[tuple[str, int, float]]:
    """Yield method, shots and accuracy over draws; without an encoder, of the stored features."""
    names, labels = np.unique(task.support.concepts, return_inverse=True)
    known = np.isin(task.query.concepts, names)
    wanted = np.searchsorted(names, task.query.concepts[known])
    support, query = task.support.features, task.query.features[known]
    texts = None
    if encoder is not None:
        support, query = (encoder.embed_features(images=each) for each in (support, query))
        texts = encoder.embed_texts([str(name) for name in names])
        zero_shot = adapt.create("zero_shot").fit(support, labels, class_text_features=texts)
        yield "zero_shot", 0, _accuracy(zero_shot(query), wanted)
    yield "image_recall", 0, image_recall(support, query, task)
    for method, shots in [*itertools.product(METHODS, SHOTS), METRIC]:
        found = []
        for draw in range(DRAWS):
            rows = draw_nested(labels, len(names), shots=shots, seed=draw).rows
            chosen = adapt.select(method, support[rows], labels[rows], class_text_features=texts)
            fitted = chosen.adapter.fit(support[rows], labels[rows], class_text_features=texts)
            found.append(_accuracy(fitted(query), wanted))
        yield method, shots, float(np.mean(found))


def image_recall(support: np.ndarray, query: np.ndarray, task: Task) -> float:
    """Return the share of icons whose nearest icon by another artist shows the same concept.

    `support` and `query` are the features of the task's icons, as `score` classifies them; together they are searched.
    """
    known = np.isin(task.query.concepts, task.support.concepts)
    features = np.concatenate([support, query])
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    concepts = np.concatenate([task.support.concepts, task.query.concepts[known]])
    artists = np.concatenate([task.support.artists, task.query.artists[known]])
    found = []
    for rows in np.array_split(np.arange(len(features)), -(-len(features) // 1024)):
        cosines = np.where(artists[rows, None] == artists, -np.inf, features[rows] @ features.T)
        found.append(concepts[np.argmax(cosines, axis=1)] == concepts[rows])
    return float(np.mean(np.concatenate(found)))


def mended(trial: Trial, icons: Icons, encoder: Encoder) -> float:
    """Return the share of training icons with a wrong caption that match their right name better than that caption."""
    rows = np.arange(len(icons.concepts))
    swapped = swap_texts(group_texts(len(rows), rows), trial.share, seed=trial.seed)
    captions = icons.concepts[swapped.text_rows]
    wrong = captions != icons.concepts
    names, numbers = np.unique(icons.concepts, return_inverse=True)
    texts = encoder.embed_texts([str(name) for name in names])
    images = encoder.embed_features(images=icons.features[wrong])
    right, other = (
        np.sum(images * texts[own], axis=1) for own in (numbers[wrong], np.searchsorted(names, captions[wrong]))
    )
    return float(np.mean(right > other))


def _accuracy(logits: Any, labels: np.ndarray) -> float:
    return float(np.mean(np.argmax(np.asarray(logits), axis=1) == labels))


Scores = Mapping[tuple[str, int], float]


class Study:
    """Runs and their scores, which are kept in a file."""

    def __init__(self) -> None:
        self.tasks = tasks()
        self.scores: dict[Trial, Scores] = {}
        for trial, scores in read_json_lines(TRIALS):
            self.scores[Trial(*trial)] = {(method, shots): value for method, shots, value in scores}

    def run(self, trials: Sequence[Trial]) -> None:
        """Train and score the runs that have no scores yet."""
        for trial in tqdm([each for each in trials if each not in self.scores], desc=trials[0].task):
            task = self.tasks[trial.task]
            encoder = train_encoder(trial, task.train)
            found = list(score(task, encoder))
            if trial.share:
                found.append(("mended", 0, mended(trial, task.train, encoder)))
            append_json_line(TRIALS, [trial, found])
            self.scores[trial] = {(method, shots): value for method, shots, value in found}

    def run_untrained(self) -> None:
        """Score the encoder alone and raw pixels on the test task."""
        task = self.tasks["test"]
        pixels = task._replace(
            support=as_pixels(task.support, "novel_support"), query=as_pixels(task.query, "novel_query")
        )
        for name, each in (("encoder", task), ("raw_pixels", pixels)):
            trial = Trial("test", 0.0, name, 0.0, 0)
            if trial not in self.scores:
                found = list(score(each, None))
                append_json_line(TRIALS, [trial, found])
                self.scores[trial] = {(method, shots): value for method, shots, value in found}

    def best_length(self, share: float, arm: str) -> float:
        """Return the number of epochs that is best on held-out training concepts."""
        trials = [Trial("validation", share, arm, epochs, 0) for epochs in LENGTHS[arm]]
        self.run(trials)
        return max(trials, key=lambda trial: self.scores[trial][CHOICE]).epochs


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything and write the CSV file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study.captions.icons",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shares = ",".join(map(str, SHARES))
    parser.add_argument("--shares", default=shares, help=f"shares of wrong captions (default: {shares})")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"number of seeds (default: {SEEDS})")
    parser.add_argument("--variants", action="store_true", help="also train all arms once, scored on held-out concepts")
    options = parser.parse_args(arguments)
    with lock_folder(FOLDER, "lock", job="study", option="checkout"):
        study = Study()
        study.run_untrained()
        for share in map(float, options.shares.split(",")):
            lengths = {arm: study.best_length(share, arm) for arm in LENGTHS}
            for seed in range(options.seeds):
                study.run([Trial("test", share, arm, epochs, seed) for arm, epochs in lengths.items()])
        if options.variants:
            study.run([Trial("validation", *variant, 0) for variant in VARIANTS])
        write_results(study)


def write_results(study: Study) -> None:
    """Write the accuracies of all runs to a CSV file."""
    rows = [
        (*trial, method, shots or "", f"{value:.5f}")
        for trial, scores in study.scores.items()
        for (method, shots), value in scores.items()
    ]
    columns = ["task", "wrong_texts", "arm", "epochs", "seed", "method", "shots", "accuracy"]
    write_csv(RESULTS / "icons.csv", columns, sorted(rows, key=str))
    record_runs(RESULTS / "runs.csv", "icons", runs=len(study.scores))


if __name__ == "__main__":
    sys.exit(main())
