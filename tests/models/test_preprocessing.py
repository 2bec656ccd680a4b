"""Image processors of SigLIP and CLIP, read from the files that they come in and written so that they open again."""

import json

import numpy as np
import pytest
from transformers import AutoImageProcessor, CLIPImageProcessorPil, SiglipImageProcessorPil

from models.preprocessing import FILE, NESTED_FILE, Preprocessing, load_preprocessing

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
KINDS = {
    "siglip": Preprocessing(size=(24, 24), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.5)),
    "no square": Preprocessing(size=(24, 17), resample=2),
    "clip": Preprocessing(size=24, crop=(24, 24), mean=CLIP_MEAN, std=CLIP_STD),
    "cropped after squeezing": Preprocessing(size=(30, 40), crop=(24, 17)),
    "cropped only": Preprocessing(size=None, crop=(24, 17)),
    "as bytes": Preprocessing(size=(8, 8), rescale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
}
# As openai/clip-vit-base-patch32 has it, from before sizes had names.
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


def written(folder, fields, name=FILE):
    (folder / name).write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_again(tmp_path, kind):
    assert load_preprocessing(written(tmp_path, KINDS[kind].to_json())) == KINDS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_what_is_written_and_writes_what_is_read(tmp_path, kind):
    processor = AutoImageProcessor.from_pretrained(written(tmp_path, KINDS[kind].to_json()), backend="pil")
    assert type(processor) is (SiglipImageProcessorPil if KINDS[kind].crop is None else CLIPImageProcessorPil)
    processor.save_pretrained(tmp_path)
    assert load_preprocessing(tmp_path) == KINDS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_normalized_as_transformers_does(tmp_path, kind):
    images = np.random.default_rng(0).integers(0, 256, (3, *KINDS[kind].shape, 3), np.uint8)
    processor = AutoImageProcessor.from_pretrained(written(tmp_path, KINDS[kind].to_json()), backend="pil")
    theirs = processor(list(images), do_resize=False, do_center_crop=False, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(KINDS[kind].normalize(images), theirs.transpose(0, 2, 3, 1), rtol=0, atol=1e-6)


def test_files_of_old_clip_models_are_read(tmp_path):
    expected = Preprocessing(size=224, crop=(224, 224), mean=CLIP_MEAN, std=CLIP_STD)
    assert load_preprocessing(written(tmp_path, OLD_CLIP)) == expected


def test_defaults_of_the_classes_of_transformers_are_read(tmp_path):
    SiglipImageProcessorPil().save_pretrained(tmp_path)
    assert load_preprocessing(tmp_path) == Preprocessing(size=(224, 224))
    CLIPImageProcessorPil().save_pretrained(tmp_path)
    assert load_preprocessing(tmp_path) == Preprocessing(size=224, crop=(224, 224), mean=CLIP_MEAN, std=CLIP_STD)


def test_the_image_processor_of_a_processor_file_comes_first(tmp_path):
    written(tmp_path, KINDS["siglip"].to_json())
    written(tmp_path, {"processor_class": "CLIPProcessor"}, NESTED_FILE)
    assert load_preprocessing(tmp_path) == KINDS["siglip"]
    written(tmp_path, {"image_processor": KINDS["clip"].to_json()}, NESTED_FILE)
    assert load_preprocessing(tmp_path) == KINDS["clip"]
    (tmp_path / FILE).unlink()
    assert load_preprocessing(tmp_path) == KINDS["clip"]


def test_what_is_switched_off_is_not_done(tmp_path):
    fields = OLD_CLIP | {"do_resize": False, "do_normalize": False, "do_rescale": False}
    assert load_preprocessing(written(tmp_path, fields)) == Preprocessing(
        size=None, crop=(224, 224), rescale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    fields = OLD_CLIP | {"do_center_crop": False, "size": {"height": 8, "width": 9}}
    assert load_preprocessing(written(tmp_path, fields)).shape == (8, 9)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"do_center_crop": False}, "size 224 without a centre crop leaves images of many sizes"),
        ({"do_resize": False, "do_center_crop": False}, "size None without a centre crop leaves images of many sizes"),
        ({"size": {"longest_edge": 8}}, "size {'longest_edge': 8} is not read here; height and width"),
        ({"size": None}, "lacks 'size'"),
        ({"feature_extractor_type": "Siglip2NaflexProcessor"}, "Siglip2NaflexProcessor is not read here"),
        ({"image_processor_type": "Siglip2ImageProcessor"}, "Siglip2ImageProcessor is not read here"),
        ({"do_pad": True}, "do_pad is not read here"),
    ],
)
def test_preprocessing_that_is_not_done_here_is_refused(tmp_path, changes, sentence):
    with pytest.raises(ValueError) as error:
        load_preprocessing(written(tmp_path, OLD_CLIP | changes))
    assert sentence in str(error.value) and str(tmp_path / FILE) in str(error.value)


def test_a_folder_without_a_processor_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"it holds no {FILE}"):
        load_preprocessing(tmp_path)
