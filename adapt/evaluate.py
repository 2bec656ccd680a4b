"""Few-shot evaluation of an exported checkpoint: every dataset × method × shots × draw, and retrieval."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import adapt
from adapt.adapter import Adapter, Support
from adapt.encoder import Encoder, cached
from adapt.features import normalize
from adapt.files import write_text
from adapt.pages import data_uri
from adapt.retrieval import retrieval
from adapt.selection import DEFAULTS, Grid
from adapt.support import draw_support
from data.catalog import LabelledImages, load_labelled
from data.fingerprint import fingerprint
from data.images import decode
from data.sources import open_source

RESULTS_FILE, EXAMPLES_FILE = "results.jsonl", "retrieval_examples.json"
_EXAMPLES, _NEAREST = 12, 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """What is evaluated and how.

    `datasets` are names of `data.catalog`, `retrieval` names of `data.sources`; classes with fewer than
    `min_examples` are left out. Settings of the `methods`, by default all that need no training, are selected on the
    support alone (`adapt.select`); at one shot, where that is impossible, the defaults are used. All text logits are
    scaled by `logit_scale`, whatever a checkpoint has learned, so that checkpoints compare. `caption` is the text of an
    image in retrieval: its `first` or `all` of them.
    """

    datasets: tuple[str, ...]
    retrieval: tuple[str, ...] = ()
    caption: str = "first"
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    seeds: int = 5
    methods: tuple[str, ...] = adapt.TRAINING_FREE
    min_examples: int = 20
    logit_scale: float = 100.0

    def __post_init__(self) -> None:
        for method in self.methods:
            adapt.find(method)
        if self.caption not in ("first", "all"):
            raise ValueError(f"unknown evaluate.caption {self.caption!r}; known: first, all")
        if not self.shots or min(self.shots) < 1 or self.seeds < 1:
            raise ValueError(f"evaluate.shots {self.shots} and evaluate.seeds {self.seeds} must be positive")
        if not 0 < self.logit_scale < float("inf") or len(set(self.shots)) < len(self.shots):
            raise ValueError(
                f"evaluate.logit_scale {self.logit_scale} must be positive, evaluate.shots {self.shots} without repeats"
            )
        if self.min_examples <= max(self.shots):
            raise ValueError(
                f"evaluate.min_examples {self.min_examples} must exceed the largest of evaluate.shots, "
                f"{max(self.shots)}, so that every class keeps a query"
            )


def evaluate(
    checkpoint: str | os.PathLike,
    settings: EvaluateSettings,
    *,
    out: str | os.PathLike,
    data_dir: str | os.PathLike,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Evaluates an exported directory; writes `results.jsonl` and `retrieval_examples.json` to `out`, returns the rows.

    Embeddings are kept in `out/embeddings`, under the content of checkpoint and data, and used again.
    """
    out = pathlib.Path(out)
    encoder = Encoder(checkpoint)
    datasets = [load_labelled(name, data_dir, min_examples=settings.min_examples) for name in settings.datasets]
    rows: list[dict[str, Any]] = []
    examples: dict[str, Any] = {}
    for name in settings.retrieval:
        found, examples[name] = _evaluate_retrieval(encoder, name, settings.caption, out / "embeddings", data_dir)
        rows += found
        say(f"{name}: " + ", ".join(f"{row['metric']} {row['value']:.1%}" for row in found if row["k"] == 10))
    for dataset in datasets:
        for found in _evaluate_few_shot(encoder, dataset, settings, out / "embeddings"):
            rows += found
            most = max(row["shots"] for row in found)
            mean = np.mean([row["value"] for row in found if row["shots"] == most])
            say(f"{dataset.name}: {found[0]['method']} {mean:.1%}" + (f" at {most} shots" if most else ""))
    context = {"checkpoint": os.fspath(checkpoint), "checkpoint_fingerprint": encoder.fingerprint}
    rows = [row | context for row in rows]
    write_text(out / RESULTS_FILE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_text(out / EXAMPLES_FILE, json.dumps(examples, ensure_ascii=False))
    return rows


def _evaluate_few_shot(
    encoder: Encoder, dataset: LabelledImages, settings: EvaluateSettings, cache: pathlib.Path
) -> Iterator[list[dict[str, Any]]]:
    """Yields the rows of one method after the other."""
    key = fingerprint(encoder.image_fingerprint, dataset.fingerprint)
    features = cached(cache, f"images-{key}", lambda: encoder.embed_images(dataset.image, len(dataset)))
    texts = encoder.embed_classes(dataset.class_names, dataset.templates)
    cases = _cases(dataset.labels, settings)
    for name in settings.methods:
        outcome = _run_cases(
            name,
            cases,
            normalize(features),
            jnp.asarray(dataset.labels),
            normalize(texts),
            jnp.float32(settings.logit_scale),
        )
        yield _rows(name, cases, outcome, dataset, settings)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("support", "labels", "query"), meta_fields=("shots", "seeds")
)
@dataclasses.dataclass(frozen=True)
class _Cases:
    """Every shots × seed, padded to one shape: `support` and `labels` `[cases, n]` (label −1: not there), `query`
    `[cases, m]`."""

    support: np.ndarray
    labels: np.ndarray
    query: np.ndarray
    shots: tuple[int, ...]
    seeds: tuple[int, ...]


