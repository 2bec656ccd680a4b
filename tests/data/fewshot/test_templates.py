"""The class texts of a dataset: its own, those of an embedded dataset, or those of photos, which is logged."""

import pytest

from adapt.evaluation.config import EvaluateSettings
from adapt.evaluation.run import evaluate
from data.fewshot.labelled import DatasetSettings
from data.fewshot.open import open_dataset
from models.checkpoints.io import save_checkpoint
from tests.data.shard_files import labelled, write_shard
from tests.logged import logged
from tests.models.tiny_models import tiny_checkpoint

NOTE = "class texts are 'a photo of a {}.'"


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("emoji:noto", "{}"),
        ("icons:seen_query", "{}"),
        ("photos:trashnet:test", "a photo of {}."),
        ("photos:clothing:test", "a photo of a {}."),
    ],
)
def test_an_embedded_dataset_has_its_own_class_texts_by_name_and_as_custom_dataset(tmp_path, name, template):
    opened = open_dataset(name, tmp_path)
    assert (opened.template, opened.templates) == (template, (template,))
    custom = {"mine": DatasetSettings(support=name), "given": DatasetSettings(support=name, template="art of {}")}
    assert open_dataset("mine", tmp_path, custom_datasets=custom).template == template
    assert open_dataset("given", tmp_path, custom_datasets=custom).templates == ("art of {}",)


def test_a_dataset_without_class_texts_of_its_own_says_so_once(tmp_path):
    checkpoint = save_checkpoint(tmp_path / "export", tiny_checkpoint("siglip"))
    path = str(write_shard(tmp_path / "things.tar", labelled(24)))
    custom = {"given": DatasetSettings(support=path, template="a drawing of a {}.")}
    options = {"custom_datasets": custom, "methods": ("prototypes",), "shots": (1,), "seeds": 1, "baselines": ()}
    settings = EvaluateSettings(datasets=(path, "given"), tasks=("zero_shot", "few_shot"), **options)
    with logged() as messages:
        evaluate({"a": checkpoint, "b": checkpoint}, settings, out=tmp_path / "out", data_dir=tmp_path)
    [note] = [message for message in messages if NOTE in message]
    assert note.startswith("note: things.tar: ") and "evaluate.custom_datasets" in note
