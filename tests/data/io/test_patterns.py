"""Brace patterns of paths."""

import pytest

from data.io.patterns import MAX_PATHS, expand_braces


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("a-{008..011}.tar", ["a-008.tar", "a-009.tar", "a-010.tar", "a-011.tar"]),
        ("{x,y}/{0..1}", ["x/0", "x/1", "y/0", "y/1"]),
        ("plain.tar", ["plain.tar"]),
        ("{a-{00..01},b}.tar", ["a-00.tar", "a-01.tar", "b.tar"]),
        ("unbalanced{0..1", ["unbalanced{0..1"]),
        (r"back\slash-{0,1}", [r"back\slash-0", r"back\slash-1"]),
    ],
)
def test_braces_expand_as_in_bash(pattern, paths):
    assert expand_braces(pattern) == paths


def test_a_pattern_of_the_largest_size_expands():
    paths = expand_braces("{000000..999999}.tar")
    assert len(paths) == MAX_PATHS and paths[-1] == "999999.tar"


@pytest.mark.parametrize(
    "pattern", ["{0..1000000}", "{0..99999999999}", "{a,b}" * 40, "{x," + "{a,b}" * 40 + "}", "}{{0..99999999999}"]
)
def test_patterns_of_too_many_paths_are_rejected_before_they_take_memory(pattern):
    with pytest.raises(ValueError, match=r"stands for [\d,]+ paths\. Use one of at most 1,000,000"):
        expand_braces(pattern)


def test_deeply_nested_braces_are_rejected():
    with pytest.raises(ValueError, match="nested too deeply"):
        expand_braces("{" * 2000 + "}" * 2000)
