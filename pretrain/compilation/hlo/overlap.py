"""Collectives of a compiled program during which the device computes nothing."""

from __future__ import annotations

from pretrain.compilation.hlo.collectives import KINDS, Traffic, collectives_of, end_of, kind_of
from pretrain.compilation.hlo.kernels import is_kernel
from pretrain.compilation.hlo.program import Computation, Instruction, Program


def count_exposed(program: Program) -> dict[str, Traffic]:
    """Return number and bytes of the collectives that no computation hides; loops count every iteration.

    A collective is hidden if the schedule has a kernel between its start and its end. Bytes are those of the results.
    """
    exposed: dict[str, Traffic] = {}
    for name, runs in program.count_runs().items():
        computation = program.computations[name]
        for instruction in collectives_of(computation):
            if not _is_hidden(computation, instruction):
                kind = kind_of(instruction)
                end = end_of(computation, instruction) or instruction
                size = sum(array.bytes for array in end.results)
                before = exposed.get(kind, Traffic(0, 0))
                exposed[kind] = Traffic(before.count + runs, before.bytes + runs * size)
    return {kind: exposed[kind] for kind in KINDS if kind in exposed}


def _is_hidden(computation: Computation, start: Instruction) -> bool:
    end = end_of(computation, start)
    if end is None or '"is_sync":true' in start.text:
        return False
    scheduled = list(computation.instructions.values())
    between = scheduled[scheduled.index(start) + 1 : scheduled.index(end)]
    return any(is_kernel(instruction) or instruction.opcode == "while" for instruction in between)
