"""The tower of convolutions equals the original PyTorch model, and checkpoints/photos is its converted weights."""

import numpy as np
import pytest
import torch

from foundation.files.checksum_file import read_checksums
from models.preprocessing import Preprocessing
from models.towers import create_model
from tests.parity.make_photos import FOLDER, convert, features, fold, original, settings


def random_original(image_size: int) -> torch.nn.Module:
    """Return the original model with random weights, also in its batch norms."""
    torch.manual_seed(0)
    network = original(image_size)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand_like(tensor) + 0.5)
        elif name.endswith(("running_mean", "bias")):
            tensor.copy_(torch.randn_like(tensor) * 0.2)
    return network


@pytest.mark.parametrize("image_size", [33, 57, 64, 224])
def test_features_equal_those_of_the_original(image_size):
    network = random_original(image_size)
    parameters = fold(network.state_dict(), settings())
    pixels = np.random.default_rng(0).integers(0, 256, (2, image_size, image_size, 3), np.uint8)
    preprocessing = Preprocessing(size=(image_size, image_size), mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    parameters = {"vision": _float32(parameters["vision"])}
    ours = create_model(settings(image_size)).embed_images(parameters, preprocessing.normalize(pixels))
    theirs = features(network, pixels)
    assert theirs.std() > 0.01
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_published_files_are_what_the_conversion_writes(tmp_path):
    convert(tmp_path / "photos")
    assert read_checksums(tmp_path / "photos") == read_checksums(FOLDER)


def _float32(tree: dict) -> dict:
    return {key: _float32(leaf) if isinstance(leaf, dict) else leaf.astype(np.float32) for key, leaf in tree.items()}
