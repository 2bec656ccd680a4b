"""Image processors of SigLIP and CLIP: reading, writing and normalizing as transformers does."""

import json

import numpy as np
import pytest
from transformers import AutoImageProcessor, CLIPImageProcessorPil, SiglipImageProcessorPil

from models.preprocessing import NESTED_FILE, PREPROCESSOR_FILE, Preprocessing, load_preprocessing

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
KINDS = {
    "siglip": Preprocessing(size=(24, 24), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.5)),
    "oblong": Preprocessing(size=(24, 17), resample=2),
    "clip": Preprocessing(size=24, crop=(24, 24), mean=CLIP_MEAN, std=CLIP_STD),
    "resized and cropped": Preprocessing(size=(30, 40), crop=(24, 17)),
    "cropped only": Preprocessing(size=None, crop=(24, 17)),
    "not normalized": Preprocessing(size=(8, 8), rescale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
}
# The file of openai/clip-vit-base-patch32, written when sizes were plain numbers.
OLD_CLIP = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": list(CLIP_MEAN),
    "image_std": list(CLIP_STD),
    "resample": 3,
    "size": 224,
}


def write(folder, fields, name=PREPROCESSOR_FILE):
    (folder / name).write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_written_preprocessing_reads_back_unchanged(tmp_path, kind):
    assert load_preprocessing(write(tmp_path, KINDS[kind].to_json())) == KINDS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_our_file_and_we_read_its_file(tmp_path, kind):
    processor = AutoImageProcessor.from_pretrained(write(tmp_path, KINDS[kind].to_json()), backend="pil")
    assert type(processor) is (SiglipImageProcessorPil if KINDS[kind].crop is None else CLIPImageProcessorPil)
    processor.save_pretrained(tmp_path)
    assert load_preprocessing(tmp_path) == KINDS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_normalized_pixels_equal_those_of_transformers(tmp_path, kind):
    images = np.random.default_rng(0).integers(0, 256, (3, *KINDS[kind].shape, 3), np.uint8)
    processor = AutoImageProcessor.from_pretrained(write(tmp_path, KINDS[kind].to_json()), backend="pil")
    theirs = processor(list(images), do_resize=False, do_center_crop=False, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(KINDS[kind].normalize(images), theirs.transpose(0, 2, 3, 1), rtol=0, atol=1e-6)


def test_reads_files_of_old_clip_models(tmp_path):
    expected = Preprocessing(size=224, crop=(224, 224), mean=CLIP_MEAN, std=CLIP_STD)
    assert load_preprocessing(write(tmp_path, OLD_CLIP)) == expected


def test_reads_default_processors_of_transformers(tmp_path):
    SiglipImageProcessorPil().save_pretrained(tmp_path)
    assert load_preprocessing(tmp_path) == Preprocessing(size=(224, 224))
    CLIPImageProcessorPil().save_pretrained(tmp_path)
    assert load_preprocessing(tmp_path) == Preprocessing(size=224, crop=(224, 224), mean=CLIP_MEAN, std=CLIP_STD)


def test_image_processor_in_processor_config_takes_precedence(tmp_path):
    write(tmp_path, KINDS["siglip"].to_json())
    write(tmp_path, {"processor_class": "CLIPProcessor"}, NESTED_FILE)
    assert load_preprocessing(tmp_path) == KINDS["siglip"]
    write(tmp_path, {"image_processor": KINDS["clip"].to_json()}, NESTED_FILE)
    assert load_preprocessing(tmp_path) == KINDS["clip"]
    (tmp_path / PREPROCESSOR_FILE).unlink()
    assert load_preprocessing(tmp_path) == KINDS["clip"]


def test_disabled_steps_are_skipped(tmp_path):
    fields = OLD_CLIP | {"do_resize": False, "do_normalize": False, "do_rescale": False}
    assert load_preprocessing(write(tmp_path, fields)) == Preprocessing(
        size=None, crop=(224, 224), rescale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    fields = OLD_CLIP | {"do_center_crop": False, "size": {"height": 8, "width": 9}}
    assert load_preprocessing(write(tmp_path, fields)).shape == (8, 9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_center_crop": False}, "size 224 without a center crop gives images of different sizes"),
        (
            {"do_resize": False, "do_center_crop": False},
            "size None without a center crop gives images of",
        ),
        ({"size": {"longest_edge": 8}}, "size {'longest_edge': 8} is not supported. Supported: height and width"),
        ({"size": None}, "lacks the field 'size'"),
        (
            {"feature_extractor_type": "Siglip2NaflexProcessor"},
            "processor Siglip2NaflexProcessor is not supported",
        ),
        ({"image_processor_type": "Siglip2ImageProcessor"}, "processor Siglip2ImageProcessor is not supported"),
        ({"do_pad": True}, "do_pad is not supported"),
    ],
)
def test_unsupported_preprocessing_is_rejected(tmp_path, changes, message):
    with pytest.raises(ValueError) as error:
        load_preprocessing(write(tmp_path, OLD_CLIP | changes))
    assert message in str(error.value) and str(tmp_path / PREPROCESSOR_FILE) in str(error.value)


def test_error_names_the_missing_processor_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"is not a checkpoint: it has no {PREPROCESSOR_FILE}"):
        load_preprocessing(tmp_path)
