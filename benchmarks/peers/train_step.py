"""The training step of S/16, B/16 and L/16 at 224 px with 64 tokens, against open_clip with torch.compile.

python -m benchmarks.peers.train_step [--models=S/16,B/16,L/16] [--batch=1024] [--microbatch=N] [--remat=none]
    [--dtype=bfloat16]

Ours is the compiled step of a run, with and without the context objective. The peer is open_clip's model of the same
architecture (a timm image tower with attention pooling, a text transformer without causal mask) under torch.compile,
with its SigLipLoss, bfloat16 autocast and fused AdamW. Each row is a process of its own; they run one after another on
the same device. MFU is the model's operations, without recomputation, over the measured peak of a large product.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine, measure_peak, seconds_of

MODELS = {  # width, depth, heads, image size, patch size, tokens
    "S/16": (384, 12, 6, 224, 16, 64),
    "B/16": (768, 12, 12, 224, 16, 64),
    "L/16": (1024, 24, 16, 224, 16, 64),
    "tiny": (64, 2, 2, 64, 16, 16),
}
VOCABULARY = 32_000
WARM_UP = 3
PEAK_SIZES = {"gpu": 8192}  # of the product that measures the peak; 2048 elsewhere


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table per model; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.train_step", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", default="S/16,B/16,L/16", help=f"models, separated by commas, of {', '.join(MODELS)}"
    )
    parser.add_argument("--batch", type=int, default=1024, help="pairs per step (default: 1024)")
    parser.add_argument("--microbatch", type=int, help="pairs that our towers process at a time (default: all)")
    parser.add_argument("--remat", default="none", help="our remat policy (default: none)")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="type of the products")
    parser.add_argument("--unroll", type=int, default=1, help="layers unrolled per scan step (default: 1)")
    parser.add_argument("--steps", type=int, default=20, help="timed steps (default: 20)")
    parser.add_argument("--child", choices=("plain", "context", "open_clip"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    unknown = [name for name in args.models.split(",") if name not in MODELS]
    if unknown:
        parser.error(f"unknown model {unknown[0]!r}; known: {', '.join(MODELS)}")
    if args.child:
        measure = measure_open_clip if args.child == "open_clip" else measure_ours
        print(json.dumps(measure(args.models, args)), flush=True)
        return 0
    for name in args.models.split(","):
        children = ["plain", "context"]
        if find_spec("open_clip"):
            children.append("open_clip")
        else:
            packages = "-r requirements-parity.txt -r requirements-bench.txt"
            print(f"note: open_clip is not installed and is left out. Run `pip install {packages}`.", file=sys.stderr)
        print(table(name, args, {child: start(name, child, args) for child in children}), flush=True)
    return 0


def start(name: str, child: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return what one side measured in a process of its own, or the last line of its error."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.peers.train_step",
        *given_options(args),
        f"--models={name}",
        f"--child={child}",
    ]
    print(f"{name}, {child}", file=sys.stderr, flush=True)
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"})
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no error message"])[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


def given_options(args: argparse.Namespace) -> list[str]:
    """Return the options that a side needs."""
    names = ("batch", "microbatch", "remat", "dtype", "unroll", "steps")
    return [f"--{name}={getattr(args, name)}" for name in names if getattr(args, name) is not None]


def settings_of(name: str, args: argparse.Namespace, *, context: bool) -> Any:
    """Return the settings of our run."""
    from pretrain.config.run import read_settings

    width, depth, heads, size, patch, tokens = MODELS[name]
    tower = dict(width=width, depth=depth, heads=heads, mlp_width=4 * width)
    return read_settings(
        dict(
            seed=0,
            steps=1000,
            batch_size=args.batch,
            microbatch_size=args.microbatch,
            vision=dict(image_size=size, patch_size=patch, **tower),
            text=dict(length=tokens, **tower),
            tokenizer=dict(name=f"train:{VOCABULARY}"),
            data=dict(sources=("none",)),
            augmentation={},
            objective=dict(base="sigmoid", context=context, dtype=args.dtype),
            optimizer=dict(learning_rate=1e-3),
            dtype=args.dtype,
            remat=args.remat,
            scan_unroll=args.unroll,
        )
    )


def measure_ours(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return seconds, memory and compile time of our training step."""
    import jax
    import jax.numpy as jnp

    from models.towers import count_parameters
    from pretrain.distributed import sharding
    from pretrain.monitoring.throughput import count_pair_flops
    from pretrain.train_step import abstract_batch, build_train_step

    settings = settings_of(name, args, context=args.child == "context")
    mesh = sharding.create_mesh()
    training = build_train_step(settings, mesh, model=settings.model(VOCABULARY))
    began = time.perf_counter()
    step = training.step.lower(training.abstract_state, abstract_batch(settings, mesh)).compile()
    compile_seconds, memory = time.perf_counter() - began, step.memory_analysis()
    images, tokens = make_batch(name, args.batch)
    batch, state = sharding.place_batch({"images": images, "tokens": tokens}, mesh), training.init()

    def run() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)

    seconds = timed(run, args.steps)
    size = PEAK_SIZES.get(jax.default_backend(), 2048)
    matrix, product = jnp.ones((size, size), args.dtype), jax.jit(jnp.matmul)
    return {
        "versions": {"jax": jax.__version__},
        "backend": jax.default_backend(),
        "parameters": count_parameters(state.parameters["model"]),
        "seconds": seconds,
        "compile": compile_seconds,
        "memory": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        "flops": sum(count_pair_flops(settings)),
        "peak": measure_peak(lambda: product(matrix, matrix).block_until_ready(), size),
    }


