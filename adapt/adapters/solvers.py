"""Full-batch training on a support set: the cross-entropy, gradient descent, L-BFGS and warm starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax

from adapt.adapters.base import State
from adapt.adapters.support import Support

Params = TypeVar("Params")


def row_losses(logits: jax.Array, members: jax.Array, known: jax.Array) -> jax.Array:
    """Return the cross-entropy of each row of `logits` `[n, classes]`, `[n]`; 0 for rows without a class in `members`.

    The softmax is over the classes where `known` `[classes]` is true: those with support examples. Otherwise training
    would push every row away from the classes without examples, which it never sees, and these could not be predicted.
    """
    own = jnp.sum(members * logits, axis=1)
    return members.sum(axis=1) * jax.nn.logsumexp(logits, axis=1, where=known) - own


def mean_loss(logits: jax.Array, support: Support) -> jax.Array:
    """Return the mean of `row_losses` over the support rows that are not padding."""
    losses = row_losses(logits, support.members, support.counts > 0)
    return jnp.sum(losses) / jnp.maximum(jnp.sum(support.labels >= 0), 1)


def descend(
    loss: Callable[[Params], jax.Array],
    start: Params,
    *,
    learning_rate: jax.Array,
    steps: int,
    epsilon: float = 1e-8,
) -> Params:
    """Return the parameters after `steps` steps of Adam (arXiv 1412.6980) on `loss` from `start`.

    The learning rate falls from `learning_rate` to zero along half a cosine. `epsilon` is added to the root of the
    second moment.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, max(steps, 1)), eps=epsilon)

    def step(carry: tuple[Params, optax.OptState], _: None) -> tuple[tuple[Params, optax.OptState], None]:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=steps)
    return params


def minimize(
    objective: Callable[[Params], jax.Array], start: Params, *, iterations: int, tolerance: float = 3e-6
) -> Params:
    """Return the minimum of a smooth convex `objective` by L-BFGS with a line search (optax).

    Stops after `iterations`, or when the norm of the gradient is at most `tolerance · max(norm of the parameters, 1)`.
    """
    optimizer = optax.lbfgs()
    evaluate = optax.value_and_grad_from_state(objective)

    def unfinished(carry: tuple[Params, optax.OptState]) -> jax.Array:
        params, state = carry
        done = optax.tree.get(state, "count")
        small = optax.tree.norm(optax.tree.get(state, "grad")) <= tolerance * jnp.maximum(optax.tree.norm(params), 1)
        return (done == 0) | ((done < iterations) & ~small)

    def step(carry: tuple[Params, optax.OptState]) -> tuple[Params, optax.OptState]:
        params, state = carry
        value, gradient = evaluate(params, state=state)
        updates, state = optimizer.update(gradient, state, params, value=value, grad=gradient, value_fn=objective)
        return optax.apply_updates(params, updates), state

    if iterations == 0:
        return start
    params, _ = jax.lax.while_loop(unfinished, step, (start, optimizer.init(start)))
    return params


def pad_classes(state: State, old: Support, new: Support) -> State:
    """Return `state` with rows of zeros for the classes of `new` that `old` does not have."""
    added = new.num_classes - old.num_classes
    return {name: jnp.pad(array, [(0, added)] + [(0, 0)] * (array.ndim - 1)) for name, array in state.items()}
