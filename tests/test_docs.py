"""The examples of the documentation run, its commands are valid, and its links and headings are complete."""

import ast
import functools
import importlib.util
import pathlib
import re
import shlex
import sys
import xml.etree.ElementTree as ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adapt
import arguments
import launch
from adapt.adapters.registry import METHODS
from arguments.help_texts import JOBS
from models.checkpoints.io import save_checkpoint
from pretrain.losses.contrastive import PAIRWISE_LOSSES, Scales, base_loss
from pretrain.losses.equal_texts import EqualTexts
from pretrain.monitoring.metric_writer import read_metrics
from tests.data.shard_files import labelled, write_shard
from tests.models.tiny_models import tiny_checkpoint

ROOT = pathlib.Path(__file__).parents[1]
EXTENDING = ROOT / "docs" / "guides" / "extending.md"


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """A folder with the example files of docs/guides/extending.md, shards and a checkpoint."""
    folder = tmp_path_factory.mktemp("examples")
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", EXTENDING.read_text(encoding="utf-8"), re.DOTALL)
    assert [name for name, _ in blocks] == ["hinge.py", "power_votes.py", "things.py"]
    for name, code in blocks:
        (folder / name).write_text(code.replace("shards/", f"{folder}/shards/"))
    samples = labelled(60)
    (folder / "shards").mkdir()
    write_shard(folder / "shards" / "train-00000.tar", samples[:40])
    write_shard(folder / "shards" / "test-00000.tar", samples[40:])
    save_checkpoint(folder / "export", tiny_checkpoint("siglip"))
    yield folder
    PAIRWISE_LOSSES.pop("hinge", None)
    METHODS.pop("power_votes", None)


@pytest.mark.slow
def test_the_example_loss_trains_and_has_the_derivative_of_its_dense_form(examples, tmp_path):
    given = [f"--config={examples / 'hinge.py'}", f"--workdir={tmp_path / 'run'}", f"--config.data_dir={tmp_path}"]
    given += [f"--config.pretrain.data.sources={examples}/shards/*.tar,", "--config.pretrain.steps=2"]
    given += ["--config.pretrain.optimizer.warmup_steps=1", "--config.pretrain.batch_size=8"]
    assert launch.main(["pretrain", *given, "--config.pretrain.tokenizer.name=train:60"]) == 0
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 2
    assert launch.main(["export", *given]) == 0
    assert "hinge loss with the context objective" in (tmp_path / "run" / "export" / "README.md").read_text()

    def dense(u, v, positive):
        x, t = (rows / jnp.linalg.norm(rows, axis=1, keepdims=True) for rows in (u, v))
        logits = 10 * x @ t.T - 2
        return jnp.sum(jnp.maximum(1 + jnp.where(positive, -logits, logits), 0)) / len(u)

    u, v = (jnp.asarray(np.random.default_rng(seed).normal(size=(7, 5)), jnp.float32) for seed in (0, 1))
    scales = Scales(jnp.log(jnp.array([10.0])), jnp.array([-2.0]))
    first = jnp.array([0, 1, 0, 3, 4, 0, 4])
    for equal, positive in ((None, jnp.eye(7, dtype=bool)), (EqualTexts(positive=first), first[:, None] == first)):
        loss = functools.partial(base_loss, "hinge", scales=scales, equal_texts=equal)
        ours = jax.value_and_grad(lambda u, v, loss=loss: loss((u,), v).value, argnums=(0, 1))(u, v)
        theirs = jax.value_and_grad(dense, argnums=(0, 1))(u, v, positive)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, theirs)


def test_the_example_adapter_is_evaluated_with_another_method(examples, tmp_path, capsys):
    given = [
        f"--config={examples / 'power_votes.py'}",
        f"--checkpoint={examples / 'export'}",
        f"--workdir={tmp_path}",
    ]
    given += ["--datasets=digits", "--shots=1,4", "--seeds=2", f"--data_dir={tmp_path}"]
    assert launch.main(["evaluate", *given]) == 0
    assert re.search(r"digits, few_shot: power_votes \d+\.\d% at 4 shots", capsys.readouterr().out)


def test_the_example_dataset_is_evaluated(examples, tmp_path, capsys):
    given = [
        f"--config={examples / 'things.py'}",
        f"--checkpoint={examples / 'export'}",
        f"--workdir={tmp_path}",
    ]
    assert launch.main(["evaluate", *given, "--methods=knn", "--shots=1", "--seeds=2", f"--data_dir={tmp_path}"]) == 0
    assert re.search(r"things, few_shot: knn \d+\.\d% at 1 shot\n", capsys.readouterr().out)


def headings():
    """Yield the beginnings of the headings of a report, from its source."""
    for path in ROOT.glob("adapt/report/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = []
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Section":
                found = node.args[:1]
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "title":
                found = [node.value]
            elif isinstance(node, ast.For) and "title" in (names := ast.unparse(node.target).strip("()").split(", ")):
                found = [row.elts[names.index("title")] for row in node.iter.elts]
            for text in (each for part in found for each in ast.walk(part)):
                if isinstance(text, ast.Constant) and str(text.value)[:1].isupper():
                    yield text.value.partition(":")[0].strip()
    yield from re.findall(
        r'heading\("[^"]+", "([^"]+)"\)', (ROOT / "adapt/report/report.html.j2").read_text(encoding="utf-8")
    )


def test_every_heading_of_a_report_is_explained():
    page, found = (ROOT / "docs/guides/report.md").read_text(encoding="utf-8"), set(headings())
    assert len(found) > 12
    for heading in found:
        assert re.search(rf"^\|[^|]*\b{re.escape(heading)}", page, re.MULTILINE), heading


PATTERNS = ("*.md", "docs/**/*.md", "*/README.md", "checkpoints/*/README.md")
PAGES = sorted(page for pattern in PATTERNS for page in ROOT.glob(pattern))
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]


