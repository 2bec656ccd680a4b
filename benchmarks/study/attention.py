"""What the pictures of docs/STUDY.md's runs attend to: how much of it has a text like their own.

    python benchmarks/study/attention.py        the runs with context that are in runs/study

Four batches of each run's own data, as it was trained on, embedded by its export; of two samples the texts are alike
where the cosine of their latent semantic analysis is 0.5 or more. The table goes into docs/STUDY.md.
"""

from __future__ import annotations

import datetime
import math
import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import configs  # noqa: E402
from adapt.embedding.encoder import Encoder  # noqa: E402
from benchmarks.machine import describe_machine  # noqa: E402
from benchmarks.study.arms import CONTEXT, Arm, average, read_arms  # noqa: E402
from benchmarks.study.tables import STUDY, find_sweeps, markdown, put  # noqa: E402
from data.pipeline.caption_groups import lsa_embeddings  # noqa: E402
from data.sources.base import Source  # noqa: E402
from pretrain.config.run import load_settings  # noqa: E402
from pretrain.input_pipeline import create_examples, open_data, prepare_order, prepare_tokenizer  # noqa: E402

BATCHES, ALIKE = 4, 0.5
NEIGHBOURS, MEMORY = "pretrain.objective.neighbours", "pretrain.objective.memory"


def main() -> int:
    rows = []
    for sweep in find_sweeps():
        table = sweep.stem.removeprefix("study_")
        configs.load(str(sweep), (), dict)  # a config with a loss of its own registers it when it is read
        for arm in read_arms(sweep, STUDY / table):
            of_batch = arm.point.get(NEIGHBOURS) != "texts" and not arm.point.get(MEMORY)
            if arm.runs and arm.point.get(CONTEXT) and of_batch:
                found = [look_at(run.folder.parent, run.metrics[-1]) for run in arm.runs.values() if run.folder]
                means = [average(values) for values in zip(*found, strict=True)]
                rows.append([table, describe(arm), str(len(found)), *told(means)])
                print(*rows[-1], sep="  ", flush=True)
    heads = ["table", "arm", "seeds", "temperature · √d", "attended", "of texts alike", "of all pairs, alike", "ratio"]
    lines = [f"`python benchmarks/study/attention.py`, {datetime.date.today().isoformat()}, {describe_machine()}", ""]
    put("\n".join([*lines, *markdown(heads, rows)]), "attention")
    return 0


def describe(arm: Arm) -> str:
    """Returns what an arm has beside the context."""
    rest = Arm({key: value for key, value in arm.point.items() if key != CONTEXT}, arm.runs)
    return rest.name or "context"


def told(means: list[float]) -> list[str]:
    """Returns the cells of a row."""
    temperature, attended, share, base = means
    return [f"{temperature:.3f}", f"{attended:.1f}", f"{share:.1%}", f"{base:.1%}", f"{share / base:.1f}"]


def look_at(workdir: pathlib.Path, last: dict[str, float]) -> tuple[float, float, float, float]:
    """Returns temperature · sqrt(dim), attended items, and of attention and of all pairs the share with texts alike.

    `last` are the metrics of the last step.
    """
    settings = load_settings(workdir)
    source = open_data(settings, "runs/study/cache")
    tokenizer = prepare_tokenizer(workdir / "tokenizer", source, settings)
    examples = create_examples(settings, source, tokenizer, prepare_order(workdir / "groups.npy", source, settings))
    points = text_points(source)
    encoder = Encoder(workdir / "export")
    temperature = last["context_temperature"] * math.sqrt(encoder.dim)
    found = []
    for step in range(BATCHES):
        pixels = examples.rows(step, range(settings.batch_size))["images"]
        u = np.asarray(encoder.embed_pixels(pixels), np.float64)
        chosen = points[examples.sampler.sample_ids(step)]
        found.append(shares(u, chosen, temperature, settings.objective.self_mask))
    attended, share, base = np.mean(found, axis=0)
    return temperature, float(attended), float(share), float(base)


def shares(
    embeddings: np.ndarray, points: np.ndarray, temperature: float, self_mask: bool
) -> tuple[float, float, float]:
    """Returns attended items, and the share of attention and that of all other items whose texts are alike."""
    u = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    logits = u @ u.T / temperature
    alike = points @ points.T >= ALIKE
    others = ~np.eye(len(u), dtype=bool)
    if self_mask:
        np.fill_diagonal(logits, -np.inf)
    attention = np.exp(logits - logits.max(axis=1, keepdims=True))
    attention /= attention.sum(axis=1, keepdims=True)
    entropy = -np.sum(attention * np.log(np.where(attention > 0, attention, 1.0)), axis=1)
    return float(np.mean(np.exp(entropy))), float(np.sum(attention * alike) / len(u)), float(np.mean(alike[others]))


_POINTS: dict[str, np.ndarray] = {}  # by fingerprint


def text_points(source: Source) -> np.ndarray:
    """Returns the unit vectors of all samples' texts, made once of each source."""
    if source.fingerprint not in _POINTS:
        _POINTS[source.fingerprint] = lsa_embeddings([" ".join(source.texts(k)) for k in range(len(source))], seed=0)
    return _POINTS[source.fingerprint]


if __name__ == "__main__":
    sys.exit(main())
