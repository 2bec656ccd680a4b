"""What defines a two-tower model: plain, frozen settings that a config file fills in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")

# What a field's annotation admits; others are checked where they are used.
_KINDS = {
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "str": (str, "a name"),
    "str | None": ((str, type(None)), "a name or None"),
    "bool": (bool, "True or False"),
    "int | None": ((int, type(None)), "a whole number or None"),
    "float | None": ((int, float, type(None)), "a number or None"),
}

DTYPES = ("float32", "bfloat16")
REMAT_POLICIES = ("none", "dots", "full", "minimal")
ATTENTIONS = ("auto", "cpu", "xla", "cudnn")
ACTIVATIONS = ("gelu_tanh", "gelu", "quick_gelu")
VISION_POOLINGS = ("attention", "class")
TEXT_POOLINGS = ("last", "end")


def build(settings: type[T], section: str, values: Mapping[str, Any]) -> T:
    """Returns `settings(**values)`; raises `ValueError` for unknown and missing keys, and values of another type."""
    if not isinstance(values, Mapping) and not hasattr(values, "keys"):
        raise ValueError(f"{section} is {values!r}; it must be a section of settings")
    fields = {field.name: field for field in dataclasses.fields(settings)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ValueError(f"unknown key {section}.{unknown[0]}; known: {', '.join(fields)}")
    required = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in values]
    if missing:
        raise ValueError(f"the config lacks {section}.{missing[0]}")
    for name, value in values.items():
        kinds, wanted = _KINDS.get(fields[name].type, (object, ""))
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds not in (bool, object)):
            raise ValueError(f"{section}.{name} is {value!r}; it must be {wanted}")
    return settings(**values)


def _check_tower(name: str, tower: VisionSettings | TextSettings, *, whole: tuple[str, ...], poolings: tuple) -> None:
    for field in ("width", "depth", "heads", "mlp_width", *whole):
        value = getattr(tower, field)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}.{field} is {value!r}; it must be a positive whole number")
    if tower.width % tower.heads:
        raise ValueError(f"{name}.width {tower.width} is not divisible by {name}.heads {tower.heads}")
    for field, known in (("pooling", poolings), ("activation", ACTIVATIONS)):
        if getattr(tower, field) not in known:
            raise ValueError(f"unknown {name}.{field} {getattr(tower, field)!r}; known: {', '.join(known)}")
    if not 0 < tower.norm_epsilon < math.inf:
        raise ValueError(f"{name}.norm_epsilon is {tower.norm_epsilon}; it must be positive and finite")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionSettings:
    """The image tower: a Vision Transformer. Sizes in pixels, `image_size` of square images or as (height, width).

    The defaults are SigLIP's. `pooling`: "attention" (a learned query) or "class" (a class token, CLIP's). `pre_norm`
    normalises before the first layer; `patch_bias` is whether the patch embedding has a bias; `projection` is the
    number of dimensions of the embedding, None where it is the pooled token itself.
    """

    causal: ClassVar[bool] = False

    image_size: int | tuple[int, int]
    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    pooling: str = "attention"
    pre_norm: bool = False
    patch_bias: bool = True
    activation: str = "gelu_tanh"
    norm_epsilon: float = 1e-6
    projection: int | None = None

    def __post_init__(self) -> None:
        _check_tower("vision", self, whole=("patch_size",), poolings=VISION_POOLINGS)
        sides = self.image_size if isinstance(self.image_size, tuple) else (self.image_size,)
        if len(sides) not in (1, 2) or not all(type(side) is int for side in sides):
            raise ValueError(
                f"vision.image_size is {self.image_size!r}; it must be a whole number, or height and width"
            )
        if min(sides) < self.patch_size:
            raise ValueError(f"vision.patch_size {self.patch_size} does not fit image_size {self.image_size}")
        if self.projection is not None and self.projection < 1:
            raise ValueError(f"vision.projection is {self.projection}; it must be a positive whole number or None")

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width)."""
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
        """Tokens before those of the patches: 1 where the tower pools by a class token."""
        return int(self.pooling == "class")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSettings:
    """The text tower: a transformer over `length` padded tokens, and a projection to the image tower's dimensions.

    The defaults are SigLIP's. `pooling`: "last" token, or "end" of the text (CLIP's), which is the first token
    `end_id`, or where that is None the first of the largest id. `causal` tokens see only those before them;
    `projection_bias` is whether the projection has a bias.
    """

    vocab_size: int
    length: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    pooling: str = "last"
    end_id: int | None = None
    causal: bool = False
    activation: str = "gelu_tanh"
    norm_epsilon: float = 1e-6
    projection_bias: bool = True

    def __post_init__(self) -> None:
        _check_tower("text", self, whole=("vocab_size", "length"), poolings=TEXT_POOLINGS)
        if self.end_id is not None and not 0 <= self.end_id < self.vocab_size:
            raise ValueError(f"text.end_id {self.end_id} is no id of a vocabulary of {self.vocab_size}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Both towers. They meet in `dim` dimensions.

    `dtype` is the dtype of the computation, whatever that of the parameters; `remat` names what the
    backward pass keeps of each layer instead of recomputing it: one of `REMAT_POLICIES`; `attention` is how attention
    is computed, one of `ATTENTIONS`, of which "auto" takes the fastest that the platform has; `scan_unroll` is the
    number of layers per step of the scan over layers: 1 compiles fastest, the full depth runs fastest on CPUs.
    """

    vision: VisionSettings
    text: TextSettings
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"
    scan_unroll: int = 1

    @property
    def dim(self) -> int:
        """The number of dimensions of an embedding."""
        return self.vision.projection or self.vision.width

    def __post_init__(self) -> None:
        if self.scan_unroll < 1:
            raise ValueError(f"scan_unroll is {self.scan_unroll}; it must be at least 1")
        if self.dtype not in DTYPES:
            raise ValueError(f"unknown model dtype {self.dtype!r}; known: {', '.join(DTYPES)}")
        if self.remat not in REMAT_POLICIES:
            raise ValueError(f"unknown remat policy {self.remat!r}; known: {', '.join(REMAT_POLICIES)}")
        if self.attention not in ATTENTIONS:
            raise ValueError(f"unknown attention {self.attention!r}; known: {', '.join(ATTENTIONS)}")
        if self.attention == "cudnn" and self.dtype != "bfloat16":
            raise ValueError(f"attention 'cudnn' computes in bfloat16 only, and dtype is {self.dtype}; set one of them")
