"""An export of `align` goes through the recorded encoders, refuses others, and folds into a CLIP."""

import json
import shutil

import numpy as np
import pytest

from adapt.adapters.ops import normalize_numpy
from adapt.embedding.cache import embed_images
from adapt.embedding.encoder import Encoder
from adapt.embedding.export import embed_collections
from data.fewshot.labelled import LabelledImages
from data.pipeline.image_ops import decode
from foundation.files.checksum_file import changed_files
from models.checkpoints.io import open_checkpoint, save_checkpoint
from pretrain.align.export import export_aligned
from pretrain.align.train import align
from tests.data.shard_files import png
from tests.models.tiny_models import tiny_checkpoint
from tests.pretrain.align.tiny import align_config, captions_config, write_features

TEXTS = ["a red fish", "two blue birds", "one green tree", "a blue fish", "two red fish"]
PICTURES = [png(seed) for seed in range(10)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("clip") / "clip", tiny_checkpoint("clip"))


@pytest.fixture(scope="module")
def features(clip, tmp_path_factory):
    """A folder that `embed` wrote: ten pictures, with one or two texts each that have the id of their picture."""
    folder = tmp_path_factory.mktemp("embedded")
    (folder / "photos").mkdir()
    lines = []
    for number, picture in enumerate(PICTURES):
        (folder / "photos" / f"{number}.png").write_bytes(picture)
        texts = [TEXTS[number % 5], TEXTS[(number + 1) % 5]][: 1 + number % 2]
        lines += [json.dumps({"id": f"{number}.png", "text": text}) for text in texts]
    (folder / "texts.jsonl").write_text("\n".join(lines))
    encoder, out = Encoder(clip), folder / "features"
    inputs = {"images": str(folder / "photos"), "texts": folder / "texts.jsonl"}
    embed_collections(encoder, out, **inputs, data_dir=folder)
    return out


@pytest.fixture(scope="module")
def exported(features, tmp_path_factory):
    return run_and_export(features, tmp_path_factory.mktemp("run"))


def run_and_export(features, folder, *, format="aligned", **changes):
    align(align_config(features, **{"batch_size": 5} | changes), folder / "run", data_dir=folder)
    return export_aligned(folder / "run", folder / "export", format=format)


def stored(features, kind):
    return np.load(features / f"{kind}.npy")


def test_an_export_embeds_pictures_and_texts_through_the_recorded_encoder(features, exported):
    encoder = Encoder(exported)
    assert encoder.dim == 6
    np.testing.assert_allclose(
        encoder.embed_images(PICTURES), encoder.embed_features(images=stored(features, "images")), atol=1e-5
    )
    texts = [TEXTS[number % 5] for number in (0, 1)] + [TEXTS[2]]
    rows = stored(features, "texts")[:3]
    np.testing.assert_allclose(encoder.embed_texts(texts), encoder.embed_features(texts=rows), atol=1e-5)


def test_several_heads_on_one_encoder_share_its_cached_features(features, exported, tmp_path):
    other = Encoder(run_and_export(features, tmp_path, seed=1))
    images = LabelledImages(
        labels=np.arange(10), image=lambda row: decode(PICTURES[row], str(row)), key=str, fingerprint="ten pictures"
    )
    for encoder in (Encoder(exported), other):
        found = embed_images(encoder, images, tmp_path / "cache", name="photos")
        np.testing.assert_allclose(found, encoder.embed_features(images=stored(features, "images")), atol=1e-5)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_an_export_is_small_and_complete(exported, clip):
    names = {path.name for path in exported.iterdir()}
    assert names == {"config.json", "model.safetensors", "SHA256SUMS", "README.md"}
    assert changed_files(exported) == [] and (exported / "model.safetensors").stat().st_size < 20_000
    config = json.loads((exported / "config.json").read_text())
    assert config["model_type"] == "aligned_features" and config["encoders"]["vision"]["name"] == str(clip)
    card = (exported / "README.md").read_text()
    assert "| vision encoder |" in card and "clip (fingerprint" in card
    assert "9 of 5 pairs" in card


def test_embed_writes_the_embeddings_of_stored_features(features, exported, tmp_path):
    encoder = Encoder(exported)
    given = {"image_features": str(features), "text_features": str(features)}
    embed_collections(encoder, tmp_path / "out", **given, data_dir=tmp_path)
    for kind in ("images", "texts"):
        found = np.load(tmp_path / "out" / f"{kind}.npy")
        np.testing.assert_array_equal(found, encoder.embed_features(**{kind: stored(features, kind)}))
        assert (tmp_path / "out" / f"{kind}.ids.jsonl").read_text() == (features / f"{kind}.ids.jsonl").read_text()
    with pytest.raises(ValueError, match="--images and --image_features would write the same files"):
        embed_collections(encoder, tmp_path / "b", images="photos", image_features="f", data_dir=tmp_path)


