"""The requirement files."""

import ast
import importlib.metadata
import pathlib
import re
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parents[1]
LINES = [
    (path.name, line)
    for path in sorted(ROOT.glob("requirements*.txt"))
    for line in path.read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
RUNTIME = [Requirement(line.partition(" ")[0]) for name, line in LINES if name == "requirements.txt"]


@pytest.mark.parametrize(("name", "line"), LINES)
def test_every_requirement_has_both_bounds_and_a_reason(name, line):
    requirement, _, reason = line.partition("#")
    operators = {each.operator for each in Requirement(requirement.strip()).specifier}
    assert operators in ({">=", "<"}, {"=="}), name
    assert len(reason.split()) > 1, name


def test_every_imported_package_is_required():
    required = {canonicalize_name(each.name) for each in RUNTIME}
    providers = importlib.metadata.packages_distributions()
    optional = {"wandb"}  # monitor.wandb names it in an error
    own = {path.name for path in ROOT.iterdir()} | {path.stem for path in ROOT.glob("*.py")}
    for path in [*ROOT.glob("*.py"), *(path for folder in ROOT.glob("*/") for path in folder.rglob("*.py"))]:
        if path.relative_to(ROOT).parts[0].startswith((".", "tests", "benchmarks", "docs", "runs", "build")):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {name.partition(".")[0] for name in names} - own - optional - set(sys.stdlib_module_names):
                found = {canonicalize_name(each) for each in providers.get(name, ())}
                assert found & required, f"{path.relative_to(ROOT)} imports {name}"


def closure() -> set[str]:
    """Return the names of the runtime requirements and of everything that they require."""
    todo, seen = [(each.name, each.extras) for each in RUNTIME], set()
    while todo:
        name, extras = todo.pop()
        if canonicalize_name(name) in seen:
            continue
        seen.add(canonicalize_name(name))
        for text in importlib.metadata.requires(name) or ():
            inner = Requirement(text)
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                todo.append((inner.name, inner.extras))
    return seen


def test_installed_packages_are_within_the_bounds_and_maintained():
    for each in RUNTIME:
        assert importlib.metadata.version(each.name) in each.specifier, each
    names = closure()
    assert len(names) > len(RUNTIME)
    for name in names:
        classifiers = importlib.metadata.metadata(name).get_all("Classifier") or ()
        assert not any(re.search("Development Status :: 7", each) for each in classifiers), name
