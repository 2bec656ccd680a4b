"""Who sees which examples and is asked what, on sets that are nothing but labels."""

import numpy as np
import pytest

from adapt.evaluation.sampling import draw_coop, draw_nested
from adapt.evaluation.tasks import TASKS, build_task, unseen
from data.fewshot.labelled import DatasetSettings, LabelledImages
from data.fewshot.open import Dataset
from data.io.fingerprint import fingerprint

SUPPORT = [0, 1, 2, 3, 4] * 5 + [0, 1, 2]  # 6, 6, 6, 5 and 5
QUERY = [4, 0, 1, 1, 2, 4, 0]  # none of class 3


def images(labels):
    labels = np.array(labels)
    return LabelledImages(labels=labels, image=None, key="{:03d}".format, fingerprint=fingerprint(labels))


def dataset(support=SUPPORT, query=QUERY, *, name="set", classes=5, shifts=None, **settings):
    return Dataset(
        name=name,
        settings=DatasetSettings(support="s", **settings),
        class_names=tuple(f"{name} {number}" for number in range(classes)),
        support=None if support is None else images(support),
        query=None if query is None else images(query),
        shifts={other: images(labels) for other, labels in (shifts or {}).items()},
    )


def build(name, of, *, shots=(1, 2), seeds=2, **options):
    return build_task(name, of, shots=shots, seeds=seeds, **options)


def drawn(task):
    """Returns of each case shots, seed and rows."""
    return [(case.shots, case.seed, case.rows.tolist()) for case in task.cases]


def asked(question):
    """Returns of each query which image it is, by the labels it has, and the classes it is told among."""
    return question.labels.tolist(), np.flatnonzero(question.classes).tolist()


def test_few_shot_draws_every_class_and_asks_all_queries_among_all_classes():
    task = build("few_shot", dataset())
    labels = np.array(SUPPORT)
    expected = [
        (k, seed, draw_nested(labels, 5, shots=k, seed=seed).rows.tolist()) for k in (1, 2) for seed in range(2)
    ]
    assert drawn(task) == expected
    for case in task.cases:
        assert case.labels.tolist() == [c for c in range(5) for _ in range(case.shots)] and not case.short
        np.testing.assert_array_equal(labels[case.rows], case.labels)
        assert unseen(task, case, task.questions[0]).all()  # queries are other images, whatever their rows
    (question,) = task.questions
    assert asked(question) == (QUERY, [0, 1, 2, 3, 4]) and question.pool_rows is None


def test_zero_shot_sees_nothing_and_asks_everything_even_of_a_pool():
    for of, labels in ((dataset(), QUERY), (dataset(query=None), SUPPORT), (dataset(support=None), QUERY)):
        task = build("zero_shot", of)
        (case,), (question,) = task.cases, task.questions
        assert len(case.rows) == 0 and asked(question) == (labels, [0, 1, 2, 3, 4])
        assert unseen(task, case, question).all()


def test_a_linear_probe_sees_all_examples_once():
    (case,) = build("linear_probe", dataset()).cases
    assert sorted(case.rows) == list(range(len(SUPPORT))) and case.shots == 0 and not case.short
    np.testing.assert_array_equal(np.array(SUPPORT)[case.rows], case.labels)


@pytest.mark.parametrize(("classes", "base"), [(5, [0, 1, 2]), (4, [0, 1])])
@pytest.mark.parametrize("query", [QUERY, None])
def test_examples_are_of_the_first_half_and_each_half_is_asked_about(classes, base, query):
    new = [c for c in range(classes) if c not in base]
    labels = [c for c in SUPPORT if c < classes]
    of = dataset(labels, query and [c for c in query if c < classes], classes=classes)
    everything = of.support.labels if query is None else of.query.labels
    for name, among in (("base_to_new", (base, new)), ("forgetting", (list(range(classes)),) * 2)):
        task = build(name, of)
        assert [question.name for question in task.questions] == ["base", "new"]
        for question, half, told in zip(task.questions, (base, new), among, strict=True):
            rows = np.flatnonzero(np.isin(everything, half))
            assert asked(question) == (everything[rows].tolist(), told)
            np.testing.assert_array_equal(question.images.rows, rows)
            np.testing.assert_array_equal(question.images.labels, question.labels)
        whole = build("few_shot", of).cases
        for case, full in zip(task.cases, whole, strict=True):
            assert case.rows.tolist() == [row for row in full.rows if labels[row] in base]
            assert case.labels.tolist() == [c for c in base for _ in range(case.shots)]


def test_a_new_class_with_few_examples_leaves_the_base_classes_what_they_have():
    of = dataset([0, 1, 2] * 4 + [3, 4], QUERY)
    for name in ("base_to_new", "forgetting"):
        task = build(name, of, shots=(2, 4), few_examples="skip")
        assert sorted({case.shots for case in task.cases}) == [2, 4] and task.notes == ()
        assert not any(case.short for case in task.cases)
    few = build("few_shot", of, shots=(1, 2), few_examples="skip")
    assert {case.shots for case in few.cases} == {1}


