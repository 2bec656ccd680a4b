"""Every benchmark explains itself and runs: its main, at a tiny size, in this process."""

import importlib
import io
import json
import pathlib
import types

import jax
import numpy as np
import pytest

from benchmarks import faults, machine, remat, side_process
from benchmarks.peers import (
    adapter_accuracy,
    adapter_speed,
    checkpoint_loading,
    embedding,
    loss,
    overheads,
    photos,
    train_step,
    train_step_cpu,
)
from benchmarks.peers.installed import missing_peers
from pretrain.compilation.devices import DescribedDevices

MODULES = [
    f"benchmarks.{'.'.join(path.relative_to(folder).with_suffix('').parts)}"
    for folder in [pathlib.Path(faults.__file__).parent]
    for path in sorted(folder.rglob("*.py"))
    if 'if __name__ == "__main__"' in path.read_text()
]
WITHOUT_OPTIONS = ("gains", "icons_page", "page", "variant_objective")  # the last one has those of launch.py
TINY = """
from ml_collections import ConfigDict
from configs.emoji import get_config as emoji
def get_config():
    config = emoji()
    config.pretrain.batch_size = 4
    for tower in (config.pretrain.vision, config.pretrain.text):
        tower.update(width=8, depth=1, heads=1, mlp_width=8)
    config.pretrain.vision.update(image_size=8, patch_size=4)
    config.pretrain.text.length = 6
    config.pretrain.tokenizer.name = "train:300"
    config.pretrain.scan_unroll = 1
    return config
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "tiny.py").write_text(TINY)
    return str(tmp_path / "tiny.py")


@pytest.fixture
def features(tmp_path):
    """A folder with features of three classes in caltech101.npz, and of 500 in imagenet_a.npz."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(500, 8)).astype(np.float32)

    def near(labels):
        return centers[labels] + 0.1 * rng.normal(size=(len(labels), 8)).astype(np.float32)

    parts = {"support": 16, "val": 4, "test": 5}
    arrays = {}
    for name, each in parts.items():
        labels = np.repeat(np.arange(3), each)
        key = "support_16" if name == "support" else name
        arrays[key] = near(labels)
        arrays["support_labels_16" if name == "support" else f"{name}_labels"] = labels
    np.savez(tmp_path / "caltech101.npz", **arrays)
    arrays = {"text": centers}
    for shots in (1, 2, 4):
        arrays[f"support_labels_{shots}"] = np.repeat(np.arange(500), shots)
        arrays[f"support_{shots}"] = near(arrays[f"support_labels_{shots}"])
    np.savez(tmp_path / "imagenet_a.npz", **arrays)
    return tmp_path


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith(WITHOUT_OPTIONS)])
def test_help_names_the_command(name, capsys):
    with pytest.raises(SystemExit) as raised:
        importlib.import_module(name).main(["--help"])
    assert raised.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m {name} ")


def test_all_benchmarks_are_found():
    assert len(MODULES) == 30 and "benchmarks.peers.train_step_cpu" in MODULES and "benchmarks.study.page" in MODULES


def test_faults_prints_a_row_per_fault_and_fails_with_them(monkeypatch, capsys):
    def lost(trial):
        raise AssertionError("a step was lost")

    chosen = {
        "held": faults.Fault(4, 2, lambda trial: "nothing lost"),
        "not held": faults.Fault(4, 2, lost),
    }
    monkeypatch.setattr(faults, "FAULTS", chosen)
    assert faults.main(["--only=held"]) == 0
    assert "| held | nothing lost | 0 |" in capsys.readouterr().out
    assert faults.main([]) == 1
    assert "| not held | FAILED: AssertionError a step was lost | 0 |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        faults.main(["--only=flood"])
    assert "unknown fault 'flood'; known: held, not held" in capsys.readouterr().err


def test_machine_measures_what_it_names():
    assert f"{machine.os.cpu_count()} cores" in machine.describe_machine("gpu") and machine.page_policy()
    before = machine.busy_seconds()
    assert machine.busy_seconds() >= before >= 0
    matrix = np.ones((16, 16), np.float32)
    assert machine.measure_peak(lambda: matrix @ matrix, 16, repeats=2) > 0


