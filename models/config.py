"""Settings of a two-tower model, filled in by a config or a checkpoint."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from foundation.settings import PositiveFloat, PositiveInt, check

Dtype = Literal["float32", "bfloat16"]
Remat = Literal["none", "dots", "full", "minimal"]
AttentionKernel = Literal["auto", "cpu", "xla", "cudnn"]
Activation = Literal["gelu_tanh", "gelu", "quick_gelu"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionSettings:
    """Settings of the image tower, a Vision Transformer; the defaults are SigLIP's.

    image_size: side of the square images in pixels, or (height, width).
    patch_size: side of the square patches in pixels.
    pooling: "attention" (a learned query) or "class" (a class token, as in CLIP).
    pre_norm: whether a norm precedes the first layer.
    patch_bias: whether the patch embedding has a bias.
    projection: dimensions of the embedding; None if it is the pooled token itself.
    """

    causal: ClassVar[bool] = False

    image_size: PositiveInt | tuple[PositiveInt, PositiveInt]
    patch_size: PositiveInt
    width: PositiveInt
    depth: PositiveInt
    heads: PositiveInt
    mlp_width: PositiveInt
    pooling: Literal["attention", "class"] = "attention"
    pre_norm: bool = False
    patch_bias: bool = True
    activation: Activation = "gelu_tanh"
    norm_epsilon: PositiveFloat = 1e-6
    projection: PositiveInt | None = None

    def __post_init__(self) -> None:
        check(self, "vision")
        _check_heads("vision", self)
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
        """Number of tokens before the patches: 1 if the tower pools by a class token, else 0."""
        return int(self.pooling == "class")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSettings:
    """Settings of the text tower, a transformer with a projection to the image embedding; the defaults are SigLIP's.

    length: number of tokens to which texts are padded or truncated.
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
    mlp_width: hidden units of the MLP (default: twice the larger of both dimensions).
    normalize: whether features are scaled to length 1 first.
    standardize: whether features then have their mean over the training features removed, and are divided by their
        standard deviation; both are stored with the head and not trained.
    """

    kind: Literal["linear", "mlp"] = "mlp"
    bias: bool = True
    mlp_width: PositiveInt | None = None
    activation: Activation = "gelu_tanh"
    normalize: bool = False
    standardize: bool = True


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
    """Settings of both towers and of how they are computed; a head on stored features may take the place of a tower.

    dtype: dtype of the computation, whatever that of the parameters.
    remat: what the backward pass keeps of each layer instead of recomputing it.
    attention: implementation of attention; "auto" takes the fastest on the platform.
    scan_unroll: layers per step of the scan over layers: 1 compiles fastest, the full depth runs fastest on CPUs.
    """

    vision: VisionSettings | FeatureHeadSettings
    text: TextSettings | FeatureHeadSettings
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
        """The towers, without heads."""
        return tuple(each for each in (self.vision, self.text) if not isinstance(each, FeatureHeadSettings))

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
