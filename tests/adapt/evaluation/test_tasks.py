"""Support sets, query sets and candidate classes of every task, on datasets that are nothing but labels."""

import numpy as np
import pytest

from adapt.evaluation.protocols.support_protocol import SupportProtocol
from adapt.evaluation.sampling import draw_coop, draw_nested
from adapt.evaluation.tasks import TASKS, build_task, counted_queries
from data.fewshot.labelled import DatasetSettings, LabelledImages
from data.fewshot.open import Dataset
from data.io.fingerprint import fingerprint

SUPPORT = [0, 1, 2, 3, 4] * 5 + [0, 1, 2]  # 6, 6, 6, 5 and 5 images
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
    """Return shots, seed and rows of each support set."""
    return [(each.shots, each.seed, each.rows.tolist()) for each in task.support_sets]


def asked(query_set):
    """Return the labels of the queries, which identify the images, and the candidate classes."""
    return query_set.labels.tolist(), np.flatnonzero(query_set.candidates).tolist()


def test_few_shot_draws_every_class_and_classifies_all_queries_among_all_classes():
    task = build("few_shot", dataset())
    labels = np.array(SUPPORT)
    expected = [
        (k, seed, draw_nested(labels, 5, shots=k, seed=seed).rows.tolist()) for k in (1, 2) for seed in range(2)
    ]
    assert drawn(task) == expected
    for support_set in task.support_sets:
        assert support_set.labels.tolist() == [c for c in range(5) for _ in range(support_set.shots)]
        assert not support_set.short
        np.testing.assert_array_equal(labels[support_set.rows], support_set.labels)
        assert counted_queries(task, support_set, task.query_sets[0]).all()  # other images, whatever their rows
    (query_set,) = task.query_sets
    assert asked(query_set) == (QUERY, [0, 1, 2, 3, 4]) and query_set.pool_rows is None


def test_zero_shot_has_no_support_and_counts_all_queries_even_of_a_pool():
    for of, labels in ((dataset(), QUERY), (dataset(query=None), SUPPORT), (dataset(support=None), QUERY)):
        task = build("zero_shot", of)
        (support_set,), (query_set,) = task.support_sets, task.query_sets
        assert len(support_set.rows) == 0 and asked(query_set) == (labels, [0, 1, 2, 3, 4])
        assert counted_queries(task, support_set, query_set).all()


def test_a_linear_probe_has_every_support_image_once():
    (support_set,) = build("linear_probe", dataset()).support_sets
    assert sorted(support_set.rows) == list(range(len(SUPPORT))) and support_set.shots == 0 and not support_set.short
    np.testing.assert_array_equal(np.array(SUPPORT)[support_set.rows], support_set.labels)


@pytest.mark.parametrize(("classes", "base"), [(5, [0, 1, 2]), (4, [0, 1])])
@pytest.mark.parametrize("query", [QUERY, None])
def test_support_is_of_the_first_half_of_the_classes_and_each_half_has_a_query_set(classes, base, query):
    new = [c for c in range(classes) if c not in base]
    labels = [c for c in SUPPORT if c < classes]
    of = dataset(labels, query and [c for c in query if c < classes], classes=classes)
    everything = of.support.labels if query is None else of.query.labels
    for name, among in (("base_to_new", (base, new)), ("forgetting", (list(range(classes)),) * 2)):
        task = build(name, of)
        assert [query_set.name for query_set in task.query_sets] == ["base", "new"]
        for query_set, half, candidates in zip(task.query_sets, (base, new), among, strict=True):
            rows = np.flatnonzero(np.isin(everything, half))
            assert asked(query_set) == (everything[rows].tolist(), candidates)
            np.testing.assert_array_equal(query_set.images.rows, rows)
            np.testing.assert_array_equal(query_set.images.labels, query_set.labels)
        whole = build("few_shot", of).support_sets
        for support_set, full in zip(task.support_sets, whole, strict=True):
            assert support_set.rows.tolist() == [row for row in full.rows if labels[row] in base]
            assert support_set.labels.tolist() == [c for c in base for _ in range(support_set.shots)]


def test_a_new_class_with_few_images_does_not_limit_the_shots_of_the_base_classes():
    of = dataset([0, 1, 2] * 4 + [3, 4], QUERY)
    for name in ("base_to_new", "forgetting"):
        task = build(name, of, shots=(2, 4), few_examples="skip")
        assert sorted({each.shots for each in task.support_sets}) == [2, 4] and task.notes == ()
        assert not any(each.short for each in task.support_sets)
    few = build("few_shot", of, shots=(1, 2), few_examples="skip")
    assert {each.shots for each in few.support_sets} == {1}


