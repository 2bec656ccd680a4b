"""Settings of a model, filled in by a config or a checkpoint."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, Literal, NamedTuple

from foundation.settings import PositiveFloat, PositiveInt, check

Dtype = Literal["float32", "bfloat16"]
Remat = Literal[
    "auto",
    "none",
    "dots",
    "minimal_with_context",
    "minimal",
    "save_dot_with_context_except_mlp",
    "save_dot_except_mlp",
    "save_qkv_proj",
    "save_out_proj",
    "full",
    "minimal_offloaded",
]
AttentionKernel = Literal["auto", "cpu", "xla", "cudnn"]
Activation = Literal["gelu_tanh", "gelu", "quick_gelu"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionSettings:
    """Settings of the image tower, a Vision Transformer; the defaults are SigLIP's.

    image_size: side of the square images in pixels, or (height, width).
    patch_size: side of the square patches in pixels.
    width: dimensions of a token in the transformer.
    depth: number of layers.
    heads: number of attention heads, which divides `width`.
    mlp_width: hidden units of the MLPs.
    activation: of the MLPs: the tanh approximation of GELU, GELU, or OpenAI's "quick_gelu".
    norm_epsilon: constant in the denominator of the layer norms.
    pooling: "attention" (a learned query), "class" (a class token, as in CLIP) or "average" (the mean of the patches
        next to a class token, as in CLIPA).
    norm_after_pooling: whether the last norm follows the average instead of preceding it.
    pre_norm: whether a norm precedes the first layer.
    patch_bias: whether the patch embedding has a bias.
    projection: dimensions of the embedding; None if it is the pooled token itself.
    max_patches: largest number of patches of an image whose aspect ratio is kept, as in NaFlex (arXiv 2502.14786); the
        grid of `image_size` is then that of the position embeddings, and the size of images in training. None: every
        image is resized to `image_size`.
    """

    causal: ClassVar[bool] = False

    image_size: PositiveInt | tuple[PositiveInt, PositiveInt]
    patch_size: PositiveInt
    width: PositiveInt
    depth: PositiveInt
    heads: PositiveInt
    mlp_width: PositiveInt
    pooling: Literal["attention", "class", "average"] = "attention"
    norm_after_pooling: bool = False
    pre_norm: bool = False
    patch_bias: bool = True
    activation: Activation = "gelu_tanh"
    norm_epsilon: PositiveFloat = 1e-6
    projection: PositiveInt | None = None
    # not in the names of cached embeddings, where it stands next to the preprocessing
    max_patches: PositiveInt | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        check(self, "vision")
        _check_heads("vision", self)
        if self.max_patches is not None and (self.pooling != "attention" or self.pre_norm or self.projection):
            raise ValueError(
                f"vision.max_patches {self.max_patches} is for towers that pool by attention, without pre_norm and "
                "projection, as SigLIP 2. Remove it."
            )
        if self.norm_after_pooling and self.pooling != "average":
            raise ValueError(f"vision.norm_after_pooling needs pooling 'average', not {self.pooling!r}")
        if min(self.image_shape) < self.patch_size:
            raise ValueError(f"vision.patch_size {self.patch_size} does not fit image_size {self.image_size}")

    @property
    def dim(self) -> int:
        """Number of dimensions of an embedding."""
        return self.projection or self.width

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)

    @property
    def largest_activation(self) -> int:
        """Number of values of an image in the largest array between two layers."""
        return self.num_patches * self.mlp_width

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches; a remainder at the right and lower edge is cut off, as in SigLIP 378/14."""
        height, width = self.image_shape
        return height // self.patch_size, width // self.patch_size

    @property
    def num_patches(self) -> int:
        """Patches per image."""
        rows, columns = self.grid
        return rows * columns

    @property
    def class_tokens(self) -> int:
        """Number of tokens before the patches: 0 if the tower pools by attention, else 1, the class token."""
        return int(self.pooling != "attention")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageSettings:
    """Settings of a stage of `EfficientNetSettings`: `repeats` blocks, the first one with the stride.

    kernel_size: side of the depthwise convolutions.
    expansion: factor by which a block widens its input first; 1 for no widening.
    width: channels of the output.
    """

    kernel_size: PositiveInt
    stride: Literal[1, 2]
    expansion: PositiveInt
    width: PositiveInt
    repeats: PositiveInt

    def __post_init__(self) -> None:
        check(self, "stage")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EfficientNetSettings:
    """Settings of an image tower of convolutions, EfficientNet-Lite (arXiv 1905.11946, without squeeze-and-excitation).

    image_size: side of the square images in pixels, or (height, width).
    stem_width: channels of the first convolution, which has stride 2.
    stages: the stages of inverted residual blocks (arXiv 1801.04381).
    width: channels of the last convolution, whose mean over all positions is the embedding.
    """

    image_size: PositiveInt | tuple[PositiveInt, PositiveInt]
    stem_width: PositiveInt
    stages: tuple[StageSettings, ...]
    width: PositiveInt

    def __post_init__(self) -> None:
        check(self, "vision")

    @property
    def dim(self) -> int:
        """Number of dimensions of an embedding."""
        return self.width

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)

    @property
    def blocks(self) -> tuple[BlockSettings, ...]:
        """The blocks of all stages in their order."""
        blocks, inputs = [], self.stem_width
        for stage in self.stages:
            for number in range(stage.repeats):
                blocks.append(
                    BlockSettings(inputs, stage.width, stage.kernel_size, _stride(stage, number), stage.expansion)
                )
                inputs = stage.width
        return tuple(blocks)

    @property
    def largest_activation(self) -> int:
        """Number of values of an image in the largest array between two layers."""
        positions = math.prod(-(-side // 2) for side in self.image_shape)
        sizes = [positions * self.stem_width]
        for block in self.blocks:
            sizes.append(positions * block.inputs * block.expansion)
            positions = positions // block.stride**2
        return max(sizes)


class BlockSettings(NamedTuple):
    """Channels of the input and of the output of an inverted residual block, and the settings of its convolutions."""

    inputs: int
    outputs: int
    kernel_size: int
    stride: int
    expansion: int


def _stride(stage: StageSettings, number: int) -> int:
    return stage.stride if number == 0 else 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSettings:
    """Settings of the text tower, a transformer with a projection to the image embedding; the defaults are SigLIP's.

    length: number of tokens to which texts are padded or truncated.
    vocab_size: number of token ids (default: those of the tokenizer).
    width: dimensions of a token in the transformer.
    depth: number of layers.
    heads: number of attention heads, which divides `width`.
    mlp_width: hidden units of the MLPs.
    activation: of the MLPs: the tanh approximation of GELU, GELU, or OpenAI's "quick_gelu".
    norm_epsilon: constant in the denominator of the layer norms.
    pooling: the token that represents the text: the "last" one, or the "end" token, as in CLIP.
    end_id: id of the end token, at its first position; if None, the first token of the largest id is taken.
    causal: whether a token attends only to itself and the tokens before it.
    projection_bias: whether the projection has a bias.
    """

    vocab_size: PositiveInt
    length: PositiveInt
    width: PositiveInt
    depth: PositiveInt
    heads: PositiveInt
    mlp_width: PositiveInt
    pooling: Literal["last", "end"] = "last"
    end_id: int | None = None
    causal: bool = False
    activation: Activation = "gelu_tanh"
    norm_epsilon: PositiveFloat = 1e-6
    projection_bias: bool = True

    def __post_init__(self) -> None:
        check(self, "text")
        _check_heads("text", self)
        if self.end_id is not None and not 0 <= self.end_id < self.vocab_size:
            raise ValueError(f"text.end_id {self.end_id} is outside the vocabulary of {self.vocab_size} tokens")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """Settings of a head, which maps stored features to embeddings in the place of a tower.

    kind: "linear", or "mlp": a linear layer (none where the dimensions agree) plus an MLP that is zero at first.
    bias: whether the linear layer has a bias.
    activation: of the MLP: the tanh approximation of GELU, GELU, or OpenAI's "quick_gelu".
    mlp_width: hidden units of the MLP (default: twice the larger of both dimensions).
    normalize: whether features are scaled to length 1 first.
    standardize: whether features then have their mean over the training features removed, and are divided by their
        standard deviation; both are stored with the head and not trained.
    deviation: "shared", the root mean square of the deviations of all dimensions, or "each" dimension's own, which
        raises dimensions that hardly vary.
    """

    kind: Literal["linear", "mlp"] = "mlp"
    bias: bool = True
    mlp_width: PositiveInt | None = None
    activation: Activation = "gelu_tanh"
    normalize: bool = False
    standardize: bool = True
    deviation: Literal["shared", "each"] = "shared"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureHeadSettings(HeadOptions):
    """Settings of a head from features of `input_dim` dimensions to embeddings of `dim` dimensions."""

    input_dim: PositiveInt
    dim: PositiveInt

    def __post_init__(self) -> None:
        check(self, "head")

    @property
    def hidden(self) -> int:
        """Number of hidden units of the MLP."""
        return self.mlp_width or 2 * max(self.input_dim, self.dim)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Settings of both towers and of how they are computed; `text` is None for a model that embeds images only.

    A head on stored features may take the place of a tower.

    dtype: dtype of the computation, whatever that of the parameters.
    remat: what the backward pass keeps of each layer instead of recomputing it (`models/rematerialization.py`); with
        "auto" a training run takes the policy with the least arithmetic that fits its devices.
    attention: implementation of attention; "auto" takes the fastest on the platform.
    scan_unroll: layers per step of the scan over layers: 1 compiles fastest, the full depth runs fastest on CPUs.
    """

    vision: VisionSettings | EfficientNetSettings | FeatureHeadSettings
    text: TextSettings | FeatureHeadSettings | None
    dtype: Dtype = "float32"
    remat: Remat = "none"
    attention: AttentionKernel = "auto"
    scan_unroll: PositiveInt = 1

    @property
    def dim(self) -> int:
        """Number of dimensions of an embedding."""
        return self.vision.dim

    @property
    def towers(self) -> tuple[VisionSettings | TextSettings, ...]:
        """The towers that are transformers."""
        return tuple(each for each in (self.vision, self.text) if isinstance(each, VisionSettings | TextSettings))

    def __post_init__(self) -> None:
        check(self, "model")
        if isinstance(self.text, FeatureHeadSettings) and self.text.dim != self.dim:
            raise ValueError(f"text embeddings have {self.text.dim} dimensions, but image embeddings have {self.dim}")
        if self.attention == "cudnn" and self.dtype != "bfloat16":
            raise ValueError(
                f"attention 'cudnn' computes in bfloat16 only, but dtype is {self.dtype}. Change one of them."
            )


def _check_heads(section: str, tower: VisionSettings | TextSettings) -> None:
    if tower.width % tower.heads:
        raise ValueError(f"{section}.width {tower.width} is not divisible by {section}.heads {tower.heads}")
