"""Kernels of a compiled program: the bytes that each reads and writes, and the matrix products that it computes.

Bytes are those of operands and results. A fusion that reads or updates a slice of an array counts the slice. Caches are
not modelled: what a kernel finds in the L2 cache counts like what it reads from memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from pretrain.compilation.hlo.program import Array, Computation, Instruction, Program

_LAUNCHES_NOTHING = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call"}
_LAUNCHES_NOTHING |= {"after-all", "partition-id", "replica-id", "opt-barrier", "add-dependency"}
_COLLECTIVES = ("all-", "reduce-scatter", "collective-", "async-", "send", "recv")
_SLICES = {"dynamic-slice", "slice", "gather"}
_REARRANGEMENTS = {"copy", "transpose", "concatenate", "dynamic-slice", "slice", "reverse"}
_TRANSPARENT = {"bitcast", "convert", "reshape"}
_CUBLAS, _CUDNN_ATTENTION = re.compile(r'target="__cublas'), re.compile(r'target="__cudnn\$fmha')
_CONTRACTED = re.compile(r'lhs_contracting_dim(?:ension)?s"?[=:][{\[]([^}\]]*)[}\]]')


class Kernel(NamedTuple):
    """A kernel: where it stands, and how often a step runs it."""

    instruction: Instruction
    computation: Computation
    runs: int


class Product(NamedTuple):
    """A matrix product: dtype of its operands, floating-point operations of a step, and its source operation."""

    dtype: str
    flops: int
    op_name: str


def is_kernel(instruction: Instruction) -> bool:
    """Return whether an instruction runs code on the device, other than a collective."""
    return not (
        instruction.opcode in _LAUNCHES_NOTHING
        or instruction.opcode.startswith(_COLLECTIVES)
        or instruction.opcode.endswith("-done")
    )


def is_cudnn_attention(instruction: Instruction) -> bool:
    """Return whether an instruction is cuDNN's fused attention."""
    return bool(_CUDNN_ATTENTION.search(instruction.text))


def is_pallas(instruction: Instruction) -> bool:
    """Return whether an instruction is a kernel written in Pallas for Triton; its matrix products are not counted."""
    return 'custom_call_target="__gpu$xla.gpu.triton"' in instruction.text


def find_kernels(program: Program) -> list[Kernel]:
    """Return the kernels of a program, those in loops with the number of their runs.

    The insides of fusions and the functions of reductions are not kernels of their own.
    """
    runs, inside = program.count_runs(), _inner_computations(program)
    return [
        Kernel(instruction, program.computations[name], count)
        for name, count in runs.items()
        if name not in inside
        for instruction in program.computations[name].instructions.values()
        if is_kernel(instruction)
    ]


def _inner_computations(program: Program) -> set[str]:
    """Return the computations that are parts of a kernel."""
    inner: set[str] = set()
    for computation in program.computations.values():
        for instruction in computation.instructions.values():
            if instruction.opcode not in ("while", "conditional", "call", "async-start"):
                inner.update(instruction.called)
    return inner


def count_bytes(program: Program, kernel: Kernel) -> int:
    """Return the bytes that one run of a kernel reads and writes."""
    return sum(read_bytes(program, kernel).values()) + sum(array.bytes for array in written_arrays(program, kernel))


def written_arrays(program: Program, kernel: Kernel) -> list[Array]:
    """Return the arrays that a kernel writes: its results without workspaces, of updated arrays the updated slices."""
    instruction = kernel.instruction
    if instruction.opcode == "custom-call":
        return [array for array in instruction.results if array.dtype not in ("s8", "u8")]
    if instruction.opcode == "dynamic-update-slice":
        return list(kernel.computation.instructions[instruction.operands[1]].results)
    fused = _fused(program, instruction)
    if fused is None:
        return list(instruction.results)
    return [_written(fused, result) for result in _results(fused)]


def copied_bytes(program: Program, kernel: Kernel) -> int:
    """Return the bytes that one run of a kernel reads and writes to rearrange an array: copies, transposes, slices.

    Counts results whose last operation, apart from a change of dtype, is a rearrangement.
    """
    fused = _fused(program, kernel.instruction)
    if fused is None:
        copies = [kernel.instruction] if kernel.instruction.opcode in _REARRANGEMENTS else []
    else:
        copies = [result for result in _results(fused) if _is_rearranged(fused, result)]
    return 2 * sum(array.bytes for copy in copies for array in copy.results)


