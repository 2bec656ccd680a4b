"""Nearest neighbours among stored features, against all cosines at once."""

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


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_neighbours_in_a_block_of_many_rows(tmp_path, dtype):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2051, 5)).astype(dtype)
    np.save(tmp_path / "features.npy", features)
    queries = rng.normal(size=(3, 5))
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (queries, features.astype("f8"))]
    found = adapt.nearest(tmp_path / "features.npy", queries, 4)
    np.testing.assert_array_equal(found.rows, np.argsort(-unit[0] @ unit[1].T, axis=1)[:, :4])


def test_memory_does_not_grow_with_rows_times_queries():
    queries, rows = (np.zeros((count, 8), np.float32) for count in (20_000, 8192))
    needed = module._search_block.lower(queries, rows, len(rows), 2).compile().memory_analysis().temp_size_in_bytes
    assert needed < 200 << 20  # all cosines would be 625 MiB


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
