"""The import graph: no circles, arrows of the design only, no crowded folder, no class name twice."""

import ast
import collections
import functools
import pathlib

import grimp
import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = (
    "foundation",
    "models",
    "data",
    "pretrain",
    "adapt",
    "cluster",
    "configs",
    "arguments",
    "jobs",
    "benchmarks",
)
# package → the packages that it may import; launch.py may import all of them but benchmarks.
ARROWS = {
    "foundation": set(),
    "models": {"foundation"},
    "data": {"foundation"},
    "pretrain": {"foundation", "models", "data"},
    "adapt": {"foundation", "models", "data"},
    "cluster": {"foundation"},
    "configs": {"foundation"},
    "arguments": {"foundation", "models", "pretrain", "adapt", "data", "cluster", "configs"},
    "jobs": {"foundation", "models", "pretrain", "adapt", "cluster", "configs", "arguments"},
    "benchmarks": {*PACKAGES, "launch", "tests"},
}
CROWDED = 15  # files of one kind in a folder


@functools.cache
def graph():
    return grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)


def python_files(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_the_design_allows(package):
    own = {*PACKAGES, "launch", "tests"}
    for module in graph().modules:
        if module.partition(".")[0] != package:
            continue
        for imported in graph().find_modules_directly_imported_by(module):
            target = imported.partition(".")[0]
            assert target not in own - {package} or target in ARROWS[package], f"{module} imports {imported}"


def test_no_import_goes_in_a_circle():
    edges = {
        module: sorted(name for name in graph().find_modules_directly_imported_by(module) if name in internal())
        for module in internal()
    }
    done, path = set(), []

    def visit(module):
        if module in path:
            raise AssertionError(" → ".join([*path[path.index(module) :], module]))
        if module not in done:
            path.append(module)
            for imported in edges[module]:
                visit(imported)
            path.pop()
            done.add(module)

    for module in sorted(edges):
        visit(module)


def internal():
    return {name for name in graph().modules if name.partition(".")[0] in PACKAGES}


def test_no_folder_is_crowded():
    counts = collections.Counter(path.parent for path in python_files(*PACKAGES, "tests") if path.name != "__init__.py")
    crowded = {str(folder.relative_to(ROOT)): count for folder, count in counts.items() if count > CROWDED}
    assert not crowded


def test_no_two_classes_share_a_name():
    places = collections.defaultdict(list)
    for path in [*ROOT.glob("*.py"), *python_files(*PACKAGES)]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(ROOT)))
    assert not {name: found for name, found in places.items() if len(found) > 1}
