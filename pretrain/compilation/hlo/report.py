"""Report on a compiled GPU program: attention, precision, sharding, memory traffic of the objective, overlap.

Operations are attributed by the names that the step gives them with `jax.named_scope`: the towers, their attention, the
objective, and the sweeps of the objective over blocks of pairs.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from pretrain.compilation.hlo.collectives import Traffic
from pretrain.compilation.hlo.kernels import (
    Kernel,
    Product,
    copied_bytes,
    count_bytes,
    find_kernels,
    find_products,
    is_carried,
    is_cudnn_attention,
    is_pallas,
    read_bytes,
    written_arrays,
)
from pretrain.compilation.hlo.overlap import count_exposed
from pretrain.compilation.hlo.program import Program, parse_program

TOWERS = ("image_tower", "text_tower")
FLOAT32_ON_PURPOSE = ("mean_cosines", "companions")  # metrics of linear time
NOTABLE_SHARE = 0.01  # of the bytes of a step
_SWEEP = re.compile(r"\bblocks/(\w+)")


class AttentionCount(NamedTuple):
    """Attentions of a tower in one pass: those that are a cuDNN kernel, and matrix products of those that are not."""

    tower: str
    backward: bool
    cudnn: int
    unfused_products: int


class BlockSweep(NamedTuple):
    """A sweep of the objective over the blocks of pairs.

    visits: number of blocks in a step.
    kernels: number that a block launches.
    largest: bytes of the largest array that a kernel of a block passes on.
    bytes: read and written per block.
    between: the part of them in arrays that kernels of a block pass on to the next ones. It needs no bandwidth of the
        memory while these arrays stay in the L2 cache.
    intermediates: bytes of these arrays.
    fused: whether a Pallas kernel computes the pairs, whose logits are in no array.
    """

    name: str
    visits: int
    kernels: int
    largest: int
    bytes: int
    between: int
    intermediates: int
    fused: bool = False


class Copy(NamedTuple):
    """Bytes of a step that kernels of one source operation read and write to rearrange arrays."""

    op_name: str
    bytes: int


class ProgramReport(NamedTuple):
    """Facts about a compiled step, per device.

    float32_products: those with float32 operands, apart from `FLOAT32_ON_PURPOSE`. tower_flops: matrix products of the
    towers, without cuDNN's attention. copies: of the objective, each above 1 % of the bytes of the step.
    """

    kernels: int
    bytes: int
    attention: tuple[AttentionCount, ...]
    product_flops: int
    tower_flops: int
    float32_products: tuple[Product, ...]
    sweeps: tuple[BlockSweep, ...]
    copies: tuple[Copy, ...]
    exposed: dict[str, Traffic]


def read_program(text: str) -> ProgramReport:
    """Return the report on the HLO text of a compiled step."""
    program = parse_program(text)
    kernels = find_kernels(program)
    products = [(kernel, product) for kernel in kernels for product in find_products(program, kernel)]
    total = sum(kernel.runs * count_bytes(program, kernel) for kernel in kernels)
    return ProgramReport(
        kernels=sum(kernel.runs for kernel in kernels),
        bytes=total,
        attention=tuple(_count_attention(kernels, products)),
        product_flops=sum(product.flops for _, product in products),
        tower_flops=sum(product.flops for _, product in products if _is_inside(product.op_name, TOWERS)),
        float32_products=tuple(
            product
            for _, product in products
            if product.dtype == "f32" and not _is_inside(product.op_name, FLOAT32_ON_PURPOSE)
        ),
        sweeps=tuple(_read_sweeps(program, kernels)),
        copies=tuple(_find_copies(program, kernels, least=NOTABLE_SHARE * total)),
        exposed=count_exposed(program),
    )


def _is_inside(op_name: str, scopes: Iterable[str]) -> bool:
    return any(re.search(rf"\b{scope}\b", op_name) for scope in scopes)


def _count_attention(kernels: list[Kernel], products: list[tuple[Kernel, Product]]) -> Iterable[AttentionCount]:
    for tower in TOWERS:
        for backward in (False, True):
            fused = [
                kernel.runs
                for kernel in kernels
                if is_cudnn_attention(kernel.instruction)
                and _is_inside(kernel.instruction.op_name, [tower])
                and ("Backward" in kernel.instruction.text) == backward
            ]
            unfused = [
                kernel.runs
                for kernel, product in products
                if _is_inside(product.op_name, [tower])
                and _is_inside(product.op_name, ["attention"])
                and ("transpose(" in product.op_name) == backward
            ]
            if fused or unfused:
                yield AttentionCount(tower, backward, sum(fused), sum(unfused))


def _read_sweeps(program: Program, kernels: list[Kernel]) -> Iterable[BlockSweep]:
    sweeps = defaultdict(list)
    for kernel in kernels:
        if found := _SWEEP.search(kernel.instruction.op_name):
            sweeps[found[1]].append(kernel)
    for name, members in sweeps.items():
        visits = max(kernel.runs for kernel in members)
        inner = [kernel for kernel in members if kernel.runs == visits and not _is_counter(kernel)]
        written = {kernel.instruction.name: _passed_on(program, kernel) for kernel in inner}
        read = [
            size
            for kernel in inner
            for operand, size in read_bytes(program, kernel).items()
            if not is_carried(kernel, operand)
        ]
        intermediates = sum(map(sum, written.values()))
        yield BlockSweep(
            name=name,
            visits=visits,
            kernels=len(inner),
            largest=max(size for sizes in written.values() for size in sizes),
            bytes=sum(count_bytes(program, kernel) for kernel in inner),
            between=intermediates + sum(read),
            intermediates=intermediates,
            fused=any(is_pallas(kernel.instruction) for kernel in inner),
        )


def _passed_on(program: Program, kernel: Kernel) -> list[int]:
    """Return the bytes of the arrays that a kernel writes for the next ones, not into the state of a loop."""
    updates = (
        "dynamic-update-slice" in kernel.instruction.op_name or "dynamic_update_slice" in kernel.instruction.op_name
    )
    return [0] if updates else [array.bytes for array in written_arrays(program, kernel)]


def _is_counter(kernel: Kernel) -> bool:
    """Return whether a kernel is the condition of a loop, or its counter."""
    return all(array.size == 1 for array in kernel.instruction.results)


def _find_copies(program: Program, kernels: list[Kernel], *, least: float) -> Iterable[Copy]:
    copies: dict[str, int] = defaultdict(int)
    for kernel in kernels:
        if _is_inside(kernel.instruction.op_name, ["objective", "blocks"]):
            copies[kernel.instruction.op_name] += kernel.runs * copied_bytes(program, kernel)
    return [Copy(name, size) for name, size in sorted(copies.items(), key=lambda item: -item[1]) if size > least]
