"""Sources by name: class folders, tables, ArrayRecord, TensorFlow Datasets, and invalid names."""

import json
import os
import pickle
import subprocess
import sys

import pytest

from data.sources.base import BadRecord, Source
from data.sources.open import open_source, open_sources
from tests.data.shard_files import labelled, png, write_shard


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """A dataset built from shards with the documented command; one sample is corrupt."""
    folder = tmp_path_factory.mktemp("tfds")
    samples = labelled(10)
    samples[4] = ("0004", b"no image", samples[4][2])
    train, val = write_shard(folder / "train.tar", samples), write_shard(folder / "val.tar", labelled(4))
    command = [sys.executable, "-m", "data.tools.tfds_builder", "--name=things", f"--data_dir={folder}"]
    done = subprocess.run([*command, f"train={train}", f"validation={val}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "left out 1: not an image" in done.stdout and "tfds:things:train" in done.stdout
    again = subprocess.run([*command, f"train={train}"], capture_output=True, text=True)
    assert again.returncode == 1 and "already exists. Remove it or choose another version." in again.stderr
    return folder


def test_a_tfds_dataset_built_from_shards_has_their_samples(tfds_dir):
    source = open_source("tfds:things:train", tfds_dir)
    assert isinstance(source, Source) and len(source) == 9
    records = {record.texts[0]: record for record in (source[index] for index in range(9))}
    assert records["thing 3"].image == png(3)
    assert (records["thing 5"].label, records["thing 5"].class_name) == (2, "kind 2")
    assert source.key(3) == "tfds:things:train:3" and source.texts(3) == source[3].texts
    assert pickle.loads(pickle.dumps(source))[3].image == source[3].image
    assert len(open_source("tfds:things:1.0.0:validation[:50%]", tfds_dir)) == 2


def test_tfds_datasets_are_read_without_tensorflow(tfds_dir):
    code = "import sys; from data.sources.open import open_source; open_source('tfds:things:train', sys.argv[1])[0]; "
    code += "print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(tfds_dir)], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_the_files_of_a_tfds_dataset_open_as_array_records(tfds_dir):
    source = open_source(str(tfds_dir / "things/1.0.0/things-train.array_record*"), tfds_dir)
    assert len(source) == 9
    assert sorted(source[index].image for index in range(9)) == sorted(png(i) for i in range(10) if i != 4)
    assert source[2].texts == pickle.loads(pickle.dumps(source)).texts(2) and source[2].label is not None
    assert source.key(2).startswith("things-train.array_record") and source.key(2).endswith(":2")


def test_invalid_array_records_are_bad_records(tmp_path):
    from array_record.python import array_record_module
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    example.features.feature["caption"].bytes_list.value.append(b"caf\xe9")
    whole = tf_example_pb2.Example.FromString(example.SerializeToString())
    whole.features.feature["image"].bytes_list.value.append(png(0))
    writer = array_record_module.ArrayRecordWriter(str(tmp_path / "x.array_record"), "group_size:1")
    for content in (example.SerializeToString(), b"\xff\xff\xff no example", whole.SerializeToString()):
        writer.write(content)
    writer.close()
    source = open_source(str(tmp_path / "x.array_record"), tmp_path)
    reasons = []
    for index in range(3):
        with pytest.raises(BadRecord) as caught:
            source[index]
        reasons.append(caught.value.reason)
    assert reasons == ["no image", "fields not readable", "text not UTF-8"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tfds:things", "has no split. Write tfds:NAME"),
        ("tfds:no_such_set:train", "is not a dataset in .*, nor one that TFDS can prepare"),
        (
            "tfds:cifar10:train",
            "tfds:cifar10 is not prepared in .*. Set data_dir to its folder, or prepare it: python -c",
        ),
        ("tfds:things:test", "'test'"),
    ],
)
def test_a_missing_tfds_dataset_is_reported_with_the_fix(tfds_dir, name, message):
    with pytest.raises((ValueError, OSError), match=message):
        open_source(name, tfds_dir)


def test_class_folders(tmp_path):
    for name, number in (("red_fox/1.png", 0), ("red_fox/deep/2.PNG", 1), ("ant/3.png", 2), ("ant/notes.txt", 3)):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    (tmp_path / "photos" / "stray.png").write_bytes(png(9))
    source = open_source(str(tmp_path / "photos"), tmp_path)
    assert isinstance(source, Source) and len(source) == 3 and source.class_names == ["ant", "red_fox"]
    assert [source.key(i) for i in range(3)] == [
        "photos/ant/3.png",
        "photos/red_fox/1.png",
        "photos/red_fox/deep/2.PNG",
    ]
    assert (source[1].image, source[1].texts, source[1].label, source[1].class_name) == (
        png(0),
        ("red fox",),
        1,
        "red_fox",
    )
    (tmp_path / "photos" / "ant" / "3.png").unlink()
    with pytest.raises(BadRecord, match=r"does not exist|No such file"):
        source[0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="contains no class folders with images"):
        open_source(str(tmp_path / "empty"), tmp_path)


ROWS = [("0.png", "plain"), ("1.png", 'with "quotes", commas'), ("2.png", "over\ntwo lines"), ("gone.png", "日本 é")]


def write_table(folder, kind):
    (folder / "pictures").mkdir(exist_ok=True)
    for number in range(3):
        (folder / "pictures" / f"{number}.png").write_bytes(png(number))
    path = folder / f"table.{kind}"
    if kind == "jsonl":
        lines = [json.dumps({"filepath": f"pictures/{name}", "caption": [text, "more"]}) for name, text in ROWS]
        path.write_text("\n".join([lines[0], "", *lines[1:]]))
    else:
        quoted = [(f"pictures/{name}", '"' + text.replace('"', '""') + '"') for name, text in ROWS]
        rows = [("filepath", "title"), *quoted]
        path.write_text("\ufeff" + "\r\n".join({"csv": ",", "tsv": "\t"}[kind].join(row) for row in rows), newline="")
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_tables(tmp_path, kind):
    source = open_source(str(write_table(tmp_path, kind)), tmp_path / "cache")
    assert isinstance(source, Source) and len(source) == 4
    more = ("more",) if kind == "jsonl" else ()
    assert [source.texts(index) for index in range(4)] == [(text, *more) for _, text in ROWS]
    assert [source[index].image for index in range(3)] == [png(index) for index in range(3)]
    assert source.key(0) == f"table.{kind}:1"
    with pytest.raises(BadRecord, match=r"gone\.png' does not exist") as caught:
        source[3]
    assert caught.value.reason == "missing file"
    assert pickle.loads(pickle.dumps(source))[1].image == png(1)


def test_rows_of_another_length_or_encoding_are_bad_records(tmp_path):
    write_table(tmp_path, "csv")
    (tmp_path / "t.csv").write_bytes(b"image,caption\npictures/0.png,a,b\npictures/1.png,caf\xe9\npictures/2.png,c\n\n")
    source = open_source(str(tmp_path / "t.csv"), tmp_path)
    reasons = []
    for index in (0, 1):
        with pytest.raises(BadRecord) as caught:
            source[index]
        reasons.append(caught.value.reason)
    assert reasons == ["fields not readable", "text not UTF-8"] and source[2].texts == ("c",) and len(source) == 3


def test_missing_columns_are_reported(tmp_path):
    path = str(write_table(tmp_path, "csv"))
    with pytest.raises(
        ValueError, match=r"has no column of captions: looked for TEXT, found filepath, title. Set data\.text_keys"
    ):
        open_source(path, tmp_path, text_keys=("TEXT",))
    with pytest.raises(ValueError, match="has no column of image paths: looked for img"):
        open_source(path, tmp_path, image_keys=("img",))
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ValueError, match=r"is empty\. Its first line must name the columns"):
        open_source(str(tmp_path / "empty.csv"), tmp_path)
    (tmp_path / "header.tsv").write_text("image\tcaption\n")
    with pytest.raises(ValueError, match="has no rows"):
        open_source(str(tmp_path / "header.tsv"), tmp_path)


