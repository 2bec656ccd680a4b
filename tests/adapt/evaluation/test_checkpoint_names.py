"""What the checkpoints of an evaluation are called, and how a list of them is parted."""

import pytest

from adapt.evaluation.run import checkpoint_names, split_checkpoints


def test_checkpoints_are_called_by_their_folder_or_as_they_are_named(tmp_path, monkeypatch):
    assert checkpoint_names(["runs/a/export", "b=x/export/", "google/siglip", "/m/c.npz"]) == {
        "a": "runs/a/export",
        "b": "x/export/",
        "siglip": "google/siglip",
        "c.npz": "/m/c.npz",
    }
    monkeypatch.chdir(tmp_path)
    for name in ("seed=0,context=True", "b"):
        (tmp_path / "runs" / name / "export").mkdir(parents=True)
    paths = ["runs/seed=0,context=True/export", "x=runs/seed=0,context=True/export", "google/siglip", "runs/b/export"]
    assert split_checkpoints(",".join(paths)) == paths  # the folders of a sweep's runs have commas in their names
    assert list(checkpoint_names(paths)) == ["seed=0,context=True", "x", "siglip", "b"]
    monkeypatch.chdir(tmp_path / "runs")
    assert checkpoint_names(["seed=0,context=True"]) == {"seed=0,context=True": "seed=0,context=True"}
    with pytest.raises(ValueError, match="two checkpoints are called 'a'; write NAME=other/a for one"):
        checkpoint_names(["runs/a/export", "other/a"])
