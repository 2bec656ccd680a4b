"""The table of the published pair in docs/STUDY.md: each method, what plain scores beside the gain, by shots."""

import csv

from adapt.report.results_index import Run
from benchmarks.study import pair as study_pair

SETS = ("few", "many")


def run(name, shots, gain):
    """Returns the rows of a checkpoint that is right in half of the cases, and in `gain` more on the second set."""
    rows = []
    for method in ("zero_shot", *study_pair.METHODS["local"], *study_pair.METHODS["trained"]):
        for number, dataset in enumerate(SETS):
            for k in [0] if method == "zero_shot" else shots:
                for noise in (-0.01, 0.01):
                    given = {"checkpoint": name, "dataset": dataset, "task": "few_shot", "metric": "accuracy"}
                    value = 0.5 + 0.01 * k + noise + gain * number
                    rows.append({**given, "method": method, "shots": k, "value": value})
    return Run(name, rows, {}, [], [])


def test_the_table_has_every_method_and_the_gain_of_context(tmp_path, monkeypatch):
    monkeypatch.setattr(study_pair, "METHODS", {**study_pair.METHODS, "training-free": ("zero_shot",)})
    runs = {
        name: [run("context", shots, gain), run("plain", shots, 0.0)]
        for name, shots, gain in (("pair", (4, 16), 0.04), ("pair_32", (32,), -0.02))
    }
    lines = study_pair.tell(runs)
    assert lines[0].count("gain, points") == 3 and "| 32 shots, 2 sets |" in lines[0]
    assert (
        r"| local | llu | 54.0 | +2.0 \[+0.0, +4.0] | 66.0 | +2.0 \[+0.0, +4.0] | 82.0 | -1.0 \[-2.0, +0.0] |" in lines
    )
    assert any(line.startswith(r"| training-free | zero_shot | 50.0 | +2.0 \[+0.0, +4.0] |") for line in lines)
    assert len(lines) == 2 + 1 + 2 + 7
    monkeypatch.setattr(study_pair, "ROWS", tmp_path / "pair.csv")
    study_pair.write_rows(runs)
    rows = list(csv.DictReader((tmp_path / "pair.csv").open()))
    [row] = [
        each
        for each in rows
        if (each["checkpoint"], each["dataset"], each["method"], each["shots"]) == ("context", "many", "clap", "16")
    ]
    assert float(row["mean"]) == 0.7
