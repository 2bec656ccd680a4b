"""The configs that come along, and what the command line makes of a setting."""

import pytest

import configs
import launch
from adapt.evaluation.run import EvaluateSettings
from models.checkpoints.io import save_checkpoint
from pretrain.config.run import SECTIONS, read_settings
from pretrain.distributed import sharding
from pretrain.train_step import training_of
from tests.models.towers_of import tiny_checkpoint


def test_values_take_the_type_of_the_setting():
    assert configs.parse_value("3", like=1) == 3
    assert configs.parse_value("1e-3", like=1.0) == 1e-3
    assert configs.parse_value("false", like=True) is False
    assert configs.parse_value("10", like="text") == "10"
    assert configs.parse_value("a,b", like=("c",)) == ("a", "b")
    assert configs.parse_value("1,2", like=(3,)) == (1, 2)
    assert configs.parse_value("4", like=(3,)) == (4,)
    assert configs.parse_value("{a,b}-*.tar,c", like=("x",)) == ("{a,b}-*.tar", "c")


@pytest.mark.parametrize("name", configs.known_configs())
def test_every_config_that_comes_along_is_valid(name, tmp_path, monkeypatch):
    monkeypatch.setattr("pretrain.config.run.SECTIONS", dict(SECTIONS))  # one with a loss of its own adds it there
    config = launch.load_config(str(configs.FOLDER / name), [])
    if "pretrain" not in config:  # an evaluation of its own; what it evaluates is named on the command line
        config.evaluate.datasets = ("digits",)
        assert launch.typed(EvaluateSettings, "evaluate", config.evaluate).shots
        return
    if config.pretrain.get("initial_checkpoint"):  # which no network fetches here
        family = {"softmax": "clip", "sigmoid": "siglip"}[config.pretrain.objective.base]
        config.pretrain.initial_checkpoint = str(save_checkpoint(tmp_path / "export", tiny_checkpoint(family)))
    settings = read_settings(config.pretrain)
    assert settings.num_steps() > 0
    if settings.mesh.fsdp == 1:
        training_of(settings, sharding.create_mesh(), model=settings.model(settings.max_vocab_size()))
    assert launch.typed(EvaluateSettings, "evaluate", config.evaluate).shots
