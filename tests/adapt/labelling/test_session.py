"""A session: labels, predictions, what is shown, and several threads."""

import threading

import numpy as np
import pytest

import adapt
from adapt.adapters.ops import normalize_numpy
from adapt.labelling.estimate import LEAST_CHECKS, estimate_accuracy
from adapt.labelling.history import LabelHistory
from adapt.labelling.views import View, list_pictures, session_state
from adapt.photos.outliers import far_threshold
from tests.adapt.labelling.sessions import COLOURS, DIM, colour_features, make_pictures, open_session


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    return root, make_pictures(root)


def label_all(session, truth, count):
    """Label the first suggestion `count` times with its class."""
    for _ in range(count):
        number = int(session.numbers[session.suggestions.rows[0]])
        session.label([number], truth[session.pictures.names[number]])


def test_labels_move_all_other_pictures(folder, tmp_path):
    root, truth = folder
    session = open_session(root, tmp_path)
    assert session.predictions is None
    label_all(session, truth, 9)
    assert set(session.class_names) == set(COLOURS)
    predicted = [session.class_names[label] for label in session.predictions.predicted]
    assert predicted == [truth[session.pictures.names[number]] for number in session.numbers]
    state = session_state(session)
    assert sum(column["count"] for column in state["columns"]) == len(truth) - 9
    assert {each["name"]: each["labelled"] for each in state["classes"]} == {
        name: sum(label == name for label in session.labels.values()) for name in COLOURS
    }


def test_predictions_are_those_of_the_adapter(folder, tmp_path):
    root, truth = folder
    session = open_session(root, tmp_path)
    label_all(session, truth, 7)
    found = session.predictions
    classifier = adapt.create(found.fit.method, **found.fit.settings).fit(
        session.features[found.rows], found.labels, num_classes=len(session.class_names)
    )
    np.testing.assert_allclose(found.logits, classifier(session.features), rtol=1e-4, atol=2e-3)
    expected = np.exp(found.calibration.factor * np.asarray(classifier(session.features), np.float64))
    np.testing.assert_allclose(found.probabilities, expected / expected.sum(axis=1, keepdims=True), atol=1e-3)


def test_the_order_in_which_features_arrive_does_not_matter(folder, tmp_path):
    root, _ = folder
    first = open_session(root, tmp_path / "a")
    second = open_session(root, tmp_path / "b", embedded=False)
    features = colour_features(second.pictures)
    numbers = np.random.default_rng(0).permutation(len(features))
    for name, number in zip(COLOURS, (3, 7, 11), strict=True):  # labels may precede the features
        for session in (first, second):
            session.label([number], name)
    for part in np.array_split(numbers, 5):
        second.add_features(part.tolist(), features[part])
    second.finish_embedding()
    place = [second.row(number) for number in first.numbers]
    np.testing.assert_allclose(second.predictions.cosines[place], first.predictions.cosines, atol=1e-6)
    np.testing.assert_allclose(second.predictions.logits[place], first.predictions.logits, atol=1e-4)
    # Cosines above 0.999 differ in the last bit, which calibration multiplies.
    np.testing.assert_allclose(second.predictions.probabilities[place], first.predictions.probabilities, atol=2e-3)


