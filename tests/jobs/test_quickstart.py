"""The quickstart from features to the report, on fewer icons and few steps."""

import json

import pytest

import launch
from configs.quickstart import get_config

SMALL = [
    "--config.embed.images=icons:seen_query",
    "--config.embed.image_size=32",
    "--config.align.captions=icons:seen_query,",
    "--config.align.batch_size=256",
    "--config.align.epochs=2",
    "--config.align.optimizer.warmup_steps=2",
    "--config.plain.epochs=1",
    "--config.align.tokenizer.name=train:300",
    "--config.evaluate.datasets=trashnet,",
    "--config.photos.datasets=signdigits,",
    "--config.evaluate.shots=2,",
    "--config.evaluate.seeds=2",
    "--config.evaluate.methods=zero_shot,knn",
    "--config.evaluate.baselines=raw_pixels,",
]


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_the_quickstart_compares_both_runs_with_the_encoder_alone_and_resumes(tmp_path, capsys):
    given = ["quickstart", f"--workdir={tmp_path / 'run'}", f"--config.data_dir={tmp_path / 'data'}", *SMALL]
    assert launch.main(given) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "run" / "report.html")
    settings = {name: json.loads((tmp_path / "run" / name / "align.json").read_text()) for name in ("context", "plain")}
    assert [each["objective"]["context"] for each in settings.values()] == [True, False]
    assert [each["epochs"] for each in settings.values()] == [2, 1]
    assert settings["context"] | {"epochs": 1} | {"objective": None} == settings["plain"] | {"objective": None}
    for name, methods in (("context", 2), ("plain", 2), ("encoder", 1)):
        rows = read_lines(tmp_path / "run" / name / "evaluation" / "results.jsonl")
        assert len({row["method"] for row in rows if ":" not in row["method"]}) == methods
    photos = tmp_path / "run" / "photos"
    assert {row["checkpoint"] for row in read_lines(photos / "evaluation" / "results.jsonl")} == {"plain", "context"}
    alone = [  # at the image size of the features that the heads map, on icons and on photos
        {row["checkpoint_fingerprint"] for row in read_lines(folder / "encoder" / "evaluation" / "results.jsonl")}
        for folder in (tmp_path / "run", photos)
    ]
    assert alone[0] == alone[1] and len(alone[0]) == 1
    assert (tmp_path / "run" / "photos" / "report.html").is_file()
    weights = (tmp_path / "run" / "context" / "export" / "model.safetensors").read_bytes()
    assert launch.main(given) == 0  # finished runs are neither trained nor evaluated again
    assert (tmp_path / "run" / "context" / "export" / "model.safetensors").read_bytes() == weights


def test_the_plain_run_differs_in_length_and_context_alone():
    plain = get_config().plain.to_dict()
    assert plain.pop("epochs") > 0 and plain == {"objective": {"context": False}}
