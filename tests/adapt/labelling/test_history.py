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
