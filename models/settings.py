"""What defines a two-tower model: plain, frozen settings that a config file fills in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

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


def _check_transformer(name: str, width: int, depth: int, heads: int, mlp_width: int) -> None:
    for field, value in (("width", width), ("depth", depth), ("heads", heads), ("mlp_width", mlp_width)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}.{field} is {value!r}; it must be a positive whole number")
    if width % heads:
        raise ValueError(f"{name}.width {width} is not divisible by {name}.heads {heads}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionSettings:
    """The image tower: a Vision Transformer with an attention-pooling head. Sizes in pixels."""

    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_width: int

    def __post_init__(self) -> None:
        _check_transformer("vision", self.width, self.depth, self.heads, self.mlp_width)
        if self.patch_size < 1 or self.image_size < self.patch_size:
            raise ValueError(f"vision.patch_size {self.patch_size} does not fit image_size {self.image_size}")

    @property
    def num_patches(self) -> int:
        """Patches per image; a remainder at the right and lower edge is cut off, as in SigLIP 378/14."""
        return (self.image_size // self.patch_size) ** 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSettings:
    """The text tower: a transformer over `length` padded tokens, pooled at the last one."""

    vocab_size: int
    length: int
    width: int
    depth: int
    heads: int
    mlp_width: int

    def __post_init__(self) -> None:
        _check_transformer("text", self.width, self.depth, self.heads, self.mlp_width)
        for field in ("vocab_size", "length"):
            if getattr(self, field) < 1:
                raise ValueError(f"text.{field} is {getattr(self, field)}; it must be a positive whole number")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Both towers. They meet in `vision.width` dimensions, as in the published SigLIP models.

    `dtype` is the dtype of the computation (parameters are float32 always); `remat` names what the
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
