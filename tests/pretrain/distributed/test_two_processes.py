"""Two processes connected over loopback train like one process."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from pretrain.distributed import sharding
from pretrain.optim.param_rules import path_name
from tests.pretrain.test_train_step import batch, trained, training

pytestmark = pytest.mark.slow

STEPS = 20


def named(parameters):
    leaves = jax.tree_util.tree_leaves_with_path(parameters)
    return {path_name(path): np.asarray(leaf) for path, leaf in leaves}


def train_in_process(process: int, port: int, out: str) -> None:
    """Train in one of two processes on its rows of each batch; write the losses and the final parameters."""
    from jax._src import distributed
    from jax.experimental import multihost_utils

    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    assert jax.device_count() == 4 and jax.local_device_count() == 2
    mesh = sharding.create_mesh(fsdp=2)
    compiled = training(mesh, microbatches=2)
    state, losses = compiled.init(), []
    rows = sharding.local_rows(16)

    def place(step: int):
        return sharding.place_batch({name: array[rows] for name, array in batch(step).items()}, mesh)

    take_step = compiled.step.lower(state, place(0)).compile()
    # Collective operations wait 30 s for the other process, which on a busy machine may still compile.
    distributed.global_state.client.wait_at_barrier("compiled", 300_000)
    for step in range(STEPS):
        state, metrics = take_step(state, place(step))
        losses.append(float(metrics["loss"]))
    gathered = multihost_utils.process_allgather(state.parameters, tiled=True)
    np.savez(pathlib.Path(out) / f"{process}.npz", losses=losses, **named(gathered))


def test_two_processes_give_the_parameters_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"from {__name__} import train_in_process as f; f({k}, {port}, '{tmp_path}')",
            ],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for k in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors

    state, metrics = trained(sharding.create_mesh(), steps=STEPS)
    for k in range(2):
        found = np.load(tmp_path / f"{k}.npz")
        np.testing.assert_allclose(found["losses"], [each["loss"] for each in metrics], rtol=1e-5)
        one = named(state.parameters)
        assert set(one) | {"losses"} == set(found)
        # The bias of keys has no effect on a softmax: its gradient is rounding error, which Adam amplifies.
        compared = [name for name in one if not name.endswith("attention/key/bias")]
        errors = {name: np.linalg.norm(found[name] - one[name]) / np.linalg.norm(one[name]) for name in compared}
        assert len(compared) > 40 and max(errors.values()) < 1e-5, errors
