"""Reports on stored programs: attention, precision, bytes of the objective's blocks, overlap, and the judgement.

The programs are cut from ones that JAX 0.10.2 compiled for H100s: most instructions and attributes are left out.
"""

import pathlib

import pytest

from pretrain.compilation.hlo.collectives import Traffic
from pretrain.compilation.hlo.report import AttentionCount, read_program
from pretrain.compilation.hlo.verdict import Expectation, describe_program, judge

STEP, SWEEP, COLLECTIVES = (
    (pathlib.Path(__file__).parent / f"{name}.hlo").read_text("utf-8") for name in ("step", "sweep", "collectives")
)
PAIRS, OPERAND = 2048 * 2048, 2048 * 768 * 2  # pairs of a block; bytes of a block of embeddings in bfloat16
H100_L2 = 52_428_800


def expected(**changes):
    made = {
        "attention": "cudnn",
        "unfused_because": "pretrain.dtype is float32",
        "dtype": "bfloat16",
        "objective_dtype": "bfloat16",
        "tower_flops": 1e12,
    }
    return Expectation(**(made | {"devices": 1, "l2_bytes": H100_L2} | changes))


def test_attention_is_counted_by_tower_pass_and_layer():
    assert read_program(STEP).attention == (
        AttentionCount("image_tower", backward=False, cudnn=12, unfused_products=0),
        AttentionCount("image_tower", backward=True, cudnn=12, unfused_products=0),
        AttentionCount("text_tower", backward=False, cudnn=0, unfused_products=1),
    )


def test_operations_of_products_are_those_of_their_shapes():
    report = read_program(STEP)
    attention = 512 * 2 * 32 * 32 * 64
    assert report.tower_flops == 2 * 16384 * 128 * 384 + attention
    assert report.product_flops == report.tower_flops + 2 * (2 * 256 * 256 * 128)


def test_float32_products_are_listed_except_for_metrics():
    (product,) = read_program(STEP).float32_products
    assert product.op_name.endswith("blocks/contrastive/while/body/dot_general")
    assert product.flops == 2 * 256 * 256 * 128


def test_a_visit_of_a_block_counts_slices_and_updates_not_whole_arrays():
    (sweep,) = read_program(SWEEP).sweeps
    assert (sweep.name, sweep.visits, sweep.kernels) == ("contrastive", 32 * 32, 5)
    logits, slopes, sums = 4 * PAIRS, 2 * PAIRS, 4 * 2048
    between = (OPERAND + OPERAND) + (logits + logits) + (slopes + slopes) + slopes + (sums + sums)
    carried = OPERAND + OPERAND + (sums + sums)  # the rows, the column, and the sums read and written
    assert sweep.between == between
    scalars = 3 * 4  # the number of the row block, read twice, and a constant
    assert sweep.bytes == between + carried + scalars
    assert sweep.intermediates == OPERAND + logits + slopes + slopes + sums
    assert sweep.largest == logits


def test_totals_count_every_iteration_of_nested_loops():
    report = read_program(SWEEP)
    assert report.kernels == 1024 * 5
    assert report.bytes == 1024 * report.sweeps[0].bytes


def test_transposes_and_slices_of_the_objective_are_listed_if_they_are_notable():
    copies = {copy.op_name.rpartition("/")[2]: copy.bytes for copy in read_program(SWEEP).copies}
    assert copies == {"transpose": 1024 * 2 * 2 * PAIRS, "dynamic_slice": 1024 * 2 * OPERAND}


def test_collectives_without_a_kernel_between_start_and_end_are_exposed_in_every_microbatch():
    exposed = read_program(COLLECTIVES).exposed
    assert exposed == {"all-gather": Traffic(4, 4 * 128 * 128 * 2), "all-reduce": Traffic(4, 4 * 64 * 4)}
    remarks = judge(read_program(COLLECTIVES), expected()).remarks
    assert any("the device waits for 4 all-gather" in remark for remark in remarks)


def test_attention_outside_cudnn_is_a_fault_if_cudnn_is_asked_for_and_a_remark_otherwise():
    report = read_program(STEP)
    (attention, float32) = judge(report, expected()).faults
    assert "cuDNN computes 0 attentions in the text tower, forward pass" in attention
    assert "float32 operands in the objective, where bfloat16 is set" in float32
    judgement = judge(report, expected(attention="xla", objective_dtype="float32"))
    assert judgement.faults == []
    assert judgement.remarks[0].startswith("no attention of the towers is fused, because pretrain.dtype is float32")


@pytest.mark.parametrize(("devices", "times", "faults"), [(1, 4, 0), (4, 1.1, 0), (4, 4, 1)])
def test_work_that_devices_repeat_is_a_fault(devices, times, faults):
    report = read_program(COLLECTIVES)._replace(tower_flops=int(times * 1e12), product_flops=int(times * 1e12))
    found = judge(report, expected(devices=devices)).faults
    assert len(found) == faults and all("take 4.0 times the arithmetic" in fault for fault in found)


@pytest.mark.parametrize(("l2_bytes", "remarked"), [(4 * PAIRS, False), (4 * PAIRS - 1, True)])
def test_logits_larger_than_the_cache_are_a_remark(l2_bytes, remarked):
    remarks = judge(read_program(SWEEP), expected(l2_bytes=l2_bytes)).remarks
    assert any("the logits of a block of contrastive take 16.8 MB" in remark for remark in remarks) == remarked


def test_logits_in_a_pallas_kernel_are_no_remark():
    fused = SWEEP.replace('custom_call_target="__cublas$lt$matmul"', 'custom_call_target="__gpu$xla.gpu.triton"')
    remarks = [judge(read_program(text), expected(l2_bytes=1)).remarks for text in (SWEEP, fused)]
    assert [any("the logits of a block" in remark for remark in found) for found in remarks] == [True, False]


def test_the_report_names_the_sweeps_faults_and_remarks():
    report = read_program(STEP)
    judgement = judge(report, expected())
    page = "\n".join(describe_program(report, judgement, l2_bytes=H100_L2))
    assert "12 cuDNN kernels in the image tower, backward pass" in page
    assert "contrastive: 1 blocks of pairs" in page and "L2 cache 52.4 MB" in page
    assert page.count("fault: ") == len(judgement.faults) == 2
