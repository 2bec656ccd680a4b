"""Steps compiled for described NVIDIA GPUs: programs that do not do what the settings ask for are reported."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[3]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not any(importlib.util.find_spec(f"jax_{cuda}_plugin") for cuda in ("cuda12", "cuda13")),
        reason="JAX's CUDA plugin is not installed (requirements-compile-cuda12.txt)",
    ),
]
CONFIG = """
from ml_collections import ConfigDict
from tests.pretrain.tiny import config


def get_config():
    tower = {"width": 64, "depth": 2, "heads": 1, "mlp_width": 128}
    made = config(
        "none.tar",
        batch_size=64,
        vision={"image_size": 32, "patch_size": 4, **tower},
        text={"length": 16, **tower},
        tokenizer={"name": "train:300"},
        augmentation={},
        objective={"base": "sigmoid", "dtype": "bfloat16", "block_size": 32},
        mesh={"fsdp": 1},
        dtype="bfloat16",
    )
    return ConfigDict({"pretrain": made})
"""
LAUNCH = "import runpy, sys; sys.argv[0] = 'launch.py'; runpy.run_path('launch.py', run_name='__main__')"
# Every device computes the whole batch.
REPLICATED = """
import jax
from jax.sharding import NamedSharding, PartitionSpec
from models.activation_sharding import ActivationSharding

def replicate(self, activations):
    return jax.lax.with_sharding_constraint(activations, NamedSharding(self.mesh, PartitionSpec()))

ActivationSharding.split_rows = replicate
"""


def compile_for(tmp_path, topology, *overrides, before="", code):
    """Return what `launch.py compile` prints, after the statements `before`."""
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    command = [sys.executable, "-c", before + LAUNCH, "compile", f"--config={path}", f"--topology={topology}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [*command, *overrides], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_step_in_bfloat16_uses_cudnn_in_both_towers_and_passes_and_has_no_fault(tmp_path):
    page = compile_for(tmp_path, "h100:1", code=0)
    for tower in ("image tower", "text tower"):
        assert f"cuDNN kernels in the {tower}, forward pass\n" in page
        assert f"cuDNN kernels in the {tower}, backward pass\n" in page
    assert "fault:" not in page and "no attention of the towers is fused" not in page


def test_unfused_attention_and_large_blocks_are_remarks(tmp_path):
    large = ["--config.pretrain.batch_size=32768", "--config.pretrain.objective.block_size=8192"]
    page = compile_for(tmp_path, "h100:1", "--config.pretrain.attention=xla", *large, code=0)
    assert "remark: no attention of the towers is fused, because pretrain.attention is xla" in page
    assert "more than the L2 cache of 52.4 MB" in page


def test_attention_in_float32_is_a_remark(tmp_path):
    page = compile_for(tmp_path, "a100:1", "--config.pretrain.dtype=float32", code=0)
    assert "remark: no attention of the towers is fused, because pretrain.dtype is float32" in page


def test_replicated_activations_are_a_fault(tmp_path):
    page = compile_for(tmp_path, "h100:4", before=REPLICATED, code=1)
    assert "fault: the towers' matrix products take" in page and "devices repeat each other's work" in page
