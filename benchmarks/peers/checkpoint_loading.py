"""Time and memory of opening a checkpoint, against transformers in PyTorch.

python -m benchmarks.peers.checkpoint_loading [--variant=So400m/14] [--image_size=384] [--dtype=bfloat16]

A SigLIP with random weights is written in `--dtype` as one safetensors file. Each side opens it in that dtype in a
process of its own. Memory is the peak of the process (VmHWM) minus its peak before it opened the file. The file is in
the page cache, as after a download. Without PyTorch only our side is measured. Linux only.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np

from benchmarks.machine import describe_machine


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.checkpoint_loading", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--variant", default="So400m/14", help="size of the towers (default: So400m/14)")
    parser.add_argument("--image_size", type=int, default=384, help="image size in pixels (default: 384)")
    parser.add_argument("--vocab_size", type=int, default=32_000, help="number of token ids (default: 32000)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="type of the weights in the file"
    )
    parser.add_argument("--repeats", type=int, default=3, help="number of rounds (default: 3)")
    parser.add_argument("--child", choices=("ours", "transformers"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.child:
        print(json.dumps({"ours": ours, "transformers": transformers}[args.child](args.folder, args.dtype)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        args.folder = pathlib.Path(folder)
        write_checkpoint(args)
        print(compare(args))
    return 0


def write_checkpoint(args: argparse.Namespace) -> None:
    """Write a config and random weights."""
    import jax
    from safetensors.numpy import save_file

    from models.checkpoints.huggingface import to_config, weight_map_for
    from models.checkpoints.weight_map import parameter_shapes, tensor_shapes
    from models.config import ModelSettings, TextSettings, VisionSettings
    from models.preprocessing import PREPROCESSOR_FILE, Preprocessing
    from models.variants import tower_fields

    sizes = tower_fields("siglip", args.variant)
    settings = ModelSettings(
        vision=VisionSettings(image_size=args.image_size, **sizes.vision),
        text=TextSettings(vocab_size=args.vocab_size, length=64, **sizes.text),
    )
    rng, dtype = np.random.default_rng(0), jax.numpy.dtype(args.dtype)
    shapes = tensor_shapes(weight_map_for(settings, "siglip"), parameter_shapes(settings)) | {
        "logit_scale": (1,),
        "logit_bias": (1,),
    }
    tensors = {name: rng.standard_normal(shape, np.float32).astype(dtype) for name, shape in shapes.items()}
    save_file(tensors, args.folder / "model.safetensors", metadata={"format": "pt"})
    config = to_config(settings, start_id=None, end_id=1, pad_id=1, dtype=args.dtype)
    (args.folder / "config.json").write_text(json.dumps(config))
    (args.folder / PREPROCESSOR_FILE).write_text(json.dumps(Preprocessing(size=(args.image_size,) * 2).to_json()))


def compare(args: argparse.Namespace) -> str:
    """Return the table of the installed sides, which take `args.repeats` turns."""
    sides = ["ours"] + (["transformers"] if find_spec("torch") else [])
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(args.repeats):
        for side in sides:
            command = [
                sys.executable,
                "-m",
                "benchmarks.peers.checkpoint_loading",
                f"--child={side}",
                f"--folder={args.folder}",
            ]
            result = subprocess.run([*command, f"--dtype={args.dtype}"], stdout=subprocess.PIPE, text=True, check=True)
            found[side].append(json.loads(result.stdout.splitlines()[-1]))
    size = (args.folder / "model.safetensors").stat().st_size
    names = ("jax", "safetensors", "transformers", *(("torch",) if "transformers" in sides else ()))
    lines = [
        f"{describe_machine()}; " + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names),
        f"SigLIP {args.variant} at {args.image_size} px in {args.dtype}: a file of {size / 1e9:.2f} GB",
        "",
        "| | seconds | config and its libraries alone | memory for it, peak | of the file | whole process |",
        "|---|---|---|---|---|---|",
    ]
    for side in sides:
        best = min(found[side], key=lambda each: each["seconds"])
        taken = max(each["peak"] - each["before"] for each in found[side])
        whole = max(each["peak"] for each in found[side])
        lines.append(
            f"| {side} | {best['seconds']:.1f} | {best['describe']:.1f} | {taken / 1e9:.2f} GB | {taken / size:.2f} × "
            f"| {whole / 1e9:.2f} GB |"
        )
    return "\n".join(lines)


def peak() -> int:
    """Return the peak memory of this process, in bytes."""
    status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


def ours(folder: pathlib.Path, dtype: str) -> dict[str, float]:
    """Open the checkpoint with this project."""
    import jax

    from models.checkpoints.describe import describe_checkpoint

    jax.block_until_ready(jax.device_put(np.zeros(1)))
    began = time.perf_counter()
    found = describe_checkpoint(folder)
    described, before = time.perf_counter(), peak()
    parameters = jax.block_until_ready(found.read(dtype=dtype))
    seconds = time.perf_counter() - began
    with open(folder / "model.safetensors", "rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    size = (folder / "model.safetensors").stat().st_size - header
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(parameters)) > 0.99 * size
    return {"seconds": seconds, "describe": described - began, "before": before, "peak": peak()}


def transformers(folder: pathlib.Path, dtype: str) -> dict[str, float]:
    """Open it with transformers and read every number once, because mapped weights are read at first use."""
    import torch

    began = time.perf_counter()
    from transformers import SiglipModel

    described, before = time.perf_counter(), peak()
    model = SiglipModel.from_pretrained(folder, dtype=getattr(torch, dtype))
    total = sum(float(parameter.detach().sum()) for parameter in model.parameters())
    assert total == total
    return {"seconds": time.perf_counter() - began, "describe": described - began, "before": before, "peak": peak()}


if __name__ == "__main__":
    sys.exit(main())
