"""The loss compiled for a described GPU: bytes that its kernels move per block of pairs, against the matrix products.

python -m benchmarks.compiled_loss [--topology=h100:1] [--batch=65536] [--dim=768] [--block_size=2048] [--no_context]
    [--implementation=pallas]

No GPU is needed, only JAX's CUDA plugin (requirements-compile-cuda12.txt). Value and gradients of the sigmoid loss in
bfloat16. "Memory" are the bytes of arrays that outlive a block. "Between" are the bytes of arrays that the kernels of a
block pass on to each other: they are in memory too, unless L2 holds them. A fused kernel moves the first only.
Nothing is measured: launches, the bandwidth of L2, and the overlap of traffic and products are left out.

With `--implementation=pallas` the matrix products of the sigmoid loss are inside its kernel. Each of its programs loads
all columns tile by tile: "tile loads", from L2 as far as it holds them. cuBLAS loads tiles, too; they are not counted.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pretrain.compilation.devices import DescribedDevices, describe_devices
from pretrain.compilation.hlo.kernels import count_bytes, find_kernels, is_pallas
from pretrain.compilation.hlo.program import parse_program
from pretrain.compilation.hlo.report import ProgramReport, read_program
from pretrain.compilation.nvidia_gpus import memory_bandwidth
from pretrain.losses.context_objective import Objective
from pretrain.monitoring.device_peaks import GPUS


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the sweeps over blocks of pairs and their totals; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compiled_loss", description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="h100:1", help="GPUs to compile for (default: h100:1)")
    parser.add_argument("--batch", type=int, default=65_536, help="global batch size (default: 65,536)")
    parser.add_argument("--dim", type=int, default=768, help="embedding dimension (default: 768)")
    parser.add_argument("--block_size", type=int, help="rows and columns per block (default: by platform)")
    parser.add_argument("--no_context", action="store_true", help="the base loss alone")
    parser.add_argument(
        "--implementation", default="xla", choices=("xla", "pallas"), help="of the sigmoid loss (default: xla)"
    )
    parser.add_argument("--hlo", help="file to write the compiled program to")
    args = parser.parse_args(arguments)

    described = describe_devices(args.topology)
    objective = Objective(
        dtype="bfloat16",
        block_size=args.block_size,
        context=not args.no_context,
        implementation=args.implementation,
    )
    program = compile_loss(objective, described, batch=args.batch, dim=args.dim)
    if args.hlo:
        with open(args.hlo, "w", encoding="utf-8") as file:
            file.write(program)
    print(
        f"sigmoid loss, batch {args.batch:,}, dim {args.dim}, bfloat16, {args.topology}, {args.implementation}, "
        f"jax {jax.__version__}"
    )
    print("\n".join(describe_loss(read_program(program), list(find_pair_kernels(program)), described.kind)))
    return 0


class PairKernel(NamedTuple):
    """A Pallas kernel of a compiled program: number of runs, and per run operations, bytes of arrays, and tile loads.

    The tile loads are the bytes of columns that all programs of the kernel load.
    """

    runs: int
    flops: int
    bytes: int
    tile_loads: int


def find_pair_kernels(text: str) -> Iterator[PairKernel]:
    """Yield the Pallas kernels in the HLO text of a program, all of `pretrain.losses.pair_kernel` with gradients."""
    program = parse_program(text)
    for kernel in find_kernels(program):
        if not is_pallas(kernel.instruction):
            continue
        rows = kernel.instruction.results[0].size
        operands = [kernel.computation.instructions[name].results[0] for name in kernel.instruction.operands]
        _, columns = [array for array in operands if array.dtype == "bf16"]
        programs = int(re.search(r"grid_x = (\d+)", kernel.instruction.text)[1])
        flops = 2 * 2 * rows * columns.size  # the logits, and the sums of columns
        yield PairKernel(kernel.runs, flops, count_bytes(program, kernel), programs * columns.bytes)


def compile_loss(objective: Objective, described: DescribedDevices, *, batch: int, dim: int) -> str:
    """Return the HLO text of value and gradients for embeddings `[batch, dim]`, sharded over the devices."""
    mesh = Mesh(np.array(described.devices), ("data",))
    rows, replicated = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    scalars = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated),
        jax.eval_shape(lambda: objective.init(dim)),
    )
    embeddings = jax.ShapeDtypeStruct((batch, dim), jnp.bfloat16, sharding=rows)

    @jax.jit
    def loss(scalars: dict, u: jax.Array, v: jax.Array):
        value = jax.value_and_grad(lambda *inputs: objective(*inputs, mesh=mesh), argnums=(0, 1, 2), has_aux=True)
        return value(scalars, u, v)

    lowered = loss.lower(scalars, embeddings, embeddings)
    return lowered.compile(compiler_options=dict(described.compiler_options)).as_text()


def describe_loss(report: ProgramReport, pair_kernels: list[PairKernel], kind: str) -> list[str]:
    """Return the sweeps and the totals, per device, as lines of text."""
    header = (
        f"{'sweep':30}{'blocks':>8}{'kernels':>9}{'MB per block':>14}{'between':>9}{'their arrays':>14}{'largest':>9}"
    )
    lines = [header]
    for sweep in report.sweeps:
        sizes = [sweep.bytes, sweep.between, sweep.intermediates, sweep.largest]
        moved, between, arrays, largest = (f"{size / 1e6:,.1f}" for size in sizes)
        lines.append(
            f"{sweep.name:30}{sweep.visits:8,}{sweep.kernels:9}{moved:>14}{between:>9}{arrays:>14}{largest:>9}"
        )
    between = sum(sweep.visits * sweep.between for sweep in report.sweeps)
    in_kernel = sum(kernel.runs * kernel.flops for kernel in pair_kernels)
    flops = report.product_flops + in_kernel
    products = flops / (GPUS[kind].tflops * 1e12)
    bandwidth = memory_bandwidth(kind)
    moved = {"memory": report.bytes - between, "between": between}
    if pair_kernels:
        launches = sum(kernel.runs for kernel in pair_kernels)
        arrays = sum(kernel.runs * kernel.bytes for kernel in pair_kernels)
        lines.append(f"pair kernel: {launches} launches, {in_kernel / 1e12:.1f} TFLOP, {arrays / 1e9:.1f} GB of arrays")
        moved["tile loads"] = sum(kernel.runs * kernel.tile_loads for kernel in pair_kernels)
    for name, size in moved.items():
        seconds = size / bandwidth
        lines.append(
            f"{name}: {size / 1e9:,.0f} GB, {seconds * 1e3:.1f} ms at {bandwidth / 1e12:.2f} TB/s, "
            f"{seconds / products:.0%} of the matrix products"
        )
    lines.append(f"matrix products: {flops / 1e12:.1f} TFLOP, {products * 1e3:.1f} ms at the peak")
    return [*lines, f"kernels: {report.kernels:,}"]


if __name__ == "__main__":
    sys.exit(main())