@pytest.mark.parametrize(
    "path", ["a\\u0000.png", "pictures/0.png/b", "w" * 5000, "\\ud800.png", "foo://x/y.png", "http://127.0.0.1:9/x.png"]
)
def test_an_impossible_path_is_a_bad_record(tmp_path, monkeypatch, path):
    monkeypatch.setattr("data.io.storage._FIRST_DELAY", 0.01)
    write_table(tmp_path, "csv")
    (tmp_path / "t.jsonl").write_text(f'{{"image": "{path}", "caption": "x"}}\n')
    with pytest.raises(BadRecord) as caught:
        open_source(str(tmp_path / "t.jsonl"), tmp_path)[0]
    assert caught.value.reason == "missing file"


def test_an_image_without_read_permission_is_a_bad_record(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(f"[Errno 13] Permission denied: {path!r}")  # file modes do not restrict root

    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "0.png").write_bytes(png(0))
    source = open_source(str(tmp_path), tmp_path / "cache")
    assert source[0].image == png(0)
    monkeypatch.setattr("data.sources.image_folders.read_file", refuse)
    with pytest.raises(BadRecord, match="Permission denied") as caught:
        source[0]
    assert caught.value.reason == "no permission"


def test_the_first_rows_of_json_lines_can_be_bad(tmp_path):
    write_table(tmp_path, "csv")
    (tmp_path / "T.JSONL").write_text('{"image": \n{"image": "x"}\n{"image": "pictures/1.png", "text": "one"}\n')
    source = open_source(str(tmp_path / "T.JSONL"), tmp_path)
    assert len(source) == 3 and source[2].texts == ("one",) and source.texts(1) == ()


