"""Choice of the rematerialization policy of a run: the one with the least arithmetic that fits the device.

The memory of a step is estimated from the architecture, which takes no time; compiling every candidate would take
minutes. docs/results/compiled-programs.md compares estimates with compiled programs.
"""

from __future__ import annotations

import logging
import math
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from models.config import ModelSettings, Remat, TextSettings
from models.flops import count_forward_flops
from models.remat_costs import count_kept_bytes, count_recomputed_flops
from models.rematerialization import OFFLOADED
from pretrain.config.training import RunSettings
from pretrain.distributed.sharding import bytes_per_device

logger = logging.getLogger(__name__)

# Policies in the order of their arithmetic. "dots" is left out because "minimal_with_context" repeats no more weight
# products for less memory, and offloading because its price is traffic, not arithmetic.
CANDIDATES = tuple(name for name in get_args(Remat) if name not in ("auto", "dots", OFFLOADED))
GB = 1e9

# Fitted to programs compiled for H100, A100 and v5e (docs/results/compiled-programs.md), on the safe side.
_KEPT_TWICE = 1.15  # XLA holds up to this multiple of the kept values: copies in and out of the scan's stacks
_WIDTHS, _MLP_WIDTHS, _LOGITS = 6, 4, 3  # arrays that live while the widest layer is recomputed and differentiated
_SEVERAL_DEVICES = 1.35  # the same arrays where several devices exchange gradients meanwhile
_BEFORE_HOPPER = 1.25  # the same arrays on GPUs of compute capability 8: XLA fuses less there
_GRADIENTS = 2  # copies of the parameters: gradients and updates
_EMBEDDINGS = 8  # float32 arrays of all embeddings of the batch, in the objective


class RematChoice(NamedTuple):
    """A policy, and a sentence that says why."""

    remat: str
    reason: str


def choose_remat(
    settings: RunSettings, model: ModelSettings, mesh: Mesh, *, state: Any, memory: int | None
) -> RematChoice:
    """Return the policy with the least arithmetic whose estimated memory is at most `memory` bytes per device.

    `state` is the abstract state of the run, and `model` has the implementation of attention that it runs with. Without
    a limit the policy is "none". If none fits, it is "full", and the reason names the way out.
    """
    if memory is None:
        return RematChoice("none", "remat=auto takes none: the memory of the device is not known")
    limit = f"of {memory / GB:.1f} GB"
    for remat in CANDIDATES:
        peak = estimate_peak(settings, model, mesh, state=state, remat=remat)
        if peak <= memory:
            more = count_recomputed_flops(model, remat=remat) / (3 * count_forward_flops(model))
            return RematChoice(
                remat, f"remat=auto takes {remat}: about {peak / GB:.1f} {limit}, {more:.1%} more arithmetic than none"
            )
    return RematChoice(
        remat,
        f"remat=auto takes {remat}, which may not fit: about {peak / GB:.1f} {limit}. Set pretrain.microbatch_size, "
        "or use more devices.",
    )


def estimate_peak(settings: RunSettings, model: ModelSettings, mesh: Mesh, *, state: Any, remat: str) -> int:
    """Return the estimated peak memory of a step per device, in bytes; rather too much than too little."""
    rows = (settings.microbatch_size or settings.batch_size) / mesh.size
    per_row = _KEPT_TWICE * count_kept_bytes(model, remat=remat) + _pixel_bytes(model)
    per_row += _layer_bytes(model) * _exchange_share(mesh) * _fusion_share(mesh.devices.flat[0])
    pixels = settings.batch_size / mesh.size * 3 * math.prod(_image_shape(model))
    held = bytes_per_device(state) + _GRADIENTS * bytes_per_device(state.parameters)
    gathered = 0 if mesh.size == 1 else 2 * _gathered_bytes(state.parameters)
    embeddings = _EMBEDDINGS * 4 * settings.batch_size * model.dim
    return round(held + gathered + pixels + embeddings + rows * per_row)


def memory_limit(mesh: Mesh) -> int | None:
    """Return the bytes that JAX may use on each of the attached devices of `mesh`, the least of all hosts, or None."""
    local = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in local]
    least = min(limits) if limits and None not in limits else 0
    if jax.process_count() > 1:  # every process must choose the same
        least = int(np.min(multihost_utils.process_allgather(np.int32(least >> 20)))) << 20
    return least or None


def _exchange_share(mesh: Mesh) -> float:
    return _SEVERAL_DEVICES if mesh.size > 1 else 1.0


def _fusion_share(device: jax.Device) -> float:
    capability = getattr(device, "compute_capability", None)  # of NVIDIA GPUs, such as "8.0"
    return _BEFORE_HOPPER if capability is not None and float(capability) < 9 else 1.0


def _layer_bytes(model: ModelSettings) -> int:
    """Return the bytes per pair of the arrays that live while a layer of the larger tower is differentiated."""
    itemsize = jnp.dtype(model.dtype).itemsize
    sizes = [0]
    for tower in model.towers:
        tokens = tower.length if isinstance(tower, TextSettings) else tower.num_patches + tower.class_tokens
        values = _WIDTHS * tower.width + _MLP_WIDTHS * tower.mlp_width
        if model.attention != "cudnn":
            values += 2 * _LOGITS * tower.heads * tokens
        sizes.append(itemsize * tokens * values)
    return max(sizes)


def _pixel_bytes(model: ModelSettings) -> int:
    """Return the bytes of the pixels of an image in the dtype of the computation."""
    return jnp.dtype(model.dtype).itemsize * 3 * math.prod(_image_shape(model))


def _image_shape(model: ModelSettings) -> tuple[int, int]:
    return getattr(model.vision, "image_shape", (0, 0))


def _gathered_bytes(parameters: Any) -> int:
    """Return the bytes of the parameters that a device holds unsharded: those outside the layers, and one layer."""
    total = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(parameters):
        layers = leaf.shape[0] if any(getattr(key, "key", None) == "layers" for key in path) else 1
        total += leaf.dtype.itemsize * leaf.size // layers
    return total
