"""The image and text towers of SigLIP (arXiv 2303.15343), CLIP (arXiv 2103.00020) and CLIPA (arXiv 2305.07017).

The image tower is a Vision Transformer or that of `models.efficientnet`, the text tower a transformer; heads on stored
features may take their place. Parameters are a nested dict of float32 arrays; the embedding functions are pure
functions of it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from models.activation_sharding import ActivationSharding
from models.config import EfficientNetSettings, FeatureHeadSettings, ModelSettings, TextSettings, VisionSettings
from models.efficientnet import EfficientNetTower
from models.heads import FeatureHead
from models.layers import AttentionPooling, TransformerEncoder, create_layer_norm, create_linear
from models.naflex import PatchedImages, resize_positions

Parameters = Mapping[str, Any]


class Embeddings(NamedTuple):
    """Raw embeddings, not normalized, `[batch, dim]` each."""

    image_embeddings: jax.Array
    text_embeddings: jax.Array


class VisionTower(nnx.Module):
    """Maps normalized images `[batch, height, width, 3]` to embeddings `[batch, dim]`.

    With `kept_patches` `[batch, kept]` the tower processes only those patches, at their positions (FLIP, arXiv
    2212.00794). A tower that pools by attention also embeds images of any aspect ratio: `embed_patches`.
    """

    def __init__(self, settings: VisionSettings, model: ModelSettings, *, rngs: nnx.Rngs, sharding: ActivationSharding):
        self.patch_size, self.grid, self.dtype = settings.patch_size, settings.grid, jnp.dtype(model.dtype)
        self.pooling, self.class_tokens = settings.pooling, settings.class_tokens
        self.norm_after_pooling = settings.norm_after_pooling
        patch_values = settings.patch_size**2 * 3
        self.patch_embedding = nnx.Linear(
            patch_values, settings.width, use_bias=settings.patch_bias, dtype=self.dtype, rngs=rngs
        )
        init = nnx.initializers.normal(settings.width**-0.5)
        positions = settings.class_tokens + settings.num_patches
        self.position_embedding = nnx.Param(init(rngs.params(), (positions, settings.width)))
        if self.class_tokens:
            self.class_embedding = nnx.Param(init(rngs.params(), (settings.width,)))
        if settings.pre_norm:
            self.pre_norm = create_layer_norm(settings, dtype=self.dtype, rngs=rngs)
        self.encoder = TransformerEncoder(settings, model, rngs=rngs, sharding=sharding)
        if self.pooling == "attention":
            self.head = AttentionPooling(settings, model, rngs=rngs)
        if settings.projection is not None:
            self.projection = create_linear(
                settings.width, settings.projection, dtype=self.dtype, rngs=rngs, use_bias=False
            )

    def __call__(self, images: jax.Array, kept_patches: jax.Array | None = None) -> jax.Array:
        patches = patchify(images, self.patch_size)
        positions = self.position_embedding[...].astype(self.dtype)
        class_position, positions = positions[: self.class_tokens], positions[self.class_tokens :]
        if kept_patches is not None:
            patches = jnp.take_along_axis(patches, kept_patches[..., None], axis=1)
            positions = positions[kept_patches]
        x = self.patch_embedding(patches) + positions
        if self.class_tokens:
            token = self.class_embedding[...].astype(self.dtype) + class_position
            x = jnp.concatenate([jnp.broadcast_to(token, (len(x), *token.shape)), x], axis=1)
        if hasattr(self, "pre_norm"):
            x = self.pre_norm(x)
        x = self.encoder(x, pool=self._pool) if self.norm_after_pooling else self._pool(self.encoder(x))
        return self.projection(x) if hasattr(self, "projection") else x

    def embed_patches(self, images: PatchedImages) -> jax.Array:
        """Return the embeddings `[batch, dim]` of normalized images as patches; padding has no influence."""
        table, slots = self.position_embedding[...], images.patches.shape[1]
        positions = resize_positions(table, images.grids, old=self.grid, slots=slots)
        lengths = jnp.prod(images.grids, axis=1)
        x = self.encoder(self.patch_embedding(images.patches) + positions.astype(self.dtype), lengths=lengths)
        return self.head(x, lengths)

    def _pool(self, tokens: jax.Array) -> jax.Array:
        """Return one vector per image `[batch, width]` from its tokens `[batch, tokens, width]`."""
        if self.pooling == "average":
            return jnp.mean(tokens[:, self.class_tokens :], axis=1)
        return tokens[:, 0] if self.pooling == "class" else self.head(tokens)


class TextTower(nnx.Module):
    """Maps padded token ids `[batch, length]` to embeddings `[batch, dim]`."""

    def __init__(self, settings: TextSettings, model: ModelSettings, *, rngs: nnx.Rngs, sharding: ActivationSharding):
        self.dtype, self.pooling, self.end_id = jnp.dtype(model.dtype), settings.pooling, settings.end_id
        init = nnx.initializers.normal(settings.width**-0.5)
        self.token_embedding = nnx.Param(init(rngs.params(), (settings.vocab_size, settings.width)))
        init = nnx.initializers.normal(0.01)
        self.position_embedding = nnx.Param(init(rngs.params(), (settings.length, settings.width)))
        self.encoder = TransformerEncoder(settings, model, rngs=rngs, sharding=sharding)
        self.head = create_linear(
            settings.width, model.dim, dtype=self.dtype, rngs=rngs, use_bias=settings.projection_bias
        )

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.token_embedding[...][tokens].astype(jnp.float32) + self.position_embedding[...]
        x = self.encoder(x.astype(self.dtype))
        if self.pooling == "last":
            return self.head(x[:, -1])
        ends = jnp.argmax(tokens if self.end_id is None else tokens == self.end_id, axis=1)
        return self.head(jnp.take_along_axis(x, ends[:, None, None], axis=1)[:, 0])


class TwoTowers(nnx.Module):
    """An image tower and, unless the model embeds images only, a text tower that embeds into the same space.

    Each may be a head on features instead.
    """

    def __init__(self, settings: ModelSettings, *, rngs: nnx.Rngs, sharding: ActivationSharding):
        vision, text = settings.vision, settings.text
        if isinstance(vision, FeatureHeadSettings):
            self.vision = FeatureHead(vision, settings, rngs=rngs)
        elif isinstance(vision, EfficientNetSettings):
            self.vision = EfficientNetTower(vision, settings, rngs=rngs)
        else:
            self.vision = VisionTower(vision, settings, rngs=rngs, sharding=sharding)
        if isinstance(text, FeatureHeadSettings):
            self.text = FeatureHead(text, settings, rngs=rngs)
        elif text is not None:
            self.text = TextTower(text, settings, rngs=rngs, sharding=sharding)


@dataclasses.dataclass(frozen=True)
class Model:
    """The pure functions of a two-tower model; `create_model` returns one. It holds no parameters.

    Methods that take images also take `kept_patches` `[batch, kept]`, the numbers of the patches to process, by default
    all; only a Vision Transformer can leave out patches. Where a head takes the place of a tower, its features
    `[batch, input_dim]` take that of images or tokens. Without a text tower, texts raise `ValueError`.
    """

    settings: ModelSettings
    sharding: ActivationSharding
    definition: nnx.GraphDef = dataclasses.field(repr=False, compare=False)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def init(self, seed: int) -> Parameters:
        """Return the initial parameters for a seed."""
        towers = TwoTowers(self.settings, rngs=nnx.Rngs(seed), sharding=self.sharding)
        return nnx.to_pure_dict(nnx.state(towers, nnx.Param))

    @jax.named_scope("image_tower")
    def embed_images(
        self, parameters: Parameters, images: jax.Array, kept_patches: jax.Array | None = None
    ) -> jax.Array:
        """Return the embeddings `[batch, dim]` of normalized images `[batch, height, width, 3]`."""
        if isinstance(self.settings.vision, FeatureHeadSettings):
            return self.sharding.split_rows(self._towers(parameters).vision(images))
        images = self.sharding.split_rows(images.astype(self.settings.dtype))
        kept = () if kept_patches is None else (kept_patches,)
        return self.sharding.split_rows(self._towers(parameters).vision(images, *kept))

    @jax.named_scope("image_tower")
    def embed_patches(self, parameters: Parameters, images: PatchedImages) -> jax.Array:
        """Return the embeddings `[batch, dim]` of normalized images of any aspect ratio, as patches.

        Raises `ValueError` for a model without `vision.max_patches`.
        """
        if getattr(self.settings.vision, "max_patches", None) is None:
            raise ValueError("the image tower takes images of one size, not patches. Set vision.max_patches.")
        patches = self.sharding.split_rows(images.patches.astype(self.settings.dtype))
        images = PatchedImages(patches, self.sharding.split_rows(images.grids))
        return self.sharding.split_rows(self._towers(parameters).vision.embed_patches(images))

    @jax.named_scope("text_tower")
    def embed_texts(self, parameters: Parameters, tokens: jax.Array) -> jax.Array:
        """Return the embeddings `[batch, dim]` of token ids `[batch, length]`."""
        if self.settings.text is None:
            raise ValueError("the model embeds images only: it has no text tower")
        return self.sharding.split_rows(self._towers(parameters).text(tokens))

    def embed(
        self, parameters: Parameters, images: jax.Array, tokens: jax.Array, kept_patches: jax.Array | None = None
    ) -> Embeddings:
        """Return the embeddings of images and of texts."""
        return Embeddings(
            self.embed_images(parameters, images, kept_patches),
            self.embed_texts(parameters, tokens),
        )

    def _towers(self, parameters: Parameters) -> TwoTowers:
        return nnx.merge(self.definition, nnx.State(self.sharding.gather_outer(parameters)))


@functools.lru_cache(maxsize=8)  # equal settings share what was traced
def create_model(settings: ModelSettings, *, mesh: Mesh | None = None) -> Model:
    """Return the model with these settings, computed on `mesh`, by default on the default device."""
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    settings = dataclasses.replace(settings, attention=choose_attention(settings, platform))
    sharding = ActivationSharding(mesh, settings.dtype)
    towers = nnx.eval_shape(lambda: TwoTowers(settings, rngs=nnx.Rngs(0), sharding=sharding))
    return Model(settings, sharding, nnx.graphdef(towers))


def choose_attention(settings: ModelSettings, platform: str) -> str:
    """Return the attention implementation for a platform; "auto" means cuDNN for bfloat16 on GPUs if it can be used."""
    if settings.attention != "auto":
        return settings.attention
    if platform == "cpu":
        return "cpu"
    heads = {tower.width // tower.heads for tower in settings.towers}
    fused = platform != "tpu" and settings.dtype == "bfloat16" and all(h % 8 == 0 and h <= 128 for h in heads)
    return "cudnn" if fused else "xla"


def patchify(images: jax.Array, patch_size: int) -> jax.Array:
    """Cut images `[batch, height, width, 3]` into patches `[batch, patches, patch_size * patch_size * 3]`.

    The patches are those of a convolution with stride `patch_size` and no padding: a remainder at the right and lower
    edges is dropped.
    """
    batch, height, width, channels = images.shape
    rows, columns = height // patch_size, width // patch_size
    images = images[:, : rows * patch_size, : columns * patch_size]
    patches = images.reshape(batch, rows, patch_size, columns, patch_size, channels)
    return patches.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)


def count_parameters(parameters: Parameters) -> int:
    """Return the number of scalars in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(parameters))
