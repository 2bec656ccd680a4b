"""The objective as the papers write it, with every pair of the batch in one array. This is its definition.

`contrastive.py` and `contextual_attention.py` compute the same values and gradients block by block, with memory linear
in the batch. The functions here take JAX or NumPy arrays; under `jax.enable_x64` they compute in float64.

Notation: u, v are raw image and text embeddings `[batch, dim]`; x, t are u, v with rows scaled to length 1.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class PairRoles(NamedTuple):
    """Boolean arrays `[batch, batch]`: which texts are positives of an image, and which pairs the loss counts."""

    positive: jax.Array
    counted: jax.Array


def pair_roles(count, tokens=None, equal_texts="negative"):
    """Return the roles of all pairs of `count` images and texts, given the tokens `[count, length]` of the texts.

    An image and its own text are positive. An image and an equal text of another row are negative (as in CLIP and
    SigLIP), positive (UniCL, arXiv 2204.03610) or ignored.
    """
    own, everything = jnp.eye(count, dtype=bool), jnp.ones((count, count), bool)
    if equal_texts == "negative":
        return PairRoles(own, everything)
    equal = jnp.all(tokens[:, None] == tokens, axis=2)
    return PairRoles(equal, everything) if equal_texts == "positive" else PairRoles(own, own | ~equal)


def softmax_loss(x, t, scale, bias=0.0, roles=None):
    """Return the mean of the cross-entropies over texts and over images (CLIP, arXiv 2103.00020, figure 3).

    The target is uniform over the positives of an image, and of a text (UniCL, arXiv 2204.03610).
    """
    positive, counted = roles or pair_roles(len(x))
    logits = scale * x @ t.T  # a bias would change nothing

    def cross_entropy(axis):
        target = positive / jnp.sum(positive, axis=axis, keepdims=True)
        return jax.nn.logsumexp(jnp.where(counted, logits, -jnp.inf), axis=axis) - jnp.sum(target * logits, axis=axis)

    return jnp.mean(cross_entropy(axis=1) + cross_entropy(axis=0)) / 2


def sigmoid_loss(x, t, scale, bias, roles=None):
    """Return the cross-entropy of all pairs, positive or not, per image (SigLIP, arXiv 2303.15343, algorithm 1)."""
    positive, counted = roles or pair_roles(len(x))
    logits = scale * x @ t.T + bias
    return -jnp.sum(jnp.where(counted, jax.nn.log_sigmoid(jnp.where(positive, logits, -logits)), 0.0)) / len(x)


BASE_LOSSES = {"sigmoid": sigmoid_loss, "softmax": softmax_loss}


def attention(queries, keys, temperature, *, allowed=None):
    """Return softmax(queries keysᵀ / (temperature √dim)) `[batch, batch]` over the allowed pairs.

    By default all pairs are allowed except an item with itself (LIxP, arXiv 2411.15099).
    """
    allowed = ~jnp.eye(len(queries), dtype=bool) if allowed is None else allowed
    logits = queries @ keys.T / (temperature * jnp.sqrt(queries.shape[1]))
    return jax.nn.softmax(jnp.where(allowed, logits, -jnp.inf))


def contextualize(u, temperature, *, allowed=None, normalized_values=False, stop_gradient=()):
    """Return each image as a mixture of other images: queries and keys are x, values are u (LIxP, arXiv 2411.15099).

    `normalized_values` mixes x instead of u. `stop_gradient` names roles, "keys" or "values", without gradient.
    """
    x = normalize(u)
    roles = {"keys": x, "values": x if normalized_values else u}
    roles |= {name: jax.lax.stop_gradient(roles[name]) for name in stop_gradient}
    return attention(x, roles["keys"], temperature, allowed=allowed) @ roles["values"]


def lixp_loss(u, v, scalars, *, base="sigmoid", alpha=0.9, roles=None, **context):
    """Return alpha · base(x, t) + (1 − alpha) · base(x_context, t), each with its own scale and bias (LIxP).

    `scalars` are those of `Objective.init`: scales and the temperature as logarithms. `context` is passed to
    `contextualize`. Both terms have the same positives.
    """
    loss, t = BASE_LOSSES[base], normalize(v)
    x_context = normalize(contextualize(u, jnp.exp(scalars["context_temperature"]), **context))
    base_term = loss(normalize(u), t, jnp.exp(scalars["logit_scale"]), scalars["logit_bias"], roles)
    context_term = loss(x_context, t, jnp.exp(scalars["context_logit_scale"]), scalars["context_logit_bias"], roles)
    return alpha * base_term + (1 - alpha) * context_term


def scheduled_alpha(alpha, step, *, start=0, ramp=0):
    """Return the weight of the base loss after `step` steps: 1 for `start` steps, then linear to alpha in `ramp`."""
    return 1 - (1 - alpha) * (min(max(step + 1 - start, 0) / (ramp + 1), 1) if start else 1)


def objective_loss(objective, scalars, u, v, *, tokens=None, devices=1, step=0):
    """Return the loss that an `Objective` must compute in the step that is taken after `step` steps.

    The tokens `[batch, length]` matter only if equal texts are not negative, `devices` only for a per-device buffer.
    """
    roles = pair_roles(len(u), tokens, objective.equal_texts)
    if not objective.context:
        scale, bias = jnp.exp(scalars["logit_scale"]), scalars["logit_bias"]
        return BASE_LOSSES[objective.base](normalize(u), normalize(v), scale, bias, roles)
    if objective.shared_logit_scale:
        scalars = scalars | {f"context_{name}": scalars[name] for name in ("logit_scale", "logit_bias")}
    device = jnp.arange(len(u)) // (len(u) // (devices if objective.buffer == "device" else 1))
    allowed = device[:, None] == device
    return lixp_loss(
        u,
        v,
        scalars,
        base=objective.base,
        alpha=scheduled_alpha(
            objective.alpha, step, start=objective.context_start_step, ramp=objective.context_ramp_steps
        ),
        roles=roles,
        allowed=allowed & ~jnp.eye(len(u), dtype=bool) if objective.self_mask else allowed,
        normalized_values=objective.normalized_values,
        stop_gradient=objective.stop_gradient,
    )


def normalize(u):
    """Return the rows scaled to length 1; rows of zeros stay zero and have a zero gradient."""
    nonzero = jnp.any(u != 0, axis=1, keepdims=True)
    return u / jnp.linalg.norm(jnp.where(nonzero, u, 1.0), axis=1, keepdims=True)
