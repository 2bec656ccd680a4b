"""The project's configs are valid, and command-line overrides take the type of their setting."""

import pytest
from ml_collections import ConfigDict

import configs
from adapt.evaluation.run import EvaluateSettings
from arguments import load_config
from benchmarks.study.variant_objective import VariantObjective
from foundation.settings import build
from models.checkpoints.io import save_checkpoint
from pretrain.config.run import SECTIONS, read_settings
from pretrain.distributed import sharding
from pretrain.train_step import build_train_step
from tests.models.tiny_models import tiny_checkpoint


def test_values_take_the_type_of_the_setting():
    assert configs.parse_value("3", like=1) == 3
    assert configs.parse_value("1e-3", like=1.0) == 1e-3
    assert configs.parse_value("false", like=True) is False
    assert configs.parse_value("10", like="text") == "10"
    assert configs.parse_value("a,b", like=("c",)) == ("a", "b")
    assert configs.parse_value("1,2", like=(3,)) == (1, 2)
    assert configs.parse_value("4", like=(3,)) == (4,)
    assert configs.parse_value("{a,b}-*.tar,c", like=("x",)) == ("{a,b}-*.tar", "c")


def test_the_known_configs_include_the_study():
    assert {"quickstart.py", "study/base.py", "study/variants.py"} <= set(configs.known_configs())


@pytest.mark.parametrize("name", configs.known_configs())
def test_every_config_states_command_hardware_time_and_expected_result(name):
    docstring = (configs.FOLDER / name).read_text().split('"""')[1]
    assert "    python " in docstring
    words = docstring.lower()
    assert all(word in words for word in ("hardware", "time", "expected"))


@pytest.mark.parametrize("name", configs.known_configs())
def test_every_config_is_valid(name, tmp_path, monkeypatch):
    if name == "study/variants.py":  # benchmarks/study/variant_objective.py defines its settings
        monkeypatch.setitem(SECTIONS, "objective", VariantObjective)
    config = load_config(str(configs.FOLDER / name), [])
    if "pretrain" not in config:  # an evaluation alone; the command line names its datasets
        config.evaluate.datasets = ("digits",)
        assert build(EvaluateSettings, "evaluate", config.evaluate).shots
        return
    if config.pretrain.get("initial_checkpoint"):  # on the Hub, which tests do not reach
        family = {"softmax": "clip", "sigmoid": "siglip"}[config.pretrain.objective.base]
        config.pretrain.initial_checkpoint = str(save_checkpoint(tmp_path / "export", tiny_checkpoint(family)))
    settings = read_settings(config.pretrain)
    assert settings.num_steps() > 0
    if settings.mesh.fsdp == 1:
        build_train_step(settings, sharding.create_mesh(), model=settings.model(settings.max_vocab_size()))
    assert build(EvaluateSettings, "evaluate", config.evaluate).shots


@pytest.mark.parametrize("name", [name for name in configs.known_configs() if name.startswith("study/")])
def test_every_point_of_a_sweep_names_known_settings(name, monkeypatch):
    if name == "study/variants.py":
        monkeypatch.setitem(SECTIONS, "objective", VariantObjective)
    for point in configs.load_sweep(str(configs.FOLDER / name)):
        load_config(str(configs.FOLDER / name), [f"--config.{key}={value}" for key, value in point.items()])


def test_the_variants_are_rejected_without_their_objective():
    config = load_config(str(configs.FOLDER / "study/variants.py"), [])
    with pytest.raises(ValueError, match=r"unknown .*memory"):
        read_settings(config.pretrain)


def test_an_override_by_an_old_name_replaces_the_value_of_the_file():
    from arguments import known_settings
    from cluster.config import SubmitSettings

    config = ConfigDict({"submit": {"max_parallel": 2}})
    configs.set_value(config, "submit.beside", "5", known=known_settings)
    assert build(SubmitSettings, "submit", config.submit).max_parallel == 5
    configs.set_value(config, "submit.slurm.parallel", "7", known=known_settings)
    assert config.submit.slurm.parallel == 7
