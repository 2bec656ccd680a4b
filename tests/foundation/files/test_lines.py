"""Lines end at line feeds, and at nothing else that Unicode calls a separator."""

import ast
import pathlib

import pytest

from foundation.files.lines import split_lines

ROOT = pathlib.Path(__file__).parents[3]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", ["", "end"])
def test_unicode_separators_are_part_of_a_line(separator, line_end, last):
    lines = [f"a{separator}b", "", "c"]
    text = line_end.join(lines) + (line_end if last else "")
    assert split_lines(text) == lines


def test_lines_of_short_texts():
    assert [split_lines(text) for text in ("", "\n", "a", "a\n", "\na", "a\rb\n")] == [
        [],
        [""],
        ["a"],
        ["a"],
        ["", "a"],
        ["a\rb"],
    ]


def test_no_code_that_reads_data_splits_lines_as_unicode_does():
    found = []
    for package in ("data", "adapt", "models", "foundation"):
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found += [
                str(path) for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "splitlines"
            ]
    assert not found
