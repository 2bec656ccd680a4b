"""Rematerialization: which values of a layer are kept for the backward pass; it recomputes the rest.

The layers name their values with `jax.ad_checkpoint.checkpoint_name`, and a policy keeps some of the names. Names and
policies are those of MaxText (github.com/AI-Hypercomputer/maxtext, `remat_policy`). A layer's input is always kept, and
its last product (the second of the MLP) is never recomputed, because no gradient needs its value. The parameters that
several devices gather for a layer have no name, so no policy keeps them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from models.activation_sharding import save_all_but_gathered

QKV = ("query_proj", "key_proj", "value_proj")
CONTEXT = "context"  # the output of attention before its output projection
OUT_PROJ = "out_proj"
MLP_UP = "mlpwi"  # the first product of the MLP, before the activation

# Policies in the order of the memory that they need, the largest first, with the names that each keeps. Per layer and
# token, in units of width × itemsize, for an MLP of 4 × width; the share of a layer's forward pass that is recomputed
# is that of B/16 at 224 px with fused attention (`models/remat_costs.py` counts both for any tower).
KEPT_NAMES: dict[str, frozenset[str]] = {
    # Keep all products outside attention and its output: 10 units, recompute 0 %.
    "minimal_with_context": frozenset({*QKV, CONTEXT, OUT_PROJ, MLP_UP}),
    # Keep all products outside attention: 9 units, recompute 4 %.
    "minimal": frozenset({*QKV, OUT_PROJ, MLP_UP}),
    # Keep all but the MLP: 6 units, recompute 32 %.
    "save_dot_with_context_except_mlp": frozenset({*QKV, CONTEXT, OUT_PROJ}),
    # Keep the projections around attention: 5 units, recompute 36 %.
    "save_dot_except_mlp": frozenset({*QKV, OUT_PROJ}),
    # Keep queries, keys and values: 4 units, recompute 44 %.
    "save_qkv_proj": frozenset(QKV),
    # Keep the sum that enters the MLP: 2 units, recompute 60 %.
    "save_out_proj": frozenset({OUT_PROJ}),
    # Keep the layer's input alone: 1 unit, recompute 68 %.
    "full": frozenset(),
}
# Keep what "minimal" keeps, but in the memory of the host: 1 unit on the device, recompute 4 %.
OFFLOADED = "minimal_offloaded"

# The forward pass of cuDNN's attention, which also returns the log of the softmax's sum. Its backward pass needs both
# results, and a name on the first alone would not keep the kernel from running again.
_FUSED_ATTENTION = "dot_product_attention_fwd_wrapper"


def remat_policy(remat: str, *, num_devices: int) -> Callable[..., Any] | None:
    """Return the policy of `jax.checkpoint` for a setting, or None if a layer needs no checkpoint.

    "none" keeps everything, on several devices everything except gathered parameters; "dots" keeps all products,
    including the logits of attention where attention is not fused.
    """
    if remat == "auto":
        raise ValueError("remat 'auto' is for training runs, which choose a policy by the memory of their devices")
    if remat == "none":
        return save_all_but_gathered if num_devices > 1 else None
    if remat == "dots":
        return jax.checkpoint_policies.dots_saveable
    if remat == OFFLOADED:
        return jax.checkpoint_policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=sorted(KEPT_NAMES["minimal"]),
            offload_src="device",
            offload_dst="pinned_host",
        )
    names = KEPT_NAMES[remat]
    by_name = jax.checkpoint_policies.save_only_these_names(*names)
    return _with_fused_attention(by_name) if CONTEXT in names else by_name


def _with_fused_attention(by_name: Callable[..., Any]) -> Callable[..., Any]:
    def policy(primitive: Any, *arguments: Any, **parameters: Any) -> Any:
        return primitive.name == _FUSED_ATTENTION or by_name(primitive, *arguments, **parameters)

    return policy
