"""Results of a job never land between the files of a run or a checkpoint."""

import pytest

from foundation.files.output_folder import check_output_folder


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run" / "export").mkdir(parents=True)
    (tmp_path / "run" / "pretrain.json").write_text("{}")
    for folder in (tmp_path / "run" / "export", tmp_path / "published"):
        folder.mkdir(exist_ok=True)
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    return tmp_path


@pytest.mark.parametrize(
    "out", ["run", "run/", "run/../run", "link", "run/evaluation", "run/checkpoints/a", "run/tokenizer"]
)
def test_the_folders_of_a_run_are_refused(run, out):
    with pytest.raises(ValueError, match=r"--out=.* belongs to the run in .*Use another folder"):
        check_output_folder(f"{run}/{out}")


@pytest.mark.parametrize("out", ["published", "published/a/b", "run/export", "link/export/a"])
def test_the_folders_of_a_checkpoint_are_refused(run, out):
    with pytest.raises(ValueError, match=r"--out=.* belongs to the (checkpoint|run)"):
        check_output_folder(run / out)


@pytest.mark.parametrize("out", ["new", "run-out", "run/sorted", "link/sorted/a", "."])
def test_other_folders_are_accepted(run, out):
    check_output_folder(run / out)