def measure_open_clip(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return the same for open_clip."""
    import open_clip
    import timm
    import torch
    from open_clip.loss import SigLipLoss
    from open_clip.model import CustomTextCLIP

    width, depth, heads, size, patch, tokens = MODELS[name]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = True
    model = CustomTextCLIP(
        embed_dim=width,
        vision_cfg=dict(
            image_size=size, timm_model_name="vit_base_patch16_siglip_224", timm_pool="map", timm_proj="none"
        ),
        text_cfg=dict(
            context_length=tokens,
            vocab_size=VOCABULARY,
            width=width,
            heads=heads,
            layers=depth,
            no_causal_mask=True,
            proj_bias=True,
            pool_type="last",
            norm_kwargs=dict(eps=1e-6),
        ),
        init_logit_scale=np.log(10),
        init_logit_bias=-10,
    )
    model.visual.trunk = timm.create_model(
        "vit_base_patch16_siglip_224", img_size=size, patch_size=patch, embed_dim=width, depth=depth, num_heads=heads
    )
    model = model.to(device).train()
    compiled, loss = torch.compile(model), SigLipLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=device == "cuda")
    images, tokens = make_batch(name, args.batch)
    pixels = torch.tensor(images.transpose(0, 3, 1, 2) / np.float32(127.5) - 1).to(device)
    tokens = torch.tensor(tokens, dtype=torch.int64, device=device)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=args.dtype == "bfloat16"):
            x, t, scale, bias = compiled(pixels, tokens)
            value = loss(x, t, scale, bias)
        value.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    began = time.perf_counter()
    run()
    compile_seconds = time.perf_counter() - began
    return {
        "versions": {"torch": torch.__version__, "open_clip": open_clip.__version__, "timm": timm.__version__},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": timed(run, args.steps),
        "compile": compile_seconds,
        "memory": torch.cuda.max_memory_allocated() if device == "cuda" else None,
    }


def make_batch(name: str, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images `[batch, size, size, 3]` uint8 and tokens `[batch, length]` int32 for both sides."""
    rng, (*_, size, _, tokens) = np.random.default_rng(0), MODELS[name]
    images = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
    return images, rng.integers(0, VOCABULARY, (batch, tokens), np.int32)


def timed(run: Callable[[], None], steps: int) -> float:
    """Return the median seconds per step."""
    for _ in range(WARM_UP):
        run()
    return statistics.median(seconds_of(run, steps))


def table(name: str, args: argparse.Namespace, measured: dict[str, dict[str, Any]]) -> str:
    """Return machine, rows, ratios and limit of one model."""
    ours = measured["plain"]
    if "failed" in ours:
        return f"{name}: failed: {ours['failed']}"
    versions = {key: value for facts in measured.values() for key, value in facts.get("versions", {}).items()}
    lines = [
        f"\n{name}: {args.batch} pairs per step, {ours['parameters']:,} parameters, {args.dtype}, remat {args.remat}, "
        f"microbatch {args.microbatch}",
        f"machine: {describe_machine(ours['backend'])}",
        f"versions: {', '.join(f'{key} {value}' for key, value in versions.items())}",
        f"{'':32}{'pairs/s':>10}{'MFU':>8}{'memory':>12}{'compile':>10}{'ours/peer':>11}",
    ]
    names = {"plain": "ours, SigLIP", "context": "ours, with context", "open_clip": "open_clip, torch.compile"}
    for child, facts in measured.items():
        if "failed" in facts:
            lines.append(f"{names[child]:32}failed: {facts['failed']}")
            continue
        rate = args.batch / facts["seconds"]
        share = rate * ours["flops"] / ours["peak"]
        memory = "" if facts["memory"] is None else f"{facts['memory'] / 1e9:.1f} GB"
        ratio = f"{facts['seconds'] / ours['seconds']:.2f}" if child == "open_clip" else ""
        lines.append(f"{names[child]:32}{rate:>10,.0f}{share:>8.0%}{memory:>12}{facts['compile']:>8.0f} s{ratio:>11}")
    if "failed" not in measured["context"]:
        cost = measured["context"]["seconds"] / ours["seconds"] - 1
        lines.append(f"the context objective costs {cost:+.1%} of a step")
    lines.append(
        f"limit: {ours['peak'] / ours['flops']:,.0f} pairs/s, at {ours['flops'] / 1e9:.2f} GFLOP of matrix products "
        f"per pair and {ours['peak'] / 1e12:.1f} TFLOP/s of large {args.dtype} products"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
