"""Ahead-of-time compilation: the verdict, the arithmetic and the traffic."""

import ast
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

import launch
from models.config import ModelSettings, TextSettings, VisionSettings
from models.flops import count_forward_flops
from pretrain.compilation.hlo.collectives import Traffic, count_collectives
from pretrain.compilation.hlo.program import parse_program
from pretrain.config.run import read_settings
from pretrain.monitoring.device_peaks import GPUS
from pretrain.monitoring.throughput import count_pair_flops
from tests.pretrain.tiny import config

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[3]
B16 = "configs/siglip_b16.py"
TINY = """
from ml_collections import ConfigDict
from tests.pretrain.tiny import config


def get_config():
    made = config("none.tar", batch_size=32, augmentation={}, mesh={"fsdp": 2}, microbatch_size=None, dtype="float32")
    return ConfigDict({"pretrain": made})
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(TINY)
    return str(path)


def compile_for(topology, path, *overrides, code=0):
    done = run(topology, path, *overrides)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def run(topology, path, *overrides):
    command = [sys.executable, "launch.py", "compile", f"--config={path}", f"--topology={topology}", *overrides]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("JAX_PLATFORMS", "XLA_FLAGS"):  # libtpu refuses flags of the CPU's compiler
        environment.pop(name, None)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


def test_eight_fake_devices_compile_and_report_their_traffic(tiny):
    page = compile_for("local:8", tiny, "--config.pretrain.microbatch_size=16")
    assert "verdict: compiles" in page and "fsdp 2" in page and "32 pairs for local:8, 8 devices" in page
    assert "all-gather" in page and "all-reduce" in page


def test_the_json_file_names_the_rematerialization_that_auto_takes(tiny, tmp_path):
    compile_for("local:2", tiny, "--config.pretrain.remat=auto", f"--json={tmp_path / 'figures.json'}")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["remat"] == "none" and figures["devices"] == 2  # the memory of fake devices is not known


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (requirements-compile-tpu.txt)"
)


@needs_libtpu
def test_a_tpu_topology_compiles_without_a_tpu(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    page = compile_for("v5e:2x2", tiny, "--config.pretrain.dtype=bfloat16")
    assert "verdict: fits" in page and "of 17.2 GB" in page and "197 bfloat16 TFLOP/s" in page
    assert not [*(tmp_path / "kept").glob("jit_train_step*")]  # it could not be loaded the next time


@needs_libtpu
def test_several_tpu_slices_compile_and_no_parameter_is_sharded_across_them(tiny):
    page = compile_for("v5e:2x2*2", tiny, "--config.pretrain.dtype=bfloat16")
    assert "verdict: fits" in page and "32 pairs for v5e:2x2*2, 8 devices" in page
    page = compile_for("v5e:2x2*2", tiny, "--config.pretrain.mesh.fsdp=8", code=1)
    assert "mesh.fsdp 8 does not divide the 4 devices of each of the 2 slices" in page


@needs_libtpu
def test_a_step_that_does_not_fit_names_changes_that_save_memory(tiny):
    small = ["--config.pretrain.batch_size=32768", "--config.pretrain.mesh.fsdp=4"]
    page = compile_for("v5e:4x4", B16, *small, code=1)
    assert "verdict: does not fit" in page
    assert "pretrain.remat=full" in page and "pretrain.microbatch_size=" in page


needs_cuda = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is None,
    reason="JAX's CUDA plugin is not installed (requirements-compile-cuda12.txt)",
)


@needs_cuda
def test_described_gpus_compile_without_a_gpu_and_nothing_else_is_printed(tiny, tmp_path, monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    done = run("h100:2x2", tiny, "--config.pretrain.dtype=bfloat16", f"--hlo={tmp_path / 'step.hlo'}")
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == f"compiling a step of 32 pairs for h100:2x2, 4 devices, jax {jax.__version__}"
    assert lines[1] == f"wrote the compiled program to {tmp_path / 'step.hlo'}"
    assert "of 63.7 GB, the 75% of 84.9 GB that JAX reserves (XLA_PYTHON_CLIENT_MEM_FRACTION)" in done.stdout
    assert "at the devices' peak of 989 bfloat16 TFLOP/s" in done.stdout and "reduce-scatter" in done.stdout
    assert lines[-1].startswith("verdict: fits, ")
    program = (tmp_path / "step.hlo").read_text()
    assert (
        "all-gather-start" in program and "__cudnn$fmhaSoftmaxBackward" in program
    )  # of a cuDNN that is not installed
    assert not [*(tmp_path / "kept").glob("jit_train_step*")]  # it could not be loaded the next time


@needs_cuda
def test_a_program_compiles_for_every_described_gpu():
    lines = ["import sys", "from pretrain.compilation.devices import describe_devices"]
    lines += ["print([d.device_kind for kind in sys.argv[1:] for d in describe_devices(f'{kind}:2').devices])"]
    command = [sys.executable, "-c", "\n".join(lines), *GPUS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stdout) == [peak.kind for peak in GPUS.values() for _ in range(2)]


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v9:4x4", "unknown topology 'v9:4x4'. For TPUs use KIND:SHAPE such as v5e:4x4"),
        ("v5e", "unknown topology 'v5e'"),
        ("v5e:4x4*0", "unknown topology 'v5e:4x4*0'"),
        ("local:0", "unknown topology 'local:0'"),
    ],
)
def test_an_unknown_topology_is_one_sentence(tiny, capsys, topology, message):
    assert launch.main(["compile", f"--config={tiny}", f"--topology={topology}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_numbers_that_do_not_fit_the_devices_are_one_sentence(tiny):
    page = compile_for("local:3", tiny, code=1)
    assert "mesh.fsdp 2 does not divide the 3 devices. Use one of 1, 3." in page
    page = compile_for("local:8", tiny, "--config.pretrain.batch_size=36", code=1)
    assert "batch_size 36 is not divisible by 8 devices. Use 32 or 40." in page
    page = compile_for("local:8", tiny, "--config.pretrain.microbatch_size=12", code=1)
    assert "microbatch_size 12 does not split batch_size 32" in page


PROGRAM = """\
HloModule jit_step

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %s = f32[] add(%x, %y)
}

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %g = f32[8,4]{1,0:T(8,128)} all-gather(f32[2,4]{1,0} %v), channel_id=1, dimensions={0}
}

