"""Tables of captions however they are written: delimiters, quotes, escapes, line ends; and messages with lines."""

import csv
import io
import itertools
import json
import logging
import random

import numpy as np
import pytest

from data.io.storage import find_files
from data.sources.base import BadRecord
from data.sources.open import open_source
from data.sources.tables import row_index
from data.sources.tables.rows import Dialect, RowReader
from tests.data.shard_files import png

DELIMITERS = {"comma": ",", "tab": "\t", "semicolon": ";", "bar": "|"}
HEADER = ["filepath", "caption", "label"]


def texts_of(path, cache):
    source = open_source(str(path), cache)
    return [source.texts(index) for index in range(len(source))]


def write_rows(path, rows, **options):
    buffer = io.StringIO()
    csv.writer(buffer, **options).writerows(rows)
    path.write_bytes(buffer.getvalue().encode())
    return path


@pytest.mark.parametrize(
    ("delimiter", "suffix", "quoting", "line_end", "mark"),
    [
        *itertools.product(
            DELIMITERS.values(),
            ("csv", "TSV"),
            (csv.QUOTE_MINIMAL, csv.QUOTE_ALL),
            ("\n", "\r\n", "\r"),
            ("", "\ufeff"),
        )
    ],
)
def test_a_table_has_the_same_rows_however_it_is_written(tmp_path, delimiter, suffix, quoting, line_end, mark):
    rows = [
        ("0.png", "a dog, brown; and\ta|cat", "0"),
        ("1.png", 'say "hi"', "1"),
        ("2.png", "日本 é\u2028\x85\x0b", "2"),
    ]
    path = write_rows(
        tmp_path / f"t.{suffix}", [HEADER, *rows], delimiter=delimiter, quoting=quoting, lineterminator=line_end
    )
    path.write_bytes(mark.encode() + path.read_bytes())
    (tmp_path / "1.png").write_bytes(png(1))
    source = open_source(str(path), tmp_path / "cache")
    assert [source.texts(index) for index in range(len(source))] == [(text.strip(),) for _, text, _ in rows]
    assert (source[1].image, source[1].label) == (png(1), 1)


@pytest.mark.parametrize("options", [{"quoting": csv.QUOTE_ALL}, {"quoting": csv.QUOTE_NONE}, {}])
@pytest.mark.parametrize("delimiter", DELIMITERS.values())
def test_backslash_escapes_are_read(tmp_path, delimiter, options):
    texts = [f'a "red"{delimiter} apple', f'"{delimiter}x', f"C:\\new{delimiter}x", "plain"]
    rows = [HEADER, *([f"{number}.png", text, number] for number, text in enumerate(texts))]
    path = write_rows(
        tmp_path / "t.csv",
        rows,
        delimiter=delimiter,
        doublequote=False,
        escapechar="\\",
        lineterminator="\n",
        **options,
    )
    assert texts_of(path, tmp_path) == [(text,) for text in texts]


def test_backslashes_of_other_tables_are_text(tmp_path):
    (tmp_path / "t.csv").write_text(
        'filepath,caption\n0.png,C:\\new\n1.png,"a\\"\n2.png,"\\alpha, \\beta"\n3.png,b\\\n4.png,c\n'
    )
    assert texts_of(tmp_path / "t.csv", tmp_path) == [("C:\\new",), ("a\\",), ("\\alpha, \\beta",), ("b\\",), ("c",)]


LONE = ['"square peg', 'a 5" disc', 'peg of 5"', '"', '"red" or "green"', '"a" b "', '""x', 'x"" y']


@pytest.mark.parametrize("name", DELIMITERS)
@pytest.mark.parametrize("lone", [*([text] for text in LONE), ['"square', 'disc of 5"'], ['"a', '"b'], LONE])
@pytest.mark.parametrize("swapped", [False, True])
def test_lone_quotes_are_text_and_swallow_no_rows(tmp_path, name, lone, swapped):
    texts = [f"thing {number}" for number in range(20)]
    for number, text in enumerate(lone):
        texts[2 * number + 3] = text
    rows = [("filepath", "caption"), *((f"{number}.png", text) for number, text in enumerate(texts))]
    lines = [DELIMITERS[name].join(reversed(row) if swapped else row) for row in rows]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    assert texts_of(tmp_path / "t.csv", tmp_path) == [(text,) for text in texts]


