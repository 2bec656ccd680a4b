"""Write tests/models/golden and golden_clip: small random models saved by transformers, and their outputs.

python -m tests.parity.make_golden
"""

from __future__ import annotations

import pathlib

import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

FOLDERS = pathlib.Path(__file__).parents[1] / "models"


def main() -> None:
    vision = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": 20,
        "patch_size": 6,
    }
    text = {
        "vocab_size": 61,
        "hidden_size": 20,
        "intermediate_size": 36,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": 7,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 0,
    }
    siglip = SiglipConfig(text_config=text | {"projection_size": 24}, vision_config=vision)
    write(FOLDERS / "golden", SiglipModel(siglip))
    end = {"pad_token_id": 60, "bos_token_id": 59, "eos_token_id": 60}
    clip = CLIPConfig(text_config=text | end, vision_config=vision, projection_dim=18)
    write(FOLDERS / "golden_clip", CLIPModel(clip))


def write(folder: pathlib.Path, model: torch.nn.Module) -> None:
    torch.manual_seed(0)
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.2)
        pixels = torch.randn(5, 3, 20, 20)
        tokens = torch.randint(0, 61, (4, 7))
        tokens[:, -1] = 60
        outputs = model(input_ids=tokens, pixel_values=pixels)
        images = model.get_image_features(pixel_values=pixels)
        texts = model.get_text_features(input_ids=tokens)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    np.savez_compressed(
        folder / "outputs.npz",
        pixels=pixels.numpy(),
        tokens=tokens.numpy(),
        image_embeddings=images.pooler_output.numpy(),
        text_embeddings=texts.pooler_output.numpy(),
        logits_per_image=outputs.logits_per_image.numpy(),
    )


if __name__ == "__main__":
    main()
