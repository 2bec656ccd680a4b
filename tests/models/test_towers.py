"""Image and text towers: attention, patches, pooling, remat policies."""

import dataclasses
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foundation.settings import build
from models.config import ModelSettings, Remat, TextSettings, VisionSettings
from models.layers import attend
from models.towers import count_parameters, create_model, patchify

SETTINGS = ModelSettings(
    vision=VisionSettings(image_size=12, patch_size=4, width=24, depth=3, heads=2, mlp_width=40),
    text=TextSettings(vocab_size=50, length=6, width=20, depth=2, heads=2, mlp_width=32),
)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(5, 12, 12, 3)), jnp.float32)
    return images, jnp.asarray(rng.integers(0, 50, (5, 6)), jnp.int32)


def test_patch_embedding_equals_a_strided_convolution():
    rng = np.random.default_rng(0)
    images, kernel = rng.normal(size=(2, 11, 13, 3)), rng.normal(size=(4, 4, 3, 5))
    convolved = jax.lax.conv_general_dilated(
        jnp.asarray(images, jnp.float32),
        jnp.asarray(kernel, jnp.float32),
        (4, 4),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )
    patches = patchify(jnp.asarray(images, jnp.float32), 4)
    np.testing.assert_allclose(
        jnp.matmul(patches, kernel.reshape(48, 5), precision="highest"),
        convolved.reshape(2, 6, 5),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("queries", [1, 7])
def test_attention_and_its_gradients_equal_those_of_jax(queries):
    q, k, v = (jax.random.normal(jax.random.key(i), (3, n, 2, 5)) for i, n in enumerate((queries, 7, 7)))

    def value_and_grad(attention):
        return jax.value_and_grad(lambda *qkv: jnp.sum(jnp.sin(attention(*qkv))), argnums=(0, 1, 2))(4 * q, k, v)

    theirs = value_and_grad(jax.nn.dot_product_attention)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), value_and_grad(attend), theirs)


def test_embeddings_have_the_width_of_the_image_tower(batch):
    model = create_model(SETTINGS)
    embeddings = model.embed(model.init(0), *batch)
    assert embeddings.image_embeddings.shape == embeddings.text_embeddings.shape == (5, 24)


def test_only_kept_patches_influence_image_embeddings(batch):
    model = create_model(SETTINGS)
    parameters, images = model.init(0), batch[0]
    order = jnp.asarray(np.stack([np.random.default_rng(row).permutation(9) for row in range(5)]))
    whole = model.embed_images(parameters, images)
    np.testing.assert_allclose(model.embed_images(parameters, images, order), whole, rtol=1e-4, atol=1e-5)
    changed = images.at[:, :4, :4].set(0.0)  # patch 0
    seen = jnp.broadcast_to(jnp.arange(1, 9), (5, 8))
    np.testing.assert_array_equal(
        model.embed_images(parameters, images, seen), model.embed_images(parameters, changed, seen)
    )
    assert not np.allclose(model.embed_images(parameters, changed), whole)


def test_parameters_are_float32_and_depend_only_on_the_seed():
    model = create_model(SETTINGS)
    first, again, other = model.init(0), model.init(0), model.init(1)
    assert {leaf.dtype for leaf in jax.tree.leaves(first)} == {jnp.dtype("float32")}
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, first, again)))
    assert not np.array_equal(first["text"]["token_embedding"], other["text"]["token_embedding"])
    assert count_parameters(first) == sum(np.size(leaf) for leaf in jax.tree.leaves(first))


def test_stacked_layers_have_different_initial_weights():
    kernels = create_model(SETTINGS).init(0)["vision"]["encoder"]["layers"]["mlp"]["up"]["kernel"]
    assert kernels.shape == (3, 24, 40)
    assert not np.array_equal(kernels[0], kernels[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [*({"remat": name} for name in get_args(Remat) if name not in ("none", "auto")), {"scan_unroll": 3}]
)
def test_remat_and_unrolling_keep_values_and_gradients(batch, change):
    def gradients(settings):
        model = create_model(settings)

        def loss(parameters):
            embeddings = model.embed(parameters, *batch)
            return jnp.sum(jnp.square(embeddings.image_embeddings)) + jnp.sum(jnp.square(embeddings.text_embeddings))

        return jax.jit(jax.value_and_grad(loss))(model.init(0))

    plain, changed = gradients(SETTINGS), gradients(dataclasses.replace(SETTINGS, **change))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), plain, changed)


def test_bfloat16_embeddings_are_close_to_float32(batch):
    parameters = create_model(SETTINGS).init(0)
    exact = create_model(SETTINGS).embed(parameters, *batch)
    rough = create_model(dataclasses.replace(SETTINGS, dtype="bfloat16")).embed(parameters, *batch)
    for a, b in zip(exact, rough, strict=True):
        assert b.dtype == jnp.bfloat16
        assert np.linalg.norm(a - b.astype(jnp.float32)) < 0.03 * np.linalg.norm(a)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 25}, "vision.width 25 is not divisible by vision.heads 2"),
        ({"depth": 0}, "vision.depth is 0"),
        ({"patch_size": 13}, "vision.patch_size 13 does not fit image_size 12"),
    ],
)
def test_invalid_sizes_are_rejected(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SETTINGS.vision, **change)


def test_build_names_unknown_and_missing_keys():
    with pytest.raises(ValueError, match=r"unknown key text.hight\. Known: vocab_size, length"):
        build(TextSettings, "text", {"hight": 3})
    with pytest.raises(ValueError, match=r"the config lacks text.heads"):
        build(TextSettings, "text", {"vocab_size": 3, "length": 3, "width": 3, "depth": 3, "mlp_width": 3})


def test_unknown_dtype_and_remat_policy_list_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown model.dtype 'float16'\..* Known: float32, bfloat16"):
        dataclasses.replace(SETTINGS, dtype="float16")
    with pytest.raises(ValueError, match=r"unknown model.remat 'some'\. Known: auto, none, dots, minimal_with_context"):
        dataclasses.replace(SETTINGS, remat="some")