@pytest.mark.parametrize("image", ["{}", "img/{:06}", "a{}f", "http://host/{}", "C:\\pictures\\{}.JPG", "{}.xyz"])
def test_lone_quotes_swallow_no_rows_whatever_the_images_are_called(tmp_path, image):
    texts = ["zero", '"square peg', "two", "three", 'disc of 5"', "five"]
    rows = "".join(f"{image.format(number)}\t{text}\n" for number, text in enumerate(texts))
    (tmp_path / "t.tsv").write_text("filepath\tcaption\n" + rows)
    assert texts_of(tmp_path / "t.tsv", tmp_path) == [(text,) for text in texts]


def test_empty_fields_at_the_end_of_a_row_are_ignored(tmp_path):
    (tmp_path / "t.csv").write_text("filepath,caption\n0.png,a,,\n1.png,,\n2.png,a,b,\n")
    source = open_source(str(tmp_path / "t.csv"), tmp_path)
    assert source.texts(0) == ("a",) and source.texts(1) == ()
    with pytest.raises(BadRecord, match="line 4: it has 3 fields instead of 2"):
        source.texts(2)


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_quoted_captions_span_lines(tmp_path, suffix):
    texts = ["over\ntwo lines", "over\n\nthree, lines", 'a "quote"\nand\tmore, with one', "\n5 inches, wide\n", "end"]
    delimiter = {"csv": ",", "tsv": "\t"}[suffix]
    for order in (1, -1):
        rows = [
            row[::order] for row in [("filepath", "caption"), *((f"{i}.png", text) for i, text in enumerate(texts))]
        ]
        path = write_rows(tmp_path / f"t{order}.{suffix}", rows, delimiter=delimiter, lineterminator="\n")
        assert texts_of(path, tmp_path) == [(text.strip(),) for text in texts]


def test_blanks_around_quotes_and_column_names_are_ignored(tmp_path):
    (tmp_path / "t.csv").write_text('filepath, caption\n0.png, "a, b" \n1.png,  c\n')
    assert texts_of(tmp_path / "t.csv", tmp_path) == [("a, b",), ("c",)]