def test_a_side_process_reports_its_facts_and_measures_the_parts_it_is_asked_for(tmp_path, monkeypatch):
    (tmp_path / "side.py").write_text(
        "import os, time\nfrom benchmarks.side_process import serve\n"
        "serve({'pages': os.environ.get('GLIBC_TUNABLES')}, {'nap': lambda: time.sleep(0.05)})\n"
    )
    root = pathlib.Path(faults.__file__).parents[1]
    path = {"PYTHONPATH": f"{tmp_path}:{root}"}
    side = side_process.start_side("side", [], huge_pages=True, environment=path)
    assert side.facts == {"pages": machine.HUGE_PAGES} and side.measure("nap") >= 0.05
    side.close()
    with pytest.raises(RuntimeError, match="ended early with exit code 1"):
        side_process.start_side("no_such_module", [], huge_pages=False, environment=path)


def test_missing_peers_are_named_with_the_command_that_installs_them(monkeypatch):
    monkeypatch.setattr("benchmarks.peers.installed.find_spec", lambda name: None)
    message = missing_peers("sklearn", "faiss", requirements="requirements-bench.txt")
    assert message == (
        "error: scikit-learn and faiss are not installed (peers of this benchmark). "
        "Run `pip install -r requirements-bench.txt`."
    )
    monkeypatch.setattr("benchmarks.peers.installed.find_spec", lambda name: name)
    assert missing_peers("torch", requirements="requirements-parity.txt") is None


