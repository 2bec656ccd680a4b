"""Another evaluation in a folder that has results: nobody can take the rows of one for those of the other."""

import numpy as np
import pytest

from adapt.evaluation.config import EvaluateSettings
from adapt.evaluation.results import Unit, merge, read_results
from adapt.evaluation.stored.run import evaluate_features
from foundation.shard import Shard
from tests.logged import logged


@pytest.fixture
def features(tmp_path):
    """A folder with the features of two data sets by an encoder."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 4)
    (tmp_path / "tiny").mkdir()
    for name in ("birds", "fish"):
        parts = {part: rng.normal(size=(12, 8)) + np.eye(8)[labels] for part in ("support", "query")}
        np.savez(tmp_path / "tiny" / f"{name}.npz", **parts, support_labels=labels, query_labels=labels)
    return tmp_path / "tiny"


def settings(features, shots, methods=("prototypes",)):
    return EvaluateSettings(features=(str(features),), shots=(shots,), seeds=2, methods=methods)


class StoppedError(Exception):
    pass


def interrupt(monkeypatch, *, after=0):
    """Let the evaluation fail instead of writing a unit, after it wrote `after` of them."""
    written, write = [], Unit.write

    def fail(unit, *args, **named):
        if len(written) == after:
            raise StoppedError
        written.append(unit)
        write(unit, *args, **named)

    monkeypatch.setattr(Unit, "write", fail)


@pytest.mark.parametrize("after", [0, 1])
def test_an_interrupted_evaluation_with_other_settings_leaves_no_rows_of_the_former_one(
    features, tmp_path, monkeypatch, after
):
    out = tmp_path / "out"
    evaluate_features(settings(features, 1), out=out)
    with monkeypatch.context() as patch, logged() as messages:
        interrupt(patch, after=after)
        with pytest.raises(StoppedError):
            evaluate_features(settings(features, 2), out=out)
    assert sum("is of other settings and is removed" in message for message in messages) == 1
    with pytest.raises(FileNotFoundError, match="running or was interrupted"):
        read_results(out)
    assert not (out / "SHA256SUMS").exists()
    assert {row["shots"] for row in evaluate_features(settings(features, 2), out=out)} == {2}
    assert {row["shots"] for row in read_results(out)} == {2}


def test_the_former_settings_give_their_rows_again_without_computation(features, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = evaluate_features(settings(features, 1), out=out)
    evaluate_features(settings(features, 2), out=out)
    interrupt(monkeypatch)
    assert evaluate_features(settings(features, 1), out=out) == first == read_results(out)


def test_the_same_settings_leave_the_file_of_results(features, tmp_path):
    evaluate_features(settings(features, 1), out=tmp_path)
    with logged() as messages:
        evaluate_features(settings(features, 1), out=tmp_path)
    assert not any("removed" in message for message in messages) and read_results(tmp_path)


def test_a_shard_whose_units_were_finished_by_other_settings_removes_their_results(features, tmp_path):
    evaluate_features(EvaluateSettings(**vars(settings(features, 1)) | {"datasets": ("birds",)}), out=tmp_path)
    evaluate_features(settings(features, 1), out=tmp_path, shard=Shard(index=0, count=2))  # of birds, nothing to do
    with pytest.raises(FileNotFoundError, match="running or was interrupted"):
        read_results(tmp_path)
    evaluate_features(settings(features, 1), out=tmp_path, shard=Shard(index=1, count=2))
    assert {row["dataset"] for row in read_results(tmp_path)} == {"birds", "fish"}


def test_a_shard_that_ends_while_another_one_writes_the_results_leaves_them(tmp_path, monkeypatch):
    first, last = (Unit(name, name) for name in ("first", "last"))
    units, read = (first, last), Unit.read
    first.write(tmp_path, [{"number": 1}])

    def other_shard_finishes(unit, out):
        rows = read(unit, out)
        if unit == last and rows is None:
            monkeypatch.setattr(Unit, "read", read)
            last.write(tmp_path, [{"number": 2}])
            merge(tmp_path, units)
        return rows

    monkeypatch.setattr(Unit, "read", other_shard_finishes)
    merged = merge(tmp_path, units)
    assert merged.rows == read_results(tmp_path) == [{"number": 1}, {"number": 2}] and not merged.missing
