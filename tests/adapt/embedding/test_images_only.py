"""A checkpoint that embeds images only: what its encoder does, and what it refuses."""

import re

import numpy as np
import pytest
from PIL import Image

import launch
from adapt.embedding.cache import embed_classes, embed_texts
from adapt.embedding.encoder import Encoder
from adapt.embedding.export import embed_collections
from models.checkpoints.io import save_checkpoint
from tests.models.tiny_models import images_only_checkpoint

REFUSED = "photos embeds images only: it has no text tower. Leave out texts, or use a checkpoint that embeds both"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "photos", images_only_checkpoint())


@pytest.fixture(scope="module")
def encoder(folder):
    return Encoder(folder)


def noise(seed):
    return np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)


def test_images_are_embedded_in_batches_of_any_size(encoder):
    images = [noise(seed) for seed in range(5)]
    together, alone = encoder.embed_images(images), encoder.embed_images(images[3:4])
    assert together.shape == (5, 12) and together.dtype == np.float32 and encoder.dim == 12
    np.testing.assert_allclose(together[3], alone[0], rtol=1e-5, atol=1e-6)
    assert np.ptp(together, axis=0).max() > 1e-3


@pytest.mark.parametrize(
    "use",
    [
        lambda encoder, folder: encoder.embed_texts(["a fish"]),
        lambda encoder, folder: encoder.tokenizer,
        lambda encoder, folder: embed_texts(encoder, ["a fish"], folder),
        lambda encoder, folder: embed_classes(encoder, ["fish"], [["a {}"]], folder),
    ],
    ids=["embed_texts", "tokenizer", "cache.embed_texts", "cache.embed_classes"],
)
def test_texts_end_in_one_sentence(encoder, tmp_path, use):
    with pytest.raises(ValueError, match=re.escape(REFUSED)):
        use(encoder, tmp_path)


def test_its_fingerprint_is_that_of_its_images(encoder, folder):
    assert not encoder.embeds_texts and encoder.fingerprint == encoder.image_fingerprint
    assert Encoder(folder, image_size=9).fingerprint != encoder.fingerprint


def test_embed_writes_images_and_refuses_texts_before_any_work(encoder, tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(3):
        Image.fromarray(noise(number)).save(tmp_path / "in" / f"{number}.png")
    (tmp_path / "texts.txt").write_text("a fish\n")
    options = {"images": str(tmp_path / "in"), "data_dir": tmp_path}
    with pytest.raises(ValueError, match=re.escape(REFUSED)):
        embed_collections(encoder, tmp_path / "out", texts=tmp_path / "texts.txt", **options)
    assert not (tmp_path / "out").exists()
    assert embed_collections(encoder, tmp_path / "out", **options)["images"].rows == 3


def test_the_embed_job_names_the_way_out(folder, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("a fish\n")
    command = ["embed", f"--checkpoint={folder}", f"--texts={tmp_path / 'texts.txt'}", f"--out={tmp_path / 'out'}"]
    assert launch.main(command) != 0
    assert REFUSED in capsys.readouterr().err
