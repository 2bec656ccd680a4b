"""A labelling session: the labels, the classifier that follows them, and what to look at next.

All methods may be called from several threads. What changes raises `version`, by which pages notice.
"""

from __future__ import annotations

import logging
import pathlib
import secrets
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from adapt.labelling.chooser import Chooser, Suggestions
from adapt.labelling.class_names import check_class_name
from adapt.labelling.classifier.model import LabellingModel, PicturePredictions
from adapt.labelling.estimate import AccuracyEstimate, estimate_accuracy
from adapt.labelling.history import Change, LabelHistory
from adapt.labelling.pictures import PictureFolder

logger = logging.getLogger(__name__)

SUGGESTIONS = 24
_REFRESH_SECONDS = 1.0  # between two refits because of new features
_CURVE_POINTS = 100
_RANDOM_EVERY = 5  # one suggestion of this number is random, to estimate the accuracy

EmbedText = Callable[[str], np.ndarray]


class LabellingSession:
    """The state of a session over the pictures of a folder, with labels in `out/labels.jsonl`.

    `class_names` are classes that exist before any picture has them. `embed_text` returns the features `[dim]` of
    length 1 of a text, or is None for a checkpoint without texts. `embed_class` does the same for a class name.
    """

    def __init__(
        self,
        pictures: PictureFolder,
        out: pathlib.Path,
        *,
        dim: int,
        class_names: Sequence[str] = (),
        embed_text: EmbedText | None = None,
        embed_class: EmbedText | None = None,
    ):
        self.pictures, self.out = pictures, out
        self.identity = secrets.token_hex(8)  # of this process: numbers of pictures hold as long as it lives
        self.version = 0
        self.bad: dict[int, str] = {}
        self.finished_embedding = False
        self.problem: str | None = None
        self.embed_text = embed_text
        self._embed_class = embed_class
        self._given = tuple(class_names)
        self._history = LabelHistory(out)
        self._model = LabellingModel(len(pictures), dim)
        self._numbers = np.zeros(len(pictures), np.int64)  # of the picture in each row of the model
        self._rows = np.full(len(pictures), -1, np.int64)
        self._chooser = Chooser(random_every=_RANDOM_EVERY)
        self._states: dict[int, str] = {}
        self.changed_pictures = self._find_changed()
        self._labels = self._present_labels()
        self._lock = threading.RLock()
        self._predictions: PicturePredictions | None = None
        self._suggestions = Suggestions(np.empty(0, np.int64), ())
        self._refreshed = 0.0

    # Changes

    def label(self, numbers: Sequence[int], name: str | None) -> None:
        """Put pictures into a class, which may be new, or remove their labels with None.

        Raises `ValueError` for unknown numbers and for names that cannot be those of a class.
        """
        with self._lock:
            if name is not None:
                name = check_class_name(name)
                if (same := self._same_but_for_case(name)) not in (None, name):
                    raise ValueError(f"class {name!r} differs from {same!r} only in case. Use {same!r}.")
            names = [self._name(number) for number in numbers]
            contents = {} if name is None else self._contents(numbers)
            self._history.label(names, name, guesses=self._random_guesses(numbers), contents=contents)
            self.changed_pictures -= set(names)
            self._refresh()

    def remove_class(self, name: str) -> None:
        """Remove a class without labelled pictures; raises `ValueError` for another one."""
        with self._lock:
            if name not in self.class_names:
                raise ValueError(f"class {name!r} does not exist.")
            self._history.remove_class(name)
            self._refresh()

    def rename_class(self, name: str, new: str) -> None:
        """Give a class another name; its pictures, its place and what it predicts stay.

        Raises `ValueError` for a class that does not exist, and for a name that cannot be used or that another class
        has: two classes are not merged.
        """
        with self._lock:
            if name not in self.class_names:
                raise ValueError(f"class {name!r} does not exist.")
            new = check_class_name(new)
            if new == name:
                return
            if (same := self._same_but_for_case(new)) not in (None, name):
                raise ValueError(
                    f"class {same!r} exists already. To merge the two, show the class {name!r} under All pictures, "
                    f"select its pictures and label them {same!r}."
                )
            self._history.rename_class(name, new)
            self._model.rename_class(name, new)
            self._refresh()

    def undo(self) -> Change:
        """Take back the last action, whoever did it, and return it; raises `ValueError` if there is none."""
        with self._lock:
            change = self._history.undo()
            if change.renamed is not None:
                self._model.rename_class(change.renamed, change.name)
            self._refresh()
            return change

    def add_features(self, numbers: Sequence[int], features: np.ndarray) -> None:
        """Note the unit features `[pictures, dim]` of some pictures."""
        with self._lock:
            start = self._model.count
            self._numbers[start : start + len(numbers)] = numbers
            self._rows[list(numbers)] = np.arange(start, start + len(numbers))
            self._model.add(features)
            self._chooser.add(features)
            self._states.update((number, self.pictures.state(number)) for number in numbers)
            if time.monotonic() > self._refreshed + _REFRESH_SECONDS or self._model.count <= 2 * len(numbers):
                self._refresh()

    def add_bad(self, number: int, reason: str) -> None:
        """Note that a picture cannot be read, or no longer; it is not suggested again."""
        with self._lock:
            if number in self.bad:
                return
            self.bad[number] = reason
            if self._rows[number] >= 0:
                self._refresh()
            self.version += 1

    def finish_embedding(self, problem: str | None = None) -> None:
        """Note that there are no more features, because all pictures are embedded or because of a problem."""
        with self._lock:
            self.finished_embedding, self.problem = problem is None, problem
            self._chooser.update_pool(self._model.features)
            self._refresh()
            self.version += 1

    def add_class_text(self, name: str) -> None:
        """Embed the text of a class; slow, so it is called from a thread of its own."""
        if self._embed_class is None or self._model.has_text(name):
            return
        features = self._embed_class(name)
        with self._lock:
            self._model.add_text(name, features)
            self._refresh()

    # Views

    @property
    def lock(self) -> threading.RLock:
        """The lock that keeps several reads consistent."""
        return self._lock

    @property
    def class_names(self) -> list[str]:
        """The classes: those given at the start, and those of labels, in the order of their first use."""
        used, former = self._history.class_names, self._history.former_names
        hidden = {name.casefold() for name in (*former, *used)}
        given = [former.get(name, name) for name in self._given]
        kept = [name for name in given if name is not None and (name in used or name.casefold() not in hidden)]
        return list(dict.fromkeys((*kept, *used)))

    @property
    def uses_texts(self) -> bool:
        """Whether class names are embedded."""
        return self._embed_class is not None

    @property
    def missing_texts(self) -> list[str]:
        """The classes whose text is to be embedded."""
        return [name for name in self.class_names if not self._model.has_text(name)] if self.uses_texts else []

    @property
    def labels(self) -> dict[int, str]:
        """The class of each labelled picture that the folder has, by number, in the order of labelling."""
        return self._labels

    @property
    def missing_pictures(self) -> list[str]:
        """The names of labelled pictures that the folder no longer has."""
        return [name for name in self._history.labels if self.pictures.number(name) is None]

    @property
    def last(self) -> Change | None:
        """The action that `undo` would take back."""
        return self._history.last

    @property
    def embedded(self) -> int:
        """The number of pictures with features."""
        return self._model.count

    @property
    def features(self) -> np.ndarray:
        """The features of embedded pictures `[pictures, dim]`, row by row."""
        return self._model.features

    @property
    def numbers(self) -> np.ndarray:
        """The number of the picture in each row, `[pictures]`."""
        return self._numbers[: self._model.count]

    @property
    def predictions(self) -> PicturePredictions | None:
        """The predictions for all embedded pictures, or None before two classes have labels."""
        return self._predictions

    @property
    def predicted_numbers(self) -> np.ndarray:
        """The number of the picture that each row of the predictions is of; newer ones have no prediction yet."""
        return self.numbers[:0] if self._predictions is None else self.numbers[: len(self._predictions.cosines)]

    @property
    def suggestions(self) -> Suggestions:
        """The rows of the pictures to label next, the most useful first."""
        return self._suggestions

    @property
    def estimates(self) -> list[tuple[int, AccuracyEstimate]]:
        """The estimated accuracy after at most 100 numbers of labels, the last one being the present one."""
        checks = self._history.checks
        right = [each for _, each in checks]
        places = np.unique(np.linspace(0, len(checks) - 1, min(len(checks), _CURVE_POINTS)).astype(int)).tolist()
        found = ((checks[place][0], estimate_accuracy(right[: place + 1])) for place in places)
        return [(labels, estimate) for labels, estimate in found if estimate is not None]

    @property
    def checks(self) -> int:
        """The number of random pictures whose prediction was checked by a label."""
        return len(self._history.checks)

    def row(self, number: int) -> int | None:
        """Return the row of a picture, or None before it is embedded."""
        row = int(self._rows[number])
        return None if row < 0 else row

    def is_open(self) -> np.ndarray:
        """Return the mask of the rows without a label whose pictures can be read, `[pictures]`."""
        mask = np.ones(self._model.count, bool)
        rows = self._rows[[*self.labels, *self.bad]]
        mask[rows[rows >= 0]] = False
        return mask

    def _same_but_for_case(self, name: str) -> str | None:
        """Return the class that has this name, or one that differs in case only."""
        return next((each for each in self.class_names if each.casefold() == name.casefold()), None)

    def _name(self, number: int) -> str:
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(self.pictures):
            raise ValueError(f"picture {number!r} does not exist; there are {len(self.pictures):,}.")
        return self.pictures.names[number]

    def _find_changed(self) -> set[str]:
        """Return the labelled pictures whose files have another content than when they were labelled."""
        changed = set()
        for name, content in self._history.contents.items():
            number = self.pictures.number(name)
            try:
                if number is not None and self.pictures.content(number) != content:
                    changed.add(name)
            except OSError:
                changed.add(name)
        return changed

    def _contents(self, numbers: Sequence[int]) -> dict[str, str]:
        """Return the hashes of pictures to label; raises `ValueError` for one that has vanished or changed."""
        contents = {}
        for number in numbers:
            name = self.pictures.names[number]
            try:
                contents[name] = self.pictures.content(number)
            except OSError as error:
                raise ValueError(f"{name} cannot be read any more ({error.strerror}).") from error
            if self._states.get(number, self.pictures.state(number)) != self.pictures.state(number):
                raise ValueError(f"{name} has changed since it was read. Start the job again to read it again.")
        return contents

    def _random_guesses(self, numbers: Sequence[int]) -> dict[str, str]:
        """Return the predictions for those of the pictures that are suggested at random and have no label yet."""
        drawn = {row for row, reason in zip(*self._suggestions, strict=True) if reason == "random"}
        predictions = self._predictions
        if predictions is None:
            return {}
        names = self.class_names
        rows = ((number, self.row(number)) for number in numbers)
        return {
            self.pictures.names[number]: names[predictions.picture(row).label]
            for number, row in rows
            if row in drawn and row < len(predictions.cosines)
        }

    def _refresh(self) -> None:
        """Fit again, and choose the next pictures."""
        self._labels = self._present_labels()
        labels = self._labelled_rows()
        self._predictions = self._model.fit(labels, self.class_names)
        self._suggestions = self._chooser.choose(
            SUGGESTIONS,
            features=self._model.features,
            labelled=np.array(list(labels), np.int64),
            nearest=self._model.nearest,
            logits=self._predictions.probabilities if self._predictions is not None and labels else None,
            open_rows=self.is_open(),
        )
        self._refreshed = time.monotonic()
        self.version += 1

    def _present_labels(self) -> dict[int, str]:
        """Return the labels of the history whose pictures the folder has, unchanged."""
        return {
            number: label
            for name, label in self._history.labels.items()
            if (number := self.pictures.number(name)) is not None and name not in self.changed_pictures
        }

    def _labelled_rows(self) -> dict[int, str]:
        """Return the class of each labelled row, in the order of labelling."""
        rows = self._rows[list(self._labels)].tolist()
        return {row: label for row, label in zip(rows, self._labels.values(), strict=True) if row >= 0}