def test_transfer_has_support_of_the_source_and_candidates_of_the_target():
    source = dataset([0, 1, 2] * 3, [0], name="source", classes=3, templates=("a {}", "the {}"))
    target = dataset(None, QUERY, name="target", metric="mean_per_class_accuracy")
    task = build("transfer", target, source=source)
    assert (task.dataset, task.metric, task.support_images) == ("target", "mean_per_class_accuracy", source.support)
    assert task.class_names == source.class_names + target.class_names
    assert task.templates == (source.templates,) * 3 + (target.templates,) * 5
    assert drawn(task) == drawn(build("few_shot", source))
    (query_set,) = task.query_sets
    assert (query_set.name, *asked(query_set)) == ("source", [3 + label for label in QUERY], [3, 4, 5, 6, 7])
    pool = build("transfer", dataset(SUPPORT, None, name="target"), source=source)
    assert len(pool.query_sets[0].labels) == len(SUPPORT)
    assert all(counted_queries(pool, each, pool.query_sets[0]).all() for each in pool.support_sets)


def test_queries_of_a_shift_are_classified_among_the_classes_that_occur_in_it():
    task = build("shift", dataset(shifts={"sketch": [3, 1, 1, 3], "paint": [4, 0, 1, 2, 3]}))
    assert [(query_set.name, *asked(query_set)) for query_set in task.query_sets] == [
        ("", QUERY, [0, 1, 2, 3, 4]),
        ("sketch", [3, 1, 1, 3], [1, 3]),
        ("paint", [4, 0, 1, 2, 3], [0, 1, 2, 3, 4]),
    ]
    assert drawn(task) == drawn(build("few_shot", dataset()))


def test_a_class_with_fewer_images_than_shots_gives_all_or_the_shots_are_skipped():
    of = dataset([0] * 6 + [1, 2, 3, 4] * 3)
    task = build("few_shot", of, shots=(2, 3, 4), seeds=1)
    assert [np.bincount(each.labels).tolist() for each in task.support_sets] == [[2] * 5, [3] * 5, [4, 3, 3, 3, 3]]
    assert [each.short for each in task.support_sets] == [False, False, True]
    assert task.notes == ("set: the smallest class has 3 images to draw from; 4 shots use all of them",)
    task = build("few_shot", of, shots=(2, 3, 4), seeds=1, few_examples="skip")
    assert [each.shots for each in task.support_sets] == [2, 3]
    assert task.notes == ("set: the smallest class has 3 images to draw from; 4 shots are skipped",)
    pool = build("few_shot", dataset([0] * 6 + [1, 2, 3, 4] * 3, None), shots=(2, 3), seeds=1)
    assert [np.bincount(each.labels).tolist() for each in pool.support_sets] == [[2] * 5, [3, 2, 2, 2, 2]]
    assert [each.short for each in pool.support_sets] == [False, True]
    assert pool.notes == (
        "set: the smallest class has 2 images to draw from, besides one kept as a query; 3 shots use all of them, "
        "which leaves few queries at every number of shots",
    )


def test_coop_draws_are_those_of_its_lists_from_seed_1():
    task = build("few_shot", dataset([0] * 6 + [1, 2, 3, 4] * 3, draws="coop"), shots=(2, 4))
    labels = task.support_images.labels
    expected = [(k, seed, draw_coop(labels, shots=k, seed=seed + 1).rows.tolist()) for k in (2, 4) for seed in range(2)]
    assert drawn(task) == expected
    assert [each.short for each in task.support_sets] == [False, False, True, True]
    assert np.bincount(task.support_sets[-1].labels).tolist() == [4] * 5
    assert task.notes == ("set: the smallest class has 3 images to draw from; 4 shots repeat some of them",)


def test_no_counted_query_of_a_pool_is_in_a_support_set_of_the_same_seed():
    for name in ("few_shot", "base_to_new", "forgetting", "open_set"):
        task = build(name, dataset(query=None), shots=(1, 2, 4), seeds=3)
        for support_set in task.support_sets:
            seen = set().union(*(other.rows for other in task.support_sets if other.seed == support_set.seed))
            counted = [
                query_set.pool_rows[counted_queries(task, support_set, query_set)] for query_set in task.query_sets
            ]
            assert sorted(np.concatenate(counted)) == sorted(set(range(len(SUPPORT))) - seen)
            assert set(support_set.rows) <= seen and len(np.concatenate(counted)) < len(SUPPORT)
            for query_set in task.query_sets:
                np.testing.assert_array_equal(np.array(SUPPORT)[query_set.pool_rows], query_set.labels)
        counted = {counted_queries(task, each, task.query_sets[0]).tobytes() for each in task.support_sets}
        assert len(counted) == 3  # a seed has the same queries at every number of shots


