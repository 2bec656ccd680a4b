"""Features are read from every kind of file, and what cannot be read is one sentence."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from data.features.open import describe, open_features

ROWS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def write(path, array):
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        save_file({"embeddings": np.ascontiguousarray(array)}, path)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_features_are_read_as_float32(tmp_path, suffix, dtype):
    if suffix == ".npy" and dtype == "bfloat16":
        pytest.skip("a .npy file cannot hold bfloat16")
    stored = ROWS.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    features = open_features([write(tmp_path / f"x{suffix}", stored)], kind="images")
    assert len(features) == 5 and features.dim == 3 and features.ids is None
    gathered = features.gather(np.array([4, 0, 4]))
    assert gathered.dtype == np.float32
    np.testing.assert_array_equal(gathered, stored[[4, 0, 4]].astype(np.float32))
    assert dtype in describe(features, features.measure(), kind="images")


def test_several_files_are_one_collection(tmp_path):
    paths = [write(tmp_path / "a.npy", ROWS[:2]), write(tmp_path / "b.safetensors", ROWS[2:])]
    (tmp_path / "a.ids.jsonl").write_text('"x"\n7\n')
    (tmp_path / "b.ids.jsonl").write_text('"p"\n"q"\n"r"\n')
    features = open_features(paths, kind="images")
    np.testing.assert_array_equal(features.gather(np.array([3, 0, 2])), ROWS[[3, 0, 2]])
    assert features.ids == ("x", "7", "p", "q", "r")
    assert [each["samples"] for each in features.sources] == [2, 3]


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_a_folder_means_the_file_of_its_kind(tmp_path, kind):
    for name, rows in (("images", ROWS), ("texts", ROWS[:2])):
        write(tmp_path / f"{name}.npy", rows)
    assert len(open_features([tmp_path], kind=kind)) == {"images": 5, "texts": 2}[kind]


def test_statistics_are_those_of_all_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("data.features.open._CHUNK_BYTES", 48)  # two rows
    rows = (ROWS * 1e-2 + 100).astype(np.float32)
    statistics = open_features([write(tmp_path / "x.npy", rows)], kind="images").measure()
    np.testing.assert_allclose(statistics.mean, rows.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.deviation, rows.astype(np.float64).std(0), rtol=1e-9)
    unit = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
    statistics = open_features([write(tmp_path / "u.npy", unit)], kind="images").measure()
    assert statistics.unit_length and not open_features([tmp_path / "x.npy"], kind="images").measure().unit_length


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda folder: folder / "none.npy", "there is no file or folder of features"),
        (lambda folder: write(folder / "x.npy", ROWS[0]), r"has shape \[3\]; features are \[rows, dim\]"),
        (lambda folder: write(folder / "x.npy", ROWS[:0]), "with at least one row"),
        (lambda folder: write(folder / "x.npy", ROWS.astype(np.int64)), "has dtype int64"),
        (lambda folder: write(folder / "x.safetensors", ROWS.astype(np.int8)), "has dtype I8"),
        (lambda folder: cut(write(folder / "x.safetensors", ROWS)), "it is cut off"),
        (lambda folder: cut(write(folder / "x.npy", ROWS)), "cannot be read as features"),
        (lambda folder: write(folder / "x.npy", np.array([None])), "cannot be read as features"),
        (lambda folder: text(folder / "x.csv", "1,2"), "is not a file of features"),
        (lambda folder: text(folder / "x.safetensors", "{}"), "cannot be read as features"),
        (lambda folder: folder, "has no images.safetensors or images.npy"),
    ],
)
def test_a_file_that_is_not_features_is_one_sentence(tmp_path, make, problem):
    with pytest.raises((ValueError, FileNotFoundError), match=problem) as error:
        open_features([make(tmp_path)], kind="images")
    assert "\n" not in str(error.value)


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])
    return path


def text(path, content):
    path.write_text(content)
    return path


def test_rows_that_are_not_finite_are_named(tmp_path):
    rows = ROWS.copy()
    rows[3, 1] = np.nan
    features = open_features([write(tmp_path / "a.npy", ROWS), write(tmp_path / "b.npy", rows)], kind="images")
    with pytest.raises(ValueError, match=r"row 3 of .*b.npy has a value that is not finite"):
        features.measure()


def test_files_that_do_not_fit_together_are_refused(tmp_path):
    one, other = write(tmp_path / "a.npy", ROWS), write(tmp_path / "b.npy", ROWS[:, :2])
    with pytest.raises(ValueError, match=r"a.npy has 3 dimensions, but .*b.npy has 2"):
        open_features([one, other], kind="images")
    (tmp_path / "a.ids.jsonl").write_text('"x"\n')
    with pytest.raises(ValueError, match=r"has 1 ids, but a.npy has 5 rows"):
        open_features([one], kind="images")


def test_a_file_without_the_checksum_of_its_description_is_refused(tmp_path):
    write(tmp_path / "images.npy", ROWS)
    described = {"checkpoint": "f00d", "checkpoint_name": "clip", "rows": 5, "sha256": {"images.npy": "0" * 64}}
    (tmp_path / "images.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"does not have the checksum in images.json"):
        open_features([tmp_path], kind="images")
    (tmp_path / "images.json").write_text(json.dumps(described | {"sha256": {}}))
    assert open_features([tmp_path], kind="images").encoder == {"name": "clip", "fingerprint": "f00d"}
    del described["rows"]
    (tmp_path / "images.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="embeddings that are not complete"):
        open_features([tmp_path], kind="images")
