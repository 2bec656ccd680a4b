"""`launch.py adapt`, as a user runs it on folders of photos."""

import csv
import json
import pathlib

import pytest

import launch
from models.checkpoints.io import save_checkpoint
from tests.data.shard_files import png
from tests.models.tiny_models import tiny_checkpoint

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Folders of support and query images, and other paths that a user may pass by mistake."""
    folder = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(("few/cat", "few/cat", "few/dog", "few/dog", "one/cat", "all", "flat", "broken/cat")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{number}.png").write_bytes(png(number))
    for name in ("none", "broken/dog", "unread"):
        (folder / name).mkdir()
    (folder / "broken" / "dog" / "cut.png").write_bytes(png(1)[:200])
    (folder / "unread" / "cut.png").write_bytes(png(2)[:200])
    (folder / "file").write_text("")
    save_checkpoint(folder / "export", tiny_checkpoint("clip"))
    return folder


def test_photos_are_sorted_and_embedded_only_once(photos, tmp_path, capsys):
    given = [f"--checkpoint={photos / 'export'}", f"--support={photos / 'few'}", f"--query={photos / 'all'}"]
    given += ["--method=knn", f"--out={tmp_path / 'out'}"]
    assert launch.main(["adapt", *given, "--template={}, a pet", "--template=a {}"]) == 0
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert any(line.startswith("support 4/4  ") and "/s  00:00 left" in line for line in lines) and not output.err
    assert any(line.startswith("query 1/1  ") for line in lines) and "knn " in output.out
    assert lines[-1].endswith(f"overview in {tmp_path / 'out' / 'predictions.html'}")
    described = json.loads((tmp_path / "out" / "classifier" / "classes.json").read_text())
    assert described["templates"] == ["{}, a pet", "a {}"] and described["checkpoint"] == str(photos / "export")
    assert launch.main(["adapt", *given, "--template=none"]) == 0
    assert "support 4/4" not in capsys.readouterr().out


@pytest.mark.parametrize("placement", ["copy", "link"])
def test_photos_are_placed_in_a_folder_per_class(photos, tmp_path, capsys, placement):
    given = [f"--checkpoint={photos / 'export'}", f"--support={photos / 'few'}", f"--query={photos / 'few'}"]
    given += ["--method=knn", "--template=none", f"--{placement}", f"--out={tmp_path / 'out'}"]
    for number in (4, 0):
        assert launch.main(["adapt", *given]) == 0
        assert f": {number} placed now, {4 - number} already there; 0 removed" in capsys.readouterr().out
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        folder = tmp_path / "out" / ("far" if row["far"] == "yes" else "classes") / row["class"]
        file = folder / pathlib.Path(row["path"]).name
        assert file.read_bytes() == (photos / "few" / row["path"]).read_bytes()
        assert file.is_symlink() == (placement == "link")


def test_copies_are_refused_where_the_next_run_would_read_them(photos, capsys):
    given = ["adapt", "--checkpoint=nowhere", f"--support={photos / 'few'}", "--method=knn", "--copy"]
    assert launch.main([*given, f"--query={photos / 'all'}", f"--out={photos / 'all' / 'deep' / 'out'}"]) == 1
    assert "/all/deep/out is in --query=" in capsys.readouterr().err and not (photos / "all" / "deep").exists()
    for options, message in (
        (["--link", f"--query={photos / 'all'}", "--out=out"], "not allowed with argument"),
        (["--features=f", "--out=out"], "--copy cannot be used with --features, which have no images"),
    ):
        with pytest.raises(SystemExit):
            launch.main([*given, *options])
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"support": "nowhere"}, "folder {}/nowhere does not exist. Set --support to an existing folder."),
        ({"query": "file"}, "folder {}/file does not exist. Set --query to an existing folder."),
        ({"support": "flat"}, "flat contains no class folders with images. Expected {}/flat/CLASS/IMAGE.jpg."),
        ({"support": "one"}, "only cat has readable images in {}/one, but classification needs two or more classes"),
        ({"query": "none"}, "none contains no images (.jpg, "),
        ({"out": "file"}, "file is a file. Set --out to a folder."),
        ({"out": "few"}, "--out and --support are both {}/few. Set --out to another folder."),
        ({"out": "file/deeper"}, "file is a file. Set --out to a folder."),
        ({"method": "magic"}, "unknown method 'magic'. Known: auto, zero_shot, prototypes, "),
        ({"method": "magic"}, "Use auto to compare the training-free methods."),
        (
            {"method": "zero_shot", "template": "none"},
            "zero_shot needs class texts. Leave out --template=none, or use another --method.",
        ),
        (
            {"template": "a photo"},
            "template 'a photo' has no {{}} for the class name. Write for example 'a photo of a {{}}.'",
        ),
        ({"template": "{{0"}, "template '{{0' has no {{}} for the class name"),
        ({}, "nowhere is not a checkpoint"),
        (
            {"support": "broken", "checkpoint": "export"},
            "only cat has readable images in {}/broken, but classification needs two",
        ),
        ({"query": "unread", "checkpoint": "export"}, "{}/unread has no readable image (1 unreadable). "),
    ],
)
def test_invalid_photo_options_are_one_sentence(photos, tmp_path, capsys, arguments, message):
    out = photos / arguments["out"] if "out" in arguments else tmp_path / "out"
    folders = {"support": "few", "query": "all", "checkpoint": "nowhere"} | arguments
    given = [f"--{name}={photos / folders[name]}" for name in ("support", "query", "checkpoint")] + [f"--out={out}"]
    given += [f"--{name}={arguments[name].format()}" for name in ("method",) if name in arguments]
    given += [f"--template={arguments['template'].replace('{{', '{')}"] if "template" in arguments else []
    assert launch.main(["adapt", *given]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message.format(photos) in error
    assert not (out / "predictions.csv").exists()
    unread = "checkpoint" in arguments
    assert (out / "left_out.csv").exists() == unread and (not unread or "cut.png" in (out / "left_out.csv").read_text())