def test_every_class_of_a_pool_keeps_a_query_at_any_number_of_shots():
    task = build("few_shot", dataset(query=None), shots=(1, 100), seeds=2)
    for support_set in task.support_sets:
        left = task.query_sets[0].labels[counted_queries(task, support_set, task.query_sets[0])]
        assert left.tolist().count(0) == 1 and sorted(left) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("name", "of"),
    [(name, dataset(support=None)) for name in TASKS if name not in ("zero_shot", "transfer")]
    + [("linear_probe", dataset(query=None)), ("shift", dataset()), ("transfer", dataset())],
)
def test_an_unsupported_task_is_none(name, of):
    assert build(name, of) is None


def test_transfer_from_the_same_set_or_from_one_without_support_is_none():
    assert build("transfer", dataset(), source=dataset()) is None
    assert build("transfer", dataset(), source=dataset(support=None, name="other")) is None


def test_an_unknown_task_raises():
    with pytest.raises(ValueError, match=r"unknown task 'sleep'\. Known: zero_shot, few_shot, .*, retrieval$"):
        build("sleep", dataset())


def test_base_to_new_needs_two_classes_per_half():
    for classes, there in ((2, False), (3, False), (4, True)):
        of = dataset(np.arange(4 * classes) % classes, np.arange(classes), classes=classes)
        assert (build("base_to_new", of) is not None) == there
        assert build("forgetting", of) is not None


def test_unknown_classes_of_an_open_set_have_no_support_and_are_no_candidates():
    for of in (dataset(), dataset(query=None)):
        task = build("open_set", of, shots=(1, 2))
        assert task.class_names == of.class_names[:3] and len(task.templates) == 3
        known, unknown = task.query_sets
        everything = np.array(SUPPORT if of.query is None else QUERY)
        assert asked(known) == (everything[everything < 3].tolist(), [0, 1, 2])
        assert asked(unknown) == (everything[everything >= 3].tolist(), [0, 1, 2])
        for support_set in task.support_sets:
            assert set(support_set.labels.tolist()) == {0, 1, 2} and len(support_set.rows) == 3 * support_set.shots
            assert counted_queries(task, support_set, unknown).all()
    assert build("open_set", dataset(support=[0, 1, 2], query=[0, 1, 2], classes=3)) is None


def test_every_task_draws_by_its_protocol_and_notes_classes_without_images():
    for name in ("few_shot", "base_to_new", "open_set", "linear_probe"):
        task = build(name, dataset(), protocol=SupportProtocol("zipf", 1.0, 0.4))
        assert task.protocol == ("zipf", 1.0, 0.4)
        for each in task.support_sets:
            right = np.array(SUPPORT)[each.rows]
            assert (each.labels != right).sum() == each.wrong_labels == round(0.4 * len(right))
            assert set(each.labels.tolist()) <= set(right.tolist()) | set(range(5 if "_new" not in name else 3))
    task = build("few_shot", dataset(classes=6, draws="coop"), protocol=SupportProtocol("natural"))
    assert task.notes[:2] == (
        "set: no support images of 1 of 6 classes: set 5",
        "set: CoOp's draws are balanced; natural support sets are drawn instead",
    )
    assert all(each.short for each in task.support_sets)


@pytest.mark.parametrize("name", ["base_to_new", "forgetting", "open_set"])
@pytest.mark.parametrize("query", [[0, 1, 2, 0], [3, 4, 3]])
def test_a_query_split_without_queries_of_a_half_does_not_support_tasks_of_halves(name, query):
    assert build(name, dataset(query=query)) is None


@pytest.mark.parametrize("balance", ["balanced", "natural", "zipf"])
def test_a_pool_with_one_image_per_class_has_no_support_sets(balance):
    task = build("few_shot", dataset(support=[0, 1, 2, 3, 4], query=None), protocol=SupportProtocol(balance, 1.0))
    assert task.support_sets == ()


def test_wrong_labels_are_those_of_classes_that_have_support():
    pool = dataset(support=[0, 1] * 8 + [2], query=None, classes=3)  # the only image of class 2 stays a query
    task = build("few_shot", pool, shots=(4,), seeds=20, protocol=SupportProtocol(label_noise=0.5))
    assert {label for each in task.support_sets for label in each.labels.tolist()} == {0, 1}
