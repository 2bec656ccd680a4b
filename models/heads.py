"""Heads, which map the stored features of any encoder to embeddings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.config import FeatureHeadSettings, ModelSettings
from models.layers import ACTIVATIONS, create_linear

_SMALLEST = 1e-12  # length or deviation by which features are divided


class FeatureHead(nnx.Module):
    """Maps features `[batch, input_dim]` to embeddings `[batch, dim]`.

    The linear layer starts as the identity where the dimensions agree, otherwise with Xavier-uniform weights. The last
    layer of the MLP starts at zero, so that an MLP head starts as its linear layer.
    """

    def __init__(self, settings: FeatureHeadSettings, model: ModelSettings, *, rngs: nnx.Rngs):
        self.settings, self.dtype = settings, jnp.dtype(model.dtype)
        inputs, outputs = settings.input_dim, settings.dim
        if settings.standardize:
            self.mean = nnx.Param(jnp.zeros((inputs,)))
            self.deviation = nnx.Param(jnp.ones((inputs,)))
        if settings.kind == "linear" or inputs != outputs:
            self.linear = create_linear(inputs, outputs, dtype=self.dtype, rngs=rngs, use_bias=settings.bias)
            if inputs == outputs:
                self.linear.kernel[...] = jnp.eye(inputs)
        if settings.kind == "mlp":
            self.up = create_linear(inputs, settings.hidden, dtype=self.dtype, rngs=rngs)
            zeros = nnx.initializers.zeros_init()
            self.down = nnx.Linear(settings.hidden, outputs, kernel_init=zeros, dtype=self.dtype, rngs=rngs)

    def __call__(self, features: jax.Array) -> jax.Array:
        x = features.astype(jnp.float32)
        if self.settings.normalize:
            x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), _SMALLEST)
        if self.settings.standardize:
            x = (x - self.mean[...]) / jnp.maximum(self.deviation[...], _SMALLEST)
        x = x.astype(self.dtype)
        skip = self.linear(x) if hasattr(self, "linear") else x
        if self.settings.kind == "linear":
            return skip
        return skip + self.down(ACTIVATIONS[self.settings.activation](self.up(x)))
