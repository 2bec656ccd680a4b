"""CSV files for spreadsheets: names that look like formulas, numbers, and what a reader gets back."""

import csv
import io
import itertools
import random

import pytest

from foundation.files.csv_text import csv_text

NAMES = ("HYPERLINK(A1)", "cmd|' /C calc'!A0", "1+1", "cat", "2+3+cmd", "-")
NUMBERS = (
    "-0.5",
    "+0.5",
    "-1",
    "+2.0 ± 0.5",
    "-2.0 ± 10.5",
    "+2.0 [-1.0, +5.0]",
    "-1e-05",
    "+12.5%",
    "-1,024",
    "-inf",
    "",
)


def read(text):
    return list(csv.reader(io.StringIO(text, newline="")))


@pytest.mark.parametrize(("first", "name"), [*itertools.product("=+-@\t\r＝＋－＠", NAMES)])
def test_names_that_begin_like_a_formula_are_marked_as_text(first, name):
    assert read(csv_text([first + name], [[first + name]])) == [["'" + first + name]] * 2


@pytest.mark.parametrize("number", [*NUMBERS, -0.5, -3, 2.5, None, True])
def test_numbers_stay_numbers(number):
    assert read(csv_text(["value", "name"], [[number, "x"]]))[1] == ["" if number is None else str(number), "x"]


def test_any_cell_comes_back_as_it_was_or_with_one_apostrophe():
    draw = random.Random(0)
    for _ in range(300):
        rows = [
            ["".join(draw.choices("=+-@'\"\n\r\t,;1. aé\u2028\x85", k=draw.randrange(6))) for _ in range(3)]
            for _ in range(4)
        ]
        found = read(csv_text(rows[0], rows[1:]))
        assert len(found) == len(rows)
        for got, given in zip(itertools.chain(*found), itertools.chain(*rows), strict=True):
            assert got in (given, "'" + given) and not (got.startswith(("=", "@")))
