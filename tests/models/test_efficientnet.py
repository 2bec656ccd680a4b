"""The tower of convolutions: against a float64 reference for every size, and the published one against the original."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.checkpoints.io import open_checkpoint
from models.config import EfficientNetSettings, ModelSettings, StageSettings
from models.efficientnet import block_name, convolve_depthwise, same_padding
from models.towers import create_model
from tests.models.tiny_models import random_parameters, tiny_images_only

ROOT = pathlib.Path(__file__).parents[2]
REFERENCE = pathlib.Path(__file__).parent / "golden_photos.npz"


def embed(settings: ModelSettings, parameters: dict, images: np.ndarray) -> jax.Array:
    """Return the embeddings of images by the compiled tower."""
    return jax.jit(create_model(settings).embed_images)(parameters, jnp.asarray(images, jnp.float32))


def padded(x: np.ndarray, size: int, stride: int) -> np.ndarray:
    """Return `x` `[batch, height, width, channels]` with the zeros that give height / stride rows, rounded up."""
    pads = []
    for length in x.shape[1:3]:
        total = max((int(np.ceil(length / stride)) - 1) * stride + size - length, 0)
        pads.append((total // 2, total - total // 2))
    return np.pad(x, [(0, 0), *pads, (0, 0)])


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """Return a convolution of `x` with `kernel` `[size, size, in, out]` in float64, one output position at a time."""
    size, out = len(kernel), kernel.shape[-1]
    shape = [int(np.ceil(length / stride)) for length in x.shape[1:3]]
    x, y = padded(x, size, stride), np.zeros((len(x), *shape, out))
    for row in range(shape[0]):
        for column in range(shape[1]):
            window = x[:, row * stride : row * stride + size, column * stride : column * stride + size]
            y[:, row, column] = np.einsum("bijc,ijco->bo", window, kernel)
    return y


def depthwise(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """Return `convolve` with a kernel `[size, size, channels]` for each channel on its own."""
    return convolve(x, kernel[..., None] * np.eye(kernel.shape[-1]), stride)


def reference(settings: EfficientNetSettings, parameters: dict, images: np.ndarray) -> np.ndarray:
    """Return the embeddings of images in float64."""

    def relu6(x):
        return np.clip(x, 0, 6)

    tower = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), parameters["vision"])
    x = relu6(convolve(images, tower["stem"]["kernel"], 2) + tower["stem"]["bias"])
    for number, block in enumerate(settings.blocks):
        layers, y = tower[block_name(number)], x
        if block.expansion > 1:
            y = relu6(y @ layers["expand"]["kernel"] + layers["expand"]["bias"])
        y = relu6(depthwise(y, layers["depthwise"]["kernel"], block.stride) + layers["depthwise"]["bias"])
        y = y @ layers["project"]["kernel"] + layers["project"]["bias"]
        x = x + y if block.stride == 1 and block.inputs == block.outputs else y
    return relu6(x @ tower["head"]["kernel"] + tower["head"]["bias"]).mean((1, 2))


@pytest.mark.parametrize("shape", [(6, 6), (7, 7), (5, 8), (1, 2), (2, 1)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_depthwise_convolutions_equal_a_float64_reference(size, stride, shape):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, *shape, 3)), rng.normal(size=(size, size, 3))
    ours = jax.jit(convolve_depthwise, static_argnames="stride")(x.astype("f4"), kernel.astype("f4"), stride=stride)
    np.testing.assert_allclose(ours, depthwise(x, kernel, stride), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", range(1, 12))
@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_padding_is_that_of_xla(length, size, stride):
    theirs = jax.lax.padtype_to_pads((length,), (size,), (stride,), "SAME")
    assert same_padding(length, size, stride=stride) == tuple(theirs[0])


@pytest.mark.parametrize("image_size", [12, 15, 33, (13, 22)])
def test_the_tower_equals_a_float64_reference(image_size):
    settings = tiny_images_only(image_size=image_size)
    parameters = random_parameters(settings, scale=0.8)
    images = np.random.default_rng(1).normal(0, 2, (2, *settings.vision.image_shape, 3))
    expected = reference(settings.vision, parameters, images)
    ours = embed(settings, parameters, images)
    assert ours.dtype == jnp.float32 and ours.shape == (2, settings.dim)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
    assert 0.1 < expected.mean() < 5  # not all values are 0 or 6


def test_bfloat16_gives_nearly_the_same_embeddings():
    settings = tiny_images_only()
    parameters = random_parameters(settings)
    images = np.random.default_rng(1).normal(size=(4, 15, 15, 3))
    exact = embed(settings, parameters, images)
    rounded = embed(ModelSettings(vision=settings.vision, text=None, dtype="bfloat16"), parameters, images)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(rounded, np.float32), exact, atol=0.05 * float(jnp.abs(exact).max()))


def test_texts_and_kept_patches_are_refused():
    model = create_model(tiny_images_only())
    parameters = model.init(0)
    with pytest.raises(ValueError, match="embeds images only: it has no text tower"):
        model.embed_texts(parameters, jnp.zeros((1, 4), jnp.int32))
    with pytest.raises(TypeError):
        model.embed_images(parameters, jnp.zeros((1, 15, 15, 3)), jnp.zeros((1, 2), jnp.int32))


def test_blocks_and_the_largest_activation_follow_from_the_stages():
    settings = tiny_images_only(image_size=15).vision
    assert [tuple(block) for block in settings.blocks] == [
        (4, 5, 3, 1, 1),
        (5, 7, 5, 2, 2),
        (7, 7, 5, 1, 2),
        (7, 6, 3, 2, 3),
        (6, 6, 3, 1, 3),
    ]
    assert settings.largest_activation == 8 * 8 * 10  # the second block before its stride


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"stride": 3}, "stage.stride"),
        ({"kernel_size": 0}, "stage.kernel_size is 0; it must be a positive whole number"),
        ({"repeats": True}, "stage.repeats is True"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, problem):
    with pytest.raises(ValueError, match=problem):
        StageSettings(**{"kernel_size": 3, "stride": 1, "expansion": 1, "width": 4, "repeats": 1} | changes)


def pictures(image_size: int) -> np.ndarray:
    """Return the four pictures of tests/parity/make_photos.py, which computed the reference."""
    rows, columns = np.mgrid[:image_size, :image_size] / image_size
    waves = [
        np.sin(2 * np.pi * (rows * (1 + number) + columns * (3 - number) * channel + number / 5))
        for number in range(4)
        for channel in (1, 2, 3)
    ]
    return np.uint8(127.5 + 127 * np.stack(waves)).reshape(4, 3, image_size, image_size).transpose(0, 2, 3, 1)


def test_published_features_equal_those_of_the_original():
    """`stored` is the original PyTorch model with the published weights, `published` with its own."""
    checkpoint = open_checkpoint(ROOT / "checkpoints" / "photos")
    images = checkpoint.preprocessing.normalize(jnp.asarray(pictures(224)))
    ours = np.asarray(embed(checkpoint.settings, checkpoint.parameters, images))
    with np.load(REFERENCE, allow_pickle=False) as file:
        stored, published = file["stored"], file["published"]
    np.testing.assert_allclose(ours, stored, rtol=0, atol=1e-4)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(published, axis=1)
    assert np.min(np.sum(ours * published, axis=1) / lengths) > 0.9999
    assert np.linalg.norm(stored[0] - stored[3]) > 1  # the pictures differ
