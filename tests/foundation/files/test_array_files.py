"""Arrays whose bytes have changed are never returned."""

import numpy as np
import pytest

from foundation.files.array_files import load_array, save_array
from tests.logged import logged

ARRAYS = {
    "matrix": np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32),
    "numbers": np.arange(300, dtype=np.int32),
    "nothing": np.zeros((0, 4), np.float32),
    "transposed": np.arange(12.0).reshape(3, 4).T,
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_is_read_by_us_and_by_numpy(tmp_path, name):
    save_array(tmp_path / "a.npy", ARRAYS[name])
    np.testing.assert_array_equal(load_array(tmp_path / "a.npy"), ARRAYS[name])
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", allow_pickle=False), ARRAYS[name])
    np.save(tmp_path / "plain.npy", ARRAYS[name])
    np.testing.assert_array_equal(load_array(tmp_path / "plain.npy"), ARRAYS[name])


def test_random_damage_is_logged_and_gives_none(tmp_path):
    rng, path = np.random.default_rng(1), tmp_path / "a.npy"
    save_array(path, ARRAYS["matrix"])
    whole = path.read_bytes()
    for trial in range(200):
        start, stop = sorted(rng.integers(0, len(whole) + 1, 2))
        damaged = [
            whole[:start],
            whole[:start] + bytes(len(whole) - start),
            whole[:start] + bytes(stop - start) + whole[stop:],
            whole[:start] + rng.bytes(stop - start) + whole[stop:],
        ][trial % 4]
        if damaged not in (whole, whole[:-16]):  # without the checksum: as NumPy writes it
            path.write_bytes(damaged)
            with logged() as messages:
                assert load_array(path) is None
            assert len(messages) == 1 and messages[0].startswith(f"warning: {path} is damaged and not used (")
    path.unlink()
    with logged() as messages:
        assert load_array(path) is None and not messages
