"""Hostile input is refused; hostile checkpoints are in tests/models/io/test_hostile_files.py."""

import io
import json
import os
import pathlib
import shutil
import tarfile

import numpy as np
import pytest
import yaml
from PIL import EpsImagePlugin, Image

import adapt
from adapt.adapters.classifier_files import ARRAYS_FILE, JSON_FILE
from adapt.embedding.collection_files import Piece
from adapt.embedding.encoder import Encoder
from adapt.photos.folders import embed_folder
from adapt.report.results_index import read_array
from data.fewshot.labelled import read_labels
from data.pipeline.image_ops import FORMATS, EncodedImage
from data.sources.base import BadRecord
from data.sources.open import open_source
from foundation.files.array_files import load_array
from models.checkpoints.io import open_checkpoint, save_checkpoint
from tests.data.shard_files import labelled, png, write_shard
from tests.models.tiny_models import tiny_checkpoint

ROOT = pathlib.Path(__file__).parents[1]


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __init__(self, marker: pathlib.Path):
        self.marker = marker

    def __reduce__(self):
        return (pathlib.Path.touch, (self.marker,))


@pytest.fixture
def bomb(tmp_path):
    """An .npy file of pickled objects; fails the test if one of them is unpickled."""
    marker, path = tmp_path / "exploded", tmp_path / "bomb.npy"
    np.save(path, np.array([Bomb(marker)], dtype=object), allow_pickle=True)
    np.load(path, allow_pickle=True)
    assert marker.exists()  # unpickling does create the file
    marker.unlink()
    yield path
    assert not marker.exists()


def as_npz(bomb, path, *names):
    """Write an .npz with the bomb under each of `names`."""
    np.savez(path, **dict.fromkeys(names, np.array([Bomb(bomb.parent / "exploded")], dtype=object)))


def test_a_checkpoint_of_pickles_is_refused(bomb, tmp_path):
    as_npz(bomb, tmp_path / "bomb.npz", "params/img/embedding/kernel")
    with pytest.raises(ValueError, match="is a pickle"):
        open_checkpoint(tmp_path / "bomb.npz")


def test_pickles_among_cached_embeddings_are_rebuilt(bomb, tmp_path):
    assert load_array(bomb) is None
    as_npz(bomb, tmp_path / "piece.npz", "embeddings", "ids", "bad")
    assert not Piece(tmp_path / "piece.npz", range(1)).exists()
    assert read_array(bomb) is None  # predictions; the report omits them


def test_photo_embeddings_replaced_by_a_pickle_are_refused(bomb, tmp_path):
    encoder = Encoder(save_checkpoint(tmp_path / "export", tiny_checkpoint("siglip")))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(png(0))
    given = {"name": "photos", "out": tmp_path / "out", "progress": lambda *_: None}
    embed_folder(encoder, str(tmp_path / "photos"), **given)
    [kept] = (tmp_path / "out").rglob("*.npy")
    shutil.copy(bomb, kept)
    with pytest.raises(ValueError, match=r"images\.npy is damaged or was changed: .* to embed again"):
        embed_folder(encoder, str(tmp_path / "photos"), **given)


def test_indexes_and_labels_replaced_by_pickles_are_rebuilt(bomb, tmp_path):
    (tmp_path / "a.png").write_bytes(png(0))
    (tmp_path / "t.csv").write_text("filepath,caption\na.png,a thing\n")
    open_source(str(tmp_path / "t.csv"), tmp_path / "cache")
    [index] = (tmp_path / "cache").rglob("*.npy")
    for content in (bomb.read_bytes(), b"", b"nothing"):
        index.write_bytes(content)
        assert open_source(str(tmp_path / "t.csv"), tmp_path / "cache")[0].texts == ("a thing",)
    source = open_source(str(write_shard(tmp_path / "s.tar", labelled(3))), tmp_path / "cache")
    labels = read_labels("mine", source, data_dir=tmp_path / "data")
    [kept] = (tmp_path / "data").rglob("*.npz")
    as_npz(bomb, kept, "labels", "class_names", "fingerprint")
    assert (
        read_labels("mine", source, data_dir=tmp_path / "data").labels.tolist() == labels.labels.tolist() == [0, 1, 2]
    )


@pytest.fixture
def classifier(tmp_path):
    """A folder with a saved classifier of two classes."""
    features = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    adapt.create("knn").fit(features, np.array([0, 0, 1, 1])).save(tmp_path / "classifier")
    return tmp_path / "classifier"


