"""Names of the checkpoints of an evaluation, and splitting of comma-separated lists of them."""

import pytest

from adapt.evaluation.run import checkpoint_names
from foundation.command_line.option_values import split_list


def test_a_checkpoint_is_named_after_its_folder_unless_it_is_given_a_name(tmp_path, monkeypatch):
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
    assert split_list(",".join(paths)) == paths  # run folders of a sweep have commas in their names
    assert list(checkpoint_names(paths)) == ["seed=0,context=True", "x", "siglip", "b"]
    monkeypatch.chdir(tmp_path / "runs")
    assert checkpoint_names(["seed=0,context=True"]) == {"seed=0,context=True": "seed=0,context=True"}
    with pytest.raises(
        ValueError, match=r"two checkpoints are called 'a'\. Write NAME=other/a to rename one of them\."
    ):
        checkpoint_names(["runs/a/export", "other/a"])


@pytest.mark.parametrize("text", ["C,", ",C", " C ", "C, ", ",,C,,"])
def test_blanks_and_empty_items_of_a_list_of_checkpoints_are_dropped(text):
    assert checkpoint_names(split_list(text)) == {"C": "C"}
    assert checkpoint_names(split_list(f"a=b/c,{text}")) == {"a": "b/c", "C": "C"}


@pytest.mark.parametrize(("text", "message"), [(",", "names no checkpoint"), (" ", "names no"), ("a=", "lacks a name")])
def test_a_list_without_checkpoints_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        checkpoint_names(split_list(text))
