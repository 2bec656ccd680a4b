"""The two towers of SigLIP (arXiv 2303.15343) and of CLIP (2103.00020): a Vision Transformer and a text transformer.

The layers of a tower are one stacked module, scanned, so that a tower of 40 layers compiles as fast as one of 4.
Parameters leave this file as a nested dict of float32 arrays, of which what embeds is a pure function.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from models.activation_sharding import Placement, keep_all_but_gathered
from models.config import ModelSettings, TextSettings, VisionSettings

Parameters = Mapping[str, Any]

# What the backward pass may keep of each layer; everything else is recomputed.
_REMAT = {
    "dots": jax.checkpoint_policies.dots_saveable,
    "minimal": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


_ACTIVATIONS = {
    "gelu_tanh": lambda x: nnx.gelu(x, approximate=True),
    "gelu": lambda x: nnx.gelu(x, approximate=False),
    "quick_gelu": lambda x: x * nnx.sigmoid(1.702 * x),
}


class Embeddings(NamedTuple):
    """Raw, un-normalised embeddings, `[batch, dim]` each."""

    image_embeddings: jax.Array
    text_embeddings: jax.Array


def _linear(inputs: int, outputs: int, dtype: Any, rngs: nnx.Rngs, **kwargs: Any) -> nnx.Linear:
    init = nnx.initializers.xavier_uniform()
    return nnx.Linear(inputs, outputs, kernel_init=init, dtype=dtype, rngs=rngs, **kwargs)


def _layer_norm(tower: VisionSettings | TextSettings, dtype: Any, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(tower.width, epsilon=tower.norm_epsilon, use_fast_variance=False, dtype=dtype, rngs=rngs)


class Attention(nnx.Module):
    """Multi-head attention from `queries` `[batch, q, width]` to `tokens` `[batch, t, width]`."""

    def __init__(self, tower: VisionSettings | TextSettings, model: ModelSettings, rngs: nnx.Rngs):
        self.heads, self.causal, self.implementation = tower.heads, tower.causal, model.attention
        width, dtype = tower.width, jnp.dtype(model.dtype)
        self.query = _linear(width, width, dtype, rngs)
        self.key = _linear(width, width, dtype, rngs)
        self.value = _linear(width, width, dtype, rngs)
        self.out = _linear(width, width, dtype, rngs)

    def __call__(self, queries: jax.Array, tokens: jax.Array) -> jax.Array:
        def split(x: jax.Array) -> jax.Array:
            return x.reshape(*x.shape[:-1], self.heads, -1)

        query, key, value = split(self.query(queries)), split(self.key(tokens)), split(self.value(tokens))
        attended = attend(query, key, value, causal=self.causal, implementation=self.implementation)
        return self.out(attended.reshape(queries.shape))


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, *, causal: bool = False, implementation: str = "cpu"
) -> jax.Array:
    """Returns softmax(query keyᵀ / sqrt(head_dim)) value of `[batch, tokens, heads, head_dim]` arrays, so shaped.

    Where it is `causal`, a token attends to itself and to those before it.

    "xla" and "cudnn" are `jax.nn.dot_product_attention`, which accelerators fuse; a single query has nothing to gain
    from cuDNN. "cpu" is for XLA on CPUs, which multiplies faster with heads before tokens and with the division by the
    softmax's sum after the product.
    """
    if implementation != "cpu":
        chosen = "xla" if query.shape[1] == 1 else implementation
        return jax.nn.dot_product_attention(query, key, value, is_causal=causal, implementation=chosen)
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (query, key, value))
    logits = jnp.einsum("bhqd,bhkd->bhqk", query * query.shape[-1] ** -0.5, key).astype(jnp.float32)
    if causal:
        logits = jnp.where(jnp.tril(jnp.ones(logits.shape[-2:], bool)), logits, -jnp.inf)
    weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
    attended = jnp.einsum("bhqk,bhkd->bhqd", weights.astype(value.dtype), value)
    attended = attended / jnp.sum(weights, axis=-1, keepdims=True).astype(value.dtype)
    return attended.transpose(0, 2, 1, 3)


class Mlp(nnx.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, tower: VisionSettings | TextSettings, dtype: Any, rngs: nnx.Rngs):
        self.activation = tower.activation
        bias_init = nnx.initializers.normal(1e-6)
        self.up = _linear(tower.width, tower.mlp_width, dtype, rngs, bias_init=bias_init)
        self.down = _linear(tower.mlp_width, tower.width, dtype, rngs, bias_init=bias_init)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(_ACTIVATIONS[self.activation](self.up(x)))


class Block(nnx.Module):
    """A pre-norm transformer layer."""

    def __init__(self, tower: VisionSettings | TextSettings, model: ModelSettings, rngs: nnx.Rngs):
        dtype = jnp.dtype(model.dtype)
        self.norm1 = _layer_norm(tower, dtype, rngs)
        self.attention = Attention(tower, model, rngs)
        self.norm2 = _layer_norm(tower, dtype, rngs)
        self.mlp = Mlp(tower, dtype, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        normed = self.norm1(x)
        x = x + self.attention(normed, normed)
        return x + self.mlp(self.norm2(x))


class Encoder(nnx.Module):
    """`depth` layers as one module with a leading layer axis on every parameter, then a layer norm."""

    def __init__(
        self, settings: VisionSettings | TextSettings, model: ModelSettings, rngs: nnx.Rngs, placement: Placement
    ):
        self.remat, self.scan_unroll = model.remat, min(model.scan_unroll, settings.depth)
        self.placement = placement

        @nnx.vmap
        def create(rngs: nnx.Rngs) -> Block:
            return Block(settings, model, rngs)

        self.layers = create(rngs.split(settings.depth))
        self.norm = _layer_norm(settings, jnp.dtype(model.dtype), rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        definition, stacked = nnx.split(self.layers)

        def layer(x: jax.Array, parameters: Any) -> tuple[jax.Array, None]:
            x = nnx.merge(definition, self.placement.gather(parameters))(x)
            return self.placement.spread(x), None

        policy = _REMAT.get(self.remat)
        if self.remat == "none" and self.placement.devices > 1:
            policy = keep_all_but_gathered
        if policy is not None:
            layer = jax.checkpoint(layer, policy=policy, prevent_cse=False)
        x, _ = jax.lax.scan(layer, x, stacked, unroll=self.scan_unroll)
        return self.norm(x)


class AttentionPooling(nnx.Module):
    """A learned probe attends to all tokens, followed by a residual MLP: `[batch, t, width]` to `[batch, width]`."""

    def __init__(self, settings: VisionSettings, model: ModelSettings, rngs: nnx.Rngs):
        self.dtype = dtype = jnp.dtype(model.dtype)
        self.probe = nnx.Param(nnx.initializers.xavier_uniform()(rngs.params(), (1, 1, settings.width)))
        self.attention = Attention(settings, model, rngs)
        self.norm = _layer_norm(settings, dtype, rngs)
        self.mlp = Mlp(settings, dtype, rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        probe = jnp.broadcast_to(self.probe[...].astype(self.dtype), (len(tokens), 1, tokens.shape[-1]))
        pooled = self.attention(probe, tokens)
        pooled = pooled + self.mlp(self.norm(pooled))
        return pooled[:, 0]


class VisionTower(nnx.Module):
    """Images `[batch, height, width, 3]`, normalised, to embeddings `[batch, dim]`.

    With `kept_patches` `[batch, kept]` the tower sees those patches only, at their positions (FLIP, arXiv 2212.00794).
    """

    def __init__(self, settings: VisionSettings, model: ModelSettings, rngs: nnx.Rngs, placement: Placement):
        self.patch_size, self.dtype = settings.patch_size, jnp.dtype(model.dtype)
        self.pooling, self.class_tokens = settings.pooling, settings.class_tokens
        patch_values = settings.patch_size**2 * 3
        self.patch_embedding = nnx.Linear(
            patch_values, settings.width, use_bias=settings.patch_bias, dtype=self.dtype, rngs=rngs
        )
        init = nnx.initializers.normal(settings.width**-0.5)
        positions = settings.class_tokens + settings.num_patches
        self.position_embedding = nnx.Param(init(rngs.params(), (positions, settings.width)))
        if self.pooling == "class":
            self.class_embedding = nnx.Param(init(rngs.params(), (settings.width,)))
        if settings.pre_norm:
            self.pre_norm = _layer_norm(settings, self.dtype, rngs)
        self.encoder = Encoder(settings, model, rngs, placement)
        if self.pooling == "attention":
            self.head = AttentionPooling(settings, model, rngs)
        if settings.projection is not None:
            self.projection = _linear(settings.width, settings.projection, self.dtype, rngs, use_bias=False)

    def __call__(self, images: jax.Array, kept_patches: jax.Array | None = None) -> jax.Array:
        patches = patchify(images, self.patch_size)
        positions = self.position_embedding[...].astype(self.dtype)
        first, positions = positions[: self.class_tokens], positions[self.class_tokens :]
        if kept_patches is not None:
            patches = jnp.take_along_axis(patches, kept_patches[..., None], axis=1)
            positions = positions[kept_patches]
        x = self.patch_embedding(patches) + positions
        if self.pooling == "class":
            token = self.class_embedding[...].astype(self.dtype) + first
            x = jnp.concatenate([jnp.broadcast_to(token, (len(x), *token.shape)), x], axis=1)
        if hasattr(self, "pre_norm"):
            x = self.pre_norm(x)
        x = self.encoder(x)
        x = x[:, 0] if self.pooling == "class" else self.head(x)
        return self.projection(x) if hasattr(self, "projection") else x


class TextTower(nnx.Module):
    """Token ids `[batch, length]`, padded, to embeddings `[batch, dim]`."""

    def __init__(self, settings: TextSettings, model: ModelSettings, rngs: nnx.Rngs, placement: Placement):
        self.dtype, self.pooling, self.end_id = jnp.dtype(model.dtype), settings.pooling, settings.end_id
        init = nnx.initializers.normal(settings.width**-0.5)
        self.token_embedding = nnx.Param(init(rngs.params(), (settings.vocab_size, settings.width)))
        init = nnx.initializers.normal(0.01)
        self.position_embedding = nnx.Param(init(rngs.params(), (settings.length, settings.width)))
        self.encoder = Encoder(settings, model, rngs, placement)
        self.head = _linear(settings.width, model.dim, self.dtype, rngs, use_bias=settings.projection_bias)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.token_embedding[...][tokens].astype(jnp.float32) + self.position_embedding[...]
        x = self.encoder(x.astype(self.dtype))
        if self.pooling == "last":
            return self.head(x[:, -1])
        ends = jnp.argmax(tokens if self.end_id is None else tokens == self.end_id, axis=1)
        return self.head(jnp.take_along_axis(x, ends[:, None, None], axis=1)[:, 0])


class TwoTowers(nnx.Module):
    """The image and the text tower side by side."""

    def __init__(self, settings: ModelSettings, rngs: nnx.Rngs, placement: Placement):
        self.vision = VisionTower(settings.vision, settings, rngs, placement)
        self.text = TextTower(settings.text, settings, rngs, placement)


class Model(NamedTuple):
    """The functions of a two-tower model; none of them holds state.

    `init(seed)` gives the parameters; `embed_images(parameters, images)` and `embed_texts(parameters, tokens)` give
    raw embeddings `[batch, dim]`; `embed(parameters, images, tokens)` gives both. What takes images takes
    `kept_patches` `[batch, kept]` last, to look at those patches only.
    """

    init: Callable[[int], Parameters]
    embed_images: Callable[..., jax.Array]
    embed_texts: Callable[[Parameters, jax.Array], jax.Array]
    embed: Callable[..., Embeddings]


def create_model(settings: ModelSettings, *, mesh: Mesh | None = None) -> Model:
    """Returns the pure functions of the model that `settings` describe, computed on `mesh` or on the default device."""
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    settings = dataclasses.replace(settings, attention=_attention(settings, platform))
    placement = Placement(mesh, settings.dtype)

    @functools.partial(jax.jit, static_argnums=0)
    def init(seed: int) -> Parameters:
        return nnx.to_pure_dict(nnx.state(TwoTowers(settings, nnx.Rngs(seed), placement), nnx.Param))

    definition = nnx.graphdef(nnx.eval_shape(lambda: TwoTowers(settings, nnx.Rngs(0), placement)))

    def module(parameters: Parameters) -> TwoTowers:
        return nnx.merge(definition, nnx.State(placement.gather_outer(parameters)))

    def embed_images(parameters: Parameters, images: jax.Array, kept_patches: jax.Array | None = None) -> jax.Array:
        return placement.spread(
            module(parameters).vision(placement.spread(images.astype(settings.dtype)), kept_patches)
        )

    def embed_texts(parameters: Parameters, tokens: jax.Array) -> jax.Array:
        return placement.spread(module(parameters).text(tokens))

    def embed(
        parameters: Parameters, images: jax.Array, tokens: jax.Array, kept_patches: jax.Array | None = None
    ) -> Embeddings:
        return Embeddings(embed_images(parameters, images, kept_patches), embed_texts(parameters, tokens))

    return Model(init, embed_images, embed_texts, embed)


def _attention(settings: ModelSettings, platform: str) -> str:
    """Returns the implementation of attention for a platform: cuDNN's where it can, which is in bfloat16 on GPUs."""
    if settings.attention != "auto":
        return settings.attention
    if platform == "cpu":
        return "cpu"
    heads = {tower.width // tower.heads for tower in (settings.vision, settings.text)}
    fused = platform != "tpu" and settings.dtype == "bfloat16" and all(h % 8 == 0 and h <= 128 for h in heads)
    return "cudnn" if fused else "xla"


def patchify(images: jax.Array, patch_size: int) -> jax.Array:
    """Cuts images `[batch, height, width, 3]` into patches `[batch, patches, patch_size * patch_size * 3]`.

    The same arithmetic as a convolution with stride `patch_size` and no padding: a remainder at the edge is dropped.
    """
    batch, height, width, channels = images.shape
    rows, columns = height // patch_size, width // patch_size
    images = images[:, : rows * patch_size, : columns * patch_size]
    patches = images.reshape(batch, rows, patch_size, columns, patch_size, channels)
    return patches.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)


def count_parameters(parameters: Parameters) -> int:
    """Returns the number of scalars in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(parameters))
