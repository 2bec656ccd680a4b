"""Transformer layers: attention, MLP, the stacked encoder and attention pooling."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from models.activation_sharding import ActivationSharding
from models.config import ModelSettings, TextSettings, VisionSettings
from models.rematerialization import CONTEXT, MLP_UP, OUT_PROJ, QKV, remat_policy

ACTIVATIONS = {
    "gelu_tanh": lambda x: nnx.gelu(x, approximate=True),
    "gelu": lambda x: nnx.gelu(x, approximate=False),
    "quick_gelu": lambda x: x * nnx.sigmoid(1.702 * x),
}


def create_linear(inputs: int, outputs: int, *, dtype: Any, rngs: nnx.Rngs, **options: Any) -> nnx.Linear:
    """Return a linear layer with Xavier-uniform weights."""
    init = nnx.initializers.xavier_uniform()
    return nnx.Linear(inputs, outputs, kernel_init=init, dtype=dtype, rngs=rngs, **options)


def create_layer_norm(tower: VisionSettings | TextSettings, *, dtype: Any, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Return a layer norm over the width of a tower."""
    return nnx.LayerNorm(tower.width, epsilon=tower.norm_epsilon, use_fast_variance=False, dtype=dtype, rngs=rngs)


class MultiHeadAttention(nnx.Module):
    """Multi-head attention from `queries` `[batch, q, width]` to `tokens` `[batch, t, width]`.

    With `lengths` `[batch]` int32, only the first `lengths[i]` tokens of row i are attended to.
    """

    def __init__(self, tower: VisionSettings | TextSettings, model: ModelSettings, *, rngs: nnx.Rngs):
        self.heads, self.causal, self.implementation = tower.heads, tower.causal, model.attention
        width, dtype = tower.width, jnp.dtype(model.dtype)
        self.query = create_linear(width, width, dtype=dtype, rngs=rngs)
        self.key = create_linear(width, width, dtype=dtype, rngs=rngs)
        self.value = create_linear(width, width, dtype=dtype, rngs=rngs)
        self.out = create_linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(self, queries: jax.Array, tokens: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        projections = self.query(queries), self.key(tokens), self.value(tokens)
        query, key, value = (
            self._split_heads(checkpoint_name(x, name)) for x, name in zip(projections, QKV, strict=True)
        )
        options = {"causal": self.causal, "lengths": lengths, "implementation": self.implementation}
        attended = attend(query, key, value, **options)
        return checkpoint_name(self.out(attended.reshape(queries.shape)), OUT_PROJ)

    def _split_heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.heads, -1)


@jax.named_scope("attention")
def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    causal: bool = False,
    lengths: jax.Array | None = None,
    implementation: str = "cpu",
) -> jax.Array:
    """Return softmax(query keyᵀ / sqrt(head_dim)) value; all arrays are `[batch, tokens, heads, head_dim]`.

    With `causal`, a token attends to itself and to the tokens before it. With `lengths` `[batch]` int32, at least 1,
    only the first `lengths[i]` keys of row i are attended to.

    "xla" and "cudnn" call `jax.nn.dot_product_attention`, which is fused on accelerators; cuDNN gains nothing for a
    single query, so that case always uses "xla". "cpu" is faster with XLA on CPUs: it multiplies with the head axis
    before the token axis and divides by the sum of the softmax after the product with the values.
    """
    if implementation != "cpu":
        chosen = "xla" if query.shape[1] == 1 else implementation
        attended = jax.nn.dot_product_attention(
            query, key, value, is_causal=causal, key_value_seq_lengths=lengths, implementation=chosen
        )
        return attended if chosen == "cudnn" else checkpoint_name(attended, CONTEXT)  # cuDNN's is kept by primitive
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (query, key, value))
    logits = jnp.einsum("bhqd,bhkd->bhqk", query * query.shape[-1] ** -0.5, key).astype(jnp.float32)
    if causal:
        logits = jnp.where(jnp.tril(jnp.ones(logits.shape[-2:], bool)), logits, -jnp.inf)
    if lengths is not None:
        logits = jnp.where(jnp.arange(key.shape[2]) < lengths[:, None, None, None], logits, -jnp.inf)
    weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
    attended = checkpoint_name(jnp.einsum("bhqk,bhkd->bhqd", weights.astype(value.dtype), value), CONTEXT)
    attended = attended / jnp.sum(weights, axis=-1, keepdims=True).astype(value.dtype)
    return attended.transpose(0, 2, 1, 3)


