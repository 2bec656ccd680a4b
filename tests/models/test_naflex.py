"""Images of any aspect ratio in the image tower: sizes, position embeddings, padding and its gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

from models.layers import attend
from models.naflex import PatchedImages, find_grid, resize_positions
from models.towers import create_model, patchify
from tests.models.tiny_models import random_parameters, tiny

PATCH = 5
GRIDS = np.array([[3, 4], [1, 12], [2, 5], [1, 1]], np.int32)
SETTINGS = tiny("siglip", vision={"image_size": 20, "patch_size": PATCH, "max_patches": 12})


@pytest.fixture(scope="module")
def parameters():
    return random_parameters(SETTINGS)


def batch(slots, *, padding=0.0, grids=GRIDS):
    """Return images of `grids` whose slots behind the patches hold `padding`."""
    patches = np.full((len(grids), slots, PATCH * PATCH * 3), padding, np.float32)
    for row, (height, width) in enumerate(grids):
        values = np.random.default_rng(row).normal(size=(height * width, patches.shape[-1]))
        patches[row, : height * width] = values
    return PatchedImages(patches, np.array(grids))


def embed(parameters, images, settings=SETTINGS):
    return np.asarray(jax.jit(create_model(settings).embed_patches)(parameters, images), np.float32)


@pytest.mark.parametrize(("patch_size", "max_patches"), [(16, 256), (14, 729), (5, 1), (3, 7), (16, 1024)])
def test_images_have_the_size_that_transformers_gives_them(patch_size, max_patches):
    rng = np.random.default_rng(0)
    sides = [(1, 1), (1, 5000), (4000, 3), (375, 500), (1080, 1920), *rng.integers(1, 3000, (60, 2)).tolist()]
    for height, width in sides:
        rows, columns = find_grid(height, width, patch_size=patch_size, max_patches=max_patches)
        theirs = get_image_size_for_max_num_patches(height, width, patch_size, max_patches)
        assert (rows * patch_size, columns * patch_size) == theirs and rows * columns <= max_patches


def triangle(old, new):
    """Return the weights `[new, old]` of a linear resize with antialiasing, in float64."""
    scale = old / new
    place = (np.arange(new)[:, None] + 0.5) * scale - np.arange(old) - 0.5
    weights = np.maximum(1 - np.abs(place) / max(scale, 1), 0)
    return weights / weights.sum(axis=1, keepdims=True)


def test_position_embeddings_are_resized_along_each_axis():
    table = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
    grids = np.array([[4, 6], [9, 2], [1, 18], [3, 5]], np.int32)
    found = resize_positions(table.reshape(24, 3), grids, old=(4, 6), slots=25)
    for positions, (rows, columns) in zip(np.asarray(found), grids, strict=True):
        expected = np.einsum("ri,cj,ijw->rcw", triangle(4, rows), triangle(6, columns), table.astype(np.float64))
        np.testing.assert_allclose(positions[: rows * columns], expected.reshape(-1, 3), atol=1e-6)
        assert np.isfinite(positions).all()
    np.testing.assert_allclose(found[0, :24], table.reshape(24, 3), atol=1e-6)  # the size of the table: unchanged


@pytest.mark.parametrize("implementation", ["cpu", "xla"])
def test_keys_beyond_the_length_are_not_attended_to(implementation):
    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(3, 6, 2, 4)).astype(np.float32) for _ in range(3))
    lengths = np.array([6, 1, 4], np.int32)
    found = attend(query, key, value, lengths=lengths, implementation=implementation)
    for row, length in enumerate(lengths):
        short = attend(query[row : row + 1], key[row : row + 1, :length], value[row : row + 1, :length])
        np.testing.assert_allclose(found[row], short[0], atol=1e-6)


@pytest.mark.parametrize("attention", ["cpu", "xla"])
def test_padding_and_the_other_images_of_a_batch_have_no_influence(parameters, attention):
    settings = dataclasses.replace(SETTINGS, attention=attention)
    together = embed(parameters, batch(12), settings)
    np.testing.assert_allclose(embed(parameters, batch(17, padding=1e4), settings), together, atol=1e-5)
    for row, grid in enumerate(GRIDS):
        only = PatchedImages(batch(12).patches[row : row + 1, : grid.prod()], GRIDS[row : row + 1])
        alone = embed(parameters, only, settings)
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)
    assert np.ptp(together, axis=0).min() > 1e-3


def test_image_of_the_trained_grid_has_the_embedding_of_the_fixed_resolution(parameters):
    images = np.random.default_rng(0).normal(size=(2, 20, 20, 3)).astype(np.float32)
    fixed = create_model(SETTINGS).embed_images(parameters, images)
    patches = PatchedImages(patchify(images, PATCH), np.full((2, 2), 4, np.int32))
    np.testing.assert_allclose(embed(parameters, patches), fixed, atol=1e-5)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_gradients_are_finite_and_do_not_depend_on_padding(parameters, remat):
    model = create_model(dataclasses.replace(SETTINGS, remat=remat))

    @jax.jit
    def gradients(images):
        return jax.grad(lambda tree: jnp.sum(jnp.sin(model.embed_patches(tree, images))))(parameters)["vision"]

    tight, padded = gradients(batch(12)), gradients(batch(16, padding=30.0))
    for ours, theirs in zip(jax.tree.leaves(tight), jax.tree.leaves(padded), strict=True):
        assert np.isfinite(theirs).all()
        np.testing.assert_allclose(theirs, ours, atol=2e-5 * max(1, np.abs(ours).max()))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(tight["position_embedding"]))


def test_bfloat16_is_close_to_float32(parameters):
    reduced = embed(parameters, batch(12), dataclasses.replace(SETTINGS, dtype="bfloat16"))
    exact = embed(parameters, batch(12))
    assert 0 < np.abs(reduced - exact).max() < 0.05 * np.abs(exact).max()


def test_towers_of_one_size_take_no_patches(parameters):
    fixed = dataclasses.replace(SETTINGS, vision=dataclasses.replace(SETTINGS.vision, max_patches=None))
    with pytest.raises(ValueError, match=r"takes images of one size, not patches\. Set vision\.max_patches"):
        create_model(fixed).embed_patches(parameters, batch(12))
    with pytest.raises(ValueError, match="max_patches 12 is for towers that pool by attention"):
        tiny("clip", vision={"max_patches": 12})
