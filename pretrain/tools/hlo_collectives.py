"""Collectives of a compiled program, read from its HLO text."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}
_BYTES |= {"f64": 8, "s64": 8, "u64": 8}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (?P<shape>\(.*?\)|\S+) (?P<name>[a-z][\w\-]*)\((?P<rest>.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_CONSTANT = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations|called_computations)=\{?([^,}]+(?:, ?%[^,}]+)*)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Traffic(NamedTuple):
    """Number of runs of a kind of collective in a step, and the bytes that a device sends or receives (the larger)."""

    count: int
    bytes: int


class _Collective(NamedTuple):
    kind: str
    bytes: int
    channel: str | None


class _Call(NamedTuple):
    """A call of a computation; `trips` is how often it runs, or the name of the condition of its loop."""

    computation: str
    trips: str | int


class _Computation(NamedTuple):
    collectives: list[_Collective]
    calls: list[_Call]
    constants: list[int]


class _Program(NamedTuple):
    """Computations by name, the name of the one that runs first, and the names of those that are fused kernels."""

    computations: dict[str, _Computation]
    entry: str
    fused: set[str]


def count_collectives(program: str) -> dict[str, Traffic]:
    """Return the traffic of each kind of collective in a compiled program; loops count every iteration.

    On GPUs and CPUs each collective is an instruction, or a pair of a `-start` and a `-done`, and unrelated ones may
    share a channel. On TPUs the parts of an asynchronous collective are inside fusions: they share a channel and count
    once, as often as the part that runs least, because a collective may progress in the loops of other computations.
    """
    parsed = _parse(program)
    found: dict[str, tuple[str, int, int]] = {}
    for name, count in _count_runs(parsed).items():
        for index, (kind, size, channel) in enumerate(parsed.computations[name].collectives):
            key = f"channel {channel}" if channel and name in parsed.fused else f"{name}/{index}"
            _, fewest, largest = found.get(key, (kind, count, size))
            found[key] = (kind, min(fewest, count), max(largest, size))
    traffic: dict[str, Traffic] = {}
    for kind, count, size in found.values():
        before = traffic.get(kind, Traffic(0, 0))
        traffic[kind] = Traffic(before.count + count, before.bytes + count * size)
    return {kind: traffic[kind] for kind in KINDS if kind in traffic}


def _count_runs(program: _Program) -> dict[str, int]:
    """Return how often each computation runs."""
    counts: dict[str, int] = defaultdict(int)
    pending = [(program.entry, 1)]
    while pending:
        name, count = pending.pop()
        counts[name] += count
        for callee, trips in program.computations[name].calls:
            runs = _loop_trips(program.computations[trips]) if isinstance(trips, str) else trips
            pending.append((callee, count * runs))
    return counts


def _loop_trips(condition: _Computation) -> int:
    """Return how often a loop runs whose condition compares a counter from 0 with a constant, as JAX writes them."""
    return max(condition.constants, default=1)


def _parse(program: str) -> _Program:
    computations: dict[str, _Computation] = defaultdict(lambda: _Computation([], [], []))
    entry, current, fused = "", "", set()
    for line in program.splitlines():
        if header := _COMPUTATION.match(line):
            current = header[1]
            entry = current if line.startswith("ENTRY") else entry
            continue
        instruction = _INSTRUCTION.match(line)
        if not instruction or instruction["name"].endswith(("-done", "-update")):  # of what a `-start` began
            continue
        computation, name = computations[current], instruction["name"]
        if name.removesuffix("-start") in KINDS:
            channel = _CHANNEL.search(line)
            size = _transferred(instruction["shape"], name, instruction["rest"].partition("), ")[0])
            computation.collectives.append(
                _Collective(name.removesuffix("-start"), size, channel[1] if channel else None)
            )
            continue
        computation.constants.extend(map(int, _CONSTANT.findall(line)))
        trips: str | int = 1
        if name == "while":
            known = _TRIPS.search(line)
            trips = int(known[1]) if known else re.search(r"condition=%?([\w.\-]+)", line)[1]
        for called in _CALLED.findall(line):
            callees = [callee.strip().lstrip("%") for callee in called.split(",")]
            computation.calls.extend(_Call(callee, trips) for callee in callees)
            if name == "fusion":
                fused.update(callees)
    return _Program(dict(computations), entry, fused)


def _transferred(shape: str, name: str, operands: str) -> int:
    """Return the bytes of a collective: of its operands or of its results, whichever are larger.

    The shape of a `-start` is a tuple of operands, results and scalars, except that of `all-reduce-start`, which has
    the results alone. GPU programs do not repeat the shapes of operands.
    """
    if name.endswith("-start") and name != "all-reduce-start":
        return max(map(_size, _elements(shape)[:2]))
    return max(_size(shape), _size(operands))


def _elements(shape: str) -> list[str]:
    """Return the elements of a tuple, such as `f32[2]{0}` and `(s8[], s8[])` of `(f32[2]{0}, (s8[], s8[]))`."""
    elements, depth = [""], 0
    for letter in shape.removeprefix("(").removesuffix(")"):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            elements.append("")
        else:
            elements[-1] += letter
    return elements


def _size(text: str) -> int:
    """Return the bytes of all arrays in a text."""
    return sum(
        _BYTES.get(dtype, 4) * math.prod(map(int, filter(None, shape.split(","))))
        for dtype, shape in _ARRAY.findall(text)
    )