@pytest.mark.parametrize(
    ("module", "arguments"),
    [(embedding, []), (train_step_cpu, []), (adapter_speed, ["grid"]), (adapter_speed, ["peers"])],
)
def test_a_benchmark_without_its_peer_prints_how_to_install_it(module, arguments, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.peers.installed.find_spec", lambda name: None)
    assert module.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "not installed" in error and "Run `pip install -r requirements-" in error


def test_adapter_accuracy_prints_a_row_per_method_and_selection(features, capsys):
    given = [f"--features={features}", "--sets=caltech101", "--methods=prototypes", "--shots=1,2", "--draws=2"]
    assert adapter_accuracy.main([*given, "--settings"]) == 0
    out = capsys.readouterr().out
    assert "| prototypes | defaults | 100.0 ± 0.0 | 100.0 ± 0.0 |" in out and "| prototypes | selected | " in out


def test_adapter_accuracy_prints_transductive_methods_in_a_table_of_their_own(features, capsys):
    given = [f"--features={features}", "--sets=imagenet_a_100", "--methods=zero_shot,transductive", "--shots=1"]
    assert adapter_accuracy.main([*given, "--draws=1"]) == 0
    inductive, transductive = capsys.readouterr().out.split("imagenet_a_100, transductive")
    assert "| zero_shot | defaults | " in inductive and "transclip" not in inductive
    rows = [line.split(" | ")[:2] for line in transductive.splitlines() if line.startswith("| ")][1:]
    variants = ["defaults", "selected", "variant=zero_shot", "defaults", "selected"]
    assert rows == [
        [f"| {name}", each] for name, each in zip(["transclip"] * 3 + ["ss_text_u"] * 2, variants, strict=True)
    ]


def test_draws_of_100_classes_have_queries_of_their_own_and_uneven_ones_any_number_of_shots(features):
    even, uneven = (
        adapter_accuracy.draw_subsets(features, shots=4, draws=2, uneven=uneven) for uneven in (False, True)
    )
    for task in (*even, *uneven):
        assert task.features.shape == (1, 400, 8) and task.query.shape == (300, 8) and task.text.shape == (100, 8)
        assert not (task.features[0][:, None] == task.query).all(axis=2).any()
    assert (np.bincount(even[0].labels[0]) == 4).all()
    skewed = adapter_accuracy.draw_subsets(features, shots=4, draws=2, skewed=True)
    np.testing.assert_array_equal(skewed[1].query, even[1].query[:90])
    assert skewed[1].members.shape == (90, 100) and (skewed[1].labels == even[1].labels).all()
    counts = np.bincount(uneven[0].labels[0] + 1, minlength=101)
    assert set(counts[1:]) == {1, 2, 3, 4} and counts[0] == 400 - counts[1:].sum()


@pytest.mark.slow
def test_adapter_accuracy_prints_the_accuracy_on_classes_without_support(features, capsys):
    assert adapter_accuracy.main([f"--features={features}", "--locality", "--methods=prototypes"]) == 0
    assert "| local(prototypes) | defaults | " in capsys.readouterr().out


def test_adapter_speed_prints_the_tables_that_need_no_peer(features, monkeypatch, capsys):
    monkeypatch.setattr(adapter_speed, "SEEDS", 2)
    monkeypatch.setattr(adapter_speed, "PEAK_SIZE", 64)
    assert adapter_speed.main(["all", f"--features={features}", "--methods=zero_shot"]) == 0
    assert "| zero_shot | " in capsys.readouterr().out
    assert adapter_speed.main(["all", f"--features={features / 'nowhere'}"]) == 1
    assert "must name a folder that holds caltech101.npz" in capsys.readouterr().err
    assert adapter_speed.main(["imagenet", "--one=zero_shot", "--classes=3", "--queries=4"]) == 0
    assert capsys.readouterr().out.count(" | ") == 2
    assert (
        adapter_speed.products("transclip", classes=3, queries=4, dim=5)
        > 0
        == adapter_speed.products("gda", classes=3, queries=4, dim=5)
    )


def test_checkpoint_loading_measures_each_installed_side(monkeypatch, capsys):
    monkeypatch.setattr(checkpoint_loading, "find_spec", lambda name: None)

    def run(command, **_):
        child, folder, dtype = (word.partition("=")[2] for word in command[3:])
        assert child == "ours"
        line = json.dumps(checkpoint_loading.ours(pathlib.Path(folder), dtype))
        return types.SimpleNamespace(stdout=line + "\n")

    monkeypatch.setattr(checkpoint_loading.subprocess, "run", run)
    given = ["--variant=mu/16", "--image_size=32", "--vocab_size=100", "--repeats=1"]
    assert checkpoint_loading.main(given) == 0
    out = capsys.readouterr().out
    assert "SigLIP mu/16 at 32 px in bfloat16" in out and "| ours | " in out


@pytest.mark.parametrize("naflex", [[], ["--max_patches=5"]])
def test_embedding_measures_our_side(tmp_path, monkeypatch, capsys, naflex):
    monkeypatch.setattr(embedding, "PEAK_SIZE", 64)
    most = {"max_patches": 5 if naflex else None}
    args = types.SimpleNamespace(folder=tmp_path, variant="mu/16", image_size=32, images=2, dtype="float32", **most)
    embedding.write_checkpoint(args)
    embedding.write_photos(tmp_path / "photos", 2, shapes=[(64, 48), (20, 60)])
    monkeypatch.setattr("sys.stdin", io.StringIO("from files\ntowers\n"))
    given = [f"--folder={tmp_path}", "--variant=mu/16", "--image_size=32", "--images=2", "--child=ours", *naflex]
    assert embedding.main(given) == 0
    facts, *seconds = map(json.loads, capsys.readouterr().out.splitlines()[-3:])
    assert facts["device"] == "cpu" and len(facts["embedding"]) == 32 and len(seconds) == 2 and min(seconds) > 0


@pytest.mark.slow
def test_loss_prints_a_row_per_form(monkeypatch, capsys):
    monkeypatch.setattr(loss, "measure_peak", lambda product, size: 1e9)
    assert loss.main(["--batches=8", "--dim=4", "--repeats=1"]) == 0
    out = capsys.readouterr().out
    for form in ("ours, sigmoid", "dense JAX, sigmoid", "optax.sigmoid_binary_cross_entropy", "ours, with context"):
        assert form in out
    assert "open_clip" in out
    assert loss.main(["--batches=8", "--dim=4", "--repeats=1", "--equal_texts=positive", "--base=softmax"]) == 0
    assert "equal texts positive" in capsys.readouterr().out
    assert loss.main(["--batches=64", "--dim=4", "--repeats=1", "--seconds=0", "--base=softmax"]) == 0
    assert "not run" in capsys.readouterr().out


@pytest.mark.slow
def test_overheads_prints_both_rates(config, capsys):
    assert overheads.main([f"--config={config}", "--seconds=0.2", "--turns=1"]) == 0
    out = capsys.readouterr().out
    assert "steps/s, bare: " in out and "overhead, by medians: " in out


@pytest.mark.slow
def test_overheads_reads_the_start_times_from_the_log_of_a_run(config, tmp_path):
    given = [f"--config={config}", f"--workdir={tmp_path / 'run'}", f"--config.data_dir={tmp_path}"]
    given += [
        "--config.pretrain.steps=2",
        "--config.pretrain.optimizer.warmup_steps=1",
        "--config.pretrain.log_every=1",
    ]
    times = overheads.measure_start(given, environment={"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")})
    assert 0 < times.model < times.first_step_end and times.compiling > 0
    assert 0 < times.first_step < times.first_step_end


