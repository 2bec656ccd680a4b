"""Floating-point operations of matrix products, counted from the architecture; a multiply-add is two.

A compiler's own count takes the body of a loop, and so a scan over layers, once; these count every layer.
"""

from __future__ import annotations

from models.config import ModelSettings, TextSettings, VisionSettings


def count_forward_flops(settings: ModelSettings, *, kept_patches: int | None = None) -> int:
    """Returns the operations that embedding one pair takes; with `kept_patches` the image tower sees so many only."""
    text = settings.text
    texts = _layers(text, text.length) + 2 * text.width * settings.dim
    return count_image_flops(settings, kept_patches=kept_patches) + texts


def count_image_flops(settings: ModelSettings, *, kept_patches: int | None = None) -> int:
    """Returns the operations that embedding one image takes."""
    vision = settings.vision
    patches = vision.num_patches if kept_patches is None else kept_patches
    tokens = patches + vision.class_tokens
    images = 2 * patches * vision.patch_size**2 * 3 * vision.width + _layers(vision, tokens)
    images += _attention_pooling(vision, tokens) if vision.pooling == "attention" else 0
    return images + 2 * vision.width * (vision.projection or 0)


def _layers(tower: VisionSettings | TextSettings, tokens: int) -> int:
    projections = 4 * tower.width**2 + 2 * tower.width * tower.mlp_width
    return tower.depth * (2 * tokens * projections + 4 * tokens**2 * tower.width)


def _attention_pooling(tower: VisionSettings, tokens: int) -> int:
    keys_and_values, query_and_output = 2 * tokens * 2 * tower.width**2, 2 * 2 * tower.width**2
    return keys_and_values + query_and_output + 4 * tokens * tower.width + 4 * tower.width * tower.mlp_width
