"""Few-shot evaluation of stored features: `evaluate.features` instead of checkpoints and data sets of images."""

from __future__ import annotations

import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from adapt.evaluation.checkpoint_evaluator import CheckpointEvaluator, NoteLog
from adapt.evaluation.config import EvaluateSettings
from adapt.evaluation.results import Unit, merge
from adapt.evaluation.stored.embedder import StoredEmbedder, StoredEncoder, as_dataset
from adapt.evaluation.stored.feature_sets import FeatureSet, find_feature_sets
from data.features.labelled import FeatureDataset, open_labelled_features
from data.fewshot.open import Dataset
from foundation.shard import WHOLE, Shard

logger = logging.getLogger(__name__)


def evaluate_features(
    settings: EvaluateSettings, *, out: str | os.PathLike, shard: Shard = WHOLE
) -> list[dict[str, Any]]:
    """Evaluate the stored features in `settings.features`, and write the rows to `out/results.jsonl`; return the rows.

    All data sets are opened and checked before any work. Each encoder is evaluated as `adapt.evaluation.run.evaluate`
    does a checkpoint, with the same draws, methods and files, but without baselines: there are no pictures.
    Raises `FileNotFoundError` or `ValueError` for features that are missing or do not fit together.
    """
    out = pathlib.Path(out)
    found = find_feature_sets(settings.features, datasets=_wanted(settings))
    opened = {encoder: _open(encoder, sets, settings) for encoder, sets in found.items()}
    datasets = {encoder: {name: as_dataset(each) for name, each in own.items()} for encoder, own in opened.items()}
    names = list(dict.fromkeys(name for own in datasets.values() for name in own))
    names = [name for name in names if name in (settings.datasets or names)]
    _report_lacking(datasets, names)
    _report_differences(datasets)
    _report_pairing(opened)
    if settings.baselines and "few_shot" in settings.tasks:
        logger.info("note: stored features have no pictures: raw pixels and untrained towers are not evaluated")
    notes = NoteLog()
    units: list[Unit] = []
    for encoder, own in opened.items():
        embedder = StoredEmbedder(own)
        for number, name in enumerate(names):
            if name not in own:
                continue
            for note in own[name].notes:
                notes.note(note)
            source = own.get(settings.transfer_from)
            if source is not None and source.texts is None:
                source = None
            evaluator = CheckpointEvaluator(
                name=encoder,
                path=own[name].path,
                settings=settings,
                out=out,
                encoder=StoredEncoder(encoder, own[name], source),
                embedder=embedder,
                notes=notes,
                without_texts=f"has no text features for {name}",
                stored_features=True,
            )
            units += evaluator.evaluate_dataset(
                datasets[encoder][name],
                None if source is None else datasets[encoder][source.name],
                compute=shard.contains(number),
            )
    if not units:
        raise ValueError(
            "nothing was evaluated: the notes above say what each task lacks. Add it, or change the tasks."
        )
    rows, missing = merge(out, units)
    if missing:
        logger.info(
            f"{missing} of {len(units)} units belong to other shards; the shard that finishes last writes results.jsonl"
        )
    return rows


def _wanted(settings: EvaluateSettings) -> tuple[str, ...]:
    """Return the names of the data sets to open; all of them if the settings name none."""
    if not settings.datasets:
        return ()
    return tuple(dict.fromkeys((*settings.datasets, *filter(None, [settings.transfer_from]))))


def _open(encoder: str, sets: Mapping[str, FeatureSet], settings: EvaluateSettings) -> dict[str, FeatureDataset]:
    logger.info(f"features of {encoder}: {', '.join(sets)}")
    return {
        name: open_labelled_features(each.path, name=name, parts=each.parts, min_examples=settings.min_examples)
        for name, each in sets.items()
    }


def _report_lacking(datasets: Mapping[str, Mapping[str, Dataset]], names: list[str]) -> None:
    """Log the data sets that some of the encoders lack."""
    for encoder, own in datasets.items():
        lacking = [name for name in names if name not in own]
        if lacking:
            logger.info(f"note: {encoder} has no features of {', '.join(lacking)}")


def _report_differences(datasets: Mapping[str, Mapping[str, Dataset]]) -> None:
    """Log the data sets whose rows or classes differ between encoders: a report does not compare them row by row."""
    first: dict[str, str] = {}
    for encoder, own in datasets.items():
        for name, dataset in own.items():
            other = datasets[first.setdefault(name, encoder)][name]
            if dataset.fingerprint != other.fingerprint:
                logger.warning(
                    f"{name}: {first[name]} and {encoder} have different {_difference(other, dataset)}, so the report "
                    "does not compare them."
                )


def _report_pairing(opened: Mapping[str, Mapping[str, FeatureDataset]]) -> None:
    """Log the data sets whose rows have no ids: those of several encoders are compared by their numbers."""
    for name in dict.fromkeys(name for own in opened.values() for name in own):
        encoders = [encoder for encoder, own in opened.items() if name in own]
        if len(encoders) > 1 and all(opened[encoder][name].known.numbered for encoder in encoders):
            first, others = encoders[0], " and ".join(encoders[1:])
            logger.info(f"{name}: rows have no ids, so row i of {first} is taken to be row i of {others}")


def _difference(one: Dataset, other: Dataset) -> str:
    """Return what differs between two data sets."""
    if one.class_names != other.class_names:
        return "classes"
    for part in ("support", "query"):
        ours, theirs = getattr(one, part), getattr(other, part)
        if (ours is None) != (theirs is None) or (ours is not None and len(ours) != len(theirs)):
            return f"numbers of {part} rows"
        if ours is not None and ours.labels.tolist() != theirs.labels.tolist():
            return f"{part} labels, or the same in another order"
    return "ids of the rows (give both the same ids in the same order, or none)"