def _cases(labels: np.ndarray, settings: EvaluateSettings) -> _Cases:
    most = max(settings.shots)
    support, support_labels, query, case_shots, case_seeds = [], [], [], [], []
    for seed in range(settings.seeds):
        draw = draw_support(labels, max_shots=most, seed=seed)
        for shots in settings.shots:
            there = np.arange(most) < shots
            support.append(draw.support.reshape(-1))
            support_labels.append(np.where(there, labels[draw.support], -1).reshape(-1))
            query.append(draw.query)
            case_shots.append(shots)
            case_seeds.append(seed)
    return _Cases(np.stack(support), np.stack(support_labels), np.stack(query), tuple(case_shots), tuple(case_seeds))


@functools.partial(jax.jit, static_argnums=0)
def _run_cases(
    name: str, cases: _Cases, features: jax.Array, labels: jax.Array, texts: jax.Array, logit_scale: jax.Array
) -> dict[str, jax.Array]:
    """Returns for each case the query accuracy and the number of the chosen setting, `[cases]` each."""
    options, key = Grid(name), jax.random.key(0)

    def one(case: tuple[jax.Array, jax.Array, jax.Array]) -> dict[str, jax.Array]:
        rows, support_labels, query = case
        support = Support(features[rows], support_labels, texts, logit_scale, num_classes=len(texts))
        chosen, _ = options.choose(support, key=key)

        def accuracy(adapter: Adapter) -> jax.Array:
            logits = adapter.fit_support(support, key=key)(features[query])
            return jnp.mean(jnp.argmax(logits, axis=1) == labels[query])

        return {"accuracy": options.apply(chosen, accuracy), "chosen": chosen}

    return jax.lax.map(one, (cases.support, cases.labels, cases.query))


def _rows(
    name: str, cases: _Cases, outcome: Mapping[str, jax.Array], dataset: LabelledImages, settings: EvaluateSettings
) -> list[dict[str, Any]]:
    options = Grid(name)
    rows = []
    for index, (shots, seed) in enumerate(zip(cases.shots, cases.seeds, strict=True)):
        if name == "zero_shot":
            if shots != settings.shots[0]:
                continue  # the same queries for every number of shots, and no support to differ by
            shots, selection = 0, "none"
        else:
            selection = DEFAULTS if shots == 1 else options.selected_by
        rows.append(
            {
                "task": "few_shot",
                "dataset": dataset.name,
                "dataset_fingerprint": dataset.fingerprint,
                "method": name,
                "shots": shots,
                "seed": seed,
                "metric": "accuracy",
                "k": None,
                "value": float(outcome["accuracy"][index]),
                "settings": options.settings[int(outcome["chosen"][index])],
                "selection": selection,
                "logit_scale": settings.logit_scale,
                "classes": len(dataset.class_names),
                "queries": int(cases.query.shape[1]),
            }
        )
    return rows


def _evaluate_retrieval(
    encoder: Encoder, name: str, caption: str, cache: pathlib.Path, data_dir: str | os.PathLike
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the rows of both directions, and examples: a text and its nearest pictures as data URIs."""
    source = open_source(name, data_dir)
    records = [source[index] for index in range(len(source))]
    key = fingerprint(encoder.image_fingerprint, *(record.image for record in records))
    images = cached(
        cache,
        f"images-{key}",
        lambda: encoder.embed_images(lambda index: decode(records[index].image, records[index].key), len(records)),
    )
    captions = [record.texts[0] if caption == "first" else ", ".join(record.texts) for record in records]
    found = retrieval(images, encoder.embed_texts(captions))
    rows = [
        {
            "task": "retrieval",
            "dataset": name,
            "dataset_fingerprint": key,
            "method": "zero_shot",
            "shots": 0,
            "seed": None,
            "metric": f"{direction} recall@{k}",
            "k": k,
            "value": value,
            "settings": {"caption": caption},
            "selection": "none",
            "logit_scale": None,
            "classes": len(records),
            "queries": len(records),
        }
        for direction, recall in (("text→image", found.text_to_image), ("image→text", found.image_to_text))
        for k, value in recall.items()
    ]
    examples = [
        {
            "text": captions[query],
            "images": [
                {
                    "uri": data_uri(decode(records[image].image, records[image].key), 96, quality=85),
                    "text": records[image].texts[0],
                    "match": bool(image == query),
                }
                for image in found.nearest_images[query][:_NEAREST]
            ],
        }
        for query in np.random.default_rng(0).permutation(len(records))[:_EXAMPLES]
    ]
    return rows, examples


def read_results(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the rows that `evaluate` wrote to `folder`."""
    path = pathlib.Path(folder) / RESULTS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {RESULTS_FILE}; `launch.py evaluate` writes one")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
