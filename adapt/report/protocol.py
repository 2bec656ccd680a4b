"""The evaluation protocol in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapt.evaluation.baselines.evaluate import TASK as BASELINE
from adapt.evaluation.protocols.support_protocol import BALANCED
from adapt.report.formatting import count
from adapt.report.notes import identical_notes
from adapt.report.results_index import ResultsIndex
from adapt.report.statistics import MIN_DRAWS

_CAPTIONS = {
    "first": "its first text",
    "all": "all its texts, joined by commas",
    "each": "each of its texts",
}


def protocol(index: ResultsIndex) -> list[str]:
    """Return sentences on draws, selection, intervals, retrieval and checkpoints."""
    return [
        *_few_shot(index),
        *identical_notes(index),
        *_retrieval(index),
        *_checkpoints(index),
    ]


def _few_shot(index: ResultsIndex) -> list[str]:
    drawn = [
        row
        for run in index.runs
        for row in run.results
        if row["task"] not in ("retrieval", "zero_shot", BASELINE) and row["method"] != "zero_shot"
    ]
    if not drawn:
        return []
    seeds, scales = {row["seed"] for row in drawn}, sorted({row["logit_scale"] for row in drawn})
    selections = "; ".join(sorted({row["selection"] for row in drawn} - {"none"}))
    return [
        *filter(None, [index.protocol.sentence]),
        f"Support sets are drawn at random with {count(len(seeds), 'seed')}. The draws of a seed are nested"
        + (
            ": the support set at k shots consists of the first k images of each class. Datasets that ask for it use "
            "CoOp's published draws instead."
            if index.protocol.balance == BALANCED
            else "."
        ),
        "Where a dataset has a query split, all of its images are queries. Otherwise the queries are the images that "
        "no support set of the seed contains, the same for every method and number of shots.",
        f"Hyper-parameters of a method are selected on the support set alone{': ' if selections else ''}{selections}. "
        "Queries never take part in the selection.",
        *_transductive(drawn),
        f"Text logits are scaled by {', '.join(f'{scale:g}' for scale in scales)}, whatever scale a checkpoint "
        "learned.",
        "Accuracies are means over seeds ± the half-width of an interval at 95% that includes the variance between "
        f"seeds and the binomial error of the finite query set. With fewer than {MIN_DRAWS} seeds, (lowest–highest) is "
        "the range of the seeds. Differences between "
        "checkpoints use the same support sets and queries, with the interval of a paired bootstrap over both. "
        "Averages over datasets have Student's interval over the datasets.",
    ]


def _transductive(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence on the methods that see all queries, if there are any."""
    names = dict.fromkeys(row["method"] for row in rows if row.get("transductive"))
    return [
        f"{name} is transductive: it is fitted on the queries of one query set, without their labels, and on no images "
        "that a support set of the same seed contains."
        for name in names
    ]


def _retrieval(index: ResultsIndex) -> list[str]:
    rows = [row for run in index.runs for row in run.results if row["task"] == "retrieval"]
    return [
        f"In retrieval an image is described by {_CAPTIONS[caption]}. A text must find its image, an image any of its "
        "texts."
        for caption in sorted({row["settings"]["caption"] for row in rows})
    ]


def _checkpoints(index: ResultsIndex) -> list[str]:
    sentences = []
    for run in index.runs:
        found = {
            (row.get("checkpoint_path"), row["checkpoint_fingerprint"], row.get("dtype"))
            for row in run.results
            if not row.get("stored_features")
        }
        for path, fingerprint, dtype in sorted(found, key=str):
            where = f" at {path}" if path else ""
            computed = f", computed in {dtype}" if dtype else ""
            sentences.append(f"{run.name} is the checkpoint with fingerprint {fingerprint}{where}{computed}.")
        stored = {
            (row["dataset"], row["checkpoint_path"], row["dtype"], row["checkpoint_fingerprint"])
            for row in run.results
            if row.get("stored_features")
        }
        sentences += [
            f"{dataset} of {run.name}: stored features at {path} ({dtype}), with fingerprint {fingerprint}. Rows are "
            "scaled to length 1."
            for dataset, path, dtype, fingerprint in sorted(stored)
        ]
    return sentences
