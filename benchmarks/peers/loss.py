"""The loss, forward and backward: time, memory and error, against dense forms, optax and open_clip.

python -m benchmarks.peers.loss [--batches=1024,4096,…] [--dim=768] [--dtype=float32|bfloat16] [--seconds=60]
    [--equal_texts=positive|ignored]

Every row computes the value and the gradient with respect to both embeddings and all scalars. The peers are the dense
form of the same objective in JAX, optax's sigmoid cross-entropy on full logits, and open_clip's SigLipLoss in PyTorch
on the same device, loaded from its loss.py alone. A row that would take more than --seconds at the machine's peak, or
more memory than --gigabytes, is compiled but not run. The error is the largest relative error of value and gradients
against the dense float64 form, for batches of up to 2,048. The limit is the time of the matrix products alone at the
measured peak. --equal_texts gives the objective tokens in which each text occurs about twice; it then has no peers.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import pathlib
import statistics
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leave GPU memory to PyTorch

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.machine import describe_machine, measure_peak, seconds_of
from pretrain.losses import reference
from pretrain.losses.context_objective import Objective
from pretrain.losses.equal_texts import Treatment
from pretrain.monitoring.throughput import count_products

LENGTH = 64  # tokens of a text
CHECKED = 2048  # largest batch that is compared with float64
PEAK_SIZES = {"gpu": 8192}  # of the product that measures the peak; 2048 elsewhere
DEFAULT = (1024, 4096, 16_384, 65_536, 262_144, 1_048_576)


class LossRow(NamedTuple):
    """One form's seconds, temporary bytes and error (None if not measured), and its number of matrix products."""

    name: str
    seconds: float | None
    temporaries: int | None
    error: float | None
    products: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table per batch size; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.loss", description=__doc__.splitlines()[0])
    parser.add_argument("--batches", default=",".join(map(str, DEFAULT)), help="batch sizes, separated by commas")
    parser.add_argument("--dim", type=int, default=768, help="embedding dimension (default: 768)")
    parser.add_argument("--base", default="sigmoid", choices=("sigmoid", "softmax"), help="base loss")
    parser.add_argument(
        "--dtype", default="float32", choices=("float32", "bfloat16"), help="operand type of the products"
    )
    parser.add_argument(
        "--equal_texts", default="negative", choices=typing.get_args(Treatment), help="equal texts (default: negative)"
    )
    parser.add_argument("--block_size", type=int, help="rows and columns per block (default: by platform)")
    parser.add_argument(
        "--implementation",
        default="xla",
        choices=("xla", "pallas"),
        help="of our sigmoid loss; pallas needs an NVIDIA GPU and bfloat16 (default: xla)",
    )
    parser.add_argument("--seconds", type=float, default=60, help="skip rows with a longer estimate (default: 60)")
    parser.add_argument("--gigabytes", type=float, default=8, help="skip rows with more temporary memory (default: 8)")
    parser.add_argument("--repeats", type=int, default=5, help="runs per row (default: 5)")
    args = parser.parse_args(arguments)

    backend = jax.default_backend()
    size, dtype = PEAK_SIZES.get(backend, 2048), jnp.dtype(args.dtype)
    matrix, product = jnp.ones((size, size), dtype), jax.jit(jnp.matmul)
    peak = measure_peak(lambda: product(matrix, matrix).block_until_ready(), size)
    peer = open_clip_loss() if (args.base, args.equal_texts) == ("sigmoid", "negative") else None
    versions = f"jax {jax.__version__}, optax {optax.__version__}"
    if peer is not None:
        import torch

        versions += f", torch {torch.__version__}, open_clip {peer.version}"
    print(f"machine: {describe_machine(backend)}; backend {backend}\nversions: {versions}")
    print(
        f"{args.base}, {args.implementation}, equal texts {args.equal_texts}, dim {args.dim}, {args.dtype} operands; "
        f"peak {peak / 1e9:,.0f} GFLOP/s of {args.dtype} products"
    )
    for batch in map(int, args.batches.split(",")):
        rows = measure(batch, args, peak, peer)
        print(f"\nbatch {batch:,}\n{'':44}{'ms':>12}{'temporaries':>14}{'of limit':>10}{'error':>10}{'ours/peer':>11}")
        for line in table(rows, batch, args.dim, peak):
            print(line, flush=True)
    if peer is None:
        print("\nopen_clip: not installed, or not of this loss")
    return 0