def find_products(program: Program, kernel: Kernel) -> Iterator[Product]:
    """Yield the matrix products of a kernel with the operations of all its runs; cuDNN's attention is not counted."""
    fused = _fused(program, kernel.instruction)
    computation = kernel.computation if fused is None else fused
    for instruction in [kernel.instruction] if fused is None else fused.instructions.values():
        is_cublas = instruction.opcode == "custom-call" and _CUBLAS.search(instruction.text)
        if instruction.opcode != "dot" and not is_cublas:
            continue
        left = computation.instructions[instruction.operands[0]].results[0]
        contracted = _CONTRACTED.search(instruction.text)
        dims = re.findall(r"\d+", contracted[1]) if contracted else []
        flops = 2 * instruction.results[0].size * math.prod(left.dims[int(dim)] for dim in dims)
        yield Product(left.dtype, kernel.runs * flops, instruction.op_name or kernel.instruction.op_name)


def _fused(program: Program, instruction: Instruction) -> Computation | None:
    """Return the computation of a fusion; None for other instructions."""
    if instruction.opcode != "fusion":
        return None
    return program.computations[instruction.attribute("calls").lstrip("%")]


def read_bytes(program: Program, kernel: Kernel) -> dict[str, int]:
    """Return the bytes that one run of a kernel reads, by the operand that it reads them from."""
    instruction, fused = kernel.instruction, _fused(program, kernel.instruction)
    if fused is not None:
        parameters = [found for found in fused.instructions.values() if found.opcode == "parameter"]
        read = [_read_of(fused, parameter) for parameter in sorted(parameters, key=_parameter_number)]
        return dict(zip(instruction.operands, read, strict=True))
    if instruction.opcode in _SLICES:
        return {instruction.operands[0]: sum(array.bytes for array in instruction.results)}
    operands = instruction.operands[1 if instruction.opcode == "dynamic-update-slice" else 0 :]
    known = kernel.computation.instructions
    return {name: sum(array.bytes for array in known[name].results) for name in operands}


def _parameter_number(parameter: Instruction) -> int:
    return int(re.match(r"\d+", parameter.text)[0])


def _read_of(fused: Computation, parameter: Instruction) -> int:
    """Return the bytes of a parameter that a fusion reads: each byte once."""
    by_users = sum(_read_by(fused, user, parameter) for user in _uses(fused, parameter))
    return min(parameter.results[0].bytes, by_users)


def is_carried(kernel: Kernel, operand: str) -> bool:
    """Return whether an operand comes from outside the kernel's computation, such as the state of a loop."""
    value = kernel.computation.instructions[operand]
    while value.opcode in ("bitcast", "get-tuple-element"):
        value = kernel.computation.instructions[value.operands[0]]
    return value.opcode in ("parameter", "constant")


def _uses(computation: Computation, value: Instruction) -> Iterator[Instruction]:
    """Yield the instructions that read a value, also through changes of shape that move nothing."""
    for user in computation.users.get(value.name, []):
        if user.opcode == "bitcast":
            yield from _uses(computation, user)
        else:
            yield user


def _read_by(computation: Computation, user: Instruction, parameter: Instruction) -> int:
    """Return the bytes of a parameter that an instruction of a fusion reads."""
    if user.opcode in _SLICES:
        return user.results[0].bytes
    if user.opcode == "dynamic-update-slice" and _source(computation, user, index=0) is parameter:
        return 0  # updated in place
    return parameter.results[0].bytes


def _results(computation: Computation) -> list[Instruction]:
    """Return the instructions that make the results of a fusion."""
    root = computation.root
    return [computation.instructions[name] for name in root.operands] if root.opcode == "tuple" else [root]


def _source(computation: Computation, value: Instruction, *, index: int | None = None) -> Instruction:
    """Return the operation behind changes of shape and dtype: of a value, or of its operand `index`."""
    if index is not None:
        value = computation.instructions[value.operands[index]]
    while value.opcode in _TRANSPARENT:
        value = computation.instructions[value.operands[0]]
    return value


def _is_rearranged(computation: Computation, result: Instruction) -> bool:
    """Return whether a result of a fusion is a rearranged array, not copies of a scalar."""
    source = _source(computation, result)
    return source.opcode in _REARRANGEMENTS and _source(computation, source, index=0).opcode != "broadcast"


def _written(computation: Computation, result: Instruction) -> Array:
    source = _source(computation, result)
    if source.opcode == "dynamic-update-slice":
        return computation.instructions[source.operands[1]].results[0]
    return result.results[0]
