"""JSON in every form: one object per line with any line end, arrays, objects over lines, and what is none of these."""

import itertools
import json
import random

import pytest

from data.sources.base import BadRecord
from data.sources.open import open_source
from tests.data.shard_files import png

ROWS = [
    {"path": f"{number}.png", "caption": text} for number, text in enumerate(["plain", "日本 é", "a, [b] {c}", '"'])
]
ROWS[1]["caption"] = ["日本 é", "zwei"]
TEXTS = [("plain",), ("日本 é", "zwei"), ("a, [b] {c}",), ('"',)]
FORMS = {
    "lines": lambda rows, ascii: "\n".join(json.dumps(row, ensure_ascii=ascii) for row in rows),
    "lines ending in CR": lambda rows, ascii: "\r".join(json.dumps(row, ensure_ascii=ascii) for row in rows),
    "lines ending in CRLF": lambda rows, ascii: (
        "\r\n".join(json.dumps(row, ensure_ascii=ascii) for row in rows) + "\r\n"
    ),
    "array": lambda rows, ascii: json.dumps(rows, ensure_ascii=ascii),
    "indented array": lambda rows, ascii: json.dumps(rows, ensure_ascii=ascii, indent=2) + "\n",
    "array of lines": lambda rows, ascii: (
        "[\n" + ",\n".join(json.dumps(row, ensure_ascii=ascii) for row in rows) + "\n]"
    ),
    "objects over lines": lambda rows, ascii: "\n".join(json.dumps(row, ensure_ascii=ascii, indent=1) for row in rows),
    "objects with commas": lambda rows, ascii: ",\n".join(
        json.dumps(row, ensure_ascii=ascii, indent="\t") for row in rows
    ),
}


@pytest.fixture
def pictures(tmp_path):
    for number in range(len(ROWS)):
        (tmp_path / f"{number}.png").write_bytes(png(number, (4, 4)))
    return tmp_path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_rows_are_read_from_every_form(pictures, form, suffix):
    marks = ("", "\ufeff") if form == "lines ending in CR" else ("", "\ufeff", "\n \n")
    for ascii, mark in itertools.product((False, True), marks):
        path = pictures / f"t.{suffix}"
        path.write_bytes((mark + FORMS[form](ROWS, ascii)).encode())
        for _ in range(2):  # the second time from the index
            source = open_source(str(path), pictures / "cache")
            assert [source.texts(row) for row in range(len(source))] == TEXTS
            assert [source[row].image for row in range(4)] == [png(number, (4, 4)) for number in range(4)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"images": [{"id": 1}], "annotations": [{"id": 1}]}',
            "one object with the lists images, annotations|found images, annotations",
        ),
        ('[\n{"path": "a"},\n{"path" "b"}]', r"is not JSON from line 3 on \(Expecting ':' delimiter\)"),
        ('[{"path": "a", "caption": "b"}', r"is not JSON from line 1 on \(the array does not end the file\)"),
        ('[{"path": "a"}] x', r"the array does not end the file"),
        ("[]", "has no rows"),
        ("", "has no rows"),
        ('["a", "b"]', "has no column of image paths"),
        ('[{"picture": "a"}]', r"looked for .*, found picture\. Set data\.image_keys"),
    ],
)
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_other_json_is_reported(tmp_path, content, message, suffix):
    (tmp_path / f"t.{suffix}").write_text(content)
    with pytest.raises(ValueError, match=message):
        open_source(str(tmp_path / f"t.{suffix}"), tmp_path / "cache")


def test_a_bad_element_is_a_bad_record_with_its_line(pictures):
    (pictures / "t.json").write_text(
        '[\n{"path": "0.png", "caption": "a"},\n"b",\n{"path": "gone.png", "caption": "c"}\n]'
    )
    source = open_source(str(pictures / "t.json"), pictures / "cache")
    assert len(source) == 3 and source.texts(2) == ("c",)
    for row, message in ((1, "line 3: it must be an object, found str"), (2, "line 4: .*does not exist")):
        with pytest.raises(BadRecord, match=message):
            source[row]


def test_a_cut_first_line_is_one_bad_record(pictures):
    lines = ['{"path": "0.png", "caption": ', *(json.dumps(row) for row in ROWS)]
    (pictures / "t.jsonl").write_text("\n".join(lines))
    source = open_source(str(pictures / "t.jsonl"), pictures / "cache")
    assert len(source) == 5 and source.texts(1) == TEXTS[0]
    with pytest.raises(BadRecord, match="line 1: it is not JSON"):
        source[0]


def test_random_objects_are_read_from_every_form(tmp_path):
    draw = random.Random(0)
    alphabet = 'ab é日\u2028\x85,:{}[]"\\\n\r\t'
    for _ in range(60):
        texts = ["x" + "".join(draw.choices(alphabet, k=draw.randrange(12))) + "x" for _ in range(draw.randrange(1, 6))]
        rows = [{"caption": text, "path": "a.png", "more": [{"n": number}]} for number, text in enumerate(texts)]
        for form, suffix in itertools.product(FORMS, ("json", "jsonl")):
            (tmp_path / f"t.{suffix}").write_bytes(FORMS[form](rows, draw.random() < 0.5).encode())
            source = open_source(str(tmp_path / f"t.{suffix}"), tmp_path / "cache")
            assert [source.texts(row) for row in range(len(source))] == [(text,) for text in texts], form
