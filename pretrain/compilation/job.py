"""The job `launch.py compile`: what the training step of a config needs on described devices."""

from __future__ import annotations

import json
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from foundation.files.atomic import write_text
from models.towers import count_parameters
from pretrain.compilation.devices import describe_devices
from pretrain.compilation.gpu_program import ProgramCheck, check_program
from pretrain.compilation.report import (
    describe_memory,
    describe_traffic,
    describe_verdict,
    describe_work,
    read_figures,
)
from pretrain.compilation.step import DeviceMemory, compile_step, usable_memory
from pretrain.config.run import read_settings
from pretrain.distributed import sharding
from pretrain.monitoring.device_peaks import GPUS
from pretrain.train_step import build_train_step

logger = logging.getLogger(__name__)


def compile_job(
    config: Mapping[str, Any], topology: str, *, hlo: pathlib.Path | None = None, json_file: pathlib.Path | None = None
) -> bool:
    """Compile the step that the `pretrain` section of a config describes, and log what it needs.

    `topology` is `KIND:SHAPE` of TPU chips, such as `v5e:16x16`, `KIND:SHAPE*N` for N slices, `KIND:N` or
    `KIND:HOSTSxN` of GPUs, such as `h100:2x8`, or `local:N` for N fake CPU devices. The compiled program is written to
    `hlo`, and the figures of the report to `json_file`. Returns False if the step does not fit the devices, or if the
    program of a GPU has faults.
    """
    settings = read_settings(config)
    described = describe_devices(topology)
    mesh = sharding.create_mesh(settings.mesh.fsdp, described.devices)
    training = build_train_step(
        settings, mesh, model=settings.model(settings.max_vocab_size()), memory=usable_memory(described)
    )
    logger.info(
        f"compiling a step of {settings.batch_size:,} pairs for {topology}, {mesh.size} devices, jax {jax.__version__}"
    )
    needed = compile_step(settings, training, mesh, described)
    if hlo is not None:
        _write_program(needed, hlo)
    num_parameters = count_parameters(training.abstract_state.parameters)
    checked = ProgramCheck([], [])
    if described.kind in GPUS and needed.program is not None:
        checked = check_program(settings, needed.program, mesh, kind=described.kind)
    if json_file is not None:
        figures = read_figures(settings, needed, mesh, topology=topology) | {"faults": checked.faults}
        write_text(json_file, json.dumps(figures, indent=2) + "\n")
        logger.info(f"wrote the figures to {json_file}")
    for lines in (
        describe_memory(settings, needed, mesh, num_parameters=num_parameters),
        describe_work(settings, mesh, kind=described.kind),
        describe_traffic(needed),
        checked.lines,
        describe_verdict(settings, needed, mesh),
    ):
        for line in lines:
            logger.info(line)
    if checked.faults:
        logger.info("verdict: the program has faults: it does not do what the settings ask for")
    return needed.fits is not False and not checked.faults


def _write_program(needed: DeviceMemory, path: pathlib.Path) -> None:
    if needed.program is None:
        raise ValueError(f"{path} cannot be written: the compiler cannot print this program")
    path.write_text(needed.program, encoding="utf-8")
    logger.info(f"wrote the compiled program to {path}")