class Mlp(nnx.Module):
    """Two linear layers with an activation in between."""

    def __init__(self, tower: VisionSettings | TextSettings, *, dtype: Any, rngs: nnx.Rngs):
        self.activation = tower.activation
        bias_init = nnx.initializers.normal(1e-6)
        self.up = create_linear(tower.width, tower.mlp_width, dtype=dtype, rngs=rngs, bias_init=bias_init)
        self.down = create_linear(tower.mlp_width, tower.width, dtype=dtype, rngs=rngs, bias_init=bias_init)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(ACTIVATIONS[self.activation](checkpoint_name(self.up(x), MLP_UP)))


class TransformerLayer(nnx.Module):
    """A pre-norm transformer layer: self-attention and MLP, each with a residual connection."""

    def __init__(self, tower: VisionSettings | TextSettings, model: ModelSettings, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(model.dtype)
        self.norm1 = create_layer_norm(tower, dtype=dtype, rngs=rngs)
        self.attention = MultiHeadAttention(tower, model, rngs=rngs)
        self.norm2 = create_layer_norm(tower, dtype=dtype, rngs=rngs)
        self.mlp = Mlp(tower, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, lengths)
        return x + self.mlp(self.norm2(x))


class TransformerEncoder(nnx.Module):
    """`depth` transformer layers and a final layer norm.

    The layers are one module whose parameters have a leading layer axis, and `jax.lax.scan` runs over that axis. If
    `pool` is given, it is applied to the output of the layers, before the norm. With `lengths` `[batch]`, the tokens
    behind the first `lengths[i]` of row i are not attended to.
    """

    def __init__(
        self,
        tower: VisionSettings | TextSettings,
        model: ModelSettings,
        *,
        rngs: nnx.Rngs,
        sharding: ActivationSharding,
    ):
        self.remat, self.scan_unroll = model.remat, min(model.scan_unroll, tower.depth)
        self.sharding = sharding
        create_stacked = nnx.vmap(lambda rngs: TransformerLayer(tower, model, rngs=rngs))
        self.layers = create_stacked(rngs.split(tower.depth))
        self.norm = create_layer_norm(tower, dtype=jnp.dtype(model.dtype), rngs=rngs)

    def __call__(
        self,
        x: jax.Array,
        *,
        pool: Callable[[jax.Array], jax.Array] | None = None,
        lengths: jax.Array | None = None,
    ) -> jax.Array:
        definition, stacked_parameters = nnx.split(self.layers)
        layer = functools.partial(_apply_layer, definition, self.sharding, lengths)
        policy = remat_policy(self.remat, num_devices=self.sharding.num_devices)
        if policy is not None:
            layer = jax.checkpoint(layer, policy=policy, prevent_cse=False)
        x, _ = jax.lax.scan(layer, x, stacked_parameters, unroll=self.scan_unroll)
        return self.norm(x if pool is None else pool(x))


def _apply_layer(
    definition: nnx.GraphDef,
    sharding: ActivationSharding,
    lengths: jax.Array | None,
    x: jax.Array,
    parameters: nnx.State,
) -> tuple[jax.Array, None]:
    """Apply one layer with its slice of the stacked parameters: the body of the scan over layers."""
    x = nnx.merge(definition, sharding.gather(parameters))(x, lengths)
    return sharding.split_rows(x), None


class AttentionPooling(nnx.Module):
    """Attention of a learned probe to all tokens, and a residual MLP: `[batch, t, width]` to `[batch, width]`.

    With `lengths` `[batch]`, the probe attends to the first `lengths[i]` tokens of row i.
    """

    def __init__(self, tower: VisionSettings, model: ModelSettings, *, rngs: nnx.Rngs):
        self.dtype = dtype = jnp.dtype(model.dtype)
        self.probe = nnx.Param(nnx.initializers.xavier_uniform()(rngs.params(), (1, 1, tower.width)))
        self.attention = MultiHeadAttention(tower, model, rngs=rngs)
        self.norm = create_layer_norm(tower, dtype=dtype, rngs=rngs)
        self.mlp = Mlp(tower, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        probe = jnp.broadcast_to(self.probe[...].astype(self.dtype), (len(tokens), 1, tokens.shape[-1]))
        pooled = self.attention(probe, tokens, lengths)
        pooled = pooled + self.mlp(self.norm(pooled))
        return pooled[:, 0]
