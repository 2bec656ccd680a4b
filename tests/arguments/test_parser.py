"""Words of the command line: settings after a space, and what to write in place of unknown names."""

import pytest

import arguments
import launch

RUN = ["--config=configs/emoji.py", "--workdir=w"]


def usage_error(given, capsys):
    """Return the message of a usage error, which the parser prints last."""
    with pytest.raises(SystemExit) as ended:
        arguments.parse(given)
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["pretran"], "(choose from 'pretrain', "),
        (["pretran"], "Did you mean 'pretrain'?"),
        (["export", *RUN, "--format=hugingface"], "Did you mean 'huggingface'?"),
        (["submit", "--workdir=w", "--target=slrum"], "Did you mean 'slurm'?"),
        (["pretrain", *RUN, "--wrkdir=x"], "unknown option --wrkdir. Did you mean '--workdir'? `launch.py pretrain"),
        (["adapt", "--suport=x"], "unknown option --suport. Did you mean '--support'?"),
        (["adapt", "--coppy"], "unknown option --coppy. Did you mean '--copy'?"),
        (["pretrain", "--num-processes=2"], "Did you mean '--num_processes'?"),
        (["pretrain", *RUN, "-v"], "unknown option -v."),
        (["--verbose", "pretrain"], "--verbose precedes the job. Write the job first: launch.py pretrain --verbose …"),
        (["pretrain", *RUN, "5"], "unexpected argument '5'. Options are written --name=VALUE or --name VALUE."),
        (["adapt", "--config.pretrain.steps=5"], "unknown option --config.pretrain.steps. adapt reads no config."),
    ],
)
def test_unknown_jobs_options_and_choices_name_the_nearest(given, message, capsys):
    assert message in usage_error(given, capsys)


@pytest.mark.parametrize(
    ("given", "override"),
    [
        (["pretrain", "--steps=5"], "--config.pretrain.steps=5"),
        (["pretrain", "--steps", "5"], "--config.pretrain.steps=5"),
        (["pretrain", "--steps"], "--config.pretrain.steps=VALUE"),
        (["align", "--steps=5"], "--config.align.steps=5"),
        (["pretrain", "--learning-rate=1e-3"], "--config.pretrain.optimizer.learning_rate=1e-3"),
        (["compile", "--pretrain.remat=full"], "--config.pretrain.remat=full"),
        (["evaluate", "--min_examples=4"], "--config.evaluate.min_examples=4"),
        (["submit", "--jobs=pretrain", "--partition=gpu"], "--config.submit.slurm.partition=gpu"),
    ],
)
def test_a_setting_given_as_an_option_is_answered_with_its_override(given, override, capsys):
    message = usage_error(given, capsys)
    assert f"It is a setting of the config: write {override}. `launch.py {given[0]} --help`" in message


def test_a_misspelt_setting_names_the_nearest(capsys, tmp_path):
    assert "Did you mean '--config.pretrain.steps=5'?" in usage_error(["pretrain", "--stepz=5"], capsys)
    given = ["pretrain", "--config=configs/emoji.py", f"--workdir={tmp_path}"]
    assert launch.main([*given, "--config.steps=5"]) == 1
    assert "no setting is named 'steps'. Did you mean 'pretrain.steps'?" in capsys.readouterr().err


def test_settings_and_options_of_submitted_jobs_may_follow_a_space():
    _, overrides = arguments.parse(["pretrain", *RUN, "--config.pretrain.steps", "5", "--config.pretrain.seed", "-1"])
    assert overrides == ["--config.pretrain.steps=5", "--config.pretrain.seed=-1"]
    given = ["submit", "--target", "local", "--workdir=w", "--jobs", "pretrain,export", "--step", "5", "--extend"]
    args, overrides = arguments.parse([*given, "--config.submit.slurm.time", "60"])
    assert args.job_options == {"pretrain": ["--extend"], "export": ["--step=5"]}
    assert overrides == ["--config.submit.slurm.time=60"]


def test_a_method_that_does_not_exist_names_the_nearest(tmp_path, capsys):
    given = ["adapt", "--checkpoint=c", "--support=s", "--query=q", f"--out={tmp_path}"]
    for method, nearest in (("knm", "knn"), ("atuo", "auto"), ("tip-adapter", "tip_adapter")):
        assert launch.main([*given, f"--method={method}"]) == 1
        assert f"unknown method {method!r}. Did you mean {nearest!r}?" in capsys.readouterr().err
