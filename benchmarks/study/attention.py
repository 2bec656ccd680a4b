"""Measure what the images of the study's runs attend to: how much attention goes to samples with similar texts.

    python -m benchmarks.study.attention        # the runs with context in runs/study

Each run's export embeds four batches of its training data. Two samples have similar texts if the cosine of their latent
semantic analysis is at least 0.5. Rows go to docs/study/attention.csv.
"""

from __future__ import annotations

import argparse
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from adapt.embedding.encoder import Encoder
from benchmarks.study import page, variant_objective
from benchmarks.study.arms import CONTEXT, average, read_arms
from benchmarks.study.files import RESULTS, RUNS, record_runs, write_csv
from benchmarks.study.tables import find_sweeps
from data.pipeline.caption_groups import lsa_embeddings
from data.sources.base import Source
from pretrain.config.run import load_settings
from pretrain.input_pipeline import create_loader, open_data, prepare_order, prepare_tokenizer

BATCHES, SIMILAR = 4, 0.5  # batches per run, least cosine of similar texts
NEIGHBOURS, MEMORY = "pretrain.objective.neighbours", "pretrain.objective.memory"
COLUMNS = ("table", "arm", "seeds", "temperature", "attended_items", "similar_texts", "all_pairs")

_TEXT_EMBEDDINGS: dict[str, np.ndarray] = {}  # by fingerprint of the source


class AttentionShares(NamedTuple):
    """Attended items per image, the share of attention on similar texts, and the share of pairs with similar texts."""

    attended_items: float
    similar_texts: float
    all_pairs: float


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study.attention",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)
    variant_objective.register()
    rows = []
    for sweep in find_sweeps():
        for arm in read_arms(sweep, RUNS / sweep.stem):
            within_batch = arm.point.get(NEIGHBOURS) != "texts" and not arm.point.get(MEMORY)
            runs = [run for run in arm.runs.values() if run.folder]
            if not runs or not arm.point.get(CONTEXT) or not within_batch:
                continue
            root = math.sqrt(arm.settings["vision"]["width"])
            temperatures = [root * run.metrics[-1]["context_temperature"] for run in runs]
            measured = [measure(run.folder.parent, temperature=t) for run, t in zip(runs, temperatures, strict=True)]
            attended, similar, pairs = (average(values) for values in zip(*measured, strict=True))
            cells = [f"{average(temperatures):.3f}", f"{attended:.1f}", f"{similar:.3f}", f"{pairs:.3f}"]
            rows.append([sweep.stem, arm.name, str(len(runs)), *cells])
            print(*rows[-1], sep="  ", flush=True)
    if not rows:
        print(
            "error: runs/study has no run with context; `python -m benchmarks.study.tables` makes them", file=sys.stderr
        )
        return 1
    write_csv(RESULTS / "attention.csv", COLUMNS, rows)
    record_runs(RESULTS / "runs.csv", "attention")
    page.write()
    return 0


def measure(workdir: pathlib.Path, *, temperature: float) -> AttentionShares:
    """Return the shares of a run's attention at a temperature · √dim, means over batches as it was trained on."""
    settings = load_settings(workdir)
    source = open_data(settings, "runs/study/cache")
    tokenizer = prepare_tokenizer(workdir / "tokenizer", source, settings)
    examples = create_loader(settings, source, tokenizer, order=prepare_order(workdir / "groups.npy", source, settings))
    texts = text_embeddings(source)
    encoder = Encoder(workdir / "export")
    found = []
    for step in range(BATCHES):
        pixels = examples.rows(step, range(settings.batch_size))["images"]
        u = np.asarray(encoder.embed_pixels(pixels), np.float64)
        chosen = texts[examples.sampler.sample_ids(step)]
        found.append(shares(u, chosen, temperature=temperature, self_mask=settings.objective.self_mask))
    return AttentionShares(*np.mean(found, axis=0).tolist())


def shares(embeddings: np.ndarray, texts: np.ndarray, *, temperature: float, self_mask: bool) -> AttentionShares:
    """Return the shares of the attention between image embeddings `[batch, dim]` with unit text vectors."""
    u = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    logits = u @ u.T / temperature
    similar = texts @ texts.T >= SIMILAR
    others = ~np.eye(len(u), dtype=bool)
    if self_mask:
        np.fill_diagonal(logits, -np.inf)
    attention = np.exp(logits - logits.max(axis=1, keepdims=True))
    attention /= attention.sum(axis=1, keepdims=True)
    entropy = -np.sum(attention * np.log(np.where(attention > 0, attention, 1.0)), axis=1)
    return AttentionShares(
        float(np.mean(np.exp(entropy))), float(np.sum(attention * similar) / len(u)), float(np.mean(similar[others]))
    )


def text_embeddings(source: Source) -> np.ndarray:
    """Return the unit vectors of all samples' texts, computed once per source."""
    if source.fingerprint not in _TEXT_EMBEDDINGS:
        texts = [" ".join(source.texts(k)) for k in range(len(source))]
        _TEXT_EMBEDDINGS[source.fingerprint] = lsa_embeddings(texts, seed=0)
    return _TEXT_EMBEDDINGS[source.fingerprint]


if __name__ == "__main__":
    sys.exit(main())
