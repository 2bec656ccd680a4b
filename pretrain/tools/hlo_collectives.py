"""What a compiled program sends between devices, read off its text (XLA's HLO)."""

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
    """How often a kind of collective runs in a step, and the bytes that a device gives or gets, whichever is more."""

    count: int
    bytes: int


class _Computation(NamedTuple):
    """Collectives as (kind, bytes, channel), calls as (name, times), and the whole numbers in it."""

    collectives: list[tuple[str, int, str]]
    calls: list[tuple[str, str | int]]
    constants: list[int]


def count_collectives(program: str) -> dict[str, Traffic]:
    """Returns the traffic of each kind of collective in a compiled program; what is in loops counts each time.

    The parts of one asynchronous collective share its channel and count once, as often as the rarest: TPUs let a
    collective progress inside the loops of other work.
    """
    computations, entry = _read(program)
    times: dict[str, int] = defaultdict(int)

    def visit(name: str, factor: int) -> None:
        times[name] += factor
        for callee, trips in computations[name].calls:
            visit(callee, factor * (_trips(computations[trips]) if isinstance(trips, str) else trips))

    visit(entry, 1)
    channels: dict[str, tuple[str, int, int]] = {}
    for name, factor in times.items():
        for kind, size, channel in computations[name].collectives:
            _, rarest, largest = channels.get(channel, (kind, factor, size))
            channels[channel] = (kind, min(rarest, factor), max(largest, size))
    found: dict[str, Traffic] = {}
    for kind, factor, size in channels.values():
        before = found.get(kind, Traffic(0, 0))
        found[kind] = Traffic(before.count + factor, before.bytes + factor * size)
    return {kind: found[kind] for kind in KINDS if kind in found}


def _trips(condition: _Computation) -> int:
    """Returns how often a loop runs whose condition compares a counter from 0 with a constant, as JAX writes them."""
    return max(condition.constants, default=1)


def _read(program: str) -> tuple[dict[str, _Computation], str]:
    """Returns the program's computations by name, and the name of the first to run."""
    computations: dict[str, _Computation] = defaultdict(lambda: _Computation([], [], []))
    entry, current = "", ""
    for line in program.splitlines():
        if header := _COMPUTATION.match(line):
            current = header[1]
            entry = current if line.startswith("ENTRY") else entry
            continue
        instruction = _INSTRUCTION.match(line)
        if not instruction:
            continue
        computation, kind = computations[current], instruction["name"].removesuffix("-start")
        if kind in KINDS:
            results, operands = _sizes(instruction["shape"]), _sizes(instruction["rest"].partition("), ")[0])
            given = max if instruction["name"].endswith("-start") else sum  # a start's result repeats its operands
            channel = _CHANNEL.search(line)
            name = channel[1] if channel else f"{current}/{len(computation.collectives)}"
            computation.collectives.append((kind, max(given(results or [0]), sum(operands)), name))
            continue
        computation.constants.extend(map(int, _CONSTANT.findall(line)))
        trips: str | int = 1
        if instruction["name"] == "while":
            known = _TRIPS.search(line)
            trips = int(known[1]) if known else re.search(r"condition=%?([\w.\-]+)", line)[1]
        for called in _CALLED.findall(line):
            computation.calls.extend((callee.strip().lstrip("%"), trips) for callee in called.split(","))
    return dict(computations), entry


def _sizes(text: str) -> list[int]:
    return [
        _BYTES.get(dtype, 4) * math.prod(map(int, filter(None, shape.split(","))))
        for dtype, shape in _ARRAY.findall(text)
    ]
