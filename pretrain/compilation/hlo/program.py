"""A compiled program, parsed from its HLO text: computations, their instructions, and how often each of them runs.

The text of a compiled program is scheduled: instructions stand in the order in which they are launched. Fusions are
single kernels, whose own computation says what they read and write.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import defaultdict
from functools import cached_property
from typing import NamedTuple

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}
_BYTES |= {"f64": 8, "s64": 8, "u64": 8, "f8e4m3fn": 1, "f8e5m2": 1}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(
    r"^\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<shape>\(.*?\)|\S+) (?P<opcode>[a-z][\w\-]*)\((?P<rest>.*)$"
)
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_OPERAND = re.compile(r"%([\w.\-]+)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations|called_computations)=\{?([^,}]+(?:, ?%[^,}]+)*)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_CONSTANT = re.compile(r"^(\d+)\)")


class Array(NamedTuple):
    """Dtype and dimensions of an array in a program."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes of the elements."""
        return _BYTES.get(self.dtype, 4) * self.size


class Instruction(NamedTuple):
    """An instruction: its results, the names of its operands, its attributes as text, and its source operation.

    `op_name` is the path of JAX's name stack, such as `jit(train_step)/jvp(image_tower)/attention/dot_general`.
    """

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    text: str
    op_name: str
    root: bool

    @property
    def called(self) -> list[str]:
        """Names of the computations that the instruction calls."""
        return [name.strip().lstrip("%") for group in _CALLED.findall(self.text) for name in group.split(",")]

    @property
    def arguments(self) -> str:
        """Text between the instruction's parentheses."""
        return self.text.partition("), ")[0]

    def attribute(self, name: str) -> str | None:
        """Return the value of an attribute without commas, such as `channel_id`; None if the instruction lacks it."""
        found = re.search(rf"\b{name}=([^,\s]+)", self.text)
        return found[1] if found else None


@dataclasses.dataclass
class Computation:
    """The instructions of a computation by name, in the order of the schedule."""

    instructions: dict[str, Instruction] = dataclasses.field(default_factory=dict)

    @property
    def root(self) -> Instruction:
        """The instruction whose results are those of the computation."""
        return next(found for found in reversed(self.instructions.values()) if found.root)

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Instructions that read a result, by the name of the instruction that makes it."""
        users = defaultdict(list)
        for instruction in self.instructions.values():
            for operand in instruction.operands:
                users[operand].append(instruction)
        return users


class Program(NamedTuple):
    """Computations by name, and the name of the one that runs first."""

    computations: dict[str, Computation]
    entry: str

    def count_runs(self) -> dict[str, int]:
        """Return how often each computation runs in a step; loops count every iteration, conditionals every branch."""
        counts: dict[str, int] = defaultdict(int)
        pending = [(self.entry, 1)]
        while pending:
            name, count = pending.pop()
            counts[name] += count
            for instruction in self.computations[name].instructions.values():
                if instruction.opcode.endswith(("-done", "-update")):  # of what a `-start` began
                    continue
                trips = self._loop_trips(instruction) if instruction.opcode == "while" else 1
                pending.extend((called, count * trips) for called in instruction.called if called in self.computations)
        return dict(counts)

    def fused_computations(self) -> set[str]:
        """Return the names of the computations that are fused into single kernels."""
        instructions = (each for found in self.computations.values() for each in found.instructions.values())
        return {called for each in instructions if each.opcode == "fusion" for called in each.called}

    def _loop_trips(self, loop: Instruction) -> int:
        """Return how often a loop runs: as the compiler says, else the limit that its condition compares with."""
        if known := _TRIPS.search(loop.text):
            return int(known[1])
        condition = self.computations[_CONDITION.search(loop.text)[1]]
        limits = [
            int(found[1])
            for instruction in condition.instructions.values()
            if instruction.opcode == "constant" and (found := _CONSTANT.match(instruction.text))
        ]
        return max(limits, default=1)


def parse_program(text: str) -> Program:
    """Return the program of an HLO text, as `jax.stages.Compiled.as_text` prints it."""
    computations: dict[str, Computation] = defaultdict(Computation)
    entry = current = ""
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current = header[1]
            entry = current if line.startswith("ENTRY") else entry
            computations[current] = Computation()
        elif found := _INSTRUCTION.match(line):
            source = _OP_NAME.search(found["rest"])
            computations[current].instructions[found["name"]] = Instruction(
                name=found["name"],
                opcode=found["opcode"],
                results=find_arrays(found["shape"]),
                operands=tuple(_OPERAND.findall(found["rest"].partition("), ")[0])),
                text=found["rest"],
                op_name=source[1] if source else "",
                root=bool(found["root"]),
            )
    return Program(dict(computations), entry)


def find_arrays(text: str) -> tuple[Array, ...]:
    """Return the arrays of a shape or of a list of operands."""
    return tuple(Array(dtype, tuple(map(int, filter(None, dims.split(","))))) for dtype, dims in _ARRAY.findall(text))
