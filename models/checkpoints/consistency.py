"""Whether the parts of a checkpoint fit each other: towers, tokenizer and image processor."""

from __future__ import annotations

from models.config import ModelSettings
from models.preprocessing import Preprocessing
from models.text.tokenizer import Tokenizer


def check_vocabulary(tokenizer: Tokenizer, *, vocab_size: int, name: str) -> None:
    """Raise `ValueError` if a tokenizer produces ids that the text tower has no embeddings for."""
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"the tokenizer of {name} produces ids up to {tokenizer.vocab_size - 1:,}, but the text tower embeds only "
            f"{vocab_size:,}. Use the tokenizer that the checkpoint was trained with."
        )


def check_image_size(preprocessing: Preprocessing, settings: ModelSettings, *, name: str) -> None:
    """Raise `ValueError` if the preprocessed images do not have the size that the image tower takes."""
    if preprocessing.shape != settings.vision.image_shape:
        given, taken = (" × ".join(map(str, shape)) for shape in (preprocessing.shape, settings.vision.image_shape))
        raise ValueError(f"{name}: preprocessing gives images of {given} pixels, but the image tower takes {taken}")


def images_only(name: str) -> str:
    """Return the sentence for texts that reach a checkpoint without a text tower."""
    return (
        f"{name} embeds images only: it has no text tower. Leave out texts, or use a checkpoint that embeds both, such "
        "as google/siglip-base-patch16-224."
    )