def test_a_line_that_names_the_separator_is_skipped(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfsep=;\r\nfilepath;caption\r\n0.png;a, b\r\n1.png;c;d\r\n")
    source = open_source(str(tmp_path / "t.csv"), tmp_path)
    assert source.texts(0) == ("a, b",)
    with pytest.raises(BadRecord, match=r"t\.csv:2: line 4: it has 3 fields instead of 2, separated by semicolons"):
        source.texts(1)


def test_carriage_returns_inside_of_a_line_are_text(tmp_path):
    (tmp_path / "t.csv").write_bytes(b'filepath,caption\n0.png,a\rb\n1.png,c\r\n2.png,"d\re"\r\n')
    assert texts_of(tmp_path / "t.csv", tmp_path) == [("a\rb",), ("c",), ("d\re",)]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_reported_with_the_command_that_converts_it(tmp_path, suffix, encoding):
    (tmp_path / f"t.{suffix}").write_text("filepath,caption\n0.png,a\n", encoding=encoding)
    with pytest.raises(ValueError, match=r"is not UTF-8 but UTF-16\. Convert it: iconv"):
        open_source(str(tmp_path / f"t.{suffix}"), tmp_path)


@pytest.mark.parametrize("name", ["filepath", "caption", "label", "class"])
def test_two_columns_of_one_name_are_reported(tmp_path, name):
    (tmp_path / "t.csv").write_text(f"filepath,caption,label,class,{name}\n0.png,a,1,b,c\n")
    with pytest.raises(ValueError, match=rf"has 2 columns '{name}'\. Rename all but one"):
        open_source(str(tmp_path / "t.csv"), tmp_path)


def test_messages_name_the_line_of_a_bad_row(tmp_path):
    (tmp_path / "t.csv").write_bytes(b'filepath,caption\n\n0.png,"a\nb"\n1.png,a,b\n\n,c\n3.png,\xe9\ngone.png,d')
    (tmp_path / "t.jsonl").write_bytes(
        b'\n{"image": "0.png", "text": "a"}\nnot json\n[1]\n\xe9\n{"text": "no image"}\n{"n": ' + b"1" * 5000 + b"}"
    )
    lines = {"t.csv": [None, 5, 7, 8, 9], "t.jsonl": [None, 3, 4, 5, 6, 7]}
    (tmp_path / "0.png").write_bytes(png(0))
    for name, expected in lines.items():
        source = open_source(str(tmp_path / name), tmp_path)
        for row, line in enumerate(expected):
            if line is None:
                assert source[row].image == png(0)
                continue
            with pytest.raises(BadRecord, match=rf"^{name}:{row + 1}: line {line}: "):
                source[row]


def test_rows_read_are_reported_against_lines_seen(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "a.tsv").write_text('filepath\tcaption\n0.png\t"over\nlines"\n\n1.png\t"lone\n2.png\tb\n')
    open_source(str(tmp_path / "a.tsv"), tmp_path)
    first, second = caplog.messages
    assert first.endswith("a.tsv: 3 rows in 6 lines, separated by tabs, 1 row over several lines, 1 blank line")
    assert second.startswith("1 row with a quote that encloses no field, the first on line 5 of ")
    (tmp_path / "b.csv").write_text("filepath;caption\n0.png;b\n")
    for _ in range(2):  # the second time from the stored index
        caplog.clear()
        assert len(open_source(f"{tmp_path}/*.[ct]sv", tmp_path)) == 4
        assert "2 tables: 4 rows in 8 lines, separated by tabs, separated by semicolons" in caplog.messages[0]


def test_random_well_formed_tables_are_read_as_they_were_written(tmp_path):
    draw = random.Random(0)
    for trial in range(60):
        delimiter, suffix = draw.choice([*DELIMITERS.values()]), draw.choice(["csv", "tsv"])
        texts = ["x" + "".join(draw.choices('ab ,;|\t"\n\\.é\u2028', k=draw.randrange(12))) + "y" for _ in range(30)]
        rows = [("filepath", "caption"), *((f"{number}.png", text) for number, text in enumerate(texts))]
        path = write_rows(
            tmp_path / f"{trial}.{suffix}",
            rows,
            delimiter=delimiter,
            quoting=draw.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
            lineterminator=draw.choice(["\n", "\r\n"]),
        )
        assert texts_of(path, tmp_path) == [(text,) for text in texts], path.read_text()


def test_random_bytes_give_the_same_rows_in_any_chunks_and_lose_no_line(tmp_path, monkeypatch):
    draw = random.Random(1)
    for trial in range(60):
        parts = draw.choices(['"', ",", "\n", "a", " ", "\r\n", "\\", "1.png,", '""', "é"], k=200)
        body = "filepath,caption\n" + "".join(parts)
        path = tmp_path / f"{trial}.csv"
        path.write_text(body, newline="")
        dialect = Dialect(escapes=trial % 2 == 1)
        found = []
        for chunk in (1 << 20, 64, 7):
            monkeypatch.setattr(row_index, "_CHUNK", chunk)
            monkeypatch.setattr(row_index, "MAX_FIELD", 50)
            reader = RowReader(dialect, 2, 0)
            [file] = find_files(str(path))
            found.append(row_index.index_rows(file, tmp_path / f"cache{chunk}", dialect, reader, "key"))
        for index in found[1:]:
            assert all(np.array_equal(*pair) for pair in zip(index, found[0], strict=True))
        index, content = found[0], body.encode()
        pieces = [content[start:stop] for start, stop in itertools.pairwise(index.starts.tolist())]
        assert not content[: index.starts[0]].strip() and b"".join(pieces) == content[index.starts[0] :]
        starts = index.starts[:-1].tolist()
        assert index.row_lines[:-1].tolist() == [content[:start].count(b"\n") + 1 for start in starts]
        for piece in pieces:
            end = piece if piece.endswith(b"\n") else piece + b"\n"
            assert reader.fields(piece) == [field.decode() for field in reader.read(end).fields]


def test_json_lines_end_at_line_feeds_alone(tmp_path):
    texts = ["a\u2028b", "a\u2029b", "a\x85b", "a\x0bb", "a\x0cb", "a\x1cb"]
    rows = [json.dumps({"image": "0.png", "text": text}, ensure_ascii=False) for text in texts]
    (tmp_path / "t.jsonl").write_text("\ufeff" + "\r\n".join(rows), newline="", encoding="utf-8")
    assert texts_of(tmp_path / "t.jsonl", tmp_path) == [(text,) for text in texts]
