"""What pretraining minimises: a contrastive base loss, and the context objective around it.

Notation of the equations: x, t are L2-normalised image and text embeddings `[batch, dim]`, u the raw image embeddings,
scale = exp(logit_scale). These are the short dense forms, which hold `[batch, batch]` arrays.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

Scalars = Mapping[str, jax.Array]
_NORM_EPSILON = 1e-12  # keeps an all-zero embedding, and its gradient, finite


class Loss(NamedTuple):
    """A scalar to minimise and the scalars to log."""

    value: jax.Array
    metrics: dict[str, jax.Array]


class Context(NamedTuple):
    """Contextualised embeddings `[batch, dim]` and the effective number of items that each attends to `[batch]`."""

    embeddings: jax.Array
    effective_items: jax.Array


def normalize(embeddings: jax.Array) -> jax.Array:
    """Returns the rows scaled to length 1; a row of zeros stays a row of zeros."""
    squared = jnp.sum(jnp.square(embeddings), axis=-1, keepdims=True)
    return embeddings * jax.lax.rsqrt(jnp.maximum(squared, _NORM_EPSILON**2))


def sigmoid_loss(x: jax.Array, t: jax.Array, logit_scale: jax.Array, logit_bias: jax.Array) -> jax.Array:
    """Returns the SigLIP loss: summed over texts, averaged over images (arXiv 2303.15343, algorithm 1).

    −(1/B) Σ_i Σ_j log σ(z_ij (exp(logit_scale) x_i·t_j + logit_bias)), z = +1 on the diagonal and −1 elsewhere.
    """
    logits = jnp.exp(logit_scale) * _dot(x, t) + logit_bias
    signs = 2 * jnp.eye(len(x), dtype=logits.dtype) - 1
    return -jnp.sum(jax.nn.log_sigmoid(signs * logits)) / len(x)


def softmax_loss(x: jax.Array, t: jax.Array, logit_scale: jax.Array, logit_bias: jax.Array) -> jax.Array:
    """Returns the CLIP loss: the mean of both cross-entropies (arXiv 2103.00020, figure 3); the bias plays no part."""
    logits = jnp.exp(logit_scale) * _dot(x, t)
    matched = jnp.diagonal(logits)
    rows, columns = jax.nn.logsumexp(logits, axis=1), jax.nn.logsumexp(logits, axis=0)
    return jnp.mean((rows + columns) / 2 - matched) + 0.0 * logit_bias


BASE_LOSSES: dict[str, Callable[..., jax.Array]] = {"sigmoid": sigmoid_loss, "softmax": softmax_loss}


def contextualize(u: jax.Array, context_temperature: jax.Array) -> Context:
    """Rewrites each image embedding as a mixture of the others (Context-Aware Multimodal Pretraining, 2411.15099).

    softmax(x xᵀ / (exp(context_temperature) sqrt(dim)), own entry masked) u. The values are the raw embeddings, and
    gradients flow through queries, keys and values. `context_temperature` is the logarithm of the temperature.
    Raises `ValueError` for a batch of one, which has nothing to attend to.
    """
    if len(u) < 2:
        raise ValueError(
            "the context objective needs a batch of at least 2: with one item there is no other to attend to"
        )
    x = normalize(u)
    logits = _dot(x, x) / (jnp.exp(context_temperature) * math.sqrt(u.shape[-1]))
    logits = jnp.where(jnp.eye(len(u), dtype=bool), -jnp.inf, logits)
    attention = jax.nn.softmax(logits, axis=-1)
    entropy = -jnp.sum(jax.scipy.special.xlogy(attention, attention), axis=-1)
    mixed = jnp.matmul(attention, u, precision=jax.lax.Precision.HIGHEST)
    return Context(mixed, jax.lax.stop_gradient(jnp.exp(entropy)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """A base loss, and with `context` the same loss once more on contextualised image embeddings.

    alpha · base(x, t; logit_scale, logit_bias) + (1 − alpha) · base(x_context, t; context_logit_scale,
    context_logit_bias). The initial values of the learnable scalars are given as they act (`logit_scale` 10 is stored
    as log 10); `context_temperature` is the divisor of the cosines before the softmax, temperature · sqrt(dim).
    """

    base: str = "sigmoid"
    context: bool = True
    alpha: float = 0.9
    logit_scale: float = 10.0
    logit_bias: float = -10.0
    context_temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.base not in BASE_LOSSES:
            raise ValueError(f"unknown base loss {self.base!r}; known: {', '.join(BASE_LOSSES)}")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"objective.alpha {self.alpha} is not within [0, 1]")
        for name in ("logit_scale", "context_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"objective.{name} {getattr(self, name)} is not positive; it is stored as a logarithm")

    def init(self, dim: int) -> dict[str, jax.Array]:
        """Returns the learnable scalars for embeddings of `dim` dimensions."""
        scalars = {"logit_scale": math.log(self.logit_scale), "logit_bias": self.logit_bias}
        if self.context:
            scalars |= {f"context_{name}": value for name, value in scalars.items()}
            scalars["context_temperature"] = math.log(self.context_temperature / math.sqrt(dim))
        return {name: jnp.asarray(value, jnp.float32) for name, value in scalars.items()}

    def __call__(self, scalars: Scalars, image_embeddings: jax.Array, text_embeddings: jax.Array) -> Loss:
        """Returns the loss of raw embeddings `[batch, dim]`, computed in float32, and its metrics."""
        loss = BASE_LOSSES[self.base]
        u = image_embeddings.astype(jnp.float32)
        t = normalize(text_embeddings.astype(jnp.float32))
        value = loss(normalize(u), t, scalars["logit_scale"], scalars["logit_bias"])
        metrics = {
            "base_loss": value,
            "logit_scale": jnp.exp(scalars["logit_scale"]),
            "logit_bias": scalars["logit_bias"],
        }
        if self.context:
            context = contextualize(u, scalars["context_temperature"])
            context_loss = loss(
                normalize(context.embeddings), t, scalars["context_logit_scale"], scalars["context_logit_bias"]
            )
            value = self.alpha * value + (1 - self.alpha) * context_loss
            metrics |= {
                "context_loss": context_loss,
                "context_logit_scale": jnp.exp(scalars["context_logit_scale"]),
                "context_logit_bias": scalars["context_logit_bias"],
                "context_temperature": jnp.exp(scalars["context_temperature"]),
                "effective_items": jnp.mean(context.effective_items),
            }
        return Loss(value, {"loss": value} | metrics)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
