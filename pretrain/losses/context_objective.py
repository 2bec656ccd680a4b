"""What pretraining minimises: a contrastive base loss, and the context objective around it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pretrain.losses.contextual_attention import Attention, Context, contextualize
from pretrain.losses.contrastive import RULES, Scales, base_loss
from pretrain.losses.pairwise_blocks import DTYPES, Layout, inverse_norms

Scalars = Mapping[str, jax.Array]


class Loss(NamedTuple):
    """A scalar to minimise and the scalars to log."""

    value: jax.Array
    metrics: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """A base loss, and with `context` the same loss once more on contextualised image embeddings.

    alpha · base(x, t; logit_scale, logit_bias) + (1 − alpha) · base(x_context, t; context_logit_scale,
    context_logit_bias) over the global batch, whatever the number of devices (arXiv 2411.15099; a per-device buffer
    makes it depend on their number).

    The initial values of the learnable scalars are given as they act (`logit_scale` 10 is stored as log 10);
    `context_temperature` is the divisor of the cosines before the softmax, temperature · sqrt(dim).

    To see what a part of the context objective is worth: `self_mask`, `stop_gradient` ("values", "keys"),
    `normalized_values`, `shared_logit_scale` (the context's loss takes the base loss's scale and bias) and `buffer`
    ("global" or per "device").

    How it is computed: matrix products of `dtype` operands with float32 accumulation, in blocks of `block_size` rows
    and columns (None: what the platform runs well with); what devices need of each other is gathered where all of it
    takes up to `gather_limit` bytes, and goes around a ring where it takes more.
    """

    base: str = "sigmoid"
    context: bool = True
    alpha: float = 0.9
    logit_scale: float = 10.0
    logit_bias: float = -10.0
    context_temperature: float = 0.1
    self_mask: bool = True
    stop_gradient: tuple[str, ...] = ()
    normalized_values: bool = False
    shared_logit_scale: bool = False
    buffer: str = "global"
    dtype: str = "float32"
    block_size: int | None = None
    gather_limit: int = Layout.gather_limit

    def __post_init__(self) -> None:
        _check_known("base", self.base, RULES)
        _check_known("buffer", self.buffer, ("global", "device"))
        _check_known("dtype", self.dtype, DTYPES)
        if isinstance(self.stop_gradient, str):
            raise ValueError(f"objective.stop_gradient {self.stop_gradient!r} is not a list of names; write it as one")
        for role in self.stop_gradient:
            _check_known("stop_gradient", role, ("values", "keys"))
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"objective.alpha {self.alpha} is not within [0, 1]")
        for name in ("logit_scale", "context_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"objective.{name} {getattr(self, name)} is not positive; it is stored as a logarithm")
        if self.block_size is not None and self.block_size < 1:
            raise ValueError(f"objective.block_size {self.block_size} is not a positive number of rows, or None")

    def init(self, dim: int) -> dict[str, jax.Array]:
        """Returns the learnable scalars for embeddings of `dim` dimensions."""
        scalars = {"logit_scale": math.log(self.logit_scale), "logit_bias": self.logit_bias}
        if self.context:
            if not self.shared_logit_scale:
                scalars |= {f"context_{name}": value for name, value in scalars.items()}
            scalars["context_temperature"] = math.log(self.context_temperature / math.sqrt(dim))
        return {name: jnp.asarray(value, jnp.float32) for name, value in scalars.items()}

    def check_batch(self, batch_size: int, devices: int) -> None:
        """Raises `ValueError` for a batch that leaves the context objective nothing to attend to."""
        items, whose = batch_size, "batch_size"
        if self.buffer == "device":
            items, whose = batch_size // devices, f"batch_size {batch_size} on {devices} devices, per device"
        if self.context and self.self_mask and items < 2:
            raise ValueError(
                f"{whose} {items} leaves the context objective nothing to attend to; it must be at least 2"
            )

    def __call__(
        self, scalars: Scalars, image_embeddings: jax.Array, text_embeddings: jax.Array, *, mesh: Mesh | None = None
    ) -> Loss:
        """Returns the loss of raw embeddings `[batch, dim]`, spread over `mesh`, in float32, and its metrics."""
        layout = Layout(mesh=mesh, dtype=self.dtype, block_size=self.block_size, gather_limit=self.gather_limit)
        views, names, weights = (image_embeddings,), ("",), (1.0,)
        metrics = {}
        if self.context:
            temperature = scalars["context_temperature"]
            context = self.contextualize(image_embeddings, text_embeddings, temperature, layout)
            views, weights = (image_embeddings, context.embeddings), (self.alpha, 1 - self.alpha)
            names = ("", "" if self.shared_logit_scale else "context_")
            metrics["context_temperature"] = jnp.exp(temperature)
            metrics["effective_items"] = jnp.mean(context.effective_items)
        scales = Scales(*(jnp.stack([scalars[name + part] for name in names]) for part in Scales._fields))
        value, terms = base_loss(self.base, views, text_embeddings, scales, weights=weights, layout=layout)
        for k, (name, view) in enumerate(zip(("", "context_"), views, strict=False)):
            metrics[f"{name or 'base_'}loss"] = terms[k]
            metrics[f"{name}logit_scale"] = jnp.exp(scales.logit_scale[k])
            metrics[f"{name}logit_bias"] = scales.logit_bias[k]
            positive, negative = mean_cosines(view, text_embeddings)
            shift = scales.logit_bias[k] if RULES[self.base].biased else 0.0
            metrics[f"{name}positive_logit"] = jnp.exp(scales.logit_scale[k]) * positive + shift
            metrics[f"{name}negative_logit"] = jnp.exp(scales.logit_scale[k]) * negative + shift
        return Loss(value, jax.lax.stop_gradient({"loss": value} | metrics))

    def contextualize(
        self, image_embeddings: jax.Array, text_embeddings: jax.Array, temperature: jax.Array, layout: Layout
    ) -> Context:
        """Returns what stands for the images in the second loss: here mixtures by the images' own similarities."""
        attention = Attention(
            self_mask=self.self_mask,
            stop_gradient=self.stop_gradient,
            normalized_values=self.normalized_values,
            buffer=self.buffer,
        )
        return contextualize(image_embeddings, temperature, attention=attention, layout=layout)


def mean_cosines(image_embeddings: jax.Array, text_embeddings: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the mean cosine of matched and of all other pairs of raw embeddings `[batch, dim]`.

    The sum over all pairs is the product of two sums, Σ_i x_i · Σ_j t_j, so that no pair need be looked at.
    """
    batch, exact = len(image_embeddings), jax.lax.Precision.HIGHEST
    u, v = image_embeddings.astype(jnp.float32), text_embeddings.astype(jnp.float32)
    u_inverse, v_inverse = inverse_norms(u), inverse_norms(v)
    matched = jnp.sum(jnp.sum(u * v, axis=1) * u_inverse * v_inverse)
    pairs = jnp.dot(jnp.dot(u_inverse, u, precision=exact), jnp.dot(v_inverse, v, precision=exact), precision=exact)
    return matched / batch, (pairs - matched) / max(float(batch) * (batch - 1), 1.0)


def _check_known(name: str, value: str, known: Mapping | tuple) -> None:
    if value not in known:
        raise ValueError(f"unknown objective.{name} {value!r}; known: {', '.join(known)}")