def test_an_encoder_that_has_changed_is_refused(features, clip, tmp_path):
    copy = tmp_path / "clip"
    shutil.copytree(clip, copy)
    own = tmp_path / "features"
    shutil.copytree(features, own)
    for kind in ("images", "texts"):
        description = json.loads((own / f"{kind}.json").read_text())
        (own / f"{kind}.json").write_text(json.dumps(description | {"checkpoint_name": str(copy)}))
    exported = run_and_export(own, tmp_path)
    assert Encoder(exported).embed_images(PICTURES[:1]).shape == (1, 6)
    save_checkpoint(copy, tiny_checkpoint("clip", seed=1))
    for embed in (lambda encoder: encoder.embed_images(PICTURES[:1]), lambda encoder: encoder.embed_texts(["a fish"])):
        with pytest.raises(ValueError, match=r"is not the encoder whose features .* maps: its fingerprint is"):
            embed(Encoder(exported))
    shutil.rmtree(copy)
    with pytest.raises(ValueError, match=r"cannot embed images: their encoder .* cannot be opened"):
        Encoder(exported).embed_images(PICTURES[:1])


def test_a_config_cannot_name_another_encoder_than_embed_recorded(features, tmp_path):
    with pytest.raises(ValueError, match=r"align.text_encoder is minilm, but the features were computed by .*/clip"):
        run_and_export(features, tmp_path, text_encoder="minilm")


def test_heads_on_an_unknown_encoder_take_features_only(tmp_path):
    features = write_features(tmp_path)
    exported = run_and_export(features, tmp_path, image_encoder="facebook/dinov2-base")
    encoder = Encoder(exported)
    assert encoder.embed_features(images=stored(features, "images")).shape == (24, 6)
    with pytest.raises(
        ValueError, match=r"cannot embed images: it maps features of facebook/dinov2-base, which is not"
    ):
        encoder.embed_images(PICTURES[:1])
    with pytest.raises(ValueError, match=r"cannot embed texts: it maps features of an encoder that is not recorded"):
        encoder.embed_texts(["a fish"])


@pytest.mark.parametrize(
    ("features", "problem"),
    [
        (np.ones((2, 3), np.float32), r"features of images have shape \[2, 3\]"),
        (np.full((2, 12), np.nan, np.float32), "row 0 of the features of images has a value that is not finite"),
        (np.ones((2, 12), np.float32), "trained on features of length 1, but these have lengths from 3.46 to 3.46"),
    ],
)
def test_features_of_another_kind_than_in_training_are_refused(tmp_path, features, problem):
    folder = write_features(tmp_path)
    np.save(folder / "images.npy", normalize_numpy(stored(folder, "images")))
    encoder = Encoder(run_and_export(folder, tmp_path))
    assert encoder.embed_features(images=stored(folder, "images")).shape == (24, 6)
    with pytest.raises(ValueError, match=problem):
        encoder.embed_features(images=features)


def test_a_text_tower_embeds_texts_and_a_head_pictures(features, tmp_path):
    captions = features.parent / "texts.jsonl"
    align(captions_config(features, captions, batch_size=5), tmp_path / "run", data_dir=tmp_path)
    exported = export_aligned(tmp_path / "run", tmp_path / "export")
    assert (exported / "tokenizer.json").is_file() and changed_files(exported) == []
    encoder = Encoder(exported)
    assert encoder.embed_texts(TEXTS).shape == (5, 6)
    assert encoder.embed_images(PICTURES).shape == (10, 6)
    with pytest.raises(ValueError, match="takes texts themselves, not their features"):
        encoder.embed_features(texts=np.ones((2, 6)))


LINEAR = {"kind": "linear"}


@pytest.mark.parametrize("options", [{}, {"bias": False, "standardize": False}])
def test_linear_heads_on_a_clip_fold_into_its_projections(features, tmp_path, options):
    heads = {"image_head": LINEAR | options, "text_head": LINEAR | options}
    composed = Encoder(run_and_export(features, tmp_path, **heads))
    folded = export_aligned(tmp_path / "run", tmp_path / "folded", format="huggingface")
    assert json.loads((folded / "config.json").read_text())["model_type"] == "clip"
    encoder = Encoder(folded)
    for one, other in (
        (encoder.embed_images(PICTURES), composed.embed_images(PICTURES)),
        (encoder.embed_texts(TEXTS), composed.embed_texts(TEXTS)),
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())


def test_what_cannot_be_folded_is_one_sentence(features, exported, tmp_path):
    run_and_export(features, tmp_path)
    with pytest.raises(ValueError, match="only linear heads that do not normalise can be folded"):
        export_aligned(tmp_path / "run", tmp_path / "folded", format="huggingface")
    linear = {"image_head": LINEAR, "text_head": LINEAR}
    (tmp_path / "plain").mkdir()
    plain = write_features(tmp_path / "plain")
    with pytest.raises(ValueError, match="only features of one CLIP can be folded"):
        run_and_export(plain, tmp_path / "other", format="huggingface", **linear)
    with pytest.raises(ValueError, match="holds heads on the features of other encoders"):
        open_checkpoint(exported)
