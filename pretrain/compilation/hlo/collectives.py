"""Collectives of a compiled program: how often they run, and the bytes that they move."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pretrain.compilation.hlo.program import Array, Computation, Instruction, Program, find_arrays

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


class Traffic(NamedTuple):
    """Number of runs of a kind of collective in a step, and the bytes that a device sends or receives (the larger)."""

    count: int
    bytes: int


def count_collectives(program: Program) -> dict[str, Traffic]:
    """Return the traffic of each kind of collective in a compiled program; loops count every iteration.

    On GPUs and CPUs each collective is an instruction, or a pair of a `-start` and a `-done`, and unrelated ones may
    share a channel. On TPUs the parts of an asynchronous collective are inside fusions: they share a channel and count
    once, as often as the part that runs least, because a collective may progress in the loops of other computations.
    """
    fused = program.fused_computations()
    found: dict[str, tuple[str, int, int]] = {}
    for name, count in program.count_runs().items():
        computation = program.computations[name]
        for instruction in collectives_of(computation):
            channel = instruction.attribute("channel_id") if name in fused else None
            key = f"channel {channel}" if channel else f"{name}/{instruction.name}"
            kind, size = kind_of(instruction), transferred_bytes(computation, instruction)
            _, fewest, largest = found.get(key, (kind, count, size))
            found[key] = (kind, min(fewest, count), max(largest, size))
    traffic: dict[str, Traffic] = {}
    for kind, count, size in found.values():
        before = traffic.get(kind, Traffic(0, 0))
        traffic[kind] = Traffic(before.count + count, before.bytes + count * size)
    return {kind: traffic[kind] for kind in KINDS if kind in traffic}


def collectives_of(computation: Computation) -> Iterator[Instruction]:
    """Yield the collectives of a computation; of an asynchronous one, its start."""
    return (each for each in computation.instructions.values() if kind_of(each) in KINDS)


def kind_of(instruction: Instruction) -> str:
    """Return the operation of an instruction; that of an asynchronous one without `-start`."""
    return instruction.opcode.removesuffix("-start")


def end_of(computation: Computation, start: Instruction) -> Instruction | None:
    """Return the instruction that waits for an asynchronous collective; None for a synchronous one."""
    ends = (user for user in computation.users.get(start.name, []) if user.opcode.endswith("-done"))
    return next(ends, None)


def transferred_bytes(computation: Computation, instruction: Instruction) -> int:
    """Return the bytes of a collective: of its operands or of its results, whichever are larger.

    The results of a `-start` are operands and results, except those of `all-reduce-start`, which are the results alone.
    GPU programs do not repeat the shapes of operands, which are then looked up.
    """
    end = end_of(computation, instruction)
    if end is not None:
        results = _bytes(end.results)
        return max(results, _bytes(instruction.results) - results)
    made = (computation.instructions[name] for name in instruction.operands if name in computation.instructions)
    operands = _bytes(find_arrays(instruction.arguments)) or sum(_bytes(each.results) for each in made)
    return max(operands, _bytes(instruction.results))


def _bytes(arrays: Iterable[Array]) -> int:
    return sum(array.bytes for array in arrays)
