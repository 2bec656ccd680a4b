"""Floating-point operations of the matrix products of a model, counted from its architecture.

A multiply-add counts as two operations. The count of a compiler takes the body of a loop once, so a scan over layers
counts as a single layer there; these functions count every layer.
"""

from __future__ import annotations

from models.config import FeatureHeadSettings, ModelSettings, TextSettings, VisionSettings


def count_forward_flops(settings: ModelSettings, *, kept_patches: int | None = None) -> int:
    """Return the operations to embed one image-text pair.

    `kept_patches` is the number of patches that the image tower processes, by default all.
    """
    text = settings.text
    if isinstance(text, FeatureHeadSettings):
        return count_image_flops(settings, kept_patches=kept_patches) + _head_flops(text)
    text_flops = _layer_flops(text, text.length) + 2 * text.width * settings.dim
    return count_image_flops(settings, kept_patches=kept_patches) + text_flops


def count_image_flops(settings: ModelSettings, *, kept_patches: int | None = None) -> int:
    """Return the operations to embed one image."""
    vision = settings.vision
    if isinstance(vision, FeatureHeadSettings):
        return _head_flops(vision)
    patches = vision.num_patches if kept_patches is None else kept_patches
    tokens = patches + vision.class_tokens
    flops = 2 * patches * vision.patch_size**2 * 3 * vision.width + _layer_flops(vision, tokens)
    flops += _attention_pooling_flops(vision, tokens) if vision.pooling == "attention" else 0
    return flops + 2 * vision.width * (vision.projection or 0)


def _head_flops(head: FeatureHeadSettings) -> int:
    has_linear = head.kind == "linear" or head.input_dim != head.dim
    mlp = head.hidden * (head.input_dim + head.dim) if head.kind == "mlp" else 0
    return 2 * (has_linear * head.input_dim * head.dim + mlp)


def _layer_flops(tower: VisionSettings | TextSettings, tokens: int) -> int:
    projections = 4 * tower.width**2 + 2 * tower.width * tower.mlp_width
    return tower.depth * (2 * tokens * projections + 4 * tokens**2 * tower.width)


def _attention_pooling_flops(tower: VisionSettings, tokens: int) -> int:
    keys_and_values, query_and_output = 2 * tokens * 2 * tower.width**2, 2 * 2 * tower.width**2
    return keys_and_values + query_and_output + 4 * tokens * tower.width + 4 * tower.width * tower.mlp_width
