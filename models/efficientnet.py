"""The image tower of EfficientNet-Lite: inverted residual blocks of convolutions, with batch norms folded into them.

A block (MobileNetV2, arXiv 1801.04381, table 1) widens its input by a pointwise convolution, filters each channel by a
depthwise one and narrows the result by another pointwise one. EfficientNet (arXiv 1905.11946) scales their numbers;
its Lite variants have no squeeze-and-excitation, and ReLU6 in place of swish.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.config import BlockSettings, EfficientNetSettings, ModelSettings

_STEM_KERNEL, _STEM_STRIDE = 3, 2


class EfficientNetTower(nnx.Module):
    """Maps normalized images `[batch, height, width, 3]` of any size to embeddings `[batch, dim]`."""

    def __init__(self, settings: EfficientNetSettings, model: ModelSettings, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(model.dtype)
        self.stem = StridedConvolution(settings.stem_width, dtype=dtype, rngs=rngs)
        self.depth = len(settings.blocks)
        for number, block in enumerate(settings.blocks):
            setattr(self, block_name(number), InvertedResidual(block, dtype=dtype, rngs=rngs))
        last = settings.blocks[-1].outputs if settings.blocks else settings.stem_width
        self.head = nnx.Linear(last, settings.width, dtype=dtype, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = jax.nn.relu6(self.stem(images))
        for number in range(self.depth):
            x = getattr(self, block_name(number))(x)
        x = jax.nn.relu6(self.head(x))
        return jnp.mean(x, axis=(1, 2), dtype=jnp.float32).astype(x.dtype)


class StridedConvolution(nnx.Module):
    """The first convolution, from 3 channels to `outputs`, which halves height and width."""

    def __init__(self, outputs: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.dtype = dtype
        init = nnx.initializers.he_normal()
        self.kernel = nnx.Param(init(rngs.params(), (_STEM_KERNEL, _STEM_KERNEL, 3, outputs)))
        self.bias = nnx.Param(jnp.zeros((outputs,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        padding = [same_padding(side, _STEM_KERNEL, stride=_STEM_STRIDE) for side in x.shape[1:3]]
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            self.kernel[...].astype(self.dtype),
            (_STEM_STRIDE, _STEM_STRIDE),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + self.bias[...].astype(self.dtype)


class InvertedResidual(nnx.Module):
    """Maps `[batch, height, width, inputs]` to `[batch, height / stride, width / stride, outputs]`, rounded up.

    The input is added to the output where their shapes agree.
    """

    def __init__(self, block: BlockSettings, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.is_residual = block.stride == 1 and block.inputs == block.outputs
        wide = block.inputs * block.expansion
        if block.expansion > 1:
            self.expand = nnx.Linear(block.inputs, wide, dtype=dtype, rngs=rngs)
        self.depthwise = DepthwiseConvolution(wide, block, dtype=dtype, rngs=rngs)
        self.project = nnx.Linear(wide, block.outputs, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu6(self.expand(x)) if hasattr(self, "expand") else x
        y = self.project(jax.nn.relu6(self.depthwise(y)))
        return x + y if self.is_residual else y


class DepthwiseConvolution(nnx.Module):
    """Filters each of the `channels` of `[batch, height, width, channels]` by its own kernel."""

    def __init__(self, channels: int, block: BlockSettings, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.dtype, self.stride = dtype, block.stride
        side = block.kernel_size
        self.kernel = nnx.Param(nnx.initializers.normal((2 / side**2) ** 0.5)(rngs.params(), (side, side, channels)))
        self.bias = nnx.Param(jnp.zeros((channels,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = convolve_depthwise(x, self.kernel[...], stride=self.stride) + self.bias[...]
        return y.astype(self.dtype)


def convolve_depthwise(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    """Return `x` `[batch, height, width, channels]` filtered by `kernel` `[side, side, channels]`, in float32.

    It is a sum of shifted images, which XLA computes in one pass: on CPUs several times faster than its convolution
    with one group per channel (docs/results/performance.md).
    """
    side = len(kernel)
    rows, columns = (same_padding(length, side, stride=stride) for length in x.shape[1:3])
    height, width = (-(-length // stride) for length in x.shape[1:3])
    x = jnp.pad(x, [(0, 0), rows, columns, (0, 0)]).astype(jnp.float32)
    total = jnp.zeros((), jnp.float32)
    for row in range(side):
        for column in range(side):
            down, right = (
                slice(row, row + (height - 1) * stride + 1, stride),
                slice(column, column + (width - 1) * stride + 1, stride),
            )
            total += x[:, down, right] * kernel[row, column].astype(jnp.float32)
    return total


def same_padding(length: int, kernel_size: int, *, stride: int) -> tuple[int, int]:
    """Return the zeros before and after `length` values with which a convolution gives `length / stride`, rounded up.

    Where their number is odd, there is one more after the values, as in TensorFlow's "SAME". The PyTorch original
    computes this once, for the image size of its settings.
    """
    total = max((-(-length // stride) - 1) * stride + kernel_size - length, 0)
    return total // 2, total - total // 2


def block_name(number: int) -> str:
    """Return the name of a block among the parameters."""
    return f"block_{number}"
