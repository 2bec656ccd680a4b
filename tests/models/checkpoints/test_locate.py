"""A path that does not exist is not looked up on the Hub, and the error says what to do."""

import pytest

from models.checkpoints.locate import locate_checkpoint
from models.io import hub
from models.text.tokenizer import open_tokenizer


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The current folder with a run that is exported and one that is not."""
    for name in ("done", "plain"):
        (tmp_path / "runs/art" / name).mkdir(parents=True)
        (tmp_path / "runs/art" / name / "pretrain.json").write_text("{}")
    (tmp_path / "runs/art/done/export").mkdir()
    monkeypatch.chdir(tmp_path)

    def fetch(name, patterns, *, what):
        raise OSError(f"{name} was looked up on the Hub")

    monkeypatch.setattr(hub, "fetch", fetch)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("runs/art/plain/export", r"Run `launch\.py export --workdir=runs/art/plain` first\."),
        ("runs/art/plain/export/", r"Run `launch\.py export --workdir=runs/art/plain` first\."),
        ("./runs/art/plain/export", r"Run `launch\.py export --workdir=runs/art/plain` first\."),
        ("runs/art/plain/export.npz", r"Run `launch\.py export --workdir=runs/art/plain` first\."),
        ("runs/art/done/exprt", r"Did you mean 'runs/art/done/export'\?"),
        ("runs/art/don/export", r"Did you mean 'runs/art/done/export'\?"),
        ("runs/rat/done/export", r"Did you mean 'runs/art/done/export'\?"),
        ("runs/art2", r"Did you mean 'runs/art'\?"),
        ("runs/zzz", r"Write hf-hub:runs/zzz if it is on the Hub\."),
        ("nowhere/a/b", r"nowhere/a/b is not a checkpoint: there is no such file or folder$"),
        ("nowhere/", r"no such file or folder$"),
        ("~/nowhere/at/all", r"no such file or folder$"),
        ("/nowhere/at/all", r"no such file or folder$"),
    ],
)
def test_a_missing_path_is_not_a_hub_id(runs, name, message):
    with pytest.raises(FileNotFoundError, match=message):
        locate_checkpoint(name)


@pytest.mark.parametrize("name", ["google/siglip", "gpt2", "hf-hub:runs/art/x", "hf-hub:google/siglip"])
def test_other_names_are_hub_ids(runs, name):
    with pytest.raises(OSError, match="was looked up on the Hub"):
        locate_checkpoint(name)


@pytest.mark.parametrize("name", ["runs/art/tokenizr", "./tokenizer", "/nowhere/tokenizer.json", "tokenizer.json"])
def test_a_missing_tokenizer_is_not_a_hub_id(runs, name):
    with pytest.raises(FileNotFoundError, match=f"tokenizer {name} does not exist"):
        open_tokenizer(name, length=8)


def test_included_checkpoints_open_outside_the_folder_of_the_project(runs, tmp_path):
    assert locate_checkpoint("checkpoints/photos").folder.joinpath("model.safetensors").is_file()
    (tmp_path / "checkpoints" / "photos").mkdir(parents=True)
    assert (
        locate_checkpoint("checkpoints/photos").folder.resolve() == tmp_path / "checkpoints" / "photos"
    )  # comes first
