"""The published sizes of towers."""

import numpy as np
import pytest

from models.checkpoints.weight_map import parameter_shapes
from models.config import ModelSettings, TextSettings, VisionSettings
from models.variants import SIZES, towers


def test_variants_have_the_published_numbers_of_parameters():
    def millions(family, variant, image_size, vocab_size, length):
        shared = towers(family, variant)
        settings = ModelSettings(
            vision=VisionSettings(image_size=image_size, **shared.vision),
            text=TextSettings(vocab_size=vocab_size, length=length, **shared.text),
        )
        return sum(np.prod(shape) for shape in parameter_shapes(settings).values()) / 1e6

    # Counted from the published weights: OpenAI's ViT-B/32 and L/14, SigLIP B/16 and So400m/14, without the scalars.
    assert round(millions("clip", "B/32", 224, 49408, 77), 2) == 151.28
    assert round(millions("clip", "L/14", 224, 49408, 77), 2) == 427.62
    assert round(millions("siglip", "B/16", 224, 32000, 64), 2) == 203.16
    assert round(millions("siglip", "So400m/14", 384, 32000, 64), 2) == 877.96
    assert round(millions("clip", "g/14", 224, 49408, 77), 1) == 1366.7
    for size in SIZES:
        towers("siglip", f"{size}/16")


@pytest.mark.parametrize("name", ["B", "B/0", "XXL/14", "B/16/3", "b/16"])
def test_an_unknown_variant_names_the_known_sizes(name):
    with pytest.raises(ValueError, match=rf"unknown variant '{name}' of siglip; .* SIZE of mu, Ti, S, M, B, L, So400m"):
        towers("siglip", name)
