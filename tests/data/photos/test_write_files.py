"""The included photos as files in one folder."""

import collections
import csv

import pytest
from PIL import Image

from data.photos.write_files import main, write_files


def test_photos_of_some_classes_in_no_order(tmp_path):
    count = write_files("clothing", tmp_path / "photos", classes=["hat", "shoes"])
    files = sorted((tmp_path / "photos").iterdir())
    with open(tmp_path / "truth.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert count == len(files) == len(rows) == 120
    assert [row["path"] for row in rows] == [file.name for file in files]
    classes = [row["class"] for row in rows]
    assert collections.Counter(classes) == {"hat": 60, "shoes": 60}
    assert classes != sorted(classes)
    assert min(Image.open(files[0]).size) == 64


def test_unknown_names_are_answered_with_the_nearest(tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match="hat"):
        write_files("clothing", tmp_path / "photos", classes=["hatt"])
    with pytest.raises(ValueError, match="clothing"):
        write_files("clothes", tmp_path / "photos")
    monkeypatch.setattr("sys.argv", ["write_files", "clothing", "--classes=hatt", f"--out={tmp_path}/photos"])
    with pytest.raises(SystemExit):
        main()
    assert "hat" in capsys.readouterr().err
    assert not (tmp_path / "photos").exists()
