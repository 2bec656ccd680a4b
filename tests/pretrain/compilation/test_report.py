"""The report of a compiled step: what a GPU's reserved memory means for the verdict."""

import jax
import pytest

from pretrain.compilation.report import describe_memory, describe_verdict, describe_work
from pretrain.compilation.step import DeviceMemory
from pretrain.config.run import read_settings
from pretrain.distributed.sharding import create_mesh
from tests.pretrain.tiny import config

GB = 10**9


@pytest.fixture
def report():
    """A function that returns the report of a step with a peak of some GB on a card of 80 GB."""
    settings, mesh = read_settings(config("none.tar")), create_mesh(1, jax.devices()[:1])

    def describe(peak, reserved=0.75, program=None, remat="none"):
        needed = DeviceMemory(
            parameters=GB,
            optimizer=2 * GB,
            batch=GB,
            temporaries=round((peak - 4) * GB),
            peak=round(peak * GB),
            capacity=round(80 * GB * reserved),
            collectives={},
            seconds=1.0,
            remat=remat,
            memory=80 * GB,
            program=program,
        )
        memory = describe_memory(settings, needed, mesh, num_parameters=1)
        return memory, describe_verdict(settings, needed, mesh)

    return describe


def test_a_step_fits_if_it_fits_what_jax_reserves(report):
    memory, verdict = report(59)
    assert memory[-1].endswith("of 60.0 GB, the 75% of 80.0 GB that JAX reserves (XLA_PYTHON_CLIENT_MEM_FRACTION)")
    assert verdict == ["", "verdict: fits, 59.00 of 60.00 GB per device"]


def test_a_step_that_fits_the_card_but_not_what_jax_reserves_is_advised_to_reserve_more(report):
    _, verdict = report(64.5)
    assert "does not fit, 64.50 of 60.00 GB" in verdict[1]
    assert verdict[2] == "  XLA_PYTHON_CLIENT_MEM_FRACTION=0.81: JAX reserves more of the 80.0 GB"
    assert report(64.5, reserved=0.81)[1] == ["", "verdict: fits, 64.50 of 64.80 GB per device"]


def test_a_policy_that_auto_chose_is_not_advised(report):
    advised = "  pretrain.remat=full: the backward pass recomputes each layer"
    assert advised in report(78)[1] and advised not in report(78, remat="full")[1]


def test_no_more_is_advised_than_leaves_memory_for_cuda(report):
    assert not any("XLA_PYTHON_CLIENT_MEM_FRACTION" in line for line in report(78)[1])
    assert any("microbatch_size" in line for line in report(78)[1])


def test_memory_that_is_reserved_in_full_is_not_explained(report):
    assert report(50, reserved=1.0)[0][-1].endswith("of 80.0 GB")


def test_a_program_with_cudnn_attention_reports_that_its_workspace_is_not_counted(report):
    memory, _ = report(50, program='%a = custom-call(%q), custom_call_target="__cudnn$fmhaSoftmaxBackward"')
    assert memory[-1] == "  not counted: the workspace of cuDNN attention, some GB for large batches"
    assert not any("not counted" in line for line in report(50, program="%a = dot(%q, %k)")[0])


def test_the_bound_on_throughput_is_that_of_the_cards():
    settings, mesh = read_settings(config("none.tar")), create_mesh(1, jax.devices()[:1])
    assert "at the devices' peak of 312 bfloat16 TFLOP/s" in describe_work(settings, mesh, kind="a100")[-1]
    assert "pairs/s" not in describe_work(settings, mesh, kind="local")[-1]
