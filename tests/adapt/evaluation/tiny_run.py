"""The evaluation of a tiny export on a tiny shard, for tests that change or recompute it."""

import pathlib
import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from adapt.embedding.encoder import Encoder
from adapt.evaluation.run import EvaluateSettings, evaluate
from adapt.evaluation.sampling import draw_nested
from models.checkpoints.io import Checkpoint, save_checkpoint
from models.preprocessing import Preprocessing
from models.text.tokenizer import train_tokenizer
from tests.data.shard_files import labelled, write_shard
from tests.logged import logged
from tests.models.tiny_models import open_golden

SAMPLES = [
    (key, image, fields | {"texts": [f"thing {number}", f"kind of {number * 7 % 10}"]})
    for number, (key, image, fields) in enumerate(labelled(27)[1:])
]
LABELS = np.array([fields["label"] for _, _, fields in SAMPLES])  # 8, 9 and 9 of the three classes


class Evaluated(NamedTuple):
    checkpoint: pathlib.Path
    encoder: Encoder
    settings: EvaluateSettings
    out: pathlib.Path
    rows: Sequence[dict[str, Any]]
    messages: Sequence[str]

    def again(self, out: pathlib.Path, **changes: Any) -> list[dict[str, Any]]:
        """Evaluate to `out`, with the embeddings of the first run unless `out` has some already."""
        if not (out / "embeddings").exists():
            shutil.copytree(self.out / "embeddings", out / "embeddings")
        settings = EvaluateSettings(**{**vars(self.settings), **changes})
        return evaluate({"tiny": self.checkpoint}, settings, out=out, data_dir=out)


def evaluate_tiny(folder, **changes):
    """Evaluate a tiny export on a tiny shard in a folder, with other settings than the default ones."""
    model, parameters = open_golden()
    rng = np.random.default_rng(0)  # the golden weights hardly distinguish any images
    parameters = jax.tree.map(lambda array: array + rng.normal(0, 0.4, array.shape).astype("f4"), parameters)
    scalars = {"logit_scale": 2.0, "logit_bias": -3.0}
    tokenizer = train_tokenizer(["thing 0 1 2", "kind of 345 6789"], vocab_size=61, length=model.text.length)
    preprocessing = Preprocessing(size=(model.vision.image_size,) * 2)
    checkpoint = save_checkpoint(folder / "export", Checkpoint(model, parameters, scalars, preprocessing, tokenizer))
    shard = str(write_shard(folder / "s.tar", SAMPLES))
    settings = EvaluateSettings(
        datasets=("things",),
        custom_datasets={"things": {"support": shard, "template": "{}"}},
        tasks=("zero_shot", "few_shot"),
        retrieval=(shard,),
        caption="first",
        shots=(1, 2, 3),
        seeds=3,
        baselines=(),
        **changes,
    )
    with logged() as messages:
        rows = evaluate({"tiny": checkpoint}, settings, out=folder / "out", data_dir=folder)
    return Evaluated(checkpoint, Encoder(checkpoint), settings, folder / "out", rows, messages)


def embedded(evaluated):
    """Return the embeddings of all images and of the class names."""
    found = [np.load(path) for path in (evaluated.out / "embeddings").glob("images-*/*.npy")]
    assert len(found) == 2 and np.array_equal(*found)  # of the dataset and of the retrieval set
    return found[0], evaluated.encoder.embed_texts(["kind 0", "kind 1", "kind 2"])


def draw(shots, seed, labels=LABELS):
    return draw_nested(labels, labels.max() + 1, shots=shots, seed=seed).rows


def queries(seed, labels=LABELS):
    return np.setdiff1d(np.arange(len(labels)), draw(3, seed, labels))
