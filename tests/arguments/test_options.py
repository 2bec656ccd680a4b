"""The options of the command line, and what runs without packages or under an older Python."""

import ast
import inspect
import os
import pathlib
import subprocess
import sys

import pytest

import arguments
import jobs
import launch
from arguments.help_texts import JOBS
from foundation.deprecation import warn_renamed

ROOT = pathlib.Path(__file__).parents[2]
# job → function, and an option list that parses
FUNCTIONS = {
    "pretrain": (jobs.pretrain, ["--config=c", "--workdir=w"]),
    "align": (jobs.align, ["--config=c", "--workdir=w"]),
    "export": (jobs.export, ["--config=c", "--workdir=w"]),
    "evaluate": (jobs.evaluate, ["--workdir=w"]),
    "report": (jobs.report, ["--workdir=w"]),
    "quickstart": (jobs.quickstart, []),
    "inspect": (jobs.inspect_data, ["--config=c", "--workdir=w"]),
    "compile": (jobs.compile_step, ["--config=c", "--topology=local:2"]),
    "submit": (jobs.submit, ["--target=local", "--workdir=w"]),
    "adapt": (jobs.sort_photos, ["--checkpoint=c", "--support=s", "--query=q", "--out=o"]),
    "label": (jobs.label, ["--checkpoint=c", "--images=i", "--out=o"]),
    "embed": (jobs.embed, ["--checkpoint=c", "--out=o"]),
    "convert": (jobs.convert, ["--checkpoint=c", "--out=o"]),
}


def run(*arguments, **environment):
    """Run launch.py in a subprocess."""
    command = [sys.executable, str(ROOT / "launch.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, cwd=ROOT)


@pytest.mark.parametrize("job", JOBS)
def test_options_and_function_parameters_have_the_same_defaults(job):
    assert FUNCTIONS.keys() == launch.RUN.keys() == JOBS.keys()
    function, given = FUNCTIONS[job]
    args, _ = arguments.parse([job, *given])
    values = vars(args) | ({"jobs": tuple(args.jobs.split(","))} if job == "submit" else {})
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not parameter.empty and name not in ("config_path", "overrides", "job_options")
    }
    assert defaults == {name: values[name] for name in defaults}


def test_renamed_options_still_work_with_a_warning(tmp_path, caplog):
    warn_renamed.cache_clear()
    given = ["pretrain", "--config=c", "--workdir=w", "--coordinator=a:1", "--processes=2", "--process", "1"]
    args, _ = arguments.parse(given)
    assert (args.num_processes, args.process_id) == (2, 1)
    assert (
        arguments.parse(["submit", "--target=local", "--workdir=w", "--jobs=evaluate", "--parts=3"])[0].num_shards == 3
    )
    for old, new in (("--processes", "--num_processes"), ("--process", "--process_id"), ("--parts", "--num_shards")):
        assert f"{old} was renamed to {new}; the old name will be removed in the next version" in caplog.messages
    warn_renamed.cache_clear()


def test_configs_of_the_project_are_found_from_another_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert arguments.find_config("configs/emoji.py") == str(ROOT / "configs" / "emoji.py")
    assert arguments.load_config(arguments.parse(["quickstart"])[0].config, []).align.epochs > 0
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "emoji.py").write_text("")
    assert arguments.find_config("configs/emoji.py") == "configs/emoji.py"  # a file of the user comes first


def test_older_python_gets_one_sentence():
    source = (ROOT / "launch.py").read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 7))
    assert not [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    code = (
        "import runpy, sys; sys.version_info = (3, 9, 7, 'final', 0); "
        f"runpy.run_path({str(ROOT / 'launch.py')!r}, run_name='__main__')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("launch.py requires Python 3.11 or 3.12, and this is Python 3.9. Run `python3.12 -m")


def test_missing_packages_get_one_sentence(tmp_path):
    program = [sys.executable, "-S", str(ROOT / "launch.py"), "quickstart", f"--workdir={tmp_path}"]  # -S: no packages
    ended = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.startswith("error: the package ") and "is not installed" in ended.stderr
    assert "Run `python3 -m venv .venv && .venv/bin/pip install -r requirements.txt`" in ended.stderr
