"""Checkpoints are verified when they are read, and the right ones are kept."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrain.checkpointing.best import BestCheckpoints
from pretrain.checkpointing.checksums import checksums, checksums_on_host, differences
from pretrain.checkpointing.manager import Checkpoints, restore_parameters
from pretrain.distributed import sharding
from pretrain.train_step import TrainState
from tests.logged import logged


def state_of(step: int) -> TrainState:
    rng = np.random.default_rng(step)
    parameters = {"model": {"kernel": jnp.asarray(rng.normal(size=(64, 33)), jnp.float32)}}
    return TrainState(jnp.asarray(step, jnp.int32), parameters, {"mean": jnp.asarray(rng.normal(size=7), jnp.bfloat16)})


def shapes(state: TrainState) -> TrainState:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)


def same(one, other) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), one, other)))


def saved(folder: pathlib.Path, steps, **settings) -> pathlib.Path:
    checkpoints = Checkpoints(folder / "checkpoints", **settings)
    for step in steps:
        checkpoints.save(state_of(step))
    checkpoints.close()
    return folder / "checkpoints"


def steps_in(folder: pathlib.Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in folder.iterdir() if path.name[5:].isdigit())


def restored(folder: pathlib.Path) -> TrainState:
    checkpoints = Checkpoints(folder, keep=9)
    try:
        return checkpoints.restore(shapes(state_of(0)))
    finally:
        checkpoints.close()


def test_a_checksum_detects_flipped_bits_and_exchanged_numbers():
    array = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    whole = checksums_on_host({"a": array})
    for place in range(array.size):
        for bit in range(32):
            flipped = array.copy()
            flipped.reshape(-1).view(np.uint32)[place] ^= np.uint32(1 << bit)
            assert checksums_on_host({"a": flipped}) != whole
    exchanged = array.copy()
    exchanged[0, 0], exchanged[4, 6] = array[4, 6], array[0, 0]
    assert differences(whole, checksums_on_host({"a": exchanged})) == ["a"]
    zero = np.zeros(1, np.float32)
    assert checksums_on_host({"a": zero}) != checksums_on_host({"a": -zero})


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.int8])
@pytest.mark.parametrize("shape", [(), (1,), (5, 7), (3, 4, 5), (4_194_309,)])
def test_checksums_are_the_same_on_devices_and_on_the_host(dtype, shape):
    tree = {"a": jnp.asarray(np.random.default_rng(1).normal(size=shape) * 50, dtype)}
    assert checksums(tree) == checksums_on_host(jax.tree.map(np.asarray, tree))


def test_checksums_do_not_depend_on_the_sharding():
    mesh = sharding.create_mesh(1)
    array = np.random.default_rng(2).normal(size=(8, 6)).astype(np.float32)
    spread = jax.device_put(array, sharding.batch_sharding(mesh))
    assert checksums({"a": spread}) == checksums_on_host({"a": array})


def files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


def cut(path: pathlib.Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def in_a_process(check, *arguments: str) -> None:
    """Run a check of this file in a new process: reading damaged storage leaves threads behind."""
    program = f"import sys; from {__name__} import {check.__name__} as check; check(*sys.argv[1:])"
    ran = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_reported_and_set_aside_or_still_reads_as_saved(tmp_path, harm):
    in_a_process(check_damage, str(tmp_path), harm)


def check_damage(tmp: str, harm: str) -> None:
    tmp_path = pathlib.Path(tmp)
    whole = saved(tmp_path, (2, 4))
    fell_back = 0
    for number, path in enumerate(files_of(whole / "step_4")):
        folder = shutil.copytree(whole, tmp_path / str(number) / "checkpoints")
        {"flip": flip, "cut": cut, "remove": os.remove}[harm](folder / path.relative_to(whole))
        with logged() as said:
            state = restored(folder)
            assert same(state, state_of(int(state.step)))
            step, parameters = restore_parameters(folder)
        assert same(parameters, state_of(step).parameters)
        if state.step == 2:
            fell_back += 1
            assert said[0].startswith("warning: the checkpoint of step 4 cannot be read: ")
            assert said[1] == "falling back to the checkpoint of step 2"
            assert steps_in(folder) == [2] and steps_in(folder.parent / "damaged_checkpoints") == [4]
    assert fell_back >= 2


def test_an_export_reads_the_newest_readable_checkpoint_or_the_named_one(tmp_path):
    in_a_process(check_exports, str(tmp_path))


def check_exports(tmp: str) -> None:
    folder = saved(pathlib.Path(tmp), (2, 4))
    largest = max(files_of(folder / "step_4"), key=lambda path: path.stat().st_size)
    flip(largest)
    with logged() as said:
        assert restore_parameters(folder)[0] == 2 and "step 4 cannot be read" in said[0]
    with pytest.raises(OSError, match=r"no checkpoint in .* can be read \(step 4: "):
        restore_parameters(folder, step=4)
    with pytest.raises(ValueError, match=r"has no checkpoint of step 3\. It has: 2, 4"):
        restore_parameters(folder, step=3)


def test_if_no_checkpoint_is_readable_the_run_does_not_start_again(tmp_path):
    in_a_process(check_no_readable_checkpoint, str(tmp_path))


def check_no_readable_checkpoint(tmp: str) -> None:
    folder = saved(pathlib.Path(tmp), (2, 4))
    for path in [*files_of(folder / "step_2"), *files_of(folder / "step_4")]:
        os.truncate(path, 1)
    with pytest.raises(
        OSError, match=r"none of the checkpoints in .* can be read \(step 4: .*; step 2: .*use another --workdir"
    ):
        restored(folder)
    assert steps_in(folder) == [2, 4]


def test_the_newest_every_nth_and_the_best_checkpoints_are_kept(tmp_path):
    assert steps_in(saved(tmp_path / "a", range(1, 8), keep=2)) == [6, 7]
    assert steps_in(saved(tmp_path / "b", range(1, 8), keep=1, keep_every=3)) == [3, 6, 7]
    assert steps_in(saved(tmp_path / "c", range(1, 8), keep=1, best=lambda steps: {2} & set(steps))) == [2, 7]


def test_a_rollback_deletes_later_checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=9)
    for step in (2, 4, 6):
        checkpoints.save(state_of(step))
    assert checkpoints.steps() == [2, 4, 6]
    assert same(checkpoints.rollback(2, shapes(state_of(0))), state_of(2))
    checkpoints.save(state_of(4))
    checkpoints.close()
    assert steps_in(tmp_path / "checkpoints") == [2, 4]


def write_metrics(path: pathlib.Path, name: str, values: dict[int, float]) -> pathlib.Path:
    path.write_text("".join(json.dumps({"step": step, name: value}) + "\n" for step, value in values.items()))
    return path


def test_the_best_by_a_loss_is_the_lowest_and_by_an_accuracy_the_highest(tmp_path):
    losses = write_metrics(tmp_path / "losses.jsonl", "loss", {2: 3.0, 4: 1.0, 6: 2.0})
    best = BestCheckpoints(losses, "loss", evaluate_every=0)
    assert best([3, 5, 7]) == {5} and best.best([3, 5, 7]) == (5, 1.0)  # the last value up to that step
    assert best([1]) == set() and best.best([1]) is None

    name = "evaluation/digits/knn@16"
    accuracies = write_metrics(tmp_path / "accuracies.jsonl", name, {3: 0.5, 6: 0.7, 9: 0.7})
    best = BestCheckpoints(accuracies, name, evaluate_every=3)
    assert best([3, 5, 6]) == {6}
    assert best([3, 6, 9]) == {9}  # the latest of equals
    assert best([3, 6, 12]) == {6, 12}  # the evaluation of step 12 is still running
