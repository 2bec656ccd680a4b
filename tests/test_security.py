"""Constructs that the project's code must not contain; tests/test_hostile_input.py tests its behaviour."""

import ast
import pathlib

import jinja2

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("adapt", "benchmarks", "cluster", "configs", "data", "foundation", "models", "pretrain")
FILES = sorted(
    [
        *ROOT.glob("*.py"),
        *ROOT.glob(".ci/*.py"),
        *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")),
    ]
)
TREES = {path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def imported(tree: ast.AST) -> dict[str, str]:
    """Return the dotted names that the imported names of a file stand for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                each.asname or each.name.partition(".")[0]: each.name if each.asname else each.name.partition(".")[0]
                for each in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            names |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    return names


def calls():
    """Yield (file, dotted name, call) for each call in the project, with imported names resolved."""
    for path, tree in TREES.items():
        names = imported(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                first, dot, rest = ast.unparse(node.func).partition(".")
                yield path, names.get(first, first) + dot + rest, node


def keyword(call: ast.Call, name: str) -> object:
    """Return the constant that a call passes to a keyword, None without the keyword, "?" for other expressions."""
    return next((getattr(each.value, "value", "?") for each in call.keywords if each.arg == name), None)


def test_no_module_that_unpickles_is_imported():
    forbidden = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "torch"}
    for path, tree in TREES.items():
        peers = {"torch"} if path.parts[0] == "benchmarks" else set()
        found = {name.partition(".")[0] for name in imported(tree).values()}
        assert not found & (forbidden - peers), path


def test_arrays_are_loaded_without_pickle():
    found = [(path, call) for path, name, call in calls() if name in ("numpy.load", "jax.numpy.load")]
    assert len(found) >= 8
    for path, call in found:
        allowed = keyword(call, "allow_pickle")
        assert allowed is False or (allowed is None and path.parts[0] == "benchmarks"), f"{path}:{call.lineno}"
    assert not [path for path, name, _ in calls() if name in ("torch.load", "pandas.read_pickle")]


def test_no_shell_command_is_built_from_strings_and_no_text_is_executed():
    forbidden = {"os.system", "os.popen", "eval", "exec", "compile", "__import__", "importlib.import_module"}
    forbidden |= {
        "subprocess.getoutput",
        "subprocess.getstatusoutput",
        "os.startfile",
        "asyncio.create_subprocess_shell",
    }
    started = 0
    for path, name, call in calls():
        assert name not in forbidden, f"{path}:{call.lineno} {name}"
        if name.startswith("subprocess."):
            started += 1
            assert keyword(call, "shell") is None, f"{path}:{call.lineno}"
            assert not call.args or not isinstance(call.args[0], ast.Constant | ast.JoinedStr), f"{path}:{call.lineno}"
        if name.startswith("runpy."):
            assert path == pathlib.Path("configs/__init__.py")  # a config is a program, trusted by its user
    assert started > 3


def test_archives_are_never_extracted_and_yaml_is_safe():
    for path, name, call in calls():
        last = name.rpartition(".")[2]
        assert last not in ("extract", "extractall", "unpack_archive"), f"{path}:{call.lineno}"
        if name.startswith("yaml."):
            assert last in ("safe_load", "safe_dump"), f"{path}:{call.lineno}"
        assert keyword(call, "trust_remote_code") in (None, False), f"{path}:{call.lineno}"


def test_untrusted_images_are_opened_in_one_place():
    own = ("data/embedded", "benchmarks")  # their own images
    again = {"data/pipeline/wide_colours.py"}  # 16-bit values of an image that was opened and checked before
    found = {str(path) for path, name, _ in calls() if name == "PIL.Image.open"}
    assert {path for path in found if not path.startswith(own)} - again == {"data/pipeline/image_ops.py"}


def test_every_page_escapes_its_values():
    environments = [(path, call) for path, name, call in calls() if name == "jinja2.Environment"]
    assert environments and all(keyword(call, "autoescape") is True for _, call in environments), environments
    trusted = []
    for template in [*ROOT.glob("adapt/**/*.j2"), *ROOT.glob("pretrain/**/*.j2")]:
        tree = jinja2.Environment().parse(template.read_text(encoding="utf-8"))
        trusted += [node.node for node in tree.find_all(jinja2.nodes.Filter) if node.name == "safe"]
    names = sorted(node.attr if isinstance(node, jinja2.nodes.Getattr) else node.name for node in trusted)
    own = ["script", "style", "swatch"]  # files of the report, and a drawing of a line without text
    assert names == sorted(["svg", *own])  # matplotlib's SVG, in which it escapes text itself
