"""The published sizes of towers, by name: `S/16`, `B/32`, `So400m/14`, …"""

from __future__ import annotations

import re
from typing import Any, NamedTuple


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

# The text towers of CLIP (arXiv 2103.00020, tables 19 and 20; g, H: arXiv 2212.07143), which meet in its own width.
_CLIP_TEXTS = {
    "mu": Size(24, 1, 2, 96),
    "Ti": Size(192, 12, 3, 768),
    "S": Size(384, 12, 6, 1536),
    "M": Size(512, 12, 8, 2048),
    "B": Size(512, 12, 8, 2048),
    "L": Size(768, 12, 12, 3072),
    "H": Size(1024, 24, 16, 4096),
    "g": Size(1024, 24, 16, 4096),
}
_CLIP_TOWER = {"activation": "quick_gelu", "norm_epsilon": 1e-5}
_CLIP_VISION = _CLIP_TOWER | {"pooling": "class", "pre_norm": True, "patch_bias": False}
_CLIP_TEXT = _CLIP_TOWER | {"pooling": "end", "causal": True, "projection_bias": False}
_SIGLIP_TEXTS = {"g-opt": SIZES["So400m"]}

FAMILIES = ("siglip", "clip")


class Towers(NamedTuple):
    """Settings of the two towers, some or all of them, by name."""

    vision: dict[str, Any]
    text: dict[str, Any]


def towers(family: str, variant: str | None = None) -> Towers:
    """Returns the settings that a family's towers share and, for a `variant` such as "B/16", its dimensions.

    Of the texts' `length`, `image_size` and vocabulary nothing is said. Raises `ValueError` naming what is known.
    """
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; known: {', '.join(FAMILIES)}")
    vision, text = (_CLIP_VISION, _CLIP_TEXT) if family == "clip" else ({}, {})
    if variant is None:
        return Towers(dict(vision), dict(text))
    found = re.fullmatch(r"([A-Za-z0-9-]+)/([1-9]\d*)", variant)
    texts = _CLIP_TEXTS if family == "clip" else SIZES | _SIGLIP_TEXTS
    if not found or found[1] not in SIZES or found[1] not in texts:
        known = ", ".join(name for name in SIZES if name in texts)
        raise ValueError(f"unknown variant {variant!r} of {family}; write SIZE/PATCH as in B/16, with SIZE of {known}")
    size, text_size = SIZES[found[1]], texts[found[1]]
    if family == "clip":
        vision = vision | {"projection": text_size.width}
    return Towers(
        vision={**size._asdict(), "patch_size": int(found[2]), **vision}, text={**text_size._asdict(), **text}
    )
