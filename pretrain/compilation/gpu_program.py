"""Check of a step compiled for NVIDIA GPUs against the settings of its run."""

from __future__ import annotations

from typing import NamedTuple

from jax.sharding import Mesh

from models.towers import choose_attention
from pretrain.compilation.hlo.report import read_program
from pretrain.compilation.hlo.verdict import Expectation, describe_program, judge
from pretrain.compilation.nvidia_gpus import l2_cache_bytes
from pretrain.config.run import PretrainSettings
from pretrain.monitoring.throughput import count_pair_flops


class ProgramCheck(NamedTuple):
    """The report on a compiled program as lines of text, and its faults as sentences."""

    lines: list[str]
    faults: list[str]


def check_program(settings: PretrainSettings, program: str, mesh: Mesh, *, kind: str) -> ProgramCheck:
    """Return whether the HLO text of a step compiled for cards of `kind` does what the settings ask for."""
    report, expected = read_program(program), expect_program(settings, mesh, kind=kind)
    judgement = judge(report, expected)
    return ProgramCheck(describe_program(report, judgement, l2_bytes=expected.l2_bytes), judgement.faults)


def expect_program(settings: PretrainSettings, mesh: Mesh, *, kind: str) -> Expectation:
    """Return the program that the settings ask for on cards of `kind`.

    The towers pass forward once and backward once, which takes twice the arithmetic; rematerialization and microbatches
    each add at most one forward pass.
    """
    passes = 3 + (settings.remat != "none") + (settings.microbatches > 1)
    rows = settings.batch_size / mesh.size
    return Expectation(
        attention=choose_attention(settings.model(vocab_size=1), "gpu"),
        unfused_because=_unfused_because(settings),
        dtype=settings.dtype,
        objective_dtype=settings.objective.dtype,
        tower_flops=count_pair_flops(settings).towers * passes / 3 * rows,
        devices=mesh.size,
        l2_bytes=l2_cache_bytes(kind),
    )


def _unfused_because(settings: PretrainSettings) -> str:
    if settings.attention == "xla":
        return "pretrain.attention is xla"
    if settings.dtype == "float32":
        return "pretrain.dtype is float32"
    return "the dimension of their heads is not a multiple of 8 up to 128"
