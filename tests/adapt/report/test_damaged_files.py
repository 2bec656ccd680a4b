"""Every file that `evaluate` writes and `report` reads, damaged: one sentence names it, and `evaluate` mends it."""

import json
import shutil

import pytest

import launch
from adapt.report import html_report
from models.checkpoints.io import save_checkpoint
from tests.data.shard_files import labelled, write_shard
from tests.models.tiny_models import tiny_checkpoint

DAMAGES = {
    "cut in half": lambda content: content[: len(content) // 2],
    "cut after a line": lambda content: content[: content.find(b"\n", len(content) // 2) + 1],
    "zeroed": lambda content: bytes(len(content)),
    "zeroed in the middle": lambda content: (
        content[: len(content) // 3] + bytes(len(content) // 3) + content[2 * len(content) // 3 :]
    ),
    "emptied": lambda content: b"",
    "removed": None,
}
STOPS = {"results.jsonl", "SHA256SUMS"}  # without them, every number would be in doubt
HISTORY = {"costs.jsonl", "jobs.jsonl"}  # appended to: a cut last line is what a killed process leaves
FILES = [*sorted(STOPS | HISTORY), "classes", "examples", "labels", "distances", "predictions"]


@pytest.fixture(autouse=True)
def without_figures(monkeypatch):
    """Leave out the files of figures, which take most of the time of a report and have tests of their own."""
    monkeypatch.setattr(html_report, "write_figures", lambda *args, **options: None)


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    checkpoint = save_checkpoint(folder / "export", tiny_checkpoint("siglip"))
    shard = write_shard(folder / "things.tar", labelled(24))
    given = ["evaluate", f"--checkpoint=tiny={checkpoint}", f"--datasets={shard}", f"--retrieval={shard}"]
    return [*given, f"--data_dir={folder}", "--methods=knn", "--tasks=few_shot", "--shots=1,2", "--seeds=2"]


@pytest.fixture(scope="module")
def evaluated(arguments, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    assert launch.main([*arguments, f"--workdir={workdir}"]) == 0
    return workdir


def find(workdir, name):
    """Return the file of a kind."""
    folder = workdir / "evaluation"
    patterns = {
        "classes": "classes/*.json",
        "examples": "examples/*.json",
        "labels": "predictions/labels-*.npy",
        "distances": "predictions/distances-*.npy",
        "predictions": "predictions/*knn*.npy",
    }
    if name == "jobs.jsonl":
        return workdir / name
    [path] = folder.glob(patterns.get(name, name))
    return path


def damage(path, how):
    """Damage a file; return whether that changed it."""
    content = path.read_bytes()
    if DAMAGES[how] is None:
        path.unlink()
        return True
    path.write_bytes(DAMAGES[how](content))
    return path.read_bytes() != content


def test_the_enumeration_has_every_file(evaluated):
    written = {path for path in (evaluated / "evaluation").rglob("*") if path.is_file()} | {evaluated / "jobs.jsonl"}
    not_read = {path for path in written if {"units", "embeddings"} & set(path.relative_to(evaluated).parts)}
    assert written - not_read == {find(evaluated, name) for name in FILES}


OFTEN = ("cut in half", "zeroed in the middle", "emptied")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", [how if how in OFTEN else pytest.param(how, marks=pytest.mark.slow) for how in DAMAGES])
def test_a_damaged_file_is_named_with_the_way_out(evaluated, tmp_path, capsys, name, how):
    workdir = shutil.copytree(evaluated, tmp_path / "run")
    path = find(workdir, name)
    if not damage(path, how):
        pytest.skip("the same bytes")
    capsys.readouterr()
    code = launch.main(["report", f"--workdir={workdir}"])
    output = capsys.readouterr()
    lines = [line for line in (output.out + output.err).splitlines() if path.name in line]
    if name == "SHA256SUMS" and how == "removed":
        assert code == 0 and not output.err  # as in results of earlier versions
    elif name == "SHA256SUMS":
        assert code == 1 and output.err.startswith(f"error: {path} is damaged. Restore it from a copy, or remove it")
    elif name in STOPS:
        assert code == 1 and output.err.startswith("error: ") and output.err.count("\n") == 1
        assert "Run the same `launch.py evaluate` command" in output.err or "Run `launch.py evaluate`" in output.err
    elif name in HISTORY and not lines:
        assert code == 0 and how in ("removed", "emptied", "cut after a line")
    elif name in HISTORY:
        assert len(lines) == 1 and ("is cut and left out" in lines[0] or "remove it" in lines[0])
    elif how == "removed" and not lines:
        assert code == 0 and name in ("labels", "distances", "predictions")
    else:
        [line] = lines
        assert code == 0 and line.startswith(f"warning: {path} is ")
        assert "Run the same `launch.py evaluate` command to write it again." in line
    assert "Traceback" not in output.err


@pytest.mark.parametrize("name", [name for name in FILES if name not in HISTORY])
@pytest.mark.parametrize("how", ["zeroed in the middle", pytest.param("removed", marks=pytest.mark.slow)])
def test_the_same_command_of_evaluate_mends_the_file(evaluated, arguments, tmp_path, capsys, name, how):
    workdir = shutil.copytree(evaluated, tmp_path / "run")
    path = find(workdir, name)
    whole = path.read_bytes()
    assert damage(path, how)
    assert launch.main([*arguments, f"--workdir={workdir}"]) == 0
    assert path.read_bytes() == whole
    capsys.readouterr()
    assert launch.main(["report", f"--workdir={workdir}"]) == 0
    output = capsys.readouterr()
    assert not output.err and "damaged" not in output.out.replace(str(tmp_path), "")


def test_edited_results_are_used_without_their_checksum(evaluated, tmp_path, capsys):
    workdir = shutil.copytree(evaluated, tmp_path / "run")
    path = find(workdir, "results.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))
    assert launch.main(["report", f"--workdir={workdir}"]) == 1
    assert f"or remove {path.with_name('SHA256SUMS')} to use it as it is" in capsys.readouterr().err
    path.with_name("SHA256SUMS").unlink()
    assert launch.main(["report", f"--workdir={workdir}"]) == 0
