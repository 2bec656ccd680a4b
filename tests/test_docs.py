"""The examples of the documentation run, and its links and headings are complete."""

import ast
import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import launch
from adapt.adapters.registry import METHODS
from models.checkpoints.io import save_checkpoint
from pretrain.losses.contrastive import PAIRWISE_LOSSES, Scales, base_loss
from pretrain.losses.equal_texts import EqualTexts
from pretrain.monitoring.metric_writer import read_metrics
from tests.data.shard_files import labelled, write_shard
from tests.models.tiny_models import tiny_checkpoint

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """A folder with the example files of docs/EXTENDING.md, shards and a checkpoint."""
    folder = tmp_path_factory.mktemp("examples")
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", (ROOT / "docs/EXTENDING.md").read_text(), re.DOTALL)
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
    page, found = (ROOT / "docs/REPORT.md").read_text(encoding="utf-8"), set(headings())
    assert len(found) > 12
    for heading in found:
        assert re.search(rf"^\|[^|]*\b{re.escape(heading)}", page, re.MULTILINE), heading


def test_links_between_documentation_pages_are_valid():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
