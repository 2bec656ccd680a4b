"""The definition of the objective: the whole batch at once, every pair in one array, float64 where inputs are."""

import jax
import jax.numpy as jnp


def normalize(rows):
    norms = jnp.linalg.norm(jnp.where(jnp.any(rows != 0, axis=1, keepdims=True), rows, 1.0), axis=1, keepdims=True)
    return rows / norms


def sigmoid(x, t, scale, bias):
    signs = 2 * jnp.eye(len(x), dtype=x.dtype) - 1
    return -jnp.sum(jax.nn.log_sigmoid(signs * (scale * x @ t.T + bias))) / len(x)


def softmax(x, t, scale, bias):
    logits = scale * x @ t.T
    both = (jax.nn.logsumexp(logits, axis=1) + jax.nn.logsumexp(logits, axis=0)) / 2
    return jnp.mean(both - jnp.diagonal(logits))


def contextualize(u, temperature, objective, devices=1):
    x = normalize(u)
    keys = jax.lax.stop_gradient(x) if "keys" in objective.stop_gradient else x
    values = x if objective.normalized_values else u
    if "values" in objective.stop_gradient:
        values = jax.lax.stop_gradient(values)
    logits = x @ keys.T / (jnp.exp(temperature) * jnp.sqrt(u.shape[1]))
    device = jnp.arange(len(u)) // (len(u) // devices)
    allowed = device[:, None] == device if objective.buffer == "device" else jnp.ones((len(u), len(u)), bool)
    if objective.self_mask:
        allowed &= ~jnp.eye(len(u), dtype=bool)
    attention = jax.nn.softmax(jnp.where(allowed, logits, -jnp.inf))
    entropy = -jnp.sum(jax.scipy.special.xlogy(attention, attention), axis=1)
    return attention @ values, jnp.exp(entropy)


def loss(objective, scalars, u, v, devices=1):
    """Returns the loss of raw embeddings `[batch, dim]`; `devices` matters to a per-device buffer only."""
    base = {"sigmoid": sigmoid, "softmax": softmax}[objective.base]
    t = normalize(v)
    value = base(normalize(u), t, jnp.exp(scalars["logit_scale"]), scalars["logit_bias"])
    if not objective.context:
        return value
    mixed, _ = contextualize(u, scalars["context_temperature"], objective, devices)
    prefix = "" if objective.shared_logit_scale else "context_"
    scale, bias = jnp.exp(scalars[f"{prefix}logit_scale"]), scalars[f"{prefix}logit_bias"]
    return objective.alpha * value + (1 - objective.alpha) * base(normalize(mixed), t, scale, bias)
