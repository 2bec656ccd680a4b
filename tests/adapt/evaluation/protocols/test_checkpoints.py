"""Protocols of support sets for a checkpoint: the rows of its stored features, and those of its baselines."""

import io

import jax
import numpy as np
import pytest
from PIL import Image

from adapt.embedding.encoder import Encoder
from adapt.evaluation.baselines.classification import CLASSIFIERS
from adapt.evaluation.baselines.encoders import PixelEncoder
from adapt.evaluation.config import EvaluateSettings
from adapt.evaluation.protocols.imbalance import draw_imbalanced
from adapt.evaluation.protocols.label_noise import add_label_noise
from adapt.evaluation.protocols.support_protocol import SupportProtocol, protocol_of
from adapt.evaluation.run import evaluate
from adapt.evaluation.stored.run import evaluate_features
from data.pipeline.image_ops import decode
from models.checkpoints.io import save_checkpoint
from tests.data.shard_files import labelled, write_shard
from tests.models.tiny_models import tiny_checkpoint

LABELS = np.array([0] * 16 + [1] * 10 + [2] * 8 + [3] * 4 + [4] * 4)
SAMPLES = [
    (key, image, fields | {"label": int(label), "class": f"kind {label}"})
    for (key, image, fields), label in zip(labelled(len(LABELS)), LABELS, strict=True)
]
PROTOCOL = SupportProtocol("natural", 0.0, 0.4)
COMPARED = (
    "task",
    "method",
    "question",
    "shots",
    "seed",
    "queries",
    "wrong_labels",
    "support_balance",
)


@pytest.mark.slow
def test_rows_of_a_checkpoint_are_those_of_its_features_and_baselines_have_the_protocol(tmp_path):
    tiny, rng = tiny_checkpoint("siglip"), np.random.default_rng(0)  # whose texts hardly differ
    parameters = jax.tree.map(lambda array: array + rng.normal(0, 0.4, array.shape).astype("f4"), tiny.parameters)
    checkpoint = save_checkpoint(tmp_path / "export", tiny._replace(parameters=parameters))
    parts = {"support": slice(None, None, 2), "query": slice(1, None, 2)}
    settings = {
        "tasks": ("few_shot", "open_set"),
        "shots": (1, 3),
        "seeds": 2,
        "methods": ("zero_shot", "prototypes"),
        "support_balance": "natural",
        "label_noise": 0.4,
    }
    shards = {part: str(write_shard(tmp_path / f"{part}.tar", SAMPLES[rows])) for part, rows in parts.items()}
    images = EvaluateSettings(
        datasets=("things",), custom_datasets={"things": shards}, baselines=("raw_pixels",), **settings
    )
    rows = evaluate({"tiny": checkpoint}, images, out=tmp_path / "a", data_dir=tmp_path)
    encoder = Encoder(checkpoint)
    features = encoder.embed_images([np.asarray(decode(image, key)) for key, image, _ in SAMPLES])
    arrays = {part: features[rows] for part, rows in parts.items()} | {
        f"{part}_labels": LABELS[rows] for part, rows in parts.items()
    }
    texts = encoder.embed_texts([f"a photo of a kind {label}." for label in range(5)])
    (tmp_path / "tiny").mkdir()
    np.savez(tmp_path / "tiny" / "things.npz", **arrays, texts=texts)
    stored = evaluate_features(EvaluateSettings(features=(str(tmp_path / "tiny"),), **settings), out=tmp_path / "b")
    found, expected = (
        [{name: row[name] for name in COMPARED} for row in each if row["task"] != "baseline"] for each in (rows, stored)
    )
    assert found == expected and {row["question"] for row in found if row["task"] == "open_set"} == {
        "known",
        "far flag",
        "max probability",
        "max logit",
    }
    values = [[row["value"] for row in each if row["task"] != "baseline"] for each in (rows, stored)]
    np.testing.assert_allclose(values[0], values[1], atol=0.01)  # features of other batches differ in the last bits
    baselines = [row for row in rows if row["task"] == "baseline"]
    pixels = PixelEncoder()
    pictures = [Image.open(io.BytesIO(image)).convert("RGB") for _, image, _ in SAMPLES]
    features = np.concatenate(list(pixels.iterate_images(pictures.__getitem__, range(len(pictures)))))
    for row in baselines:
        assert protocol_of(row) == PROTOCOL
        labels = LABELS[parts["support"]]
        drawn = draw_imbalanced(labels, np.ones(5, bool), shots=row["shots"], seed=row["seed"], protocol=PROTOCOL).rows
        noisy = add_label_noise(labels[drawn], share=0.4, seed=row["seed"], shots=row["shots"])
        classify = CLASSIFIERS[row["method"].partition(": ")[2]]
        predicted = classify(features[parts["support"]][drawn], noisy, features[parts["query"]])
        assert row["value"] == pytest.approx(np.mean(predicted == LABELS[parts["query"]]))
        assert row["wrong_labels"] == round(0.4 * len(drawn)) == (noisy != labels[drawn]).sum()
    assert len(baselines) == 2 * 2 * len(CLASSIFIERS)
