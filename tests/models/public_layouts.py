"""Tiny checkpoints in the layouts of public ones, to which tests add a tokenizer and a processor."""

import json

from safetensors.numpy import save_file
from tokenizers import Tokenizer as Backend
from tokenizers import normalizers

from models.checkpoints import open_clip
from models.checkpoints.big_vision import save_big_vision
from models.checkpoints.huggingface import to_config, weight_map_for
from models.checkpoints.weight_map import WeightMap, to_tensors
from models.config import ModelSettings, TextSettings, VisionSettings
from models.preprocessing import Preprocessing
from tests.models.tiny_models import GOLDEN, random_parameters, tiny
from tests.models.tokenizer_families import FAMILIES

LENGTH = 12
SCALARS = {"logit_scale": 1.0, "logit_bias": -1.0}


def write_json(path, fields):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields))


def change_json(path, **fields):
    write_json(path, json.loads(path.read_text()) | fields)


def vocabulary(folder, family, *, tokenizer_class=None, raw=True, config=True, **fields):
    """Write the tokenizer of a family; if `raw`, without its own normalization of case."""
    FAMILIES[family]().save_pretrained(folder)
    if raw:
        backend = Backend.from_file(str(folder / "tokenizer.json"))
        space = [normalizers.Replace(" ", "▁")] if family == "siglip2" else []
        backend.normalizer = normalizers.Sequence([normalizers.NFC(), *space])
        backend.save(str(folder / "tokenizer.json"))
    change_json(
        folder / "tokenizer_config.json", tokenizer_class=tokenizer_class or "PreTrainedTokenizerFast", **fields
    )
    if not config:
        (folder / "tokenizer_config.json").unlink()
    return folder


PARAMETERS = {}


def parameters_of(settings):
    """Return random parameters, the same for the same settings."""
    if settings not in PARAMETERS:
        PARAMETERS[settings] = random_parameters(settings)
    return PARAMETERS[settings]


def huggingface(folder, model_type="siglip", *, vocab_size=600, **fields):
    """Write a Hugging Face folder of a model type without a tokenizer."""
    family = "clip" if model_type == "clip" else "siglip"
    text = {"length": LENGTH} | ({"end_id": None} if family == "clip" else {})
    most = 9 if model_type == "siglip2" else None
    settings = tiny(family, vocab_size=vocab_size, vision={"image_size": 15, "max_patches": most}, text=text)
    config = to_config(settings, start_id=None, end_id=1, pad_id=0, dtype="float32")
    write_json(folder / "config.json", config | fields)
    processor = Preprocessing(size=(15, 15)).to_json(patch_size=5, max_patches=most)
    write_json(folder / "preprocessor_config.json", processor)
    weights = to_tensors(weight_map_for(settings, model_type), parameters_of(settings), scalars=SCALARS, dtype="f4")
    save_file(weights, folder / "model.safetensors")
    return folder


def npz(path, *, vocab_size=600):
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = tiny("siglip", vocab_size=vocab_size, vision={"image_size": 15}, text={"length": LENGTH})
    return save_big_vision(path, settings, parameters=parameters_of(settings), scalars=SCALARS)


def siglip_of_open_clip(folder, *, vocab_size=600, preprocess=None, **text):
    """Write an open_clip folder with the towers of a SigLIP, without a tokenizer."""
    settings = ModelSettings(
        vision=VisionSettings(
            image_size=32, patch_size=16, width=24, depth=1, heads=12, mlp_width=20, activation="gelu"
        ),
        text=TextSettings(
            vocab_size=vocab_size, length=LENGTH, width=24, depth=1, heads=2, mlp_width=96, activation="gelu"
        ),
    )
    vision = {"image_size": 32, "timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map"}
    words = {"context_length": LENGTH, "vocab_size": vocab_size, "width": 24, "heads": 2, "layers": 1}
    words |= {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
    fields = {"model_cfg": {"embed_dim": 24, "custom_text": True, "vision_cfg": vision, "text_cfg": words | text}}
    write_json(folder / "open_clip_config.json", fields | ({"preprocess_cfg": preprocess} if preprocess else {}))
    entries = [*open_clip._timm_entries(settings), *open_clip._text_entries(settings, "text.")]
    weight_map = WeightMap(tuple(entries), {name: name for name in SCALARS}, scalar_shape=())
    weights = to_tensors(weight_map, parameters_of(settings), scalars=SCALARS, dtype="f4")
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


def clip_of_open_clip(folder, **text):
    """Write an open_clip folder with the towers of a CLIP, without a tokenizer."""
    golden = GOLDEN.parent / "golden_open_clip"
    fields = json.loads((golden / "open_clip_config.json").read_text())
    fields["model_cfg"]["text_cfg"] |= text
    write_json(folder / "open_clip_config.json", fields)
    (folder / "open_clip_model.safetensors").symlink_to(golden / "open_clip_model.safetensors")
    return folder
