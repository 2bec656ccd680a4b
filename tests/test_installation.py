"""The project as an installed package: `pip install -e .`, used from another directory."""

import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tomllib

import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = sorted({path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"})


def requirements_in(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return {str(Requirement(line.partition("#")[0].strip())) for line in lines if line and not line.startswith("#")}


def test_every_module_and_data_file_is_in_a_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert set(settings["py-modules"]) == {path.stem for path in ROOT.glob("*.py")}
    assert [pattern for pattern in settings["packages"]["find"]["include"] if "." not in pattern] == PACKAGES
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.suffix == ".py":
                assert (path.parent / "__init__.py").exists(), path


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of an environment with an editable install of a copy of the project; downloads nothing."""
    folder = tmp_path_factory.mktemp("installed")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / "project" / package, ignore=shutil.ignore_patterns("__pycache__"))
    for pattern in ("*.py", "requirements*.txt", "pyproject.toml", "README.md", "LICENSE"):
        for path in ROOT.glob(pattern):
            shutil.copy(path, folder / "project")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    interpreter = folder / "venv" / "bin" / "python"
    [packages] = (folder / "venv" / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", interpreter, "install", "--quiet", "--no-deps"]
    install += ["--no-build-isolation", "--no-index", "--disable-pip-version-check", "-e", folder / "project"]
    ended = subprocess.run(install, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return interpreter


def run(*command, cwd):
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


@pytest.mark.slow
def test_editable_install_works_from_another_directory(python, tmp_path):
    code = "import adapt; print(len(adapt.methods()), adapt.__file__)"
    ended = run(python, "-c", code, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    count, place = ended.stdout.split()
    assert int(count) >= 17 and pathlib.Path(place).is_relative_to(python.parents[2] / "project")


@pytest.mark.slow
def test_console_command_runs_from_another_directory(python, tmp_path):
    program = python.with_name("lixp")
    ended = run(program, "--help", cwd=tmp_path)
    assert ended.returncode == 0 and ended.stdout.startswith("usage: lixp"), ended.stderr
    given = ["--config=configs/emoji.py", f"--workdir={tmp_path}", "--steps=1", "--rows=4"]
    ended = run(program, "inspect", *given, cwd=tmp_path)  # reads the project's config and sample emoji
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "inspect" / "step-00000000.html").is_file()


@pytest.mark.slow
def test_metadata_lists_the_requirements(python, tmp_path):
    code = "import importlib.metadata as m; print('\\n'.join(m.requires('lixp')), m.version('lixp'), sep='\\n')"
    ended = run(python, "-c", code, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    *lines, version = ended.stdout.splitlines()
    required, extras = set(), {}
    for requirement in map(Requirement, lines):
        extra = str(requirement.marker).partition("extra == ")[2].strip('"')
        requirement.marker = None
        (extras.setdefault(extra, set()) if extra else required).add(str(requirement))
    assert required == requirements_in("requirements.txt")
    for extra in ("cuda12", "tpu", "dev", "parity"):
        assert extras[extra] == requirements_in(f"requirements-{extra}.txt")
    assert extras["bench"] == requirements_in("requirements-bench.txt") | requirements_in("requirements-parity.txt")
    assert f"## [{version}] - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
