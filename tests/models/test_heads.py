"""Heads start as the identity or as their linear layer, and standardise and normalise their input."""

import dataclasses

import jax
import numpy as np
import pytest

from models.config import FeatureHeadSettings, ModelSettings, TextSettings
from models.flops import count_forward_flops
from models.towers import count_parameters, create_model

FEATURES = np.random.default_rng(0).normal(2, 3, (5, 8)).astype(np.float32)
LINEAR = FeatureHeadSettings(input_dim=8, dim=8, kind="linear", standardize=False)


def model(vision, text=LINEAR, **changes):
    made = create_model(ModelSettings(vision=vision, text=text, **changes))
    return made, jax.tree.map(np.asarray, made.init(0))


def head(**changes):
    return dataclasses.replace(LINEAR, **changes)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_head_between_equal_dimensions_starts_as_the_identity(kind):
    made, parameters = model(head(kind=kind))
    np.testing.assert_array_equal(made.embed_images(parameters, FEATURES), FEATURES)


def test_an_mlp_starts_as_its_linear_layer_and_then_adds_to_it():
    made, parameters = model(head(kind="mlp", dim=6), head(dim=6))
    linear = parameters["vision"]["linear"]
    np.testing.assert_allclose(made.embed_images(parameters, FEATURES), FEATURES @ linear["kernel"], rtol=1e-5)
    parameters["vision"]["down"]["kernel"] = np.ones((16, 6), np.float32)
    up = parameters["vision"]["up"]
    hidden = np.asarray(jax.nn.gelu(FEATURES @ up["kernel"] + up["bias"], approximate=True))
    expected = FEATURES @ linear["kernel"] + hidden.sum(1, keepdims=True)
    np.testing.assert_allclose(made.embed_images(parameters, FEATURES), expected, rtol=1e-4)


@pytest.mark.parametrize("normalize", [False, True])
def test_a_head_normalises_then_standardises(normalize):
    made, parameters = model(head(standardize=True, normalize=normalize))
    x = FEATURES / np.linalg.norm(FEATURES, axis=1, keepdims=True) if normalize else FEATURES
    parameters["vision"] |= {"mean": x.mean(0), "deviation": x.std(0)}
    expected = (x - x.mean(0)) / x.std(0)
    np.testing.assert_allclose(made.embed_images(parameters, FEATURES), expected, rtol=1e-4, atol=1e-5)


def test_a_constant_feature_stays_finite():
    made, parameters = model(head(standardize=True))
    parameters["vision"] |= {"mean": FEATURES[0], "deviation": np.zeros(8, np.float32)}
    assert np.isfinite(made.embed_images(parameters, FEATURES[:1])).all()


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("dim", [6, 8])
def test_operations_are_two_per_weight(kind, dim):
    vision, text = head(kind=kind, dim=dim), head(dim=dim)
    made, parameters = model(vision, text)
    weights = sum(leaf.size for leaf in jax.tree.leaves(parameters) if leaf.ndim == 2)
    assert count_forward_flops(made.settings) == 2 * weights < 2 * count_parameters(parameters)


def test_a_text_tower_is_trained_against_a_head():
    text = TextSettings(vocab_size=9, length=4, width=8, depth=1, heads=2, mlp_width=16)
    made, parameters = model(head(dim=6), text)
    found = made.embed(parameters, FEATURES[:2], np.ones((2, 4), np.int32))
    assert found.image_embeddings.shape == found.text_embeddings.shape == (2, 6)


def test_embeddings_of_different_dimensions_are_refused():
    with pytest.raises(ValueError, match="text embeddings have 6 dimensions, but image embeddings have 8"):
        ModelSettings(vision=LINEAR, text=head(dim=6))
