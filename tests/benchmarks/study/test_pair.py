"""The published pair with every adapter: each method's accuracy without context next to its gain, by shots."""

import csv
import json
import types

from adapt.report.results_index import Run
from benchmarks.study import pair as study_pair

SETS = ("few", "many")


def rows_of(name, shots, gain):
    """Return the rows of a checkpoint with accuracy 0.5 and more by shots, plus `gain` on the second dataset."""
    rows = []
    for method in ("zero_shot", *study_pair.METHODS["local"], *study_pair.METHODS["trained"]):
        for number, dataset in enumerate(SETS):
            for k in [0] if method == "zero_shot" else shots:
                for noise in (-0.01, 0.01):
                    given = {"checkpoint": name, "dataset": dataset, "task": "few_shot", "metric": "accuracy"}
                    value = 0.5 + 0.01 * k + noise + gain * number
                    rows.append({**given, "method": method, "shots": k, "value": value})
    return rows


def test_table_has_every_method_and_the_gain_of_context(tmp_path, monkeypatch):
    monkeypatch.setattr(study_pair, "METHODS", {**study_pair.METHODS, "training-free": ("zero_shot",)})
    runs = {
        name: [
            Run("context", rows_of("context", shots, gain), {}, [], []),
            Run("plain", rows_of("plain", shots, 0.0), {}, [], []),
        ]
        for name, shots, gain in (("pair", (4, 16), 0.04), ("pair_32", (32,), -0.02))
    }
    lines = study_pair.compare(runs)
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


def test_main_evaluates_both_sets_of_shots_and_writes_the_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study_pair, "METHODS", {**study_pair.METHODS, "training-free": ("zero_shot",)})
    monkeypatch.setattr(study_pair, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(study_pair, "RESULTS", tmp_path)
    monkeypatch.setattr(study_pair, "ROWS", tmp_path / "pair.csv")

    def evaluate(command, **_):
        name = command[-1].rpartition("/")[2]
        folder = tmp_path / "runs" / name / "evaluation"
        folder.mkdir(parents=True)
        shots = study_pair.JOBS[name][0]
        rows = rows_of("plain", shots, 0.0) + rows_of("context", shots, 0.02)
        (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(study_pair.subprocess, "run", evaluate)
    assert study_pair.main([]) == 1
    assert "--data=FOLDER" in capsys.readouterr().err
    (tmp_path / "runs" / "data" / "targets").mkdir(parents=True)
    assert study_pair.main([]) == 0
    assert r"| trained | clap | 54.0 | +1.0 \[+0.0, +2.0] |" in capsys.readouterr().out
    assert (tmp_path / "runs.csv").read_text().splitlines()[1].startswith("pair,")
    assert len((tmp_path / "pair.csv").read_text().splitlines()) == 1 + 2 * 2 * 10 * 3