def test_transfer_has_examples_of_the_source_and_asks_among_the_classes_of_the_target():
    source = dataset([0, 1, 2] * 3, [0], name="source", classes=3, templates=("a {}", "the {}"))
    target = dataset(None, QUERY, name="target", metric="mean_per_class_accuracy")
    task = build("transfer", target, source=source)
    assert (task.dataset, task.metric, task.support) == ("target", "mean_per_class_accuracy", source.support)
    assert task.class_names == source.class_names + target.class_names
    assert task.templates == (source.templates,) * 3 + (target.templates,) * 5
    assert drawn(task) == drawn(build("few_shot", source))
    (question,) = task.questions
    assert (question.name, *asked(question)) == ("source", [3 + label for label in QUERY], [3, 4, 5, 6, 7])
    pool = build("transfer", dataset(SUPPORT, None, name="target"), source=source)
    assert len(pool.questions[0].labels) == len(SUPPORT)
    assert all(unseen(pool, case, pool.questions[0]).all() for case in pool.cases)


def test_all_queries_of_a_shift_are_asked_among_the_classes_that_occur_in_it():
    task = build("shift", dataset(shifts={"sketch": [3, 1, 1, 3], "paint": [4, 0, 1, 2, 3]}))
    assert [(question.name, *asked(question)) for question in task.questions] == [
        ("", QUERY, [0, 1, 2, 3, 4]),
        ("sketch", [3, 1, 1, 3], [1, 3]),
        ("paint", [4, 0, 1, 2, 3], [0, 1, 2, 3, 4]),
    ]
    assert drawn(task) == drawn(build("few_shot", dataset()))


def test_a_class_with_fewer_examples_gives_all_or_the_shots_are_left_out():
    of = dataset([0] * 6 + [1, 2, 3, 4] * 3)
    task = build("few_shot", of, shots=(2, 3, 4), seeds=1)
    assert [np.bincount(case.labels).tolist() for case in task.cases] == [[2] * 5, [3] * 5, [4, 3, 3, 3, 3]]
    assert [case.short for case in task.cases] == [False, False, True]
    assert task.notes == ("set: a class has 3 examples to draw from; 4 shots take all that there are",)
    task = build("few_shot", of, shots=(2, 3, 4), seeds=1, few_examples="skip")
    assert [case.shots for case in task.cases] == [2, 3]
    assert task.notes == ("set: a class has 3 examples to draw from; 4 shots are left out",)
    pool = build("few_shot", dataset([0] * 6 + [1, 2, 3, 4] * 3, None), shots=(2, 3), seeds=1)
    assert [np.bincount(case.labels).tolist() for case in pool.cases] == [[2] * 5, [3, 2, 2, 2, 2]]
    assert [case.short for case in pool.cases] == [False, True]
    assert pool.notes == (
        "set: a class has 2 examples to draw from; 3 shots take all but one, which leaves few queries at any shots",
    )


def test_draws_of_coop_are_those_of_its_lists_from_seed_1():
    task = build("few_shot", dataset([0] * 6 + [1, 2, 3, 4] * 3, draws="coop"), shots=(2, 4))
    labels = task.support.labels
    expected = [(k, seed, draw_coop(labels, shots=k, seed=seed + 1).rows.tolist()) for k in (2, 4) for seed in range(2)]
    assert drawn(task) == expected
    assert [case.short for case in task.cases] == [False, False, True, True]
    assert np.bincount(task.cases[-1].labels).tolist() == [4] * 5
    assert task.notes == ("set: a class has 3 examples to draw from; 4 shots draw some twice",)


def test_no_query_of_a_pool_was_seen_by_a_support_of_the_same_seed():
    for name in ("few_shot", "base_to_new", "forgetting"):
        task = build(name, dataset(query=None), shots=(1, 2, 4), seeds=3)
        for case in task.cases:
            seen = set().union(*(other.rows for other in task.cases if other.seed == case.seed))
            counted = [question.pool_rows[unseen(task, case, question)] for question in task.questions]
            assert sorted(np.concatenate(counted)) == sorted(set(range(len(SUPPORT))) - seen)
            assert set(case.rows) <= seen and len(np.concatenate(counted)) < len(SUPPORT)
            for question in task.questions:
                np.testing.assert_array_equal(np.array(SUPPORT)[question.pool_rows], question.labels)
        counted = {unseen(task, case, task.questions[0]).tobytes() for case in task.cases}
        assert len(counted) == 3  # a seed has the same queries whatever the shots


def test_every_class_of_a_pool_keeps_a_query_however_many_shots():
    task = build("few_shot", dataset(query=None), shots=(1, 100), seeds=2)
    for case in task.cases:
        left = task.questions[0].labels[unseen(task, case, task.questions[0])]
        assert left.tolist().count(0) == 1 and sorted(left) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("name", "of"),
    [(name, dataset(support=None)) for name in TASKS if name not in ("zero_shot", "transfer")]
    + [("linear_probe", dataset(query=None)), ("shift", dataset()), ("transfer", dataset())],
)
def test_what_a_set_does_not_allow_is_no_task(name, of):
    assert build(name, of) is None


def test_a_set_is_no_transfer_from_itself_or_from_one_without_examples():
    assert build("transfer", dataset(), source=dataset()) is None
    assert build("transfer", dataset(), source=dataset(support=None, name="other")) is None


def test_an_unknown_task_is_named():
    with pytest.raises(ValueError, match=r"unknown task 'sleep'; known: zero_shot, few_shot, .*, retrieval"):
        build("sleep", dataset())


def test_a_half_of_one_class_is_not_asked_about_among_its_own():
    for classes, there in ((2, False), (3, False), (4, True)):
        of = dataset(np.arange(4 * classes) % classes, np.arange(classes), classes=classes)
        assert (build("base_to_new", of) is not None) == there
        assert build("forgetting", of) is not None
