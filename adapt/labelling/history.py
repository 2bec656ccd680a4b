"""The labels that a person gives, in a file that is only appended to: nothing is lost when the process is killed."""

from __future__ import annotations

import datetime
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from adapt.labelling.class_names import check_class_name
from foundation.files.json_lines import append_json_line, read_json_lines

HISTORY_FILE = "labels.jsonl"
_LABEL, _REMOVE, _RENAME, _UNDO = "label", "remove class", "rename class", "undo"


class Change(NamedTuple):
    """One action of a person: pictures, by name, that got a class, or lost theirs where `name` is None.

    `guesses` are the classes that were predicted before for those of the pictures that were drawn at random.
    `contents` are hashes of the pictures. Without `pictures`, the class `name` was renamed to `renamed`, or, where that
    is None, was removed, as it had none.
    """

    pictures: tuple[str, ...]
    name: str | None
    guesses: Mapping[str, str] = {}
    contents: Mapping[str, str] = {}
    renamed: str | None = None


class LabelHistory:
    """The actions in `folder/labels.jsonl`, and the labels that result.

    A line is an object with `time`, `action` and, for "label", `pictures`, `class` (null removes a label), `guesses`
    and `contents` (see `Change`). "remove class" removes a class without pictures, "rename class" gives a class the
    name `to`, "undo" takes back the last action that was not taken back. Lines are synced to disk one by one, and never
    changed.

    Raises `ValueError` for a file that is damaged, except for a cut last line, which is left out.
    """

    def __init__(self, folder: str | os.PathLike):
        self._path = pathlib.Path(folder) / HISTORY_FILE
        self._done: list[Change] = []
        for number, row in enumerate(read_json_lines(self._path), 1):
            try:
                self._replay(row)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise ValueError(
                    f"line {number} of {self._path} is not an action ({error}). Restore the file from a copy, or "
                    "remove the line."
                ) from error
        self._rebuild()

    @property
    def labels(self) -> Mapping[str, str]:
        """The class of each labelled picture, by name, in the order in which they were labelled."""
        return self._labels

    @property
    def class_names(self) -> list[str]:
        """The classes in the order in which they were first used, also those without pictures by now."""
        return list(self._names)

    @property
    def former_names(self) -> Mapping[str, str | None]:
        """The first names of classes that were renamed or removed, with their name by now; None for removed ones."""
        return self._former

    @property
    def contents(self) -> Mapping[str, str]:
        """The hash of each labelled picture when it was labelled, by name."""
        return {picture: each for change in self._done for picture, each in change.contents.items()}

    @property
    def last(self) -> Change | None:
        """The action that `undo` would take back, or None."""
        return self._done[-1] if self._done else None

    @property
    def checks(self) -> list[tuple[int, bool]]:
        """For each random picture: the number of labels before it, and whether the guess was right; oldest first."""
        return [
            (count, guess == self._labels[picture])
            for picture, (count, guess) in self._guesses.items()
            if picture in self._labels
        ]

    def label(
        self,
        pictures: Sequence[str],
        name: str | None,
        *,
        guesses: Mapping[str, str] | None = None,
        contents: Mapping[str, str] | None = None,
    ) -> None:
        """Put pictures into a class, or remove their labels; written to disk before it takes effect.

        Raises `ValueError` for a class name that cannot be used, and without pictures.
        """
        name = None if name is None else check_class_name(name)
        change = Change(tuple(dict.fromkeys(pictures)), name, guesses or {}, contents or {})
        if not change.pictures:
            raise ValueError("no picture is selected. Select at least one.")
        row = {"action": _LABEL, "pictures": list(change.pictures), "class": change.name}
        more = {"guesses": dict(change.guesses), "contents": dict(change.contents)}
        self._do(change, row | {key: value for key, value in more.items() if value})

    def remove_class(self, name: str) -> None:
        """Remove a class; raises `ValueError` if pictures have it."""
        if name in self._labels.values():
            raise ValueError(f"class {name!r} has labelled pictures. Label them as something else first.")
        self._do(Change((), name), {"action": _REMOVE, "class": name})

    def rename_class(self, name: str, new: str) -> None:
        """Give a class another name; raises `ValueError` for one that cannot be used or is that of a class."""
        new = check_class_name(new)
        if new in self._names:
            raise ValueError(f"class {new!r} exists already.")
        self._do(Change((), name, renamed=new), {"action": _RENAME, "class": name, "to": new})

    def undo(self) -> Change:
        """Take back the last action and return it; raises `ValueError` if there is none."""
        if not self._done:
            raise ValueError("there is nothing to undo.")
        self._append({"action": _UNDO})
        change = self._done.pop()
        self._rebuild()
        return change

    def _do(self, change: Change, row: Mapping[str, Any]) -> None:
        self._append(row)
        self._done.append(change)
        self._apply(change)

    def _append(self, row: Mapping[str, Any]) -> None:
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        append_json_line(self._path, {"time": time, **row})

    def _replay(self, row: Mapping[str, Any]) -> None:
        if row["action"] == _UNDO:
            self._done.pop()
        elif row["action"] == _LABEL:
            name, pictures = row["class"], row["pictures"]
            if not isinstance(pictures, list) or not pictures or not all(isinstance(each, str) for each in pictures):
                raise ValueError(f"pictures {pictures!r:.80} are not a list of names")
            name = None if name is None else check_class_name(name)
            more = dict(row.get("guesses", {})), dict(row.get("contents", {}))
            self._done.append(Change(tuple(pictures), name, *more))
        elif row["action"] == _REMOVE:
            self._done.append(Change((), check_class_name(row["class"])))
        elif row["action"] == _RENAME:
            self._done.append(Change((), check_class_name(row["class"]), renamed=check_class_name(row["to"])))
        else:
            raise ValueError(f"unknown action {row['action']!r}")

    def _apply(self, change: Change) -> None:
        for picture, guess in change.guesses.items():
            self._guesses.setdefault(picture, (len(self._seen), guess))
        self._seen.update(change.pictures)
        for picture in change.pictures:
            self._labels.pop(picture, None)  # a picture that is labelled again moves to the end
            if change.name is not None:
                self._labels[picture] = change.name
        if change.renamed is not None:
            self._rename(change.name, change.renamed)
        elif change.name is not None and change.pictures:
            self._names[change.name] = None
        elif change.name is not None:
            self._names.pop(change.name, None)
            self._follow(change.name, None)

    def _rename(self, old: str, new: str) -> None:
        """Give a class another name in everything that is known; it keeps its place."""

        def now(name: str | None) -> str | None:
            return new if name == old else name

        self._names.setdefault(old)  # of a class that was given at the start and has no pictures
        self._names = {now(name): None for name in self._names}
        self._labels = {picture: now(name) for picture, name in self._labels.items()}
        self._guesses = {picture: (count, now(guess)) for picture, (count, guess) in self._guesses.items()}
        self._follow(old, new)

    def _follow(self, name: str, new: str | None) -> None:
        """Note the new name of a class; a name that another class had first stays the name of that one."""
        self._former = {first: new if later == name else later for first, later in self._former.items()}
        self._former.setdefault(name, new)

    def _rebuild(self) -> None:
        self._labels: dict[str, str] = {}
        self._names: dict[str, None] = {}
        self._former: dict[str, str | None] = {}
        self._guesses: dict[str, tuple[int, str]] = {}  # of random pictures: labelled ones before, and the guess
        self._seen: set[str] = set()  # every picture that had a label
        for change in self._done:
            self._apply(change)
