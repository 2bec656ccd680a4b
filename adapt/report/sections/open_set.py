"""The section of a report on unknown classes: scores that separate queries of known from those of unknown classes."""

from __future__ import annotations

from adapt.evaluation.protocols.open_set import FAR, KNOWN, LOGIT, PROBABILITY
from adapt.report.formatting import count, format_interval
from adapt.report.results_index import ResultsIndex, TaskKey
from adapt.report.sections.section import Section
from adapt.report.tables import Cell, ReportTable

_TASK = "open_set"
_TEXT = (
    "Support images and class names of the first half of the classes (known) only; queries of both halves. AUROC is "
    "the probability, in percent, that a query of a known class has a higher score than one of an unknown class; 50 is "
    "chance. The far flag is the cosine to the nearest support image, the same for every method. Flagged: the share of "
    "the queries below the threshold of the job adapt. Accuracy is that of known queries among known classes."
)


def open_set(index: ResultsIndex) -> list[Section]:
    """Return a section per dataset with the accuracy on known classes, and the AUROC of three scores."""
    return [section for dataset in index.datasets(_TASK) for section in _section(index, dataset)]


def _section(index: ResultsIndex, dataset: str) -> list[Section]:
    known, far, probability, logit = (TaskKey(dataset, _TASK, name) for name in (KNOWN, FAR, PROBABILITY, LOGIT))
    shots = (index.shots(known) or [0])[-1]
    several = len(index.runs) > 1
    rows = []
    for method in index.methods(_TASK):
        for run in index.runs:
            found = [
                index.interval(run.name, key, method=method, shots=shots) for key in (known, far, probability, logit)
            ]
            if found[0] is None:
                continue
            flagged = index.rows(run.name, far, method=method, shots=shots)
            shares = [
                f"{100 * sum(row[field] for row in flagged) / len(flagged):.1f}" if flagged else "–"
                for field in ("flagged_known", "flagged_unknown")
            ]
            names = [method, run.name] if several else [method]
            rows.append([Cell(text) for text in (*names, *map(format_interval, found), *shares)])
    if not rows:
        return []
    head = [
        *(["method", "run"] if several else ["method"]),
        "accuracy",
        "far flag",
        "max probability",
        "max logit",
        "flagged, known",
        "flagged, unknown",
    ]
    title = f"Unknown classes: {dataset}"
    at = f"at {count(shots, 'shot')}" if shots else "without support images"
    caption = f"{dataset} {at}: accuracy, AUROC of three scores, and queries flagged as far, %"
    table = ReportTable(f"{_TASK}-{dataset}", caption, head, rows, labels=1 + several)
    return [Section(title, _TEXT, [table], dataset=dataset)]
