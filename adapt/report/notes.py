"""Sentences that explain numbers of a report which could be misread."""

from __future__ import annotations

from adapt.report.formatting import count, run_suffix
from adapt.report.results_index import ResultsIndex, TaskKey, interval_of


def zero_shot_notes(index: ResultsIndex) -> list[str]:
    """Return a sentence for each run and dataset whose zero-shot accuracy has two values, in two sections."""
    sentences = []
    for run in index.runs:
        for key in index.keys("zero_shot"):
            whole = [
                row
                for row in index.rows(run.name, key, method="zero_shot", shots=0)
                if row["settings"]["templates"] != "single"
            ]
            counted = index.rows(run.name, TaskKey(key.dataset), method="zero_shot", shots=0)
            if not whole or not counted:
                continue
            on_all, in_tables = (f"{interval_of(rows).mean:.1%}" for rows in (whole, counted))
            if on_all != in_tables:
                sentences.append(
                    f"{key.dataset}{run_suffix(index, run.name)}: zero_shot is {on_all} on all {whole[0]['queries']:,} "
                    f"query images, and {in_tables} in the few-shot tables, where the images that a seed draws as "
                    "support are not queries."
                )
    return sentences


def identical_notes(index: ResultsIndex) -> list[str]:
    """Return a sentence for each dataset with query images that are identical to support images."""
    found = {
        (row["dataset"], row.get("question", "")): row["identical_queries"]
        for run in index.runs
        for row in run.results
        if row.get("identical_queries")
    }
    return [
        f"{dataset}{f' [{query_set}]' if query_set else ''}: {count(number, 'query image')} identical to an image that "
        "support sets are drawn from. They are counted as queries."
        for (dataset, query_set), number in found.items()
    ]


def query_notes(index: ResultsIndex, key: TaskKey) -> list[str]:
    """Return a sentence for a dataset whose runs have different numbers of queries, so that they are not compared."""
    queries = {run.name: number for run in index.runs if (number := _queries(index, run.name, key)) is not None}
    if len(set(queries.values())) < 2:
        return []
    listed = ", ".join(f"{name} {number:,}" for name, number in queries.items())
    return [
        f"The runs have different numbers of queries per seed ({listed}), so they are not compared. From a pool, the "
        "queries depend on the numbers of shots: evaluate all runs with the same."
    ]


def _queries(index: ResultsIndex, run: str, key: TaskKey) -> int | None:
    """Return the number of queries per seed of a run, or None without rows."""
    found = (index.rows(run, key, method=method, shots=k) for k in index.shots(key) for method in index.methods())
    return next((rows[0]["queries"] for rows in found if rows), None)
