"""Features of pictures in the background: kept, resumed, and computed again where damaged."""

import threading

import numpy as np
import pytest

from adapt.labelling.embedding import PIECE_ROWS, FeaturePiece, FeatureStore, embed_missing, load_stored
from adapt.labelling.pictures import PictureFolder
from tests.adapt.labelling.sessions import make_pictures


class Colours:
    """An encoder whose embedding is the mean colour; it counts the pictures that it has seen."""

    dim = 3

    def __init__(self, *, stop_after=None, stop=None):
        self.seen, self._stop_after, self._stop = 0, stop_after, stop

    def iterate_images(self, image, numbers, *, bad):
        for number in numbers:
            self.seen += 1
            try:
                yield np.asarray(image(number), np.float32).mean(axis=(0, 1))[None]
            except ValueError as error:
                bad[number] = error
                yield np.zeros((1, 3), np.float32)
        if self._stop_after is not None and self.seen >= self._stop_after:
            self._stop.set()


@pytest.fixture
def pictures(tmp_path):
    make_pictures(tmp_path / "pictures", per_class=100)
    (tmp_path / "pictures" / "bad.png").write_bytes(b"no picture")
    return PictureFolder(str(tmp_path / "pictures"))


def run(pictures, folder, encoder=None, stop=None):
    """Embed and return the features by number, the unreadable pictures, and the number of pictures embedded now."""
    encoder = encoder or Colours()
    found, bad = {}, {}
    store = FeatureStore(folder, 3)

    def add(numbers, features):
        found.update(zip(numbers, features, strict=True))

    missing = load_stored(pictures, store, on_features=add)
    stop = stop or threading.Event()
    embed_missing(pictures, encoder, store, missing, on_features=add, on_bad=bad.__setitem__, stop=stop)
    return found, bad, encoder.seen


def test_a_second_run_reads_what_the_first_has_computed(pictures, tmp_path):
    found, bad, seen = run(pictures, tmp_path / "store")
    assert (len(found), list(bad), seen) == (300, [pictures.number("bad.png")], 301)
    np.testing.assert_allclose([np.linalg.norm(each) for each in found.values()], 1, atol=1e-6)
    again, _, seen = run(pictures, tmp_path / "store")
    assert seen == 1  # the unreadable one is tried again
    assert all(np.array_equal(again[number], features) for number, features in found.items())


def test_an_interrupted_run_loses_at_most_one_piece(pictures, tmp_path):
    stop = threading.Event()
    found, _, seen = run(pictures, tmp_path / "store", Colours(stop_after=PIECE_ROWS, stop=stop), stop)
    assert seen == PIECE_ROWS
    again, _, rest = run(pictures, tmp_path / "store")
    assert len(again) == 300
    assert rest == 301 - len(found)


def test_changed_new_and_removed_pictures(pictures, tmp_path):
    run(pictures, tmp_path / "store")
    folder = tmp_path / "pictures"
    (folder / "IMG_000.png").unlink()
    (folder / "IMG_001.png").write_bytes((folder / "IMG_002.png").read_bytes())
    (folder / "new.png").write_bytes((folder / "IMG_003.png").read_bytes())
    changed = PictureFolder(str(folder))
    found, _, seen = run(changed, tmp_path / "store")
    assert seen == 3  # changed, new, and the unreadable one
    assert len(found) == 300
    for one, other in (("IMG_001.png", "IMG_002.png"), ("new.png", "IMG_003.png")):
        np.testing.assert_array_equal(found[changed.number(one)], found[changed.number(other)])


@pytest.mark.parametrize("damage", ["cut", "flip", "other"])
def test_damaged_pieces_are_computed_again(pictures, tmp_path, damage):
    found, _, _ = run(pictures, tmp_path / "store")
    path = sorted((tmp_path / "store").glob("piece-*.npy"))[1]
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        FeatureStore(tmp_path / "elsewhere", 4).append(FeaturePiece(["0" * 16], np.zeros((1, 4), np.float32)))
        path.write_bytes(next((tmp_path / "elsewhere").iterdir()).read_bytes())
    again, _, seen = run(pictures, tmp_path / "store")
    assert 1 < seen <= PIECE_ROWS + 1
    assert all(np.array_equal(again[number], features) for number, features in found.items())


def test_features_that_are_not_finite_stop_with_the_name(pictures, tmp_path):
    class Broken(Colours):
        def iterate_images(self, image, numbers, *, bad):
            for features in super().iterate_images(image, numbers, bad=bad):
                yield features * np.nan

    with pytest.raises(ValueError, match=r"embedding of .*\.png is not finite"):
        run(pictures, tmp_path / "store", Broken())
    assert not list((tmp_path / "store").glob("*"))


def test_two_files_with_the_same_name_as_text_are_refused(tmp_path):
    make_pictures(tmp_path, per_class=1)
    (tmp_path / "IMG_000.png").rename(tmp_path / "\\xe9.png")
    try:
        (tmp_path / "IMG_001.png").rename(tmp_path / "\udce9.png")
    except OSError as error:
        pytest.skip(f"the file system refuses names that are not UTF-8 ({error})")
    with pytest.raises(ValueError, match="two files"):
        PictureFolder(str(tmp_path))
