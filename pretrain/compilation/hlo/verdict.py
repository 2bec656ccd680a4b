"""Comparison of a compiled GPU program with the settings that it was compiled from.

A fault is a program that does not do what the settings ask for; a remark is a setting that costs time, or work that the
compiler could not hide.
"""

from __future__ import annotations

from typing import NamedTuple

from pretrain.compilation.hlo.report import AttentionCount, ProgramReport

GB, MB = 1e9, 1e6
_TOLERANCE = 1.2  # of arithmetic, for what the model's count leaves out
_NOTABLE_PRODUCTS = 1e-3  # share of the operations of matrix products


class Expectation(NamedTuple):
    """The program that the settings ask for.

    attention: implementation, "cudnn" or "xla".
    unfused_because: reason why it is not "cudnn".
    dtype, objective_dtype: of the operands of matrix products in the towers and in the objective.
    tower_flops: operations of the towers' matrix products per device: this device's share of the batch, with every pass
        that the settings ask for.
    l2_bytes: size of the card's L2 cache.
    """

    attention: str
    unfused_because: str
    dtype: str
    objective_dtype: str
    tower_flops: float
    devices: int
    l2_bytes: int


class Judgement(NamedTuple):
    """Sentences about a program."""

    faults: list[str]
    remarks: list[str]


def judge(report: ProgramReport, expected: Expectation) -> Judgement:
    """Return the faults and the remarks about a program."""
    faults = [*_unfused_attention(report, expected), *_float32(report, expected), *_replicated(report, expected)]
    remarks = [*_slow_attention(report, expected), *_large_blocks(report, expected), *_copies(report)]
    return Judgement(faults, [*remarks, *_exposed(report)])


def describe_program(report: ProgramReport, judgement: Judgement, *, l2_bytes: int) -> list[str]:
    """Return the report and the judgement as lines of text."""
    lines = [
        "",
        "the compiled program, per device and step",
        f"  kernels       {report.kernels:10,}, which move {report.bytes / GB:,.1f} GB, caches not considered",
        f"  products      {report.product_flops / 1e12:10.2f} TFLOP of matrix products, without cuDNN's attention",
    ]
    for count in report.attention:
        unfused = f", {count.unfused_products} matrix products outside" if count.unfused_products else ""
        lines.append(f"  attention     {count.cudnn:10,} cuDNN kernels in the {_tower_pass(count)}{unfused}")
    for sweep in report.sweeps:
        lines += [
            f"  {sweep.name}: {sweep.visits:,} blocks of pairs, per block {sweep.kernels} kernels and "
            f"{sweep.bytes / MB:,.0f} MB, {sweep.between / MB:,.0f} MB between kernels of the block",
            f"    arrays between kernels: {sweep.intermediates / MB:.1f} MB, the largest {sweep.largest / MB:.1f} MB; "
            f"L2 cache {l2_bytes / MB:.1f} MB",
        ]
    lines += [f"  fault: {fault}" for fault in judgement.faults]
    return lines + [f"  remark: {remark}" for remark in judgement.remarks]


# Faults


def _unfused_attention(report: ProgramReport, expected: Expectation) -> list[str]:
    if expected.attention != "cudnn":
        return []
    return [
        f"cuDNN computes {count.cudnn} attentions in the {_tower_pass(count)}, but {count.unfused_products} matrix "
        "products of attention are outside its kernels. Set pretrain.attention=cudnn to get the reason as an error."
        for count in report.attention
        if count.unfused_products
    ]


def _float32(report: ProgramReport, expected: Expectation) -> list[str]:
    faults = []
    for section, dtype in (("objective", expected.objective_dtype), ("towers", expected.dtype)):
        if dtype == "float32":
            continue
        found = [
            product
            for product in report.float32_products
            if ("objective" in product.op_name) == (section == "objective")
        ]
        share = sum(product.flops for product in found) / max(report.product_flops, 1)
        if share > _NOTABLE_PRODUCTS:
            largest = max(found, key=lambda product: product.flops)
            faults.append(
                f"{share:.1%} of the operations of matrix products have float32 operands in the {section}, where "
                f"{dtype} is set; the largest is {largest.op_name or 'of unknown source'}."
            )
    return faults


def _replicated(report: ProgramReport, expected: Expectation) -> list[str]:
    ratio = report.tower_flops / expected.tower_flops
    if expected.devices == 1 or ratio <= _TOLERANCE:
        return []
    return [
        f"the towers' matrix products take {ratio:.1f} times the arithmetic of a device's share of the batch: devices "
        "repeat each other's work, because activations are not split over all of them. Check "
        "models/activation_sharding.py and pretrain.mesh.rules."
    ]


# Remarks


def _slow_attention(report: ProgramReport, expected: Expectation) -> list[str]:
    unfused = sum(count.unfused_products for count in report.attention)
    if expected.attention == "cudnn" or not unfused:
        return []
    return [
        f"no attention of the towers is fused, because {expected.unfused_because}: {unfused} matrix products of "
        "attention go through memory. bfloat16 with attention=auto uses cuDNN for heads of up to 128 dimensions."
    ]


def _large_blocks(report: ProgramReport, expected: Expectation) -> list[str]:
    found = [sweep for sweep in report.sweeps if sweep.largest > expected.l2_bytes and not sweep.fused]
    if not found:
        return []
    worst = max(found, key=lambda sweep: sweep.largest)
    return [
        f"the logits of a block of {worst.name} take {worst.largest / MB:.1f} MB, more than the L2 cache of "
        f"{expected.l2_bytes / MB:.1f} MB, so that each kernel reads and writes them in memory. Reduce "
        "pretrain.objective.block_size."
    ]


def _copies(report: ProgramReport) -> list[str]:
    return [
        f"copies and transposes of {copy.op_name} move {copy.bytes / GB:.2f} GB, {copy.bytes / report.bytes:.1%} of "
        "the bytes of the step."
        for copy in report.copies
    ]


def _exposed(report: ProgramReport) -> list[str]:
    return [
        f"the device waits for {traffic.count} {kind} operations, {traffic.bytes / GB:.3f} GB in total: nothing is "
        "computed while they run."
        for kind, traffic in report.exposed.items()
    ]


def _tower_pass(count: AttentionCount) -> str:
    return f"{count.tower.replace('_', ' ')}, {'backward' if count.backward else 'forward'} pass"
