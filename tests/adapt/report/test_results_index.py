"""Two checkpoints compared on artificial predictions: numbers by hand, and the page in a browser."""

import csv
import html
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest

from adapt.report.headline import headline
from adapt.report.html_report import write_report
from adapt.report.results_index import ResultsIndex, TaskKey, read_runs
from adapt.report.statistics import mean_difference
from foundation.files.array_files import save_array

pytestmark = pytest.mark.filterwarnings("ignore:Glyph")
DATASETS = ("birds", "<script>alert('x')</script> \"שלום\" 👩‍🚀 $x$")
METHODS, SHOTS, SEEDS, QUERIES, CLASSES = ("zero_shot", "knn"), (1, 4), 3, 200, 5
SHARES = {"first": {"zero_shot": 0.3, 1: 0.4, 4: 0.5}, "second": {"zero_shot": 0.3, 1: 0.5, 4: 0.7}}
CHROMIUM = os.environ.get("CHROME") or next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A workdir as `evaluate` writes it, with predictions that are right with a known probability."""
    workdir = tmp_path_factory.mktemp("compared")
    evaluation = workdir / "evaluation"
    labels = np.random.default_rng(0).integers(CLASSES, size=QUERIES).astype(np.int32)
    save_array(evaluation / "predictions" / "labels.npy", labels)
    classes = {"names": [f"class {label} <b>" for label in range(CLASSES)], "pictures": [None] * CLASSES}
    (evaluation / "classes").mkdir()
    (evaluation / "classes" / "c.json").write_text(json.dumps(classes))
    rows = []
    for checkpoint in SHARES:
        for number, dataset in enumerate(DATASETS):
            distances = np.random.default_rng(7).random((SEEDS, QUERIES)).astype(np.float32)
            save_array(evaluation / "predictions" / "distances.npy", distances)
            for method in METHODS:
                name = f"{checkpoint}{number}{method}.npy"
                cases = [(0, 0)] if method == "zero_shot" else [(k, seed) for seed in range(SEEDS) for k in SHOTS]
                found = []
                for case, (shots, seed) in enumerate(cases):
                    rng = np.random.default_rng(
                        [number, shots, seed]
                    )  # the same for both runs: their predictions are paired
                    share = SHARES[checkpoint][shots or "zero_shot"]
                    found.append(np.where(rng.random(QUERIES) < share, labels, (labels + 1) % CLASSES))
                    rows.append(
                        {
                            "task": "few_shot",
                            "dataset": dataset,
                            "question": "",
                            "method": method,
                            "shots": shots,
                            "seed": seed,
                            "metric": "accuracy",
                            "k": None,
                            "value": float(np.mean(found[-1] == labels)),
                            "settings": {},
                            "selection": "none" if method == "zero_shot" else "defaults",
                            "short": False,
                            "support": None if method == "zero_shot" else f"s{shots}{seed}",
                            "logit_scale": 100.0,
                            "classes": CLASSES,
                            "queries": QUERIES,
                            "case": case,
                            "span": [0, QUERIES],
                            "predictions": name,
                            "labels": "labels.npy",
                            "distances": "distances.npy",
                            "classes_file": "c.json",
                            "checkpoint": checkpoint,
                            "checkpoint_fingerprint": f"f-{checkpoint}",
                            "dataset_fingerprint": f"d{number}",
                        }
                    )
                save_array(evaluation / "predictions" / name, np.stack(found).astype(np.int32))
    (evaluation / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return workdir


@pytest.fixture(scope="module")
def page(folder):
    return write_report(read_runs(folder), folder, title="compared").read_text(encoding="utf-8")


def test_a_difference_is_that_of_the_paired_predictions(folder):
    index = ResultsIndex(read_runs(folder))
    for dataset in DATASETS:
        key = TaskKey(dataset)
        a, b = (index.interval(run, key, method="knn", shots=4).mean for run in ("first", "second"))
        gain = index.difference("first", "second", key=key, method="knn", shots=4)
        assert gain.mean == pytest.approx(b - a, abs=1e-12)
        assert gain.significant and gain.low < gain.mean < gain.high
        assert gain.high - gain.low < 0.12  # it would be 0.2 if unpaired
        assert index.difference("first", "second", key=key, method="zero_shot", shots=4).mean == 0


def test_rows_with_different_data_or_support_sets_are_not_compared(folder):
    runs = read_runs(folder)
    for change in ({"dataset_fingerprint": "other"}, {"support": "other"}):
        other = runs[1]._replace(results=[row | change for row in runs[1].results])
        index = ResultsIndex([runs[0], other])
        assert index.difference("first", "second", key=TaskKey("birds"), method="knn", shots=4) is None


def test_the_headline_states_which_run_is_better_by_how_much_and_with_which_interval(folder):
    index = ResultsIndex(read_runs(folder))
    keys = [TaskKey(name) for name in DATASETS]
    gains = [index.difference("first", "second", key=key, method="knn", shots=4).mean for key in keys]
    sentence = headline(index)[0]
    assert f"the difference in accuracy is {100 * np.mean(gains):+.1f} [" in sentence
    assert (
        "significantly better on 2 datasets and significantly worse on 0: there, the interval excludes zero."
        in sentence
    )
    interval = mean_difference(gains)
    assert sentence.startswith(
        "second is better than first in knn" if interval.low > 0 else "No significant difference"
    )
    assert headline(index)[2].startswith("3 seeds at 1, 4 shots. All runs use the same support sets and query images;")


def test_the_table_files_have_the_numbers_of_the_page(folder, page):
    shown = html.unescape(page)
    for path in (folder / "tables").glob("*.csv"):
        for line in list(csv.reader(path.read_text(encoding="utf-8").splitlines()))[1:]:
            assert all(f">{html.escape(cell, quote=False)}<" in page or cell in shown for cell in line if cell)
        assert path.with_suffix(".md").is_file() and path.with_suffix(".tex").is_file()
    assert {"gain_second_knn.csv", "summary_first.csv"} <= {path.name for path in (folder / "tables").iterdir()}


DRIVER = """<script>
const seen = {};
for (const dataset of [...document.getElementById("dataset").options].map((o) => o.value)) {
  for (const method of [...document.getElementById("method").options].map((o) => o.value)) {
    for (const [id, value] of [["dataset", dataset], ["method", method]]) {
      document.getElementById(id).value = value;
      document.getElementById(id).dispatchEvent(new Event("change"));
    }
    seen[dataset + "|" + method] = [...document.querySelectorAll("section")].filter((s) => s.checkVisibility())
      .map((s) => s.innerText);
  }
}
const out = document.createElement("pre");
out.id = "seen";
out.textContent = JSON.stringify({seen, alerts: window.alerts || 0, wide: document.documentElement.scrollWidth});
document.body.append(out);
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome found; set CHROME to a browser")
def test_a_browser_shows_the_selected_dataset_and_method_and_escapes_names(folder, page, tmp_path):
    driven = tmp_path / "driven.html"
    driven.write_text(
        page.replace("<head>", "<head><script>window.alert = () => { window.alerts = 1; };</script>").replace(
            "</body>", DRIVER
        ),
        encoding="utf-8",
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=390,844"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom", driven.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=180)
    found = re.search(r'<pre id="seen">(.*?)</pre>', result.stdout, re.DOTALL)
    assert found, result.stderr[-2000:]
    state = json.loads(html.unescape(found[1]))
    assert state["alerts"] == 0 and state["wide"] <= 500  # headless Chromium has no narrower window
    with open(folder / "tables" / "gain_second_knn.csv", encoding="utf-8", newline="") as file:
        gains = list(csv.reader(file))[1:]
    assert set(state["seen"]) == {f"{dataset}|{method}" for dataset in DATASETS for method in METHODS}
    for dataset in DATASETS:
        texts = state["seen"][f"{dataset}|knn"]
        shown = "\n".join(texts)
        for line in gains:
            assert all(cell in shown for cell in line if cell), line
        assert any(text.startswith(f"Few-shot classification: {dataset}") for text in texts)
        others = set(DATASETS) - {dataset}
        assert not any(text.startswith(f"Few-shot classification: {other}") for text in texts for other in others)
        assert any(text.startswith("Gain of second over first: knn") for text in texts)
        assert not any("Gain of second over first: zero_shot" in text for text in texts)
        assert "class 0 <b>" in shown  # among the worst-classified classes
