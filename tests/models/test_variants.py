"""Published tower sizes."""

import numpy as np
import pytest

from models.checkpoints.weight_map import parameter_shapes
from models.config import ModelSettings, TextSettings, VisionSettings
from models.variants import SIZES, tower_fields


def test_variants_have_the_published_parameter_counts():
    def millions(family, variant, image_size, vocab_size, length):
        shared = tower_fields(family, variant)
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
        tower_fields("siglip", f"{size}/16")


@pytest.mark.parametrize("name", ["B", "B/0", "XXL/14", "B/16/3", "b/16"])
def test_unknown_variant_lists_the_known_sizes(name):
    message = rf"unknown variant '{name}' of siglip\..* Write SIZE/PATCH, .* SIZE one of mu, Ti, S, M, B, L, So400m"
    with pytest.raises(ValueError, match=message):
        tower_fields("siglip", name)


def test_misspelt_names_get_a_suggestion():
    with pytest.raises(ValueError, match=r"unknown variant 'b/16' of siglip\. Did you mean 'B/16'\?"):
        tower_fields("siglip", "b/16")
    with pytest.raises(ValueError, match=r"unknown family 'sigclip'\. Did you mean 'siglip'\? Known: siglip, clip"):
        tower_fields("sigclip")
