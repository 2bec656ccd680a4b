"""Costs of a rematerialization policy, counted from the architecture: kept bytes and recomputed operations per pair.

Only transformer layers are rematerialized, so heads on features and towers of convolutions count nothing. Layer norms,
activations and softmaxes are recomputed too, but like `models.flops` these functions count matrix products alone.
"""

from __future__ import annotations

import jax.numpy as jnp

from models.config import ModelSettings, TextSettings, VisionSettings
from models.rematerialization import CONTEXT, KEPT_NAMES, MLP_UP, OFFLOADED, OUT_PROJ, QKV

# Values that jax keeps per token of a layer without a policy, in units of width and of the MLP's width: intermediate
# values of norms (some in float32), residual sums and activations, counted from the residuals of `jax.vjp` in bfloat16;
# attention that is not fused keeps up to 2.5 arrays of logits in addition. `tests/models/test_remat_costs.py` checks
# that they are not too few.
_ALL_WIDTHS, _ALL_MLP_WIDTHS, _ALL_LOGITS = 16, 8, 4


def count_kept_bytes(settings: ModelSettings, *, remat: str, kept_patches: int | None = None) -> int:
    """Return the bytes per pair that the layers keep on the device for the backward pass.

    They are exact for policies by name; for "none" and "dots" an upper bound.
    """
    itemsize = jnp.dtype(settings.dtype).itemsize
    return sum(
        tower.depth * tokens * _kept_bytes(tower, tokens, remat, itemsize=itemsize, fused=_is_fused(settings))
        for tower, tokens in _towers(settings, kept_patches)
    )


def count_offloaded_bytes(settings: ModelSettings, *, remat: str, kept_patches: int | None = None) -> int:
    """Return the bytes per pair that the layers move to the host's memory, and back for the backward pass."""
    if remat != OFFLOADED:
        return 0
    kept, input_only = (
        count_kept_bytes(settings, remat=name, kept_patches=kept_patches) for name in ("minimal", "full")
    )
    return kept - input_only


def count_recomputed_flops(settings: ModelSettings, *, remat: str, kept_patches: int | None = None) -> int:
    """Return the operations per pair that the backward pass repeats.

    Kept attention spares the whole kernel where attention is fused, else only the product with the values. All
    parameters are assumed to be trained.
    """
    return sum(
        tower.depth * _recomputed_flops(tower, tokens, remat, fused=_is_fused(settings))
        for tower, tokens in _towers(settings, kept_patches)
    )


def _towers(settings: ModelSettings, kept_patches: int | None) -> list[tuple[VisionSettings | TextSettings, int]]:
    """Return the transformers of a model, each with its number of tokens."""
    return [(tower, _tokens(tower, kept_patches)) for tower in settings.towers]


def _tokens(tower: VisionSettings | TextSettings, kept_patches: int | None) -> int:
    if isinstance(tower, TextSettings):
        return tower.length
    return (tower.num_patches if kept_patches is None else kept_patches) + tower.class_tokens


def _is_fused(settings: ModelSettings) -> bool:
    return settings.attention == "cudnn"


def _kept_bytes(tower: VisionSettings | TextSettings, tokens: int, remat: str, *, itemsize: int, fused: bool) -> int:
    """Return the bytes that a layer keeps per token."""
    width, mlp_width, logits = tower.width, tower.mlp_width, tower.heads * tokens
    if remat == "none":
        values = _ALL_WIDTHS * width + _ALL_MLP_WIDTHS * mlp_width + (0 if fused else _ALL_LOGITS * logits)
        return itemsize * values
    if remat == "dots":
        return itemsize * (5 * width + mlp_width + (0 if fused else width + 2 * logits))
    names = KEPT_NAMES["full" if remat == OFFLOADED else remat]
    values = width + width * len(names - {MLP_UP}) + mlp_width * (MLP_UP in names)
    log_sums = 4 * tower.heads if fused and CONTEXT in names else 0  # float32
    return itemsize * values + log_sums


def _recomputed_flops(tower: VisionSettings | TextSettings, tokens: int, remat: str, *, fused: bool) -> int:
    """Return the operations that the backward pass of a layer repeats."""
    attention_product = 2 * tokens**2 * tower.width  # the logits, or the product with the values
    if remat == "none":
        return 0
    if remat == "dots":  # a fused kernel is not a product
        return 2 * attention_product if fused else 0
    names = KEPT_NAMES["minimal" if remat == OFFLOADED else remat]
    projection = 2 * tokens * tower.width**2
    flops = projection * len({*QKV, OUT_PROJ} - names)
    if MLP_UP not in names:
        flops += 2 * tokens * tower.width * tower.mlp_width
    if CONTEXT not in names:
        return flops + 2 * attention_product
    return flops if fused else flops + attention_product
