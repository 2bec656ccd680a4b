"""Collectives of a compiled program during which the device computes nothing."""

from __future__ import annotations

from pretrain.tools.hlo.kernels import is_kernel
from pretrain.tools.hlo.program import Computation, Instruction, Program
from pretrain.tools.hlo_collectives import KINDS, Traffic


def count_exposed(program: Program) -> dict[str, Traffic]:
    """Return number and bytes of the collectives that no computation hides; loops count every iteration.

    A collective is hidden if the schedule has a kernel between its start and its end. Bytes are those of the results.
    """
    exposed: dict[str, Traffic] = {}
    for name, runs in program.count_runs().items():
        computation = program.computations[name]
        for instruction in computation.instructions.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind in KINDS and not _is_hidden(computation, instruction):
                end = _end(computation, instruction) or instruction
                size = sum(array.bytes for array in end.results)
                before = exposed.get(kind, Traffic(0, 0))
                exposed[kind] = Traffic(before.count + runs, before.bytes + runs * size)
    return {kind: exposed[kind] for kind in KINDS if kind in exposed}


def _end(computation: Computation, start: Instruction) -> Instruction | None:
    """Return the instruction that waits for an asynchronous collective; None for a synchronous one."""
    ends = (user for user in computation.users.get(start.name, []) if user.opcode.endswith("-done"))
    return next(ends, None)


def _is_hidden(computation: Computation, start: Instruction) -> bool:
    end = _end(computation, start)
    if end is None or '"is_sync":true' in start.text:
        return False
    scheduled = list(computation.instructions.values())
    between = scheduled[scheduled.index(start) + 1 : scheduled.index(end)]
    return any(is_kernel(instruction) or instruction.opcode == "while" for instruction in between)
