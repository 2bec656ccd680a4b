"""The data of a resumed run is compared by content: names of files do not count, their order and content do."""

import json
import os
import shutil

import numpy as np
import pytest

from data.sources.open import open_source, open_sources
from pretrain.data_identity import CONTENT_FILE, DATA_FILE, compare_data, write_data
from tests.data.shard_files import labelled, png, write_shard

COUNT = 12


def write_rows(path, captions, images):
    """Write a table of captions and the images that it refers to."""
    folder = path.parent / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        (folder / f"{number}.png").write_bytes(image)
    rows = [{"image": f"images/{number}.png", "caption": caption} for number, caption in enumerate(captions)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        path.write_text(f"image{mark}caption\n" + "".join(mark.join(row.values()) + "\n" for row in rows))
    return str(path)


def write_folders(path, captions, images):
    """Write a folder per caption."""
    for number, (caption, image) in enumerate(zip(captions, images, strict=True)):
        (path / caption).mkdir(parents=True, exist_ok=True)
        (path / caption / f"{number}.png").write_bytes(image)
    return str(path)


def write_list(path, captions, images):
    """Write a split list of CoOp, with a class per caption."""
    write_rows(path.parent / "t.csv", captions, images)
    names = sorted(set(captions))
    rows = [[f"images/{number}.png", names.index(caption), caption] for number, caption in enumerate(captions)]
    path.write_text(json.dumps({"train": rows, "val": [], "test": []}))
    return f"coop:{path}:{path.parent}:train"


def write_samples(path, captions, images):
    rows = [
        (f"{number:04d}", image, {"texts": [caption]})
        for number, (caption, image) in enumerate(zip(captions, images, strict=True))
    ]
    return str(write_shard(path, rows))


def write_records(path, captions, images):
    import array_record.python.array_record_module as array_record
    from tensorflow_datasets.proto import tf_example_pb2

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = array_record.ArrayRecordWriter(str(path), "group_size:1")
    for caption, image in zip(captions, images, strict=True):
        example = tf_example_pb2.Example()
        example.features.feature["image"].bytes_list.value.append(image)
        example.features.feature["caption"].bytes_list.value.append(caption.encode())
        writer.write(example.SerializeToString())
    writer.close()
    return str(path)


KINDS = {
    "shard": (write_samples, "a.tar", "b.tar"),
    "csv": (write_rows, "a.csv", "b.csv"),
    "tsv": (write_rows, "a.tsv", "b.tsv"),
    "jsonl": (write_rows, "a.jsonl", "b.jsonl"),
    "folders": (write_folders, "a", "b"),
    "split list": (write_list, "a.json", "b.json"),
    "array records": (write_records, "a.array_record", "b.array_record"),
}
CAPTIONS = [f"thing_{number:02d}" for number in range(COUNT)]
IMAGES = [png(number) for number in range(COUNT)]


def swapped(items, first, second):
    items = list(items)
    items[first], items[second] = items[second], items[first]
    return items


CHANGES = {
    "captions of two samples swapped": (swapped(CAPTIONS, 3, 4), IMAGES),
    "captions rotated": (CAPTIONS[1:] + CAPTIONS[:1], IMAGES),
    "images of two samples swapped": (CAPTIONS, swapped(IMAGES, 7, 9)),
    "one image replaced": (CAPTIONS, [*IMAGES[:-1], png(99)]),
    "one caption replaced by one of the same length": ([*CAPTIONS[:5], "thing_99", *CAPTIONS[6:]], IMAGES),
}


def compare(workdir, names, cache, **options):
    sources = open_sources(names, cache).sources
    return compare_data(workdir, names, sources, moved=options.get("moved", False))


def begin(tmp_path, names):
    workdir = tmp_path / "run"
    workdir.mkdir()
    write_data(workdir, compare(workdir, names, tmp_path / "cache"))
    return workdir


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_data_is_accepted_elsewhere_under_another_name(tmp_path, kind):
    write, name, other_name = KINDS[kind]
    workdir = begin(tmp_path, [write(tmp_path / "here" / name, CAPTIONS, IMAGES)])
    other = [write(tmp_path / "there" / other_name, CAPTIONS, IMAGES)]
    for _ in range(2):
        write_data(workdir, compare(workdir, other, tmp_path / "cache", moved=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("moved", [True, False])
def test_other_content_of_the_same_size_is_refused_and_named(tmp_path, kind, change, moved):
    write, name, _ = KINDS[kind]
    workdir = begin(tmp_path, [write(tmp_path / "here" / name, CAPTIONS, IMAGES)])
    folder = "there" if moved else "here"
    if not moved:
        shutil.rmtree(tmp_path / "here")
    other = [write(tmp_path / folder / name, *CHANGES[change])]
    with pytest.raises(ValueError, match=r" has other content than |fingerprint|files instead of") as caught:
        compare(workdir, other, tmp_path / "cache", moved=moved)
    assert str(caught.value).startswith(other[0]) and "Restore the data, or use another --workdir." in str(caught.value)


def test_the_order_of_shards_counts_and_the_first_that_differs_is_named(tmp_path):
    for number in range(4):
        samples = [(key, png(100 * number + row), fields) for row, (key, _, fields) in enumerate(labelled(3))]
        write_shard(tmp_path / "here" / f"{number}.tar", samples)
    workdir = begin(tmp_path, [str(tmp_path / "here" / "*.tar")])
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    moved = [str(tmp_path / "there" / "*.tar")]
    compare(workdir, moved, tmp_path / "cache", moved=True)
    (tmp_path / "there" / "1.tar").rename(tmp_path / "there" / "1b.tar")
    compare(workdir, moved, tmp_path / "cache", moved=True)
    (tmp_path / "there" / "1b.tar").rename(tmp_path / "there" / "9.tar")
    with pytest.raises(ValueError, match=r"2\.tar has other content than 1\.tar, which .* \(3 of 4 compared"):
        compare(workdir, moved, tmp_path / "cache", moved=True)


def test_a_shard_without_changes_is_not_read_again(tmp_path, monkeypatch):
    name = write_samples(tmp_path / "a.tar", CAPTIONS, IMAGES)
    workdir = begin(tmp_path, [name])
    read = []
    shards = type(open_source(name, tmp_path / "cache"))
    digests = shards.content_digests
    monkeypatch.setattr(shards, "content_digests", lambda self: read.append(1) or digests(self))
    compare(workdir, [name], tmp_path / "cache")
    assert not read
    compare(workdir, [name], tmp_path / "cache", moved=True)
    os.utime(name, ns=(1, 1))
    compare(workdir, [name], tmp_path / "cache")
    assert len(read) == 2


@pytest.mark.parametrize("state", ["without content", "content missing", "content cut", "content of other rows"])
def test_a_run_whose_content_is_not_known_resumes_with_a_line(tmp_path, said, state):
    name = write_samples(tmp_path / "here" / "a.tar", CAPTIONS, IMAGES)
    workdir = begin(tmp_path, [name])
    content = workdir / CONTENT_FILE
    if state == "without content":  # as earlier versions wrote it
        lines = json.loads((workdir / DATA_FILE).read_text())
        kept = [{key: line[key] for key in ("source", "samples", "fingerprint")} for line in lines]
        (workdir / DATA_FILE).write_text(json.dumps(kept))
        content.unlink()
    elif state == "content missing":
        content.unlink()
    else:
        content.write_bytes(content.read_bytes()[:-9] if state == "content cut" else b'{"source": 7}\n')
    other = write_samples(tmp_path / "there" / "a.tar", swapped(CAPTIONS, 0, 1), IMAGES)
    found = compare(workdir, [other], tmp_path / "cache", moved=True)
    assert any("the content of the data is not compared, only its size and names" in line for line in said)
    write_data(workdir, found)  # from now on, it is known
    with pytest.raises(ValueError, match=r"a\.tar has other content than when this run began"):
        compare(workdir, [name], tmp_path / "cache", moved=True)


@pytest.mark.parametrize("content", ["", "[{]", "7", '[{"source": "a"}]'])
def test_a_damaged_data_file_is_named(tmp_path, content):
    name = write_samples(tmp_path / "a.tar", CAPTIONS, IMAGES)
    workdir = begin(tmp_path, [name])
    (workdir / DATA_FILE).write_text(content)
    with pytest.raises(ValueError, match=r"data\.json is damaged\. Restore it from a copy, or remove it"):
        compare(workdir, [name], tmp_path / "cache")


def test_every_shard_is_read_and_large_data_only_in_part(tmp_path, monkeypatch):
    for number in range(6):
        write_shard(tmp_path / f"{number}.tar", labelled(20))
    monkeypatch.setattr("data.sources.tar_shards._WHOLE_SAMPLES", 12)
    monkeypatch.setattr("data.sources.tar_shards._TEXTS", 30)
    source = open_source(str(tmp_path / "*.tar"), tmp_path / "cache")
    located = []
    locate = type(source)._locate
    monkeypatch.setattr(type(source), "_locate", lambda self, index: located.append(index) or locate(self, index))
    digests = source.content_digests()
    assert len(digests) == 6 and 30 <= len(located) <= 42
    assert set(np.array(located) // 20) == set(range(6))