def measure(batch: int, args: argparse.Namespace, peak: float, peer: OpenClipLoss | None) -> list[LossRow]:
    """Return the rows of one batch size."""
    rng = np.random.default_rng(0)
    u, v = (rng.standard_normal((batch, args.dim), np.float32) for _ in range(2))
    v += u
    tokens = rng.integers(0, 32_000, (batch // 2, LENGTH), np.int32)[rng.integers(0, batch // 2, batch)]
    rows = []
    for context in (False, True):
        objective = Objective(
            base=args.base,
            context=context,
            equal_texts=args.equal_texts,
            dtype=args.dtype,
            block_size=args.block_size,
            implementation=args.implementation,
        )
        scalars = objective.init(args.dim)
        products = count_products(args.base, context=context)
        name = "with context" if context else args.base

        def ours(scalars: Any, u: jax.Array, v: jax.Array, tokens: jax.Array, objective=objective) -> jax.Array:
            return objective(scalars, u, v, tokens=tokens).value

        def full(scalars: Any, u: jax.Array, v: jax.Array, tokens: jax.Array, objective=objective) -> jax.Array:
            return reference.objective_loss(objective, scalars, u, v, tokens=tokens)

        forms = [(f"ours, {name}", ours), (f"dense JAX, {name}", full)]
        if (args.base, args.equal_texts, context) == ("sigmoid", "negative", False):
            forms.append(("optax.sigmoid_binary_cross_entropy", optax_loss))
        truth = None
        if batch <= CHECKED:
            with jax.enable_x64(True):
                double = [jnp.asarray(rows, jnp.float64) for rows in (u, v)]
                scalars64 = {key: jnp.asarray(np.asarray(value), jnp.float64) for key, value in scalars.items()}
                truth = jax.value_and_grad(full, argnums=(0, 1, 2))(scalars64, *double, tokens)
                truth = jax.tree.map(np.asarray, truth)
        for form, function in forms:
            operands = jnp.dtype(args.dtype) if function is not ours else jnp.float32
            row = LossRow(form, None, None, None, products)
            rows.append(
                run(row, function, (scalars, u, v, tokens), operands=operands, truth=truth, args=args, peak=peak)
            )
    if peer is not None:
        rows.append(peer.run(u, v, args, peak))
    return rows


def run(
    row: LossRow,
    function: Callable[..., jax.Array],
    given: tuple[Any, np.ndarray, np.ndarray, np.ndarray],
    *,
    operands: jax.typing.DTypeLike,
    truth: Any,
    args: argparse.Namespace,
    peak: float,
) -> LossRow:
    """Return the row with the measurements of a form: compiled, and run if it is within the limits."""
    scalars, u, v, tokens = given
    gradient = jax.jit(jax.value_and_grad(function, argnums=(0, 1, 2)))
    shape = jax.ShapeDtypeStruct(u.shape, operands)
    try:
        compiled = gradient.lower(scalars, shape, shape, tokens).compile()
    except jax.errors.JaxRuntimeError:  # more memory than the device has
        return row
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    if temporaries > args.gigabytes * 1e9 or work(len(u), args.dim, row.products) / peak > args.seconds:
        return row._replace(temporaries=temporaries)
    placed = [*(jnp.asarray(rows, operands) for rows in (u, v)), jnp.asarray(tokens)]
    result = jax.block_until_ready(compiled(scalars, *placed))
    error = None
    if truth is not None:
        errors = jax.tree.map(
            lambda a, b: np.linalg.norm(np.asarray(a, np.float64) - b) / max(np.linalg.norm(b), 1e-3), result, truth
        )
        error = max(jax.tree.leaves(errors))
    seconds = statistics.median(seconds_of(lambda: jax.block_until_ready(compiled(scalars, *placed)), args.repeats))
    return row._replace(seconds=seconds, temporaries=temporaries, error=error)


def optax_loss(scalars: Any, u: jax.Array, v: jax.Array, tokens: jax.Array) -> jax.Array:
    """Return the SigLIP loss on full logits, written with optax; equal texts are negative."""
    x, t = reference.normalize(u), reference.normalize(v)
    logits = jnp.exp(scalars["logit_scale"]) * x @ t.T + scalars["logit_bias"]
    return jnp.sum(optax.sigmoid_binary_cross_entropy(logits, jnp.eye(len(u), dtype=logits.dtype))) / len(u)


class OpenClipLoss:
    """open_clip's SigLipLoss."""

    def __init__(self, module: Any, version: str):
        self.module, self.version = module, version

    def run(self, u: np.ndarray, v: np.ndarray, args: argparse.Namespace, peak: float) -> LossRow:
        """Time loss and backward pass in eager mode, as open_clip trains."""
        import torch

        name, products = "open_clip SigLipLoss, eager", count_products("sigmoid", context=False)
        full = 4 * len(u) ** 2 * (2 if args.dtype == "bfloat16" else 4)  # logits and what autograd keeps of them
        if full > args.gigabytes * 1e9 or work(len(u), args.dim, products) / peak > args.seconds:
            return LossRow(name, None, None, None, products)
        cuda = torch.cuda.is_available()
        device, dtype = ("cuda" if cuda else "cpu"), getattr(torch, args.dtype)
        images, texts = (torch.tensor(rows, device=device, dtype=dtype, requires_grad=True) for rows in (u, v))
        scale, bias = (torch.tensor(value, device=device, requires_grad=True) for value in (2.302585, -10.0))
        loss = self.module.SigLipLoss()

        def step() -> None:
            for leaf in (images, texts, scale, bias):
                leaf.grad = None
            x, t = (torch.nn.functional.normalize(rows, dim=-1) for rows in (images, texts))
            loss(x, t, scale.exp(), bias).backward()
            if cuda:
                torch.cuda.synchronize()

        step()
        temporaries = None
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            step()
            temporaries = torch.cuda.max_memory_allocated() - before
        return LossRow(name, statistics.median(seconds_of(step, args.repeats)), temporaries, None, products)


def open_clip_loss() -> OpenClipLoss | None:
    """Return open_clip's loss without the rest of the package, which needs torchvision; None if not installed."""
    found = importlib.util.find_spec("open_clip")
    if found is None or importlib.util.find_spec("torch") is None:
        return None
    folder = pathlib.Path(found.origin).parent
    spec = importlib.util.spec_from_file_location("open_clip_loss", folder / "loss.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return OpenClipLoss(module, importlib.metadata.version("open_clip_torch"))


def table(rows: list[LossRow], batch: int, dim: int, peak: float) -> list[str]:
    """Return the lines of one batch size; ratios compare with our form of the same work."""
    ours = {row.products: row.seconds for row in rows if row.name.startswith("ours")}
    lines = []
    for row in rows:
        seconds = "not run" if row.seconds is None else f"{row.seconds * 1e3:,.1f}"
        memory = "" if row.temporaries is None else f"{row.temporaries / 1e6:,.0f} MB"
        limit = "" if row.seconds is None else f"{work(batch, dim, row.products) / peak / row.seconds:.0%}"
        error = "" if row.error is None else f"{row.error:.0e}"
        mine, peer = ours.get(row.products), not row.name.startswith("ours")
        ratio = f"{row.seconds / mine:.2f}" if peer and mine and row.seconds else ""
        lines.append(f"{row.name:44}{seconds:>12}{memory:>14}{limit:>10}{error:>10}{ratio:>11}")
    return lines


def work(batch: int, dim: int, products: int) -> int:
    """Return the floating-point operations of `products` matrix products over all pairs."""
    return products * 2 * batch**2 * dim


if __name__ == "__main__":
    sys.exit(main())
