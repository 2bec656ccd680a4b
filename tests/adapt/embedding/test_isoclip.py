"""IsoCLIP's matrix against a checkpoint whose projection is replaced, and against a float64 reference."""

import numpy as np
import pytest

import adapt
from adapt.embedding.isoclip import isoclip_matrix
from models.checkpoints.io import save_checkpoint
from tests.adapt.adapters.references import unit
from tests.models.tiny_models import images_only_checkpoint, tiny_checkpoint


def projected(image, text, hidden, k_top, k_bottom):
    """Return h U_k U_kᵀ W_i in float64, of the features `hidden` before the projection."""
    image, text = image.astype(np.float64), text.astype(np.float64)
    u = np.linalg.svd(image @ text.T)[0][:, k_top : min(*image.shape, len(text)) - k_bottom]
    return hidden @ u @ u.T @ image


@pytest.mark.parametrize("widths", [(24, 20, 18), (18, 24, 18), (24, 12, 20), (30, 26, 9)])
def test_the_matrix_applied_to_embeddings_equals_the_projection_of_earlier_features(widths):
    rng = np.random.default_rng(0)
    image, text = (rng.normal(size=(width, widths[2])).astype(np.float32) for width in widths[:2])
    hidden = rng.normal(size=(50, widths[0]))
    embeddings = unit(hidden @ image).astype(np.float32)
    ours = embeddings @ isoclip_matrix(image, text, k_top=3, k_bottom=2)
    np.testing.assert_allclose(unit(ours), unit(projected(image, text, hidden, 3, 2)), atol=1e-5)


def test_with_no_direction_removed_embeddings_stay_the_same():
    rng = np.random.default_rng(1)
    image, text = rng.normal(size=(24, 18)), rng.normal(size=(20, 18))
    np.testing.assert_allclose(isoclip_matrix(image, text, k_top=0, k_bottom=0), np.eye(18), atol=1e-5)


def test_embeddings_are_those_of_a_checkpoint_with_the_projection_of_the_authors(tmp_path):
    checkpoint = tiny_checkpoint("clip")
    towers = checkpoint.parameters["vision"], checkpoint.parameters["text"]
    image, text = np.asarray(towers[0]["projection"]["kernel"]), np.asarray(towers[1]["head"]["kernel"])
    replaced = projected(image, text, np.eye(len(image)), 4, 3).astype(np.float32)
    parameters = checkpoint.parameters | {"vision": towers[0] | {"projection": {"kernel": replaced}}}
    plain = save_checkpoint(tmp_path / "plain", checkpoint)
    iso = save_checkpoint(tmp_path / "iso", checkpoint._replace(parameters=parameters))
    pictures = list(np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), np.uint8))
    matrix = adapt.isoclip_projection(plain, k_top=4, k_bottom=3)
    assert matrix.shape == (18, 18) and matrix.dtype == np.float32
    ours, theirs = adapt.Encoder(plain).embed_images(pictures) @ matrix, adapt.Encoder(iso).embed_images(pictures)
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


def test_checkpoints_without_two_projections_and_numbers_that_leave_nothing_are_refused(tmp_path):
    siglip = save_checkpoint(tmp_path / "siglip", tiny_checkpoint("siglip"))
    with pytest.raises(
        ValueError, match=r"siglip has no linear projection of images, which IsoCLIP needs\. Use a CLIP"
    ):
        adapt.isoclip_projection(siglip, k_top=1, k_bottom=1)
    images_only = save_checkpoint(tmp_path / "images", images_only_checkpoint())
    with pytest.raises(ValueError, match="images embeds images only"):
        adapt.isoclip_projection(images_only)
    clip = save_checkpoint(tmp_path / "clip", tiny_checkpoint("clip"))
    with pytest.raises(ValueError, match=r"k_top 150 and k_bottom 50 remove all 18 directions\. Use numbers whose sum"):
        adapt.isoclip_projection(clip)
    with pytest.raises(ValueError, match=r"k_top -1 is not a number of directions\. Use an integer from 0"):
        adapt.isoclip_projection(clip, k_top=-1)