def test_links_between_documentation_pages_are_valid():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def commands(name):
    """Yield the commands in the shell blocks of a page, as lists of words."""
    text, variables = (ROOT / name).read_text(encoding="utf-8"), {}
    for block in re.findall(r"^ *```bash\n(.*?)```", text, re.MULTILINE | re.DOTALL):
        block = re.sub(r"<<'END'.*?^END$", "", block, flags=re.MULTILINE | re.DOTALL)
        lines = re.sub(r" *\\\n\s*", " ", block).splitlines()
        while lines:
            line = lines.pop(0)
            while line.count('"') % 2 and lines:  # a quotation of several lines
                line += "\n" + lines.pop(0)
            variables |= dict(re.findall(r'^(\w)="(.*)"$', line))
            for variable, value in variables.items():
                line = line.replace(f"${variable}", value)
            lexer = shlex.shlex(line, posix=True, punctuation_chars="&;")
            lexer.whitespace_split = True
            words = []
            for word in [*lexer, ";"]:
                if set(word) <= set("&;"):
                    yield words
                    words = []
                else:
                    words.append(word)


@pytest.mark.parametrize("name", NAMES)
def test_shown_commands_are_valid(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in commands(name):
        if "launch.py" in words:
            check_job(words[words.index("launch.py") + 1 :])
        if words[1:2] == ["-m"] and words[0].endswith("python"):
            assert importlib.util.find_spec(words[2]) or words[2] == "mkdocs", words
        for requirements in [words[place + 1] for place, word in enumerate(words) if word == "-r"]:
            assert (ROOT / requirements).is_file(), words
        if "pytest" in words:
            assert all((ROOT / word).exists() for word in words if word.startswith("tests/")), words


def check_job(words):
    """Fail unless launch.py accepts a job with its options and settings; `…` stands for what the page has shown."""
    if "…" in words:
        words.remove("…")
        words += ["--checkpoint=checkpoints/photos", "--support=examples", "--query=photos", "--out=sorted"]
    args, overrides = arguments.parse(words)
    config = getattr(args, "config", None)
    if config and pathlib.Path(config).is_file():
        loaded = arguments.load_config(config, overrides)
        needed = {
            "pretrain": ["pretrain"],
            "align": ["align"],
            "compile": ["pretrain"],
            "inspect": ["pretrain", "align"],
        }
        assert any(section in loaded for section in needed.get(args.job, loaded)), words
    elif config or overrides:
        names = {"mine.py", "pod.py", *re.findall(r"^# (\w+\.py)$", EXTENDING.read_text("utf-8"), re.MULTILINE)}
        assert config is None or pathlib.Path(config).name in names, config
        arguments.load_config("configs/emoji.py", overrides)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("docs/") or name == "README.md"])
def test_commands_take_the_python_of_the_environment(name):
    """Only the two commands that make it name `.venv`."""
    for words in commands(name):
        if ".venv/bin/python" in words:
            assert name == "README.md" and ("quickstart" in words or "pytest" in words), words


def test_the_readme_is_short_and_its_snippet_runs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert [line.split()[-1] for line in text.splitlines() if line.startswith("python3 -m venv .venv && .venv")] == [
        "quickstart",
        "--no-loadscope-reorder",
    ]
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code.splitlines()) == 5
    rng = np.random.default_rng(0)
    means = rng.normal(size=(3, 16))
    support_labels, query_labels = np.arange(12) % 3, np.arange(30) % 3
    names = {"support_labels": support_labels, "texts": means}
    for part, labels in (("support", support_labels), ("query", query_labels)):
        names[f"{part}_features"] = means[labels] + 0.5 * rng.normal(size=(len(labels), 16))
    exec(code, names)
    assert np.mean(np.asarray(names["labels"]) == query_labels) > 0.9


@functools.cache
def site_pages():
    """Return the module that makes parts of the reference pages of the site."""
    spec = importlib.util.spec_from_file_location("reference_pages", ROOT / "docs" / "hooks" / "reference.py")
    module = sys.modules["reference_pages"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_names_and_explains_every_job_option_and_setting():
    pages = {name: make() for name, make in site_pages().PAGES.items()}
    command_line, settings = pages["reference/command-line.md"], pages["reference/settings.md"]
    assert re.findall(r"^## (\w+)$", command_line, re.MULTILINE) == list(JOBS)
    assert "| `--topology` (required) | TPU chips such as v5e:16x16" in command_line
    for path in arguments.known_settings():
        assert f"`{'.'.join(path)}`" in settings
    assert "| `context_temperature` | `0.1` | initial divisor of the cosines in the attention." in settings
    rows = re.findall(r"^\| (.*) \|$", command_line + settings, re.MULTILINE)
    assert len(rows) > 200
    assert [row for row in rows if re.search(r"\|\s*\||\|\s*$", row)] == []  # no empty cell
    assert str(ROOT) not in command_line + settings
    methods = re.findall(r"^## (\w+)$", pages["reference/methods.md"], re.MULTILINE)
    assert methods == list(adapt.METHODS)


def test_figures_have_legible_text_and_a_description():
    """Text of at least 12 pixels, in one colour scheme of its own: on a card with a background."""
    root = ElementTree.parse(ROOT / "docs" / "figures" / "methods.svg").getroot()
    sizes = [float(each.get("font-size")) for each in root.iter() if each.get("font-size")]
    assert min(sizes) >= 12
    assert root.find("{*}title").text and root.find("{*}desc").text
    assert root.find("{*}rect").get("fill") == "#ffffff"
