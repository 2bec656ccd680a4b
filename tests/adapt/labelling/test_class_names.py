"""Names of classes that a person types."""

import pytest

from adapt.labelling.class_names import LONGEST, check_class_name, parse_class_names


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (" cat ", "cat"),
        ("Äpfel", "Äpfel"),
        ("A\u0308", "Ä"),
        ("a b", "a b"),
        ("&b;", "&b;"),
        ("猫", "猫"),
        ("console", "console"),
    ],
)
def test_a_name_is_trimmed_and_composed(given, name):
    assert check_class_name(given) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "  ",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "C:x",
        "<b>",
        'a"b',
        "a|b",
        "what?",
        "a*",
        "end.",
        "CON",
        "nul",
        "Aux.x",
        "com1",
        "LPT¹",
        "con .x",
        ".hidden",
        "a\nb",
        "a\0",
        "\ud800",
        "a\u200b",
        "\u202ea",
        "x" * (LONGEST + 1),
        3,
        None,
    ],
)
def test_a_name_that_cannot_be_a_folder_is_refused(name):
    with pytest.raises(ValueError, match=r"class|name"):
        check_class_name(name)


def test_lists_of_names():
    assert parse_class_names("cat, big dog") == ["cat", "big dog"]
    assert parse_class_names(None) == parse_class_names("") == []
    with pytest.raises(ValueError, match="'cat' twice"):
        parse_class_names("cat,dog,cat")
    with pytest.raises(ValueError, match="empty"):
        parse_class_names("cat,,dog")
