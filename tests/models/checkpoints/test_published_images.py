"""Images are resized, cropped and normalized as the owners of every family do, in whatever form a checkpoint comes."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models.checkpoints.describe import describe_checkpoint
from tests.logged import logged
from tests.models.public_layouts import clip_of_open_clip, huggingface, npz, siglip_of_open_clip, write_json

HALF = (0.5, 0.5, 0.5)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BILINEAR, BICUBIC = 2, 3
SQUARE = {"size": {"height": 15, "width": 15}, "do_resize": True}
OPENAI = {"image_mean": list(MEAN), "image_std": list(STD)}
CLIP = {"size": {"shortest_edge": 15}, "crop_size": {"height": 15, "width": 15}, "do_center_crop": True, **OPENAI}
HALVES = {"image_mean": list(HALF), "image_std": list(HALF)}


def processor(folder, name="preprocessor_config.json", **fields):
    """Replace the image processor of a folder."""
    (folder / "preprocessor_config.json").unlink()
    write_json(folder / name, {"image_processor": fields} if name == "processor_config.json" else fields)
    return folder


def open_clip_preprocessing(folder, **fields):
    path = folder / "open_clip_config.json"
    write_json(path, json.loads(path.read_text()) | {"preprocess_cfg": fields})
    return folder


SIGLIP_TYPE, SIGLIP2_TYPE = ({"image_processor_type": f"{name}ImageProcessor"} for name in ("Siglip", "Siglip2"))
PATCHES = {"patch_size": 5, "max_num_patches": 9}
# way → checkpoint, expected (size, crop, filter, mean, std)
WAYS = {
    "SigLIP, transformers": (
        lambda at: processor(huggingface(at), **SIGLIP_TYPE, **SQUARE, **HALVES, resample=BICUBIC),
        ((15, 15), None, BICUBIC, HALF, HALF),
    ),
    "SigLIP, filter by default": (
        lambda at: processor(huggingface(at), **SIGLIP_TYPE, **SQUARE, **HALVES),
        ((15, 15), None, BICUBIC, HALF, HALF),
    ),
    "SigLIP 2, transformers": (
        lambda at: processor(huggingface(at), **SIGLIP_TYPE, **SQUARE, **HALVES, resample=BILINEAR),
        ((15, 15), None, BILINEAR, HALF, HALF),
    ),
    "SigLIP 2 NaFlex": (
        lambda at: processor(huggingface(at, "siglip2"), **SIGLIP2_TYPE, **PATCHES, **HALVES, resample=BILINEAR),
        ((15, 15), None, BILINEAR, HALF, HALF),
    ),
    "SigLIP 2 NaFlex, filter by default": (
        lambda at: processor(huggingface(at, "siglip2"), **SIGLIP2_TYPE, **PATCHES, **HALVES),
        ((15, 15), None, BILINEAR, HALF, HALF),
    ),
    "SigLIP 2 NaFlex, nearest": (
        lambda at: processor(huggingface(at, "siglip2"), **SIGLIP2_TYPE, **PATCHES, **HALVES, resample=0),
        ((15, 15), None, 0, HALF, HALF),
    ),
    "SigLIP 2 NaFlex, transformers 5": (
        lambda at: processor(huggingface(at, "siglip2"), "processor_config.json", **SIGLIP2_TYPE, **PATCHES, **OPENAI),
        ((15, 15), None, BILINEAR, MEAN, STD),
    ),
    "SigLIP, npz": (lambda at: npz(at / "webli_en_b16_224.npz"), ((15, 15), None, BICUBIC, HALF, HALF)),
    "SigLIP 2, npz by name": (lambda at: npz(at / "siglip2_b16_224.npz"), ((15, 15), None, BILINEAR, HALF, HALF)),
    "SigLIP, open_clip": (
        lambda at: siglip_of_open_clip(
            at, preprocess={"mean": HALF, "std": HALF, "interpolation": "bicubic", "resize_mode": "squash"}
        ),
        ((32, 32), None, BICUBIC, HALF, HALF),
    ),
    "SigLIP, open_clip's defaults": (siglip_of_open_clip, ((32, 32), None, BICUBIC, HALF, HALF)),
    "CLIP and MetaCLIP, transformers": (
        lambda at: processor(huggingface(at, "clip"), image_processor_type="CLIPImageProcessor", **CLIP),
        (15, (15, 15), BICUBIC, MEAN, STD),
    ),
    "CLIP, old numbers": (
        lambda at: processor(
            huggingface(at, "clip"),
            feature_extractor_type="CLIPFeatureExtractor",
            **CLIP | {"size": 15, "crop_size": 15},
        ),
        (15, (15, 15), BICUBIC, MEAN, STD),
    ),
    "DFN, open_clip": (
        lambda at: open_clip_preprocessing(
            clip_of_open_clip(at), mean=MEAN, std=STD, interpolation="bicubic", resize_mode="squash"
        ),
        ((21, 28), None, BICUBIC, MEAN, STD),
    ),
    "DFN2B, open_clip without a resize mode": (
        lambda at: open_clip_preprocessing(square(clip_of_open_clip(at)), mean=MEAN, std=STD),
        (21, (21, 21), BICUBIC, MEAN, STD),
    ),
    "CLIPA, open_clip": (
        lambda at: open_clip_preprocessing(
            clip_of_open_clip(at), mean=HALF, std=STD, interpolation="bilinear", resize_mode="squash"
        ),
        ((21, 28), None, BILINEAR, HALF, STD),
    ),
}


def square(folder):
    """Make the images of the golden CLIP square."""

    path = folder / "open_clip_config.json"
    fields = json.loads(path.read_text())
    fields["model_cfg"]["vision_cfg"]["image_size"] = 21
    write_json(path, fields)
    weights = folder / "open_clip_model.safetensors"
    tensors = load_file(weights)
    weights.unlink()
    tensors["visual.positional_embedding"] = np.ascontiguousarray(tensors["visual.positional_embedding"][:10])
    save_file(tensors, weights)
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_images_are_prepared_as_the_owners_do(tmp_path, way):
    make, expected = WAYS[way]
    found = describe_checkpoint(make(tmp_path / "model")).preprocessing
    assert (found.size, found.crop, found.resample, tuple(found.mean), tuple(found.std)) == expected
    assert found.rescale == 1 / 255


def test_folder_with_two_configs_that_differ_is_logged(tmp_path):
    """apple/DFN5B-CLIP-ViT-H-14 crops by `preprocessor_config.json` and squashes by `open_clip_config.json`."""
    folder = processor(huggingface(tmp_path, "clip"), image_processor_type="CLIPImageProcessor", **CLIP)
    for mode, expected in (("shortest", 0), ("squash", 1)):
        write_json(
            folder / "open_clip_config.json", {"preprocess_cfg": {"mean": MEAN, "std": STD, "resize_mode": mode}}
        )
        with logged() as messages:
            describe_checkpoint(folder)
        assert len(messages) == expected
    assert "open_clip_config.json differs: size 15, not (15, 15); crop (15, 15), not None" in messages[0]