def test_a_session_of_many_clicks_equals_one_that_is_loaded_from_its_file(tmp_path):
    truth = list(make_pictures(tmp_path / "pictures", per_class=60).values())
    rng = np.random.default_rng(2)
    centers = rng.normal(size=(3, DIM)).astype(np.float32)
    features = normalize_numpy(
        centers[[list(COLOURS).index(name) for name in truth]] + rng.normal(size=(180, DIM))
    ).astype(np.float32)

    def opened():
        session = open_session(tmp_path / "pictures", tmp_path / "out", embedded=False)
        session.add_features(list(range(180)), features)
        session.finish_embedding()
        return session

    session = opened()
    for click in range(90):
        number = int(session.numbers[session.suggestions.rows[0]])
        session.label([number], truth[number])
        if click % 7 == 3:  # a mistake, which is taken back, corrected or removed
            other = int(rng.choice(list(session.labels)))
            session.label([other], list(COLOURS)[click % 3])
            for _ in range(1 + click % 2):
                session.undo()
            session.label([other], None if click % 4 == 0 else truth[other])
    again = opened()
    first, second = session.predictions, again.predictions
    assert (first.fit.method, first.fit.settings, first.names) == (second.fit.method, second.fit.settings, second.names)
    assert first.fit.accuracy == second.fit.accuracy < 1
    np.testing.assert_allclose(first.logits, second.logits, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(first.probabilities, second.probabilities, atol=1e-4)
    np.testing.assert_allclose(first.cosines, second.cosines, atol=1e-6)
    expected = far_threshold(features[[session.numbers[row] for row in first.rows]])
    assert first.far_threshold == pytest.approx(second.far_threshold, abs=1e-6) == pytest.approx(expected, abs=1e-6)
    assert session.suggestions.rows.tolist() == again.suggestions.rows.tolist()
    changing = {"session", "version", "columns", "suggestions"}  # numbers of four digits may round differently
    states = [{k: v for k, v in session_state(each).items() if k not in changing} for each in (session, again)]
    assert states[0] == states[1]


def test_undo_and_restart_give_the_same_state(folder, tmp_path):
    root, truth = folder
    session = open_session(root, tmp_path)
    label_all(session, truth, 6)
    before = session_state(session)
    session.label([0, 1, 2], "wrong")
    assert "wrong" in [each["name"] for each in session_state(session)["classes"]]
    session.undo()
    for state in (session_state(session), session_state(open_session(root, tmp_path))):
        changed = {"session", "version", "suggestions"}
        assert {k: v for k, v in state.items() if k not in changed} == {
            k: v for k, v in before.items() if k not in changed
        }


def test_the_accuracy_is_that_of_guesses_for_random_pictures_before_their_labels(folder, tmp_path):
    root, truth = folder
    session = open_session(root, tmp_path)
    expected = []
    for count in range(28):
        row, reason = session.suggestions.rows[0], session.suggestions.reasons[0]
        number, predictions = int(session.numbers[row]), session.predictions
        name = truth[session.pictures.names[number]]
        if reason == "random" and predictions is not None:
            expected.append((count, session.class_names[predictions.predicted[row]] == name))
        session.label([number], name)
    assert session._history.checks == expected
    assert len(expected) >= LEAST_CHECKS
    found = session.estimates
    assert found[-1] == (expected[-1][0], estimate_accuracy([right for _, right in expected]))
    assert open_session(root, tmp_path).estimates == found
    last = expected[-1][0]
    for _ in range(28 - last):
        session.undo()
    assert session._history.checks == expected[:-1]


def test_a_corrected_label_corrects_the_check(tmp_path):
    history = LabelHistory(tmp_path)
    history.label(["a"], "cat", guesses={"a": "dog"})
    history.label(["b"], "dog", guesses={"b": "dog"})
    assert history.checks == [(0, False), (1, True)]
    history.label(["a"], "dog")
    assert LabelHistory(tmp_path).checks == history.checks == [(0, True), (1, True)]
    history.label(["b"], None)
    assert history.checks == [(0, True)]


@pytest.mark.parametrize(
    ("checks", "correct", "total"),
    [
        ([True] * 5, 5, 5),
        ([False] * 9 + [True] * 5, 5, 5),
        ([False] * 20 + [True] * 10, 10, 10),
        ([True, False] * 9, 3, 6),
    ],
)
def test_the_estimate_is_that_of_the_last_third(checks, correct, total):
    found = estimate_accuracy(checks)
    assert (found.correct, found.total) == (correct, total)
    assert found.low < found.accuracy <= found.high or found.low <= found.accuracy < found.high
    assert estimate_accuracy(checks[:4]) is None


def test_a_relabelled_picture_counts_once(folder, tmp_path):
    root, _ = folder
    session = open_session(root, tmp_path)
    session.label([0], "red")
    session.label([1], "blue")
    session.label([0], "blue")
    assert session.labels == {1: "blue", 0: "blue"}
    assert session.predictions is None  # one class is left
    session.label([0], None)
    assert session.labels == {1: "blue"}


@pytest.mark.parametrize("numbers", [[-1], [30], [True], ["0"], [1.0], [None]])
def test_unknown_pictures_are_refused(folder, tmp_path, numbers):
    session = open_session(folder[0], tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        session.label(numbers, "red")
    assert not session.labels


def test_names_that_differ_in_case_only_are_refused(folder, tmp_path):
    session = open_session(folder[0], tmp_path, class_names=["Cat"])
    with pytest.raises(ValueError, match=r"only in case\. Use 'Cat'"):
        session.label([0], "cat")


def test_renaming_changes_names_only_also_after_a_restart_with_given_classes(folder, tmp_path):
    root, truth = folder
    session = open_session(root, tmp_path, class_names=["red", "empty", "blue"])
    label_all(session, truth, 9)
    before = session.predictions
    session.rename_class("red", "crimson")
    session.rename_class("empty", "void")
    names = ["crimson", "void", "blue", "green"]
    for each in (session, open_session(root, tmp_path, class_names=["red", "empty", "blue"])):
        assert each.class_names == names == list(each.predictions.names)
        assert set(each.labels.values()) == {"crimson", "blue", "green"}
        np.testing.assert_allclose(each.predictions.logits, before.logits, atol=1e-3)
    with pytest.raises(ValueError, match="'blue' exists already"):
        session.rename_class("void", "BLUE")
    session.rename_class("crimson", "Crimson")  # only in case
    session.label([0], "red")  # another class by now
    assert session.class_names == ["Crimson", "void", "blue", "green", "red"]
    for _ in range(4):
        session.undo()
    assert session.class_names == ["red", "empty", "blue", "green"]
    np.testing.assert_allclose(session.predictions.logits, before.logits, atol=1e-3)


def test_class_texts_give_guesses_before_any_label(folder, tmp_path):
    root, truth = folder
    colours = {name: np.pad(np.array(rgb, np.float32), (0, 5)) for name, rgb in COLOURS.items()}
    texts = {name: vector / np.linalg.norm(vector) for name, vector in colours.items()}
    session = open_session(
        root, tmp_path, class_names=list(COLOURS), embed_text=texts.__getitem__, embed_class=texts.__getitem__
    )
    assert session.missing_texts == list(COLOURS)
    for name in COLOURS:
        session.add_class_text(name)
    state = session_state(session)
    assert state["method"]["name"] == "zero_shot"
    assert all(truth[each["name"]] == each["guess"] for each in state["suggestions"])
    found = list_pictures(session, View(text="blue"), start=0, count=10)["pictures"]
    assert {truth[each["name"]] for each in found} == {"blue"}
    session.label([0], "new")  # a class without a text yet: texts are not used
    assert session.predictions is None or session.predictions.texts is None


def test_views(folder, tmp_path):
    root, truth = folder
    session = open_session(root, tmp_path)
    label_all(session, truth, 6)

    def names(**view):
        return [each["name"] for each in list_pictures(session, View(**view), start=0, count=100)["pictures"]]

    labelled = {session.pictures.names[number] for number in session.labels}
    assert names(order="name") == sorted(truth)
    assert set(names(show="labelled")) == labelled
    assert set(names(show="unlabelled")) == set(truth) - labelled
    assert names(order="sure", show="unlabelled") == names(order="unsure", show="unlabelled")[::-1]
    reds = names(show="class:red")
    assert {truth[name] for name in reds} <= {"red"}
    number = session.pictures.number(reds[0])
    assert names(similar_to=number)[0] == reds[0]
    assert {truth[name] for name in names(similar_to=number)[:10]} == {"red"}
    part = list_pictures(session, View(order="name"), start=28, count=100)
    assert (part["total"], [each["name"] for each in part["pictures"]]) == (30, sorted(truth)[28:])
    for view, problem in (
        (View(show="other"), "unknown"),
        (View(show="class:nobody"), "does not exist"),
        (View(order="age"), "unknown"),
        (View(similar_to=10**6), "not embedded"),
        (View(text="red"), "images only"),
    ):
        with pytest.raises(ValueError, match=problem):
            list_pictures(session, view, start=0, count=1)


def test_unreadable_and_missing_pictures(folder, tmp_path):
    root, truth = folder
    session = open_session(root, tmp_path)
    session.add_bad(4, "vanished")
    assert 4 not in session.numbers[session.suggestions.rows].tolist()
    found = list_pictures(session, View(show="unreadable"), start=0, count=10)["pictures"]
    assert [(each["number"], each["problem"]) for each in found] == [(4, "vanished")]
    assert list_pictures(session, View(), start=0, count=1)["total"] == len(truth) - 1
    session.label([0], "red")
    other = tmp_path / "other"
    make_pictures(other, per_class=1)
    (other / session.pictures.names[0]).rename(other / "renamed.png")
    moved = open_session(other, tmp_path)
    assert moved.missing_pictures == [session.pictures.names[0]]
    assert not moved.labels


def test_labels_of_other_pictures_with_the_same_names_are_ignored(tmp_path):
    make_pictures(tmp_path / "a", seed=0)
    make_pictures(tmp_path / "b", seed=1)
    session = open_session(tmp_path / "a", tmp_path / "out")
    for number in range(5):
        session.label([number], "red")
    other = open_session(tmp_path / "b", tmp_path / "out")
    assert not other.labels
    assert other.changed_pictures == set(session.pictures.names[:5])
    other.label([2], "blue")
    assert other.labels == {2: "blue"}
    (tmp_path / "c").mkdir()
    for file in (tmp_path / "a").iterdir():  # the same pictures elsewhere
        (tmp_path / "c" / file.name).write_bytes(file.read_bytes())
    assert open_session(tmp_path / "c", tmp_path / "out").labels.keys() == {0, 1, 3, 4}


def test_a_picture_that_changes_after_it_was_read_is_refused(tmp_path):
    make_pictures(tmp_path / "pictures")
    session = open_session(tmp_path / "pictures", tmp_path / "out")
    files = [tmp_path / "pictures" / name for name in session.pictures.names[:2]]
    files[0].write_bytes(files[1].read_bytes())
    files[1].unlink()
    for number, problem in ((0, "has changed since it was read"), (1, "cannot be read any more")):
        with pytest.raises(ValueError, match=problem):
            session.label([number], "red")
    assert not session.labels
    session.label([2], "red")
    (tmp_path / "pictures" / session.pictures.names[2]).unlink()
    session.label([2], None)  # a label can still be removed
    assert not session.labels


def test_given_classes_that_differ_in_case_from_used_ones_are_the_used_ones(tmp_path):
    make_pictures(tmp_path / "pictures")
    session = open_session(tmp_path / "pictures", tmp_path / "out", class_names=["hat"])
    session.label([0], "hat")
    again = open_session(tmp_path / "pictures", tmp_path / "out", class_names=["Hat", "dog"])
    assert again.class_names == ["dog", "hat"]
    again.label([1], "hat")


def test_threads_at_the_same_time_lose_nothing(folder, tmp_path):
    root, truth = folder
    session = open_session(root, tmp_path, embedded=False)
    features = colour_features(session.pictures)
    names = session.pictures.names

    def label(part):
        for number in part:
            session.label([number], truth[names[number]])
            session_state(session)

    def embed():
        for number in range(len(names)):
            session.add_features([number], features[number : number + 1])

    threads = [threading.Thread(target=label, args=(range(start, 24, 3),)) for start in range(3)]
    threads.append(threading.Thread(target=embed))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session.finish_embedding()
    expected = {number: truth[names[number]] for number in range(24)}
    assert session.labels == expected
    assert open_session(root, tmp_path).labels == expected
    assert set(session.predictions.rows.tolist()) == {session.row(number) for number in expected}
