"""Collectives of a compiled program: how much they carry, and whether the device computes while they run."""

from __future__ import annotations

from typing import NamedTuple

from pretrain.tools.hlo.kernels import is_kernel
from pretrain.tools.hlo.program import Computation, Instruction, Program, find_arrays, parse_program

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


class Traffic(NamedTuple):
    """Number of runs of a kind of collective in a step, and the bytes that a device sends or receives (the larger)."""

    count: int
    bytes: int


class _Collective(NamedTuple):
    kind: str
    bytes: int
    overlapped: bool


def count_collectives(program: str) -> dict[str, Traffic]:
    """Return the traffic of each kind of collective in a compiled program; loops count every iteration."""
    return _total(_find_collectives(parse_program(program)))


def count_exposed(program: Program) -> dict[str, Traffic]:
    """Return the traffic of the collectives that no computation hides.

    A collective is hidden if the schedule has a kernel between its start and its end. The compiler marks those that it
    runs synchronously.
    """
    return _total([(count, found) for count, found in _find_collectives(program) if not found.overlapped])


def _total(collectives: list[tuple[int, _Collective]]) -> dict[str, Traffic]:
    traffic: dict[str, Traffic] = {}
    for count, found in collectives:
        before = traffic.get(found.kind, Traffic(0, 0))
        traffic[found.kind] = Traffic(before.count + count, before.bytes + count * found.bytes)
    return {kind: traffic[kind] for kind in KINDS if kind in traffic}


def _find_collectives(program: Program) -> list[tuple[int, _Collective]]:
    """Return every collective and how often it runs.

    The parts of an asynchronous collective share a channel and count once, as often as the part that runs least: TPUs
    let a collective progress inside the loops of other computations.
    """
    channels: dict[str, tuple[int, _Collective]] = {}
    for name, runs in program.count_runs().items():
        computation = program.computations[name]
        for instruction in computation.instructions.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            channel = instruction.attribute("channel_id") or f"{name}/{instruction.name}"
            part = _Collective(kind, _size(computation, instruction), _is_overlapped(computation, instruction))
            count, before = channels.get(channel, (runs, part))
            merged = _Collective(kind, max(before.bytes, part.bytes), before.overlapped or part.overlapped)
            channels[channel] = (min(count, runs), merged)
    return list(channels.values())


def _size(computation: Computation, instruction: Instruction) -> int:
    """Return the bytes that a device sends or receives, the larger."""
    known = computation.instructions
    operands = [array for name in instruction.operands if name in known for array in known[name].results]
    sent = sum(array.bytes for array in operands or find_arrays(instruction.arguments))
    received = sum(array.bytes for array in instruction.results)
    if instruction.opcode in ("all-gather-start", "reduce-scatter-start", "collective-permute-start"):
        received -= sent  # their results repeat the operands
    return max(sent, received)


def _is_overlapped(computation: Computation, start: Instruction) -> bool:
    if not start.opcode.endswith("-start") or '"is_sync":true' in start.text:
        return False
    instructions = list(computation.instructions.values())
    begin = instructions.index(start)
    for instruction in instructions[begin + 1 :]:
        if start.name in instruction.operands:
            return False
        if is_kernel(instruction) or instruction.opcode == "while":
            return True
    return False
