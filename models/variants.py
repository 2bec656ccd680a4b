"""Published tower sizes by name, such as `S/16`, `B/32` and `So400m/14`."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from foundation.suggestions import did_you_mean, unknown_name


class Size(NamedTuple):
    """The dimensions of a transformer."""

    width: int
    depth: int
    heads: int
    mlp_width: int


# Scaling Vision Transformers (arXiv 2106.04560), table 2; So400m: arXiv 2305.13035; g-opt: SigLIP 2 (arXiv 2502.14786).
SIZES = {
    "mu": Size(32, 1, 2, 128),
    "Ti": Size(192, 12, 3, 768),
    "S": Size(384, 12, 6, 1536),
    "M": Size(512, 12, 8, 2048),
    "B": Size(768, 12, 12, 3072),
    "L": Size(1024, 24, 16, 4096),
    "So400m": Size(1152, 27, 16, 4304),
    "H": Size(1280, 32, 16, 5120),
    "g": Size(1408, 40, 16, 6144),
    "g-opt": Size(1536, 40, 16, 6144),
}

# The text towers of CLIP (arXiv 2103.00020, tables 19 and 20; g, H: arXiv 2212.07143). Their width is the dimension of
# the embeddings.
_CLIP_TEXT_SIZES = {
    "mu": Size(24, 1, 2, 96),
    "Ti": Size(192, 12, 3, 768),
    "S": Size(384, 12, 6, 1536),
    "M": Size(512, 12, 8, 2048),
    "B": Size(512, 12, 8, 2048),
    "L": Size(768, 12, 12, 3072),
    "H": Size(1024, 24, 16, 4096),
    "g": Size(1024, 24, 16, 4096),
}
_SIGLIP_TEXT_SIZES = SIZES | {"g-opt": SIZES["So400m"]}

_CLIP_TOWER = {"activation": "quick_gelu", "norm_epsilon": 1e-5}
_CLIP_VISION = _CLIP_TOWER | {"pooling": "class", "pre_norm": True, "patch_bias": False}
_CLIP_TEXT = _CLIP_TOWER | {"pooling": "end", "causal": True, "projection_bias": False}

FAMILIES = ("siglip", "clip")


class TowerFields(NamedTuple):
    """Field values of `VisionSettings` and `TextSettings`; either may be incomplete."""

    vision: dict[str, Any]
    text: dict[str, Any]


def tower_fields(family: str, variant: str | None = None) -> TowerFields:
    """Return the settings shared by the towers of a family and, with a `variant` such as "B/16", their dimensions.

    `image_size`, the text `length` and `vocab_size` are not part of a variant. Raises `ValueError` for an unknown
    family or variant.
    """
    if family not in FAMILIES:
        raise ValueError(unknown_name("family", family, FAMILIES))
    vision, text = (_CLIP_VISION, _CLIP_TEXT) if family == "clip" else ({}, {})
    if variant is None:
        return TowerFields(dict(vision), dict(text))
    text_sizes = _CLIP_TEXT_SIZES if family == "clip" else _SIGLIP_TEXT_SIZES
    parts = re.fullmatch(r"([A-Za-z0-9-]+)/([1-9]\d*)", variant)
    if not parts or parts[1] not in SIZES or parts[1] not in text_sizes:
        raise ValueError(_unknown_variant(family, variant, known=[name for name in SIZES if name in text_sizes]))
    size, text_size = SIZES[parts[1]], text_sizes[parts[1]]
    if family == "clip":
        vision = vision | {"projection": text_size.width}
    return TowerFields(
        vision={**size._asdict(), "patch_size": int(parts[2]), **vision}, text={**text_size._asdict(), **text}
    )


def _unknown_variant(family: str, variant: str, *, known: list[str]) -> str:
    _, slash, patch_size = variant.partition("/")
    names = [f"{name}/{patch_size}" for name in known] if slash and patch_size else []
    return (
        f"unknown variant {variant!r} of {family}.{did_you_mean(variant, names)} Write SIZE/PATCH, for example B/16, "
        f"with SIZE one of {', '.join(known)}."
    )
