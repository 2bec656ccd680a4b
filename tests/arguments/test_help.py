"""`launch.py` alone, `--help`, and the help of each job."""

import os
import pathlib
import shlex
import subprocess
import sys

import pytest

import adapt
import arguments
import launch
from adapt import public_names
from adapt.adapters.registry import TRANSDUCTIVE
from adapt.choices import BASELINES, METHOD_SUMMARIES, TASKS, TRAINING_FREE_SUMMARIES, TRANSDUCTIVE_SUMMARIES
from adapt.embedding.encoder import Encoder
from arguments.help_texts import EXAMPLES, JOBS
from cluster.config import TARGETS

ROOT = pathlib.Path(__file__).parents[2]
HEAVY = {"jax", "numpy", "flax", "transformers", "pydantic", "ml_collections", "scipy", "PIL"}


def help_of(*words, capsys):
    with pytest.raises(SystemExit) as ended:
        launch.main([*words, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", [["--help"], [], *([job, "--help"] for job in JOBS)])
def test_help_imports_no_heavy_package(words):
    code = (
        "import sys, launch\n"
        f"try: launch.main({words})\n"
        "except SystemExit: pass\n"
        f"print(sorted({HEAVY} & set(sys.modules)), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ended.stderr == "[]\n" and "examples:" in ended.stdout + " examples:" * (len(words) < 2)


def test_no_job_is_the_overview_and_wrong_usage():
    ended = subprocess.run([sys.executable, str(ROOT / "launch.py")], capture_output=True, text=True)
    assert ended.returncode == 2 and not ended.stderr
    assert all(f"\n  {job} " in ended.stdout for job in JOBS)


@pytest.mark.parametrize("job", JOBS)
def test_examples_of_a_job_are_in_its_help_and_can_be_parsed(job, capsys):
    shown = help_of(job, capsys=capsys)
    for given in EXAMPLES[job]:
        assert f"python launch.py {job} {given}".rstrip() + "\n" in shown
        args, overrides = arguments.parse([job, *shlex.split(given)])
        if getattr(args, "config", None) and "configs/" in args.config:
            arguments.load_config(args.config, overrides)


def test_help_names_methods_tasks_and_targets(capsys):
    lines = [line.strip() for line in help_of("evaluate", capsys=capsys).splitlines()]
    for name, summary in (METHOD_SUMMARIES | TASKS | BASELINES).items():
        assert any(line.startswith(f"{name} ") and line.endswith(summary) for line in lines), name
    adapting = help_of("adapt", capsys=capsys)
    assert all(f"\n  {name} " in adapting for name in ("auto", *METHOD_SUMMARIES))
    assert ", ".join(TARGETS) in help_of("submit", capsys=capsys)
    assert "emoji.py" in help_of("pretrain", capsys=capsys)


def test_the_names_in_the_help_are_those_of_the_registry():
    assert tuple(METHOD_SUMMARIES) == tuple(adapt.METHODS)
    assert tuple(TRAINING_FREE_SUMMARIES) == adapt.TRAINING_FREE
    assert tuple(TRANSDUCTIVE_SUMMARIES) == TRANSDUCTIVE


def test_public_names_of_adapt_are_imported_on_first_use():
    assert set(adapt.__all__) <= set(dir(adapt))
    assert {*public_names.__all__, "Encoder", "FewShotClassifier", "isoclip_projection", "nearest"} == set(
        adapt.__all__
    )
    assert all(getattr(adapt, name) is getattr(public_names, name) for name in public_names.__all__)
    assert adapt.Encoder is Encoder
    with pytest.raises(AttributeError, match="module 'adapt' has no attribute 'Encodr'"):
        _ = adapt.Encodr
    code = "import sys, adapt; print({'jax', 'numpy'} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert ended.stdout == "set()\n"