%cond (p: (s32[], f32[8,4])) -> pred[] {
  %n = s32[]{:T(128)} constant(12)
  ROOT %c = pred[] compare(%i, %n), direction=LT
}

%async_collective_fusion (p: f32[]) -> f32[] {
  %g2 = bf16[16]{0} all-gather(bf16[4] %q), channel_id=3, dimensions={0}
}

%fused_start (p: f32[]) -> f32[] {
  %g3 = bf16[16]{0} all-gather(bf16[4] %q), channel_id=3, dimensions={0}
}

%body2 (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %f = f32[] fusion(%p), kind=kLoop, calls=%async_collective_fusion
}

ENTRY %main (a: f32[2,4]) -> f32[8,4] {
  %w = (s32[], f32[8,4]) while(%t), condition=%cond, body=%body
  %w2 = (s32[], f32[8,4]) while(%t), condition=%cond, body=%body2, backend_config={"known_trip_count":{"n":"5"}}
  %f0 = f32[] fusion(%p), kind=kLoop, calls=%fused_start
  %r = (f32[10]{0}, bf16[6]{0}) all-reduce(%k, %l), channel_id=2, to_apply=%add
}
"""


def test_collectives_in_loops_count_every_iteration_and_asynchronous_ones_once():
    assert count_collectives(parse_program(PROGRAM)) == {
        "all-gather": Traffic(13, 12 * 128 + 32),
        "all-reduce": Traffic(1, 52),
    }


def test_flops_of_b16_match_the_formula():
    vision = VisionSettings(image_size=224, patch_size=16, width=768, depth=12, heads=12, mlp_width=3072)
    text = TextSettings(vocab_size=32_000, length=64, width=768, depth=12, heads=12, mlp_width=3072)
    flops = count_forward_flops(ModelSettings(vision=vision, text=text))
    layer = 12 * 2 * (4 * 768**2 + 2 * 768 * 3072)  # per token in twelve layers
    attention = 12 * 4 * 768
    expected = 196 * layer + 196**2 * attention + 64 * layer + 64**2 * attention
    assert flops == pytest.approx(expected, rel=0.03)  # patch embedding and heads are the rest
    fewer = count_forward_flops(ModelSettings(vision=vision, text=text), kept_patches=98)
    assert 0.5 < fewer / flops < 0.7


def test_the_objective_counts_its_matrix_products():
    def products(**objective):
        settings = read_settings(config("none.tar", objective=objective))
        return count_pair_flops(settings)[1] / (2 * settings.batch_size * settings.vision.width)

    assert products(base="sigmoid", context=False) == 3
    assert products(base="softmax", context=False) == 4
    assert products(base="sigmoid") == 13
