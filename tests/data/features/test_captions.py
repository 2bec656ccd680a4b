"""Captions of tables and shards are paired with features by key, column, file name or row."""

import json

import numpy as np
import pytest

from data.features.captions import pair_captions, read_captions, read_pairs
from data.sources.open import TEXT_KEYS
from tests.data.features.test_pairs import texts_of
from tests.data.shard_files import labelled, write_shard

ROWS = [("x/1.png", "a red fish"), ("x/2.png", "a bird"), ("x/1.png", "one fish")]


def write_table(folder, suffix, rows=ROWS, column="image"):
    path = folder / f"captions{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps({column: image, "caption": text}) + "\n" for image, text in rows))
    else:
        separator = "\t" if suffix == ".tsv" else ","
        path.write_text("\n".join(separator.join(row) for row in [(column, "caption"), *rows]) + "\n")
    return str(path)


def pair(folder, path, image_ids, count, pairing="auto"):
    captions = read_captions([path], folder, text_keys=TEXT_KEYS)
    return captions, pair_captions(image_ids, count, captions, pairing=pairing)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("column", ["image", "id", "image_id", "path"])
@pytest.mark.parametrize("ids", [["x/2.png", "x/1.png"], ["2.png", "1.png"]])
def test_tables_are_paired_by_the_column_with_the_ids(tmp_path, suffix, column, ids):
    if column in ("id", "image_id") and ids[0] == "2.png":
        pytest.skip("ids have no folder")
    captions, pairs = pair(tmp_path, write_table(tmp_path, suffix, column=column), ids, 2)
    assert captions.texts == ["a red fish", "a bird", "one fish"]
    assert texts_of(pairs) == {0: [1], 1: [0, 2]}


def test_shards_are_paired_by_the_keys_that_embed_gives_them(tmp_path):
    path = str(write_shard(tmp_path / "s.tar", labelled(3)))
    captions, pairs = pair(tmp_path, path, ["s.tar/0002", "s.tar/0000"], 2)
    assert set(texts_of(pairs)) == {0, 1}
    assert captions.rows[texts_of(pairs)[0][0]] == 2


def test_rows_are_paired_without_ids(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('{"captions": ["a", "b"]}\n{"captions": ["c"]}\n')
    for ids in (None, ["p", "q"]):
        assert texts_of(pair(tmp_path, str(path), ids, 2)[1]) == {0: [0, 1], 1: [2]}
    with pytest.raises(ValueError, match=r"3 images but 2 rows of texts"):
        pair(tmp_path, str(path), None, 3)
    with pytest.raises(ValueError, match=r"pairing is 'id', but the image features have no ids"):
        pair(tmp_path, str(path), None, 2, pairing="id")


def test_ids_in_a_column_that_match_nothing_are_refused_rather_than_paired_by_row(tmp_path):
    with pytest.raises(ValueError, match="no id in common"):
        pair(tmp_path, write_table(tmp_path, ".csv"), ["p", "q", "r"], 3)
    pairs = pair(tmp_path, write_table(tmp_path, ".csv"), ["p", "q", "r"], 3, pairing="row")[1]
    assert texts_of(pairs) == {0: [0], 1: [1], 2: [2]}


def test_rows_without_captions_are_left_out(tmp_path, said):
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": "a", "caption": "x"}\nnot json\n{"id": "b", "caption": ""}\n')
    captions, pairs = pair(tmp_path, str(path), ["a", "b"], 2)
    assert captions.texts == ["x"] and texts_of(pairs) == {0: [0]}
    assert any("2 of 3 rows have no caption that can be read" in line for line in said)
    path.write_text('{"id": "a", "caption": ""}\n')
    with pytest.raises(ValueError, match="has a caption"):
        read_captions([str(path)], tmp_path, text_keys=TEXT_KEYS)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_table_of_pairs_names_the_ids_of_images_and_texts(tmp_path, suffix):
    path = tmp_path / f"pairs{suffix}"
    if suffix == ".csv":
        path.write_text("image,text\na,1\nb,2\na,3\n")
    else:
        path.write_text('{"image": "a", "text": [1, "3"]}\n{"image": "b", "text": 2}\n')
    assert sorted(read_pairs(str(path), tmp_path)) == [("a", "1"), ("a", "3"), ("b", "2")]
    assert np.array(read_pairs(str(path), tmp_path)).dtype.kind == "U"
