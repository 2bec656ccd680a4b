"""Writes tests/models/golden: a small random SigLIP of odd sizes, saved by transformers, and its embeddings.

python -m tests.parity.make_golden
"""

from __future__ import annotations

import pathlib

import numpy as np
import torch
from transformers import SiglipConfig, SiglipModel

FOLDER = pathlib.Path(__file__).parents[1] / "models" / "golden"


def main() -> None:
    torch.manual_seed(0)
    config = SiglipConfig(
        text_config={
            "vocab_size": 61,
            "hidden_size": 20,
            "intermediate_size": 36,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "max_position_embeddings": 7,
            "projection_size": 24,
            "pad_token_id": 0,
            "bos_token_id": None,
            "eos_token_id": 0,
        },
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "image_size": 20,
            "patch_size": 6,
        },
    )
    model = SiglipModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.2)
        pixels = torch.randn(5, 3, 20, 20)
        tokens = torch.randint(0, 61, (4, 7))
        outputs = model(input_ids=tokens, pixel_values=pixels)
        images = model.vision_model(pixel_values=pixels).pooler_output
        texts = model.text_model(input_ids=tokens).pooler_output
    FOLDER.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(FOLDER)
    np.savez_compressed(
        FOLDER / "outputs.npz",
        pixels=pixels.numpy(),
        tokens=tokens.numpy(),
        image_embeddings=images.numpy(),
        text_embeddings=texts.numpy(),
        logits_per_image=outputs.logits_per_image.numpy(),
    )


if __name__ == "__main__":
    main()
