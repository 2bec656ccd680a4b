"""Topologies of described devices, the description of each GPU, and the packages that they need."""

import pathlib
import re
from importlib.metadata import PackageNotFoundError

import jax
import pytest

from pretrain.compilation import nvidia_gpus
from pretrain.compilation.devices import describe_devices
from pretrain.monitoring.device_peaks import GPUS

TARGETS = pathlib.Path(nvidia_gpus.__file__).parent / "gpu_targets"


@pytest.mark.parametrize(
    "topology", ["h100", "h100:", "h100:0", "h100:0x8", "h100:2x", "h100:1x2x8", "h100:8*2", "H100:8", "gtx:1", "v5e:8"]
)
def test_an_unknown_topology_is_reported_with_examples_and_kinds(topology):
    with pytest.raises(ValueError, match="unknown topology") as raised:
        describe_devices(topology)
    assert repr(topology) in str(raised.value)
    assert "h100:2x8" in str(raised.value) and "rtx4090" in str(raised.value) and "v5e:4x4" in str(raised.value)


@pytest.fixture
def asked(monkeypatch):
    """Return the calls that ask for described GPUs, which no plugin answers."""
    calls = []
    monkeypatch.setattr(nvidia_gpus, "described_gpus", lambda kind, **shape: calls.append((kind, shape)) or [])
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    return calls


def test_gpus_are_given_by_number_or_by_hosts_and_number_per_host(asked):
    for topology in ("l4:1", "h100:8", "h100:2x16"):
        describe_devices(topology)
    assert asked == [
        ("l4", {"hosts": 1, "per_host": 1}),
        ("h100", {"hosts": 1, "per_host": 8}),
        ("h100", {"hosts": 2, "per_host": 16}),
    ]


def test_programs_can_use_the_share_of_a_gpu_that_jax_reserves(asked, monkeypatch):
    described = describe_devices("h100:8")
    assert described.memory_fraction == 0.75
    assert described.memory == pytest.approx(84.94e9, rel=1e-4)  # as CUDA reports it for the 80 GB card
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", ".92")
    assert describe_devices("h100:8").memory_fraction == 0.92


@pytest.mark.parametrize("value", ["90%", "0", "1.5", "nan"])
def test_a_memory_fraction_outside_its_range_is_reported(asked, monkeypatch, value):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", value)
    with pytest.raises(ValueError, match=f"XLA_PYTHON_CLIENT_MEM_FRACTION is '{value}'. Use a number above 0"):
        describe_devices("h100:8")


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        ({}, "compiling for NVIDIA GPUs needs JAX's CUDA plugin"),
        ({"jax-cuda12-plugin": "0.10.2"}, "compiling for NVIDIA GPUs needs jax-cuda12-pjrt"),
        ({"jax-cuda12-pjrt": "0.10.2"}, "compiling for NVIDIA GPUs needs jax-cuda12-plugin"),
        (
            {"jax-cuda13-plugin": "0.11.0", "jax-cuda13-pjrt": "0.10.2"},
            "jax-cuda13-plugin 0.11.0 does not fit jaxlib 0.10.2",
        ),
        (
            {"jax-cuda12-plugin": "0.10.2", "jax-cuda12-pjrt": "0.9.1"},
            "jax-cuda12-pjrt 0.9.1 does not fit jaxlib 0.10.2",
        ),
    ],
)
def test_a_plugin_that_is_missing_or_of_another_version_is_reported_with_the_command_to_run(
    monkeypatch, installed, message
):
    def version(name):
        versions = {"jaxlib": "0.10.2"} | installed
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(nvidia_gpus, "version", version)
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        describe_devices("h100:8")
    assert re.search(r'pip install "jax\[cuda12-local\]==\S+" nvidia-cuda-nvcc-cu12', str(raised.value))


@pytest.mark.parametrize(
    "reason", ["INTERNAL: libdevice not found at ./libdevice.10.bc", "UNAVAILABLE: Neither ptxas/nvlink nor nvjtlink"]
)
def test_a_missing_assembler_is_reported_with_the_package_to_install(monkeypatch, reason):
    def refuse(function):
        raise jax.errors.JaxRuntimeError(reason)

    monkeypatch.setattr(nvidia_gpus.jax, "jit", refuse)
    with pytest.raises(ValueError, match="pip install nvidia-cuda-nvcc-cu12`") as raised:
        nvidia_gpus.check_assembler(jax.devices()[0])
    assert "needs ptxas and libdevice" in str(raised.value) and reason in str(raised.value)


def test_every_gpu_has_a_description_with_sources_and_the_same_fields():
    assert {path.stem for path in TARGETS.glob("*.txtpb")} == set(GPUS)
    fields = set()
    for kind, peak in GPUS.items():
        text = (TARGETS / f"{kind}.txtpb").read_text(encoding="utf-8")
        assert text.startswith(f"# NVIDIA {peak.kind.split('-')[0].replace('RTX', 'GeForce RTX')}")
        assert re.search(r"data\s+(# )?sheet|white\s+(# )?paper|driver\s+(# )?reports", text)
        assert peak.kind in re.search(r'^name: "(.*)"$', text, re.MULTILINE)[1]
        fields.add(frozenset(re.findall(r"^(\w+)", text, re.MULTILINE)) - {"device_interconnect_info"})
    assert len(fields) == 1
