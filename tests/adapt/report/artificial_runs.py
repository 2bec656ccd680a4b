"""A workdir as `evaluate` writes it, with artificial predictions."""

import json

import numpy as np

from adapt.adapters.registry import TRANSDUCTIVE
from foundation.files.array_files import save_array

DATASETS = ("birds", "<script>alert('x')</script> \"שלום\" 👩‍🚀 $x$")
METHODS, SHOTS, SEEDS, QUERIES, CLASSES = ("zero_shot", "knn"), (1, 4), 3, 200, 5
SHARES = {"first": {"zero_shot": 0.3, 1: 0.4, 4: 0.5}, "second": {"zero_shot": 0.3, 1: 0.5, 4: 0.7}}


def write_evaluation(workdir, *, shares=SHARES, datasets=DATASETS, methods=METHODS):
    """Write results whose predictions are right with the probability `shares[checkpoint][shots]`; return `workdir`."""
    evaluation = workdir / "evaluation"
    labels = np.random.default_rng(0).integers(CLASSES, size=QUERIES).astype(np.int32)
    save_array(evaluation / "predictions" / "labels.npy", labels)
    classes = {"names": [f"class {label} <b>" for label in range(CLASSES)], "pictures": [None] * CLASSES}
    (evaluation / "classes").mkdir()
    (evaluation / "classes" / "c.json").write_text(json.dumps(classes))
    rows = []
    for checkpoint in shares:
        for number, dataset in enumerate(datasets):
            distances = np.random.default_rng(7).random((SEEDS, QUERIES)).astype(np.float32)
            save_array(evaluation / "predictions" / "distances.npy", distances)
            for method in methods:
                name = f"{checkpoint}{number}{method}.npy"
                cases = [(0, 0)] if method == "zero_shot" else [(k, seed) for seed in range(SEEDS) for k in SHOTS]
                found = []
                for case, (shots, seed) in enumerate(cases):
                    rng = np.random.default_rng([number, shots, seed])  # the same for all runs: they are paired
                    share = shares[checkpoint][shots or "zero_shot"]
                    found.append(np.where(rng.random(QUERIES) < share, labels, (labels + 1) % CLASSES))
                    rows.append(
                        {
                            "task": "few_shot",
                            "dataset": dataset,
                            "question": "",
                            "method": method,
                            "transductive": method in TRANSDUCTIVE,
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
