"""The append-only file of labels."""

import json

import pytest

from adapt.labelling.history import HISTORY_FILE, LabelHistory


def test_labels_survive_and_undo_takes_back_whole_actions(tmp_path):
    history = LabelHistory(tmp_path)
    history.label(["a", "b", "a"], "cat")
    history.label(["b", "c"], "dog")
    history.label(["a"], None)
    assert dict(history.labels) == {"b": "dog", "c": "dog"}
    assert history.undo().name is None
    assert dict(history.labels) == {"a": "cat", "b": "dog", "c": "dog"}
    assert history.undo().pictures == ("b", "c")
    history.label(["d"], "eel")
    again = LabelHistory(tmp_path)
    assert dict(again.labels) == dict(history.labels) == {"a": "cat", "b": "cat", "d": "eel"}
    assert again.class_names == ["cat", "eel"]  # "dog" was taken back
    assert again.last == history.last
    again.undo()
    again.undo()
    with pytest.raises(ValueError, match="nothing to undo"):
        again.undo()
    assert not LabelHistory(tmp_path).labels


def test_labels_are_in_the_order_of_labelling(tmp_path):
    history = LabelHistory(tmp_path)
    for picture, name in (("a", "x"), ("b", "y"), ("a", "y")):
        history.label([picture], name)
    assert list(history.labels) == list(LabelHistory(tmp_path).labels) == ["b", "a"]


def test_a_renamed_class_keeps_its_pictures_its_place_and_its_checks(tmp_path):
    history = LabelHistory(tmp_path)
    history.label(["a"], "cat", guesses={"a": "dog"})
    history.label(["b"], "dog", guesses={"b": "cat"})
    history.rename_class("cat", "lion")
    history.label(["c"], "lion", guesses={"c": "lion"})
    history.label(["b"], "lion")
    for each in (history, LabelHistory(tmp_path)):
        assert dict(each.labels) == {"a": "lion", "c": "lion", "b": "lion"}
        assert each.class_names == ["lion", "dog"]
        assert each.former_names == {"cat": "lion"}
        assert each.checks == [(0, False), (1, True), (2, True)]  # "cat" was guessed, and is called "lion" now
    with pytest.raises(ValueError, match="'dog' exists already"):
        history.rename_class("lion", "dog")
    history.rename_class("lion", "cat")
    assert history.former_names["cat"] == "cat"
    for _ in range(4):
        history.undo()
    for each in (history, LabelHistory(tmp_path)):
        assert (each.class_names, dict(each.labels)) == (["cat", "dog"], {"a": "cat", "b": "dog"})


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_cut_last_line_is_the_only_one_lost(tmp_path, cut):
    history = LabelHistory(tmp_path)
    history.label(["a"], "cat")
    complete = (tmp_path / HISTORY_FILE).stat().st_size
    history.label(["b"], "ähre")
    content = (tmp_path / HISTORY_FILE).read_bytes()
    (tmp_path / HISTORY_FILE).write_bytes(content[: min(complete + cut, len(content) - 1)])
    again = LabelHistory(tmp_path)
    assert dict(again.labels) == {"a": "cat"}
    again.label(["c"], "dog")
    assert dict(LabelHistory(tmp_path).labels) == {"a": "cat", "c": "dog"}


@pytest.mark.parametrize(
    "line",
    [
        {"action": "undo"},
        {"action": "paint"},
        {"action": "label", "pictures": ["a"]},
        {"action": "label", "pictures": ["a"], "class": "../x"},
        {"action": "label", "pictures": [1, [2]], "class": "x"},
        {"action": "label", "pictures": "a", "class": "x"},
        {"action": "remove class"},
        {"action": "rename class", "class": "x"},
        {"action": "rename class", "class": "x", "to": "a/b"},
        {"pictures": ["a"]},
    ],
)
def test_a_line_that_is_not_an_action_is_named(tmp_path, line):
    (tmp_path / HISTORY_FILE).write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=r"line 1 of .*labels\.jsonl is not an action"):
        LabelHistory(tmp_path)


def test_an_action_without_pictures_changes_nothing(tmp_path):
    history = LabelHistory(tmp_path)
    with pytest.raises(ValueError, match="no picture is selected"):
        history.label([], "cat")
    with pytest.raises(ValueError, match="folder"):
        history.label(["a"], "a/b")
    assert not (tmp_path / HISTORY_FILE).exists()