@pytest.mark.slow
def test_train_step_prints_the_table_of_both_objectives(monkeypatch, capsys):
    monkeypatch.setattr(train_step, "measure_peak", lambda product, size: 1e9)
    monkeypatch.setattr(train_step, "find_spec", lambda name: None)

    def start(name, child, args):
        args.child = child
        return train_step.measure_ours(name, args)

    monkeypatch.setattr(train_step, "start", start)
    assert train_step.main(["--models=tiny", "--batch=4", "--steps=1", "--dtype=float32"]) == 0
    captured = capsys.readouterr()
    assert "ours, SigLIP" in captured.out and "the context objective costs" in captured.out
    assert "note: open_clip is not installed and is left out" in captured.err
    with pytest.raises(SystemExit, match="2"):
        train_step.main(["--models=XXL"])


def test_remat_prints_a_row_per_policy(monkeypatch, capsys):
    described = DescribedDevices("local", jax.devices()[:1])
    monkeypatch.setattr(remat, "describe_devices", lambda topology: described)
    monkeypatch.setattr(remat, "compiled_peak", lambda *_, **__: "9.9 GB")
    options = ["--models=mu/16", "--topologies=local:1", "--batch=8", "--compile"]
    assert remat.main([*options, "--policies=none,save_dot_except_mlp,minimal_offloaded"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == 3 and "| none | " in rows[0] and "| 0.0% | " in rows[0] and "on the host" in rows[2]
    assert all(row.endswith("| 9.9 GB |") for row in rows)


def test_train_step_passes_its_options_to_its_sides(monkeypatch):
    monkeypatch.setattr(train_step.subprocess, "run", lambda command, **_: seen.append(command) or done)
    seen, done = [], types.SimpleNamespace(returncode=1, stderr="out of memory\n", stdout="")
    args = types.SimpleNamespace(batch=4, microbatch=None, remat="none", dtype="float32", unroll=1, steps=2)
    assert train_step.start("tiny", "plain", args) == {"failed": "out of memory"}
    assert seen[0][3:] == [
        *("--batch=4", "--remat=none", "--dtype=float32", "--unroll=1", "--steps=2", "--models=tiny", "--child=plain")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("child", ["sigmoid", "context"])
def test_train_step_cpu_measures_our_side(child, config, monkeypatch, capsys):
    monkeypatch.setattr(train_step_cpu, "PEAK_SIZE", 64)
    monkeypatch.setattr("sys.stdin", io.StringIO("steps\n"))
    assert train_step_cpu.main([f"--config={config}", "--steps=1", f"--child={child}"]) == 0
    facts, seconds = map(json.loads, capsys.readouterr().out.splitlines()[-2:])
    assert facts["parameters"] > 1000 and seconds > 0


def test_train_step_cpu_prints_the_table_of_all_rows(config, monkeypatch, capsys):
    monkeypatch.setattr(train_step_cpu, "missing_peers", lambda *modules, requirements: None)
    versions = {"torch": {"torch": "2", "transformers": "5"}}

    def start(module, options, *, huge_pages, environment):
        child = options[0].partition("=")[2]
        facts = {"versions": versions.get(child, {"jax": "0"}), "parameters": 7, "peak": 100.0}
        return types.SimpleNamespace(facts=facts, measure=lambda part: 0.5, close=lambda: None)

    monkeypatch.setattr(train_step_cpu, "start_side", start)
    assert train_step_cpu.main([f"--config={config}", "--steps=2", "--repeats=2"]) == 0
    out = capsys.readouterr().out
    assert "16 [16–16]" in out and "1.00" in out and "limit: " in out and "PyTorch eager, SigLIP loss *" in out
    assert train_step_cpu.main(["--config=nowhere.py"]) == 1


def test_photos_names_the_missing_peers(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.peers.installed.find_spec", lambda name: None)
    assert photos.main([]) == 1
    assert "PyTorch and efficientnet-lite-pytorch are not installed" in capsys.readouterr().err