def test_a_pickled_classifier_is_refused(bomb, classifier):
    shutil.copy(bomb, classifier / ARRAYS_FILE)
    with pytest.raises(ValueError, match="does not hold a valid classifier"):
        adapt.load(classifier)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": 10**12},
        {"classes": -1},
        {"classes": 2.5},
        {"dim": 10**9},
        {"logit_scale": float("nan")},
        {"method": ["knn"]},
        {"settings": {"k": 5, "__class__": "x"}},
        {"settings": {"temperature": float("inf")}},
    ],
)
def test_a_classifier_with_impossible_fields_is_refused(classifier, change):
    fields = json.loads((classifier / JSON_FILE).read_text())
    (classifier / JSON_FILE).write_text(json.dumps(fields | change))
    with pytest.raises(ValueError, match="does not hold a valid classifier"):
        adapt.load(classifier)


@pytest.mark.parametrize("content", ["[" * 100_000, "null", "3", "\x00", "{}"])
def test_a_classifier_that_is_not_json_is_refused(classifier, content):
    (classifier / JSON_FILE).write_text(content)
    with pytest.raises(ValueError, match="does not hold a valid classifier"):
        adapt.load(classifier)


def test_a_hostile_shard_is_read_without_writing_files(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    with tarfile.open(folder / "s.tar", "w") as archive:
        for number, name in enumerate(("../../evil", "/etc/evil", "inside/0001")):
            for suffix, content in ((".png", png(number)), (".txt", b"a caption")):
                member = tarfile.TarInfo(f"{name}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        holes = bytearray(tarfile.TarInfo("holes.png").tobuf(tarfile.GNU_FORMAT))
        holes[156:157] = tarfile.GNUTYPE_SPARSE
        holes[483:495] = b"\x80" + (10**10).to_bytes(11, "big")
        holes[148:156] = b" " * 8
        holes[148:156] = b"%06o\0 " % sum(holes)
        archive.fileobj.write(holes)
        archive.offset += len(holes)
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        device = tarfile.TarInfo("device.png")
        device.type = tarfile.CHRTYPE
        archive.addfile(device)
    source = open_source(str(folder / "s.tar"), tmp_path / "index")
    texts = [source[index].texts for index in range(len(source))]
    assert texts == [("a caption",)] * 3
    assert {path.name for path in tmp_path.iterdir()} <= {"index", "shards"} and not os.path.exists("/etc/evil.png")


@pytest.mark.parametrize(
    "change",
    [
        {"samples": "1000000000000"},
        {"samples": "-3"},
        {"data_offsets": [0, 10**15]},
        {"data_offsets": ["a", 2]},
        {"data_offsets": None},
        {"shape": [10**9, 4, 2]},
        {"shape": None},
    ],
)
def test_a_forged_shard_index_is_not_trusted(tmp_path, change):
    shard = write_shard(tmp_path / "s.tar", labelled(4))
    open_source(str(shard), tmp_path)
    [path] = tmp_path.rglob("*.safetensors")
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    (header["__metadata__"] if "samples" in change else header["spans"]).update(change)
    forged = json.dumps(header).encode()
    path.write_bytes(len(forged).to_bytes(8, "little") + forged + content[8 + length :])
    try:
        source = open_source(str(shard), tmp_path)
        assert [source[index].texts for index in range(len(source))] == [(f"thing {index}",) for index in range(4)]
    except OSError as error:
        assert "is damaged" in str(error) and "Remove it; it will be rebuilt" in str(error)


def test_only_documented_image_formats_are_decoded(tmp_path):
    named = "JPEG, PNG, WebP, AVIF, GIF, BMP and TIFF"
    assert named in (ROOT / "docs" / "guides" / "photos.md").read_text(encoding="utf-8")
    assert list(FORMATS) == named.upper().replace(" AND", ",").split(", ")
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(" + str(tmp_path).encode() + b"/evil) (w) file\n"
    for content in (postscript, b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7\n"):
        with pytest.raises(BadRecord, match="the image is not JPEG, PNG"):
            EncodedImage(content, "x")


def test_postscript_starts_no_program_under_any_file_name(tmp_path, monkeypatch):
    marker, program = tmp_path / "ran", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho 9\ntouch {marker}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # as in a process that has not searched for it yet
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) (w) file\n%%EOF\n"
    with pytest.raises(OSError):
        Image.open(io.BytesIO(content)).load()
    assert marker.exists()  # Pillow alone would run it
    marker.unlink()
    (tmp_path / "photos" / "class").mkdir(parents=True)
    for suffix in ("jpg", "png", "tiff", "gif"):
        (tmp_path / "photos" / "class" / f"a.{suffix}").write_bytes(content)
    source = open_source(str(tmp_path / "photos"), tmp_path / "cache")
    assert len(source) == 4
    for index in range(4):
        with pytest.raises(BadRecord, match="the image is not JPEG, PNG"):
            EncodedImage(source[index].image, "x").decode()
    assert not marker.exists()


def test_yaml_with_objects_is_not_written():
    with pytest.raises(yaml.YAMLError):
        yaml.safe_dump(Bomb(pathlib.Path("x")))