def test_long_fields_are_read_by_a_process_that_did_not_index_the_table(tmp_path):
    write_table(tmp_path, "csv")
    (tmp_path / "t.csv").write_text(f"image,caption\npictures/0.png,{'w' * 200_000}\n")
    code = "import sys; from data.sources.open import open_source; print(len(open_source(*sys.argv[1:])[0].texts[0]))"
    for _ in range(2):
        command = [sys.executable, "-c", code, str(tmp_path / "t.csv"), str(tmp_path)]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "200000\n"


def test_class_folders_skip_hidden_files_and_cyclic_links(tmp_path):
    for name in ("cat/1.png", "cat/._1.png", ".thumbnails/x.png", "__MACOSX/cat/1.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(0))
    latin = os.fsencode(tmp_path) + b"/photos/caf\xe9"
    os.mkdir(latin)
    (tmp_path / "photos" / os.fsdecode(b"caf\xe9") / "2.png").write_bytes(png(1))
    (tmp_path / "photos" / "cat" / "up").symlink_to("..")
    source = open_source(str(tmp_path / "photos"), tmp_path)
    assert [source.texts(index)[0] for index in range(len(source))] == ["caf\ufffd", "cat"]
    assert source[0].image == png(1) and source.key(0) == "photos/caf\ufffd/2.png"


def test_a_changed_table_is_indexed_again(tmp_path):
    path = tmp_path / "t.jsonl"
    for count in (2, 3):
        path.write_text("".join(json.dumps({"image": "x", "text": f"{i}"}) + "\n" for i in range(count)))
        assert len(open_source(str(path), tmp_path)) == count


def test_sources_of_several_kinds_are_concatenated(tmp_path):
    shard = str(write_shard(tmp_path / "s.tar", labelled(3)))
    source = open_sources([shard, str(write_table(tmp_path, "csv"))], tmp_path)
    assert len(source) == 7 and source.key(2) == "s.tar/0002" and source.key(3) == "table.csv:1"
    assert source.locate(3) == (1, 0) and source.texts(3) == ("plain",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}/*.tar", "no file matches .*Known names: emoji:noto"),
        ("{}/none.csv", "none.csv"),
        ("emoji:apple", "unknown emoji artist 'apple'.* Known: noto, twemoji, fluent3d"),
        ("icons:test", "unknown split of icons 'test'.* Known: train, seen_query, novel_support, novel_query"),
        ("photos:trashnet", "unknown split of photos 'trashnet'. Did you mean 'trashnet:t"),
        ("{}/thing.xyz", "A source is .tar shards, .csv"),
        ("nothere://bucket/x.tar", "nothere://bucket/x.tar cannot be opened"),
    ],
)
def test_invalid_sources_are_rejected(tmp_path, name, message):
    (tmp_path / "thing.xyz").write_text("x")
    with pytest.raises((ValueError, OSError), match=message):
        open_source(name.format(tmp_path), tmp_path)
