"""The pictures that a person labels next."""

import itertools

import numpy as np
import pytest

from adapt.adapters.ops import normalize_numpy
from adapt.labelling import chooser as chooser_module
from adapt.labelling.chooser import Chooser

NONE = np.empty(0, np.int64)


def clusters(sizes, *, dim=32, noise=0.05, seed=0):
    """Return unit features of well-separated clusters, in random order, and the cluster of each."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centers = np.linalg.qr(rng.standard_normal((dim, len(sizes))))[0].T
    return normalize_numpy(centers[labels] + noise * rng.standard_normal((len(labels), dim))).astype(np.float32), labels


def created(features, **settings):
    chooser = Chooser(**settings)
    chooser.add(features)
    chooser.update_pool(features)
    return chooser


def choose(chooser, features, count=12, *, labelled=NONE, logits=None, open_rows=None):
    open_rows = np.ones(len(features), bool) if open_rows is None else open_rows
    nearest = (features @ features[labelled].T).max(axis=1, initial=-np.inf)
    return chooser.choose(
        count, features=features, labelled=labelled, nearest=nearest, logits=logits, open_rows=open_rows
    )


def class_cosines(features, labelled, labels):
    known = np.unique(labels[labelled])
    return features @ normalize_numpy(np.stack([features[labelled[labels[labelled] == c]].mean(0) for c in known])).T


def label_by_suggestion(features, labels, clicks):
    chooser, labelled = created(features), NONE
    for _ in range(clicks):
        logits = class_cosines(features, labelled, labels) if len(set(labels[labelled])) > 1 else None
        labelled = np.append(labelled, choose(chooser, features, 1, labelled=labelled, logits=logits).rows)
    return labelled


@pytest.mark.parametrize(("sizes", "clicks"), [([30] * 20, 20), ([200, 100, 50, 25, 12, 12, 12], 10)])
def test_about_as_many_clicks_as_clusters_find_all_clusters(sizes, clicks):
    features, labels = clusters(sizes)
    assert set(labels[choose(created(features), features, clicks).rows]) == set(range(len(sizes)))
    assert set(labels[label_by_suggestion(features, labels, clicks)]) == set(range(len(sizes)))


def test_labelled_closed_and_repeated_rows_are_never_suggested():
    features, labels = clusters([20] * 5)
    chooser = created(features, pool_size=40)
    labelled, open_rows = np.arange(0, 100, 3), np.arange(100) % 2 == 0
    logits = class_cosines(features, labelled, labels)
    rows = choose(chooser, features, 100, labelled=labelled, logits=logits, open_rows=open_rows).rows
    assert len(rows) == len(set(rows)) > 0
    assert open_rows[rows].all() and not set(rows) & set(labelled)
    everything = choose(chooser, features, 200, labelled=labelled, logits=logits, open_rows=open_rows).rows
    assert set(everything) <= set(np.flatnonzero(open_rows)) - set(labelled)


def test_fewer_open_pictures_than_asked_for_are_all_suggested():
    features, _ = clusters([20] * 5)
    open_rows = np.isin(np.arange(100), [3, 50, 97])
    assert sorted(choose(created(features, pool_size=10), features, open_rows=open_rows).rows) == [3, 50, 97]
    assert len(choose(created(features), features, open_rows=np.zeros(100, bool)).rows) == 0
    assert len(choose(created(features), features, 0).rows) == 0


def test_no_picture_and_one_picture():
    empty = np.empty((0, 8), np.float32)
    assert choose(Chooser(), empty).rows.shape == (0,)
    chooser = created(empty)
    one = np.eye(1, 8, dtype=np.float32)
    chooser.add(one)
    assert choose(chooser, one).rows.tolist() == [0] and choose(chooser, one).reasons == ("representative",)
    assert choose(chooser, one, labelled=np.array([0])).rows.tolist() == []


def test_copies_are_not_suggested_together_but_after_each_other():
    features, _ = clusters([5] * 4)
    features = np.tile(features, (3, 1))
    chooser = created(features)
    rows = choose(chooser, features, 60).rows
    assert len(rows) == 20 and len(set(rows % 20)) == 20
    assert len(choose(chooser, features, 60, labelled=np.arange(20)).rows) == 20
    same = np.repeat(features[:1], 7, axis=0)
    assert len(choose(created(same), same).rows) == 1


def test_a_seed_gives_the_same_pool_and_suggestions_however_pictures_are_added():
    features, labels = clusters([40] * 10)
    labelled = np.arange(0, 60, 2)
    logits = class_cosines(features, labelled, labels)
    found = []
    for pieces in ([400], [1, 399], [100] * 4, [7] * 57 + [1]):
        chooser = Chooser(seed=3, pool_size=64)
        for start, end in itertools.pairwise(np.cumsum([0, *pieces])):
            chooser.add(features[start:end])
            if len(pieces) == 4:
                choose(chooser, features[:end], open_rows=np.ones(end, bool))
        chooser.update_pool(features)
        found.append((chooser.pool, choose(chooser, features, labelled=labelled, logits=logits)))
    for pool, suggested in found[1:]:
        assert np.array_equal(pool, found[0][0])
        assert np.array_equal(suggested.rows, found[0][1].rows) and suggested.reasons == found[0][1].reasons
    assert not np.array_equal(created(features, seed=4, pool_size=64).pool, found[0][0])


def reference(features, pool, labelled, logits, count):
    """Return the greedy choice by the equations of `Chooser`, in float64 and without shortcuts."""
    x = features.astype(np.float64)
    distance = ((x[:, None] - x[None]) ** 2).sum(-1)
    near = np.sort(distance[np.ix_(pool[:256], pool)], axis=1)[:, 20]
    kernel = np.exp(-distance / np.median(near))
    free = np.isin(pool, labelled, invert=True)
    margin = np.diff(np.sort(logits[pool], axis=1)[:, -2:], axis=1)[:, 0].astype(np.float64)
    u = np.exp(-margin / margin[free].mean())
    share = 1 - logits.shape[1] / len(labelled)
    weights = free * (1 - share + share * u / u[free].mean())
    chosen, gains = list(labelled), []
    for _ in range(count):
        cover = kernel[chosen][:, pool].max(axis=0)
        gain = (np.maximum(kernel[pool][:, pool] - cover, 0) @ weights) * free
        chosen.append(pool[gain.argmax()])
        gains.append(gain.max())
    return np.array(chosen[len(labelled) :]), np.array(gains), kernel


def test_the_greedy_choice_equals_the_float64_reference():
    features, labels = clusters([30] * 8, noise=0.3)
    labelled = np.random.default_rng(1).permutation(240)[:24]
    logits = class_cosines(features, labelled, labels)
    chooser = created(features, pool_size=150)
    expected, gains, kernel = reference(features, chooser.pool, labelled, logits, 15)
    rows = choose(chooser, features, 15, labelled=labelled, logits=logits).rows
    assert np.array_equal(rows, expected)
    np.testing.assert_allclose(chooser._kernel, kernel[np.ix_(chooser.pool, chooser.pool)], atol=1e-5)
    assert (np.diff(gains) <= 1e-12).all()  # submodular: the bounds of the lazy search hold


def test_removing_a_label_is_the_same_as_never_adding_it():
    features, _ = clusters([30] * 8, noise=0.3)
    chooser = created(features)
    before = choose(chooser, features, labelled=np.array([4, 9]))
    choose(chooser, features, labelled=np.array([4, 9, before.rows[0]]))
    after = choose(chooser, features, labelled=np.array([9, 4]))
    assert np.array_equal(before.rows, after.rows)


def test_the_pool_is_drawn_again_when_half_of_it_is_closed():
    features, _ = clusters([100] * 4)
    chooser = created(features, pool_size=50)
    first = chooser.pool
    choose(chooser, features, labelled=first[:25])
    assert np.array_equal(chooser.pool, first)
    choose(chooser, features, labelled=first[:26])
    assert not set(chooser.pool) & set(first[:26]) and len(chooser.pool) == 50
    labelled = NONE
    for _ in range(40):  # every picture is suggested in the end
        labelled = np.append(labelled, choose(chooser, features, labelled=labelled).rows)
    assert sorted(labelled) == list(range(400))


def test_new_pictures_enter_the_pool_when_they_are_many_or_when_it_is_updated():
    features, _ = clusters([100] * 4)
    chooser = created(features[:350], pool_size=50)
    first = chooser.pool
    chooser.add(features[350:360])
    choose(chooser, features[:360])
    assert np.array_equal(chooser.pool, first)
    chooser.add(features[360:])
    choose(chooser, features)
    assert np.array_equal(chooser.pool, created(features, pool_size=50).pool)
    assert not np.array_equal(chooser.pool, first)
    later = created(features[:390], pool_size=50)
    later.add(features[390:])
    later.update_pool(features)
    assert np.array_equal(later.pool, chooser.pool)


def test_reasons_name_uncertain_and_far_pictures():
    features, labels = clusters([50] * 3)
    between = normalize_numpy(features[labels == 0][:20] + features[labels == 1][:20])
    features = np.concatenate([features, between])
    labelled = np.concatenate([np.flatnonzero(labels == label)[:5] for label in (0, 1)])
    logits = class_cosines(features, labelled, np.append(labels, [9] * 20))
    suggested = choose(created(features), features, 12, labelled=labelled, logits=logits)
    by_reason = dict(zip(suggested.reasons, suggested.rows, strict=True))
    assert labels[by_reason["far"]] == 2
    assert by_reason["uncertain"] >= 150 or labels[by_reason["uncertain"]] == 2
    assert set(choose(created(features), features).reasons) == {"representative"}


def test_one_of_five_suggestions_is_the_next_of_a_random_order():
    features, _ = clusters([50] * 4)
    chooser, labelled, drawn = created(features, random_every=5, pool_size=50), NONE, []
    for click in range(40):
        suggested = choose(chooser, features, labelled=labelled)
        assert len(set(suggested.rows)) == 12
        assert [place for place, reason in enumerate(suggested.reasons) if reason == "random"] == [
            place for place in range(12) if (click + place) % 5 == 4
        ]
        drawn += [suggested.rows[0]] * (suggested.reasons[0] == "random")
        labelled = np.append(labelled, suggested.rows[0])
    order = np.random.default_rng(0).random(200).argsort().tolist()
    places = [order.index(row) for row in drawn]
    assert len(drawn) == 8 and places == sorted(places) and places[-1] < 14
    everything = choose(created(features, random_every=1), features, 300)
    assert everything.rows.tolist() == order and set(everything.reasons) == {"random"}


def test_wrong_shapes_are_named():
    features, _ = clusters([5] * 4)
    chooser = created(features)
    with pytest.raises(ValueError, match=r"features have shape \[2, 3\]; they must be \[rows, 32\]"):
        chooser.add(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="open_rows has 3 rows, but 20 pictures were added"):
        choose(chooser, features, open_rows=np.ones(3, bool))
    wrong = {"labelled": np.array([0, 20]), "nearest": np.zeros(20), "logits": None, "open_rows": np.ones(20, bool)}
    with pytest.raises(ValueError, match="labelled has row 20; there are 20 pictures"):
        chooser.choose(1, features=features, **wrong)
    with pytest.raises(ValueError, match="nearest has 3 rows, but 20 pictures were added"):
        chooser.choose(1, features=features, **wrong | {"labelled": NONE, "nearest": np.zeros(3)})
    with pytest.raises(ValueError, match="pool_size is 0"):
        Chooser(pool_size=0)


def test_memory_does_not_grow_with_the_pictures_but_for_a_number_each():
    chooser = Chooser(pool_size=100)
    rng = np.random.default_rng(0)
    features = normalize_numpy(rng.standard_normal((10_000, 16)))
    for start in range(0, 10_000, 500):
        chooser.add(features[start : start + 500])
        chooser.update_pool(features[: start + 500])
    sizes = {name: value.nbytes for name, value in vars(chooser).items() if isinstance(value, np.ndarray)}
    assert sum(sizes.values()) <= 8 * 10_000 + 8 * 100**2 + 100 * (4 * 16 + 8 + 4)
    assert chooser_module.POOL_SIZE == 2000
