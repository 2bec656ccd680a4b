"""Nearest neighbours among stored features, against all cosines at once."""

import sys
import tracemalloc
import types

import numpy as np
import pytest

import adapt
from adapt.embedding import nearest as module
from data.features.arrays import SUFFIXES


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Two files of features, with copies of rows across blocks of 16 rows."""
    monkeypatch.setattr(module, "_BLOCK_BYTES", 16 * 4 * 8)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(90, 8)).astype("f4")
    features[70] = features[5] * 2
    features[6] = features[5]
    np.save(tmp_path / "images.npy", features[:50])
    np.save(tmp_path / "more.npy", features[50:].astype("f2"))
    features[50:] = features[50:].astype("f2")
    return [tmp_path, tmp_path / "more.npy"], features


@pytest.mark.parametrize("k", [1, 3, 20, 90])
def test_neighbours_are_those_of_all_cosines(stored, k):
    names, features = stored
    queries = np.random.default_rng(1).normal(size=(7, 8))
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (queries, features.astype("f8"))]
    cosines = unit[0] @ unit[1].T
    found = adapt.nearest(names, queries, k)
    np.testing.assert_allclose(found.cosines, -np.sort(-cosines, axis=1)[:, :k], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(cosines, found.rows, axis=1), found.cosines, atol=1e-5)
    assert all(len(set(rows)) == k for rows in found.rows.tolist())


def test_copies_are_found(stored):
    names, features = stored
    assert set(adapt.nearest(names[0], features[5:6], 2).rows[0].tolist()) == {5, 6}
    assert set(adapt.nearest(names, features[5:6], 3).rows[0].tolist()) == {5, 6, 70}


def test_memory_does_not_grow_with_rows_times_queries(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", 1 << 16)
    np.save(tmp_path / "images.npy", np.random.default_rng(0).normal(size=(8192, 4)).astype("f4"))
    queries = np.random.default_rng(1).normal(size=(2048, 4))
    tracemalloc.start()
    found = adapt.nearest(tmp_path, queries, 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20  # all cosines of a block would be 32 MiB
    for number in (0, 1000, 2047):
        assert adapt.nearest(tmp_path, queries[number : number + 1], 2).rows.tolist() == [found.rows[number].tolist()]


def test_faiss_searches_the_blocks_where_it_is_installed(stored, monkeypatch):
    def knn(queries, block, k, *, metric):
        found = module._search_numpy(queries, block, k)
        calls.append((len(block), metric))
        return found.cosines, found.rows

    calls, (names, features) = [], stored
    expected = adapt.nearest(names, features[:4], 3)
    monkeypatch.setitem(sys.modules, "faiss", types.SimpleNamespace(knn=knn, METRIC_INNER_PRODUCT="ip"))
    found = adapt.nearest(names, features[:4], 3)
    assert found.rows.tolist() == expected.rows.tolist()
    assert calls == [(16, "ip"), (16, "ip"), (16, "ip"), (2, "ip"), (16, "ip"), (16, "ip"), (8, "ip")]


def test_what_does_not_fit_is_refused(stored, tmp_path):
    names, features = stored
    for k in (0, 91):
        with pytest.raises(ValueError, match=rf"k is {k}, and there are 90 stored rows"):
            adapt.nearest(names, features[:2], k)
    for k in (2.0, "2", True):
        with pytest.raises(ValueError, match=rf"k is {k!r}, .* Use a whole number from 1"):
            adapt.nearest(names, features[:2], k)
    with pytest.raises(ValueError, match=r"an array of \[90, 8\]; nearest takes files\. Write it with numpy\.save"):
        adapt.nearest(features, features[:2], 1)
    with pytest.raises(ValueError, match=r"queries have shape \[2, 7\], and the stored features \[50, 8\], \[40, 8\]"):
        adapt.nearest(names, features[:2, :7], 1)
    with pytest.raises(ValueError, match="the queries have a value that is not finite"):
        adapt.nearest(names, np.full((1, 8), np.nan), 1)
    features[20] = np.inf
    np.save(tmp_path / "images.npy", features[:50])
    with pytest.raises(ValueError, match=r"rows of .*images\.npy from 16 on have a value that is not finite"):
        adapt.nearest(names, features[:1], 1)
    with pytest.raises(FileNotFoundError, match=f"has no images{SUFFIXES[0]}"):
        adapt.nearest(empty(tmp_path), features[:1], 1)


def empty(folder):
    (folder / "empty").mkdir()
    return folder / "empty"
