"""Exports and losses equal those of transformers and PyTorch, computed in the same process."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, SiglipModel
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from adapt.embedding.encoder import Encoder
from data.pipeline.image_ops import decode
from data.sources.open import open_source
from models.checkpoints.huggingface import weight_map_for
from models.checkpoints.io import Checkpoint, save_checkpoint
from models.checkpoints.weight_map import to_tensors
from models.config import ModelSettings, TextSettings, VisionSettings
from models.preprocessing import Preprocessing
from models.text.tokenizer import train_tokenizer
from models.towers import create_model
from pretrain.losses.context_objective import Objective
from pretrain.losses.contrastive import Scales, base_loss
from pretrain.losses.reference import normalize
from tests.models.tiny_models import GOLDEN, open_golden

SIZES = {
    "three image layers": (
        VisionSettings(image_size=30, patch_size=7, width=40, depth=3, heads=5, mlp_width=56),
        dict(length=11, width=36, depth=1, heads=3, mlp_width=28),
    ),
    "three text layers": (
        VisionSettings(image_size=77, patch_size=9, width=72, depth=1, heads=3, mlp_width=50),
        dict(length=24, width=90, depth=3, heads=2, mlp_width=130),
    ),
}
MULTILINGUAL = [
    "日本語の猫と犬",
    "ein Äffchen im Schnee",
    "красное яблоко",
    "تفاحة حمراء",
    "👍🏽 thumbs up 👩‍🚀",
    "한국어 ﬁsh ½",
]
SCALARS = {
    "logit_scale": 1.3,
    "logit_bias": -2.1,
    "context_logit_scale": 0.7,
    "context_logit_bias": -1.4,
    "context_temperature": math.log(0.05),
}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    source = open_source("emoji:noto", tmp_path_factory.mktemp("data"))
    return [source[index] for index in range(0, len(source), 60)]


@pytest.fixture(scope="module")
def pictures(records):
    """Real images; two are cropped to an oblong."""
    whole = [decode(record.image, record.key) for record in records]
    return [*whole, whole[3].crop((0, 9, 64, 41)), whole[4].crop((20, 0, 31, 64))]


@pytest.fixture(scope="module")
def captions(records):
    """Real captions, an empty one, one of 200 words, and some in other languages."""
    texts = [text for record in records for text in record.texts]
    long = itertools.islice(itertools.cycle(" ".join(texts).split()), 200)
    return [*texts, "", "  spaced\tout,  \n", " ".join(long), *MULTILINGUAL]


@pytest.fixture(scope="module", params=SIZES)
def exported(request, records, tmp_path_factory):
    """An exported directory of unusual sizes and its checkpoint; no bias is 0 and no scale of a norm is 1."""
    vision, text = SIZES[request.param]
    texts = [text for record in records for text in record.texts]
    tokenizer = train_tokenizer(texts, vocab_size=400, length=text["length"])
    settings = ModelSettings(vision=vision, text=TextSettings(vocab_size=tokenizer.vocab_size, **text))
    rng, shapes = np.random.default_rng(0), jax.eval_shape(lambda: create_model(settings).init(0))
    checkpoint = Checkpoint(
        settings,
        jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes),
        {"logit_scale": 2.5, "logit_bias": -3.5},
        Preprocessing(size=(vision.image_size,) * 2, mean=(0.4, 0.5, 0.6), std=(0.3, 0.5, 0.4)),
        tokenizer,
    )
    return save_checkpoint(tmp_path_factory.mktemp("run") / "export", checkpoint), checkpoint


def close(ours, theirs, tolerance):
    """Assert that arrays are equal up to `tolerance`, relative to the largest entry if that is above 1."""
    theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else theirs
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * max(1, np.abs(theirs).max()))


def relative(ours, theirs):
    """Return the norm of the difference divided by the norm of theirs."""
    theirs = theirs.numpy()
    return np.linalg.norm(np.asarray(ours, np.float64) - theirs) / np.linalg.norm(theirs)


def pairs(count, dim):
    """Return raw embeddings of similar image-text pairs, with different norms."""
    rng = np.random.default_rng(count)
    u, noise = rng.normal(size=(2, count, dim))
    return u * rng.uniform(0.2, 5, (count, 1)), (u + noise) * rng.uniform(0.2, 5, (count, 1))


def test_export_opens_without_missing_or_unexpected_tensors(exported):
    _, info = SiglipModel.from_pretrained(exported[0], output_loading_info=True)
    assert set(info) >= {"missing_keys", "unexpected_keys", "mismatched_keys"}
    assert not any(info.values()), info
    tensors = load_file(exported[0] / "model.safetensors")
    assert not any(np.isin(tensor, (0, 1)).any() for tensor in tensors.values())


def test_processor_accepts_images_and_texts_as_documented(exported, pictures):
    processor, model = AutoProcessor.from_pretrained(exported[0]), SiglipModel.from_pretrained(exported[0])
    texts = ["Red apple!", "cat"]
    inputs = processor(text=texts, images=pictures[-3:], padding="max_length", return_tensors="pt")
    assert type(processor).__name__ == "SiglipProcessor" and set(inputs) == {"input_ids", "pixel_values"}
    np.testing.assert_array_equal(inputs["input_ids"], exported[1].tokenizer(texts))
    assert model(**inputs).logits_per_image.shape == (3, 2)


def test_processor_equals_its_tokenizer_and_image_processor(exported, pictures, captions):
    inputs = process(exported[0], captions, pictures)
    tokens = AutoTokenizer.from_pretrained(exported[0])(captions, padding="max_length", truncation=True)
    pixels = AutoImageProcessor.from_pretrained(exported[0])(pictures, return_tensors="np")
    np.testing.assert_array_equal(inputs["input_ids"], tokens["input_ids"])
    np.testing.assert_array_equal(inputs["input_ids"], exported[1].tokenizer(captions))
    np.testing.assert_array_equal(inputs["pixel_values"], pixels["pixel_values"])


def test_embeddings_and_logits_equal_those_of_transformers(exported, pictures, captions):
    with torch.no_grad():
        theirs = SiglipModel.from_pretrained(exported[0])(**process(exported[0], captions, pictures))
    encoder, scalars = Encoder(exported[0]), exported[1].scalars
    images = encoder.embed_images(lambda index: pictures[index], len(pictures))
    texts = encoder.embed_texts(captions)
    close(images, theirs.vision_model_output.pooler_output, 1e-4)
    close(texts, theirs.text_model_output.pooler_output, 1e-4)
    logits = math.exp(scalars["logit_scale"]) * normalize(images) @ normalize(texts).T + scalars["logit_bias"]
    close(logits, theirs.logits_per_image, 1e-4)
    assert np.ptp(logits, axis=0).min() > 0.1 and np.ptp(logits, axis=1).min() > 0.1  # both inputs matter


def loss_of(base):
    """Return the loss as a function of raw embeddings, logit_scale and logit_bias."""
    return lambda u, v, scale, bias: base_loss(base, (u,), v, Scales(scale[None], bias[None])).value


def test_sigmoid_loss_and_gradients_equal_those_of_siglip_model(exported, pictures, captions):
    model = SiglipModel.from_pretrained(exported[0])
    outputs = model(**process(exported[0], captions[: len(pictures)], pictures), return_loss=True)
    raw = (outputs.vision_model_output.pooler_output, outputs.text_model_output.pooler_output)
    inputs = (*raw, model.logit_scale, model.logit_bias)
    theirs = torch.autograd.grad(outputs.loss, inputs)
    arguments = [jnp.asarray(array.detach().numpy()) for array in (*raw, *(s.squeeze() for s in inputs[2:]))]
    value, ours = jax.value_and_grad(loss_of("sigmoid"), argnums=(0, 1, 2, 3))(*arguments)
    close(value, outputs.loss, 1e-5)
    for a, b in zip(ours, theirs, strict=True):
        close(np.reshape(a, b.shape), b, 1e-5)


def test_gradient_of_every_parameter_equals_that_of_siglip_model():
    golden = np.load(GOLDEN / "outputs.npz")
    pixels, tokens = golden["pixels"][:4], golden["tokens"]
    theirs = SiglipModel.from_pretrained(GOLDEN)
    theirs(input_ids=torch.tensor(tokens), pixel_values=torch.tensor(pixels), return_loss=True).loss.backward()

    settings, parameters = open_golden()
    tensors = load_file(GOLDEN / "model.safetensors")
    scalars = {name: jnp.asarray(tensors[name][0]) for name in ("logit_scale", "logit_bias")}
    model, objective = create_model(settings), Objective(base="sigmoid", context=False)

    def loss(parameters, scalars):
        return objective(scalars, *model.embed(parameters, jnp.asarray(pixels.transpose(0, 2, 3, 1)), tokens)).value

    d_parameters, d_scalars = jax.jit(jax.grad(loss, argnums=(0, 1)))(parameters, scalars)
    ours = to_tensors(weight_map_for(settings, "siglip"), d_parameters) | {
        name: d[None] for name, d in d_scalars.items()
    }
    gradients = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    assert set(ours) == set(gradients)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(ours[name], gradient, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("count", "dim", "logit_scale"), [(2, 3, 0.0), (33, 40, 2.5), (64, 96, 4.6)])
def test_softmax_loss_and_gradients_equal_those_of_clip(count, dim, logit_scale):
    u, v = (rows.astype(np.float32) for rows in pairs(count, dim))
    inputs = [torch.tensor(array, requires_grad=True) for array in (u, v, np.float32(logit_scale))]
    x, t = (torch.nn.functional.normalize(rows) for rows in inputs[:2])
    loss = image_text_contrastive_loss(inputs[2].exp() * t @ x.T)
    theirs = torch.autograd.grad(loss, inputs)
    scalars = (jnp.float32(logit_scale), jnp.float32(-1.0))
    value, ours = jax.jit(jax.value_and_grad(loss_of("softmax"), argnums=(0, 1, 2)))(u, v, *scalars)
    close(value, loss, 1e-5)
    *_, d_scale = ours
    for a, b in zip(ours[:2], theirs[:2], strict=True):
        close(a, b, 1e-5)
    close(d_scale, theirs[2], 1e-6 * math.exp(logit_scale))  # a difference of logits, whose size is that of the scale


@pytest.mark.parametrize("base", ["sigmoid", "softmax"])
@pytest.mark.parametrize(("count", "dim"), [(2, 3), (33, 40), (64, 96)])
def test_context_objective_and_gradients_equal_the_equations_in_float64(base, count, dim):
    objective = Objective(base=base, alpha=0.6)
    u, v = (rows.astype(np.float32) for rows in pairs(count, dim))
    scalars = {name: jnp.float32(value) for name, value in SCALARS.items()}

    def ours(scalars, u, v):
        return objective(scalars, u, v).value

    value, (d_scalars, d_u, d_v) = jax.jit(jax.value_and_grad(ours, argnums=(0, 1, 2)))(scalars, u, v)
    inputs = {name: torch.tensor(float(scalar), dtype=torch.float64) for name, scalar in scalars.items()}
    inputs |= {"u": torch.tensor(u, dtype=torch.float64), "v": torch.tensor(v, dtype=torch.float64)}
    for leaf in inputs.values():
        leaf.requires_grad_()
    loss = context_objective(base, 0.6, **inputs)
    theirs = torch.autograd.grad(loss, list(inputs.values()), materialize_grads=True)
    assert abs(value - loss.item()) < 1e-4 * abs(loss.item())
    gradients = {**d_scalars, "u": d_u, "v": d_v}
    for name, gradient in zip(inputs, theirs, strict=True):
        if base == "softmax" and name.endswith("logit_bias"):
            assert gradients[name] == 0 and gradient == 0
        elif count == 2 and name == "context_temperature":
            assert (
                abs(gradients[name]) < 1e-6 and abs(gradient) < 1e-12
            )  # a single other item gets all attention at any temperature
        else:
            assert relative(gradients[name], gradient) < 1e-4, name


def context_objective(base, alpha, *, u, v, logit_scale, logit_bias, context_temperature, **context):
    """Return the loss of raw embeddings, computed with the equations of pretrain/losses/reference.py."""

    def loss(images, scale, bias):
        logits = scale.exp() * torch.nn.functional.normalize(images) @ torch.nn.functional.normalize(v).T
        if base == "softmax":
            return image_text_contrastive_loss(logits)
        signs = 2 * torch.eye(len(u)) - 1
        return -torch.nn.functional.logsigmoid(signs * (logits + bias)).sum() / len(u)

    x = torch.nn.functional.normalize(u)
    attention = x @ x.T / (context_temperature.exp() * math.sqrt(u.shape[1]))
    attention = attention.masked_fill(torch.eye(len(u), dtype=torch.bool), -math.inf).softmax(dim=1)
    context_loss = loss(attention @ u, context["context_logit_scale"], context["context_logit_bias"])
    return alpha * loss(u, logit_scale, logit_bias) + (1 - alpha) * context_loss


def test_golden_outputs_equal_those_of_the_installed_transformers():
    golden = np.load(GOLDEN / "outputs.npz")
    model, info = SiglipModel.from_pretrained(GOLDEN, output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        outputs = model(input_ids=torch.tensor(golden["tokens"]), pixel_values=torch.tensor(golden["pixels"]))
    close(golden["image_embeddings"], outputs.vision_model_output.pooler_output, 1e-5)
    close(golden["text_embeddings"], outputs.text_model_output.pooler_output, 1e-5)
    close(golden["logits_per_image"], outputs.logits_per_image, 1e-5)


def process(folder, captions, pictures):
    """Return the inputs that the exported processor makes from captions and images."""
    processor = AutoProcessor.from_pretrained(folder)
    return processor(text=captions, images=pictures, padding="max_length", truncation=True, return_tensors="pt")
