"""Jobs of the command line, as a user runs them."""

import contextlib
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

import launch
from cluster.runtime.exit_codes import Terminated, raise_terminated
from foundation import log
from models.checkpoints.describe import describe_checkpoint
from models.checkpoints.io import save_checkpoint
from tests.data.shard_files import labelled, write_shard
from tests.models.tiny_models import tiny_checkpoint
from tests.pretrain.tiny import config

ROOT = pathlib.Path(__file__).parents[1]


def run(*arguments, **environment):
    """Run launch.py in a subprocess."""
    command = [sys.executable, str(ROOT / "launch.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, cwd=ROOT)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with a shard and a config that all jobs use."""
    folder = tmp_path_factory.mktemp("project")
    shard = str(write_shard(folder / "s.tar", labelled(30)))
    sections = {
        "data_dir": str(folder / "data"),
        "pretrain": config(shard),
        "evaluate": {
            "datasets": (shard,),
            "retrieval": (shard,),
            "shots": (1, 2),
            "seeds": 2,
            "methods": ("zero_shot", "knn"),
            "min_examples": 4,
            "caption": "first",
        },
    }
    (folder / "config.py").write_text(
        f"from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({sections!r})\n"
    )
    return folder


@pytest.fixture(scope="module")
def finished(project):
    """A workdir after all jobs, each run as a subprocess; their output is in the project's folder."""
    workdir = project / "run"
    for job in ("pretrain", "export", "evaluate", "report"):
        result = run(job, f"--config={project / 'config.py'}", f"--workdir={workdir}")
        assert result.returncode == 0, result.stderr
        (project / f"{job}.log").write_text(result.stdout)
    assert result.stdout.splitlines()[-1] == str(workdir / "report.html")
    return workdir


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A workdir with an exported checkpoint of random towers."""
    workdir = tmp_path_factory.mktemp("exported")
    save_checkpoint(workdir / "export", tiny_checkpoint("siglip"))
    return workdir


@pytest.mark.slow
def test_every_job_writes_the_files_that_the_help_lists(finished):
    written = {path.name for path in finished.iterdir()}
    assert {"checkpoints", "metrics.jsonl", "tensorboard", "tokenizer", "export", "evaluation"} <= written
    assert {"report.html", "report.csv", "jobs.jsonl"} <= written
    done = [json.loads(line) for line in (finished / "jobs.jsonl").read_text().splitlines()]
    assert [line["job"] for line in done] == ["pretrain", "export", "evaluate"]
    assert not [path for path in finished.rglob("*") if "partial" in path.name]


@pytest.mark.slow
def test_model_card_describes_training_and_results(project, finished, capsys):
    card = (finished / "export" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\nlicense: unknown\n")
    given = f"--config={project / 'config.py'}"
    for license in (["--license=apache-2.0"], []):  # a second export of the same weights keeps licence and results
        assert launch.main(["export", given, f"--workdir={finished}", *license]) == 0
        licensed = (finished / "export" / "README.md").read_text()
        assert "license: apache-2.0" in licensed and "accuracy of knn" in licensed
    half = finished / "half"
    assert launch.main(["export", given, f"--workdir={finished}", "--dtype=float16", f"--out={half}"]) == 0
    assert describe_checkpoint(half).files.float_dtype == "float16"
    assert launch.main(["export", given, f"--workdir={finished}", f"--out={finished}"]) == 1
    assert "exists and is not a checkpoint. It was not changed" in capsys.readouterr().err
    assert "pipeline_tag: zero-shot-image-classification" in card and "model = SiglipModel.from_pretrained" in card
    for line in (
        "| steps | 9 of 8 pairs, 72 pairs in all |",
        "s.tar: 30 samples (fingerprint",
        "sigmoid loss (SigLIP)",
    ):
        assert line in card
    rows = [json.loads(line) for line in (finished / "evaluation" / "results.jsonl").read_text().splitlines()]
    knn = [row["value"] for row in rows if row["method"] == "knn" and row["shots"] == 2]
    shown = next(line for line in card.splitlines() if "accuracy of knn" in line)
    low, high = (100 * value for value in (min(knn), max(knn)))
    assert f"| {50 * sum(knn):.1f} ({low:.1f}–{high:.1f}) % |" in shown
    assert "2 shots, 2 seeds, mean and (lowest–highest)" in shown
    assert str(project) not in card


@pytest.mark.slow
def test_export_converts_to_npz_and_back(project, finished, tmp_path, capsys):
    given = f"--config={project / 'config.py'}"
    assert launch.main(["export", given, f"--workdir={finished}", "--format=big_vision"]) == 0
    assert (finished / "export.npz").is_file()
    for source, target in ((finished / "export", "a.npz"), (finished / "export.npz", "b")):
        arguments = [f"--checkpoint={source}", f"--out={tmp_path / target}"]
        arguments += [f"--tokenizer={finished / 'export'}"] if source.suffix == ".npz" else []
        assert launch.main(["convert", *arguments]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / target)
    assert (tmp_path / "a.npz").read_bytes() == (finished / "export.npz").read_bytes()
    one, other = ((folder / "model.safetensors").read_bytes() for folder in (finished / "export", tmp_path / "b"))
    assert one == other
    assert launch.main(["convert", f"--checkpoint={finished / 'export'}", f"--out={tmp_path / 'b'}"]) == 1
    assert "b already exists. Choose another --out." in capsys.readouterr().err
    assert launch.main(["convert", f"--checkpoint={finished / 'checkpoints'}", f"--out={tmp_path / 'c'}"]) == 1
    assert "is not a checkpoint: it has no config.json" in capsys.readouterr().err


@pytest.mark.slow
def test_piped_progress_is_plain_lines(project, finished):
    output = (project / "pretrain.log").read_text()
    steps = [line for line in output.splitlines() if line.startswith("step")]
    assert [line.split()[1] for line in steps] == ["2/9", "4/9", "6/9", "8/9", "9/9"]
    for word in ("loss", "scale", "context scale", "temperature", "attended", "pairs/s", "left"):
        assert all(word in line for line in steps)
    assert "\r" not in output and "\x1b" not in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["pretrain", "--config=nowhere.py"],
            "/configs has align.py, emoji.py, evaluate.py, gpu_24gb.py, gpu_2x8x80gb.py",
        ),
        (
            ["pretrain", "--config.pretrain.stepz=3"],
            "no setting is named 'stepz'. Did you mean 'steps'? Known: attention, augmentation, batch_size",
        ),
        (
            ["pretrain", "--config.pretrain.objectve.alpha=1"],
            "no section is named 'objectve'. Did you mean 'objective'? Known: augmentation",
        ),
        (
            ["pretrain", "--config.pretrain.optimizer.clip_norm=None"],
            "optimizer.clip_norm is None; it must be a number",
        ),
        (
            ["pretrain", "--config.pretrain.objective.block_size=1e3"],
            "objective.block_size is 1000.0; it must be a positive whole number or None",
        ),
        (
            ["pretrain", "--config.pretrain.mesh.rules=('kernel$','fsdp')"],
            "mesh.rules[0] is 'kernel$'; it must be a pair of a pattern and a tuple of axes",
        ),
        (["pretrain", "--config=quikstart.py"], "no config file quikstart.py in "),
        (["pretrain", "--config=quikstart.py"], "Did you mean 'quickstart.py'?"),
        (
            ["pretrain", "--config.pretrain.seed=-1"],
            "pretrain.seed is -1; it must be a whole number from 0 to 2**63 - 1",
        ),
        (["pretrain", f"--config.pretrain.seed={10**30}"], "it must be a whole number from 0 to 2**63 - 1"),
        (["pretrain", "--config.pretrain.optimizer.frozen=None"], "frozen rule 'None' matches no parameter"),
        (["evaluate", "--methods="], "evaluate.methods is empty, and evaluate.tasks"),
        (["evaluate", "--tasks="], "evaluate.tasks is empty. Choose from zero_shot, few_shot"),
        (["evaluate", "--checkpoint=,"], "--checkpoint names no checkpoint. Write --checkpoint=PATH"),
        (["evaluate", "--shard=²/3"], "--shard=²/3 is not a shard"),
        (["pretrain", "--config.pretrain.mesh.fsdp=3"], "mesh.fsdp 3 does not divide the 1 devices. Use one of 1."),
        (["pretrain", "--config.pretrain.mesh.fsdp=all"], "pretrain.mesh.fsdp is 1 and cannot become 'all'"),
        (["pretrain", "--config.pretrain.microbatch_size=3"], "microbatch_size 3 does not split batch_size 8"),
        (["pretrain", "--config.pretrain.optimizer.frozen=visual"], "frozen rule 'visual' matches no parameter"),
        (["pretrain", "--config.pretrain.steps=many"], "pretrain.steps is 9 and cannot become 'many'"),
        (["pretrain", "--config.pretrain.steps"], "has no value"),
        (
            ["pretrain", "--config.pretrain.objective.base=triplet"],
            "unknown objective.base 'triplet'. Known: sigmoid, softmax",
        ),
        (["pretrain", "--config.pretrain.data.sources=nothing*.tar"], "no file matches 'nothing*.tar'"),
        (
            ["pretrain", "--config.pretrain.data.sources=emoji:apple"],
            "unknown emoji artist 'apple'. Known: noto, twemoji, fluent3d",
        ),
        (["export"], "contains no run. Start one with `launch.py pretrain"),
        (["evaluate"], "run/export is not a checkpoint: there is no such file or folder"),
        (["evaluate", "--config.evaluate.methods=zero_shot,magic"], "unknown method 'magic'. Known: zero_shot"),
        (
            ["evaluate", "--config.evaluate.shots=1,1"],
            "evaluate.shots (1, 1) contains a number twice. Remove one of the two.",
        ),
        (["evaluate", "--shard=2/2"], "shard 2/2 does not exist. Write --shard=i/n with i from 0 to n − 1."),
        (["evaluate", "--shard=half"], "--shard=half is not a shard. Write --shard=i/n, such as 0/4."),
        (["report"], "has no results.jsonl. Run `launch.py evaluate` to write it."),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_1(project, tmp_path, capsys, arguments, message):
    config_given = any(argument.startswith("--config=") for argument in arguments)
    given = [*arguments, f"--workdir={tmp_path / 'run'}"] + (
        [] if config_given else [f"--config={project / 'config.py'}"]
    )
    assert launch.main(given) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error


def test_a_platform_that_jax_lacks_is_one_sentence(project, tmp_path, monkeypatch, capsys):
    def unavailable(args, config):
        raise RuntimeError("Unable to initialize backend 'nonsense': Backend 'nonsense' is not known.\nmore")

    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    monkeypatch.setitem(launch.RUN, "export", unavailable)
    assert launch.main(["export", f"--config={project / 'config.py'}", f"--workdir={tmp_path}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: JAX cannot use JAX_PLATFORMS='nonsense' (Unable to") and error.count("\n") == 1
    assert error.endswith("Unset the variable, or set it to cpu.\n")


def test_names_with_control_characters_and_bytes_are_printed_escaped(project, tmp_path, capsys):
    given = ["report", f"--config={project / 'config.py'}"]
    assert launch.main([*given, f"--workdir={tmp_path}/a\x1b[2J\u2028b"]) == 1
    assert r"a\x1b[2J\u2028b/evaluation has no results.jsonl" in capsys.readouterr().err
    assert launch.main([*given, f"--workdir={tmp_path}/caf\udce9"]) == 1
    assert r"caf\udce9 is not valid UTF-8. Rename" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        launch.main([*given, f"--workdir={tmp_path}", "--\x1b[2J"])
    assert "\x1b" not in capsys.readouterr().err


def test_unknown_dataset_lists_the_known_ones(project, exported, capsys):
    given = ["evaluate", f"--config={project / 'config.py'}", f"--workdir={exported}"]
    assert launch.main([*given, "--datasets=imagenet,"]) == 1
    error = capsys.readouterr().err
    assert "no file matches 'imagenet'. Did you mean 'imagenet_" in error
    assert "Known names: emoji:noto, emoji:twemoji, emoji:fluent3d, icons:train" in error and "imagenet2012" in error


def test_missing_datasets_are_listed_with_the_command_that_prepares_them(exported, tmp_path, capsys):
    given = ["evaluate", f"--checkpoint={exported / 'export'}", f"--workdir={tmp_path}", f"--data_dir={tmp_path}"]
    assert launch.main([*given, "--datasets=dtd,digits,ucf101"]) == 1
    output, error = capsys.readouterr()
    lines = [line for line in output.splitlines() if line.startswith("missing: ")]
    assert any("dtd" in line and "download_and_prepare()" in line for line in lines)
    assert any("ucf101" in line and "UCF-101-midframes" in line for line in lines)
    assert f"error: dtd, ucf101 not found in {tmp_path}. Run the commands above, or set --data_dir" in error


@pytest.mark.slow
def test_evaluation_without_a_config_takes_several_checkpoints(finished, tmp_path, capsys):
    given = [f"--checkpoint=a={finished / 'export'},b={finished / 'export'}", f"--workdir={tmp_path}"]
    given += [f"--data_dir={tmp_path}", "--datasets=digits", "--shots=1", "--seeds=1", "--methods=zero_shot,knn"]
    assert launch.main(["evaluate", *given]) == 0
    assert launch.main(["report", f"--workdir={tmp_path}"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "evaluation/results.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["task"] != "baseline"]
    values = {name: [row["value"] for row in rows if row["checkpoint"] == name] for name in ("a", "b")}
    assert values["a"] == values["b"] and len(values["a"]) == 4  # zero-shot with two ensembles, and two methods


@pytest.mark.parametrize("workdir", ["/proc/nothing/here", "{file}/run"])
def test_unwritable_workdir_is_named(project, tmp_path, capsys, workdir):
    (tmp_path / "file").write_text("")
    workdir = workdir.format(file=tmp_path / "file")
    assert launch.main(["pretrain", f"--config={project / 'config.py'}", f"--workdir={workdir}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and workdir.split("/")[1] in error and error.count("\n") == 1


def test_sigterm_that_an_import_turns_into_another_error_exits_with_75(project, tmp_path, monkeypatch, capsys):
    def interrupted(args, config):
        try:
            raise_terminated(signal.SIGTERM, None)
        except Terminated as error:
            raise ImportError("initialization failed") from error

    monkeypatch.setitem(launch.RUN, "export", interrupted)
    monkeypatch.setattr(Terminated, "received", False)
    assert launch.main(["export", f"--config={project / 'config.py'}", f"--workdir={tmp_path}"]) == 75
    assert capsys.readouterr().err == "received SIGTERM; run the same command to resume from the last checkpoint\n"


@pytest.mark.slow
def test_a_shard_of_damaged_images_is_one_sentence(project, tmp_path):
    samples = [(key, image[:90], fields) for key, image, fields in labelled(16, size=(64, 64))]
    path = write_shard(tmp_path / "broken.tar", samples)
    given = [f"--config={project / 'config.py'}", f"--workdir={tmp_path / 'run'}"]
    result = run("pretrain", *given, f"--config.pretrain.data.sources={path},")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr and result.stderr.count("error: ") == result.stderr.count("\n") == 1
    assert (
        "none of the 32 records tried for one row of a batch can be used" in result.stderr
        and "broken.tar" in result.stderr
    )


@pytest.mark.slow
def test_a_truncated_shard_is_reported_and_used(project, tmp_path, capsys):
    path = write_shard(tmp_path / "broken.tar", labelled(60, size=(64, 64)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    given = [f"--config={project / 'config.py'}", f"--workdir={tmp_path / 'run'}"]
    assert launch.main(["pretrain", *given, f"--config.pretrain.data.sources={path},"]) == 0
    output = capsys.readouterr().out
    assert "warning: 1 of 1 shards are damaged" in output and "truncated at byte" in output


@pytest.mark.slow
def test_inspect_writes_the_pages_of_a_batch(project, tmp_path, capsys):
    given = [f"--config={project / 'config.py'}", f"--workdir={tmp_path}", "--step=3", "--steps=2", "--rows=5"]
    assert launch.main(["inspect", *given]) == 0
    output = capsys.readouterr().out
    assert "batches 3 to 4 of 8 pairs" in output and "all records are usable" in output
    assert output.splitlines()[-1] == str(tmp_path / "inspect" / "step-00000003.html")
    assert (tmp_path / "inspect" / "step-00000003.png").is_file()


def processes_of(group):
    """Return the running processes of a process group."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, pgrp = path.read_text().rpartition(")")[2].split()[:3]
            if int(pgrp) == group and state != "Z":
                found.append(path.parent.name)
    return found


@pytest.mark.slow
@pytest.mark.skipif(
    not pathlib.Path("/proc/self/stat").exists(), reason="/proc, which lists processes, does not exist on this system"
)
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_process_outlives_a_run(project, tmp_path, ending):
    given = [f"--config={project / 'config.py'}", f"--workdir={tmp_path / 'run'}"]
    given += ["--config.pretrain.steps=100000", "--config.pretrain.data.workers=2"]
    terminal = ["env", "--default-signal=INT"]  # shells make background jobs ignore SIGINT
    command = [*terminal, sys.executable, str(ROOT / "launch.py"), "pretrain", *given]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)
        deadline = time.monotonic() + 120
        while "\nstep" not in (tmp_path / "log").read_text():
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        assert len(processes_of(process.pid)) >= 3
        if ending == signal.SIGINT:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            assert process.wait(60) == 130, (tmp_path / "log").read_text()
            assert "Traceback" not in (tmp_path / "log").read_text()
        else:
            process.kill()
            process.wait()
        while processes_of(process.pid):
            assert time.monotonic() < deadline, processes_of(process.pid)
            time.sleep(0.1)


@pytest.mark.parametrize(("option", "level"), [("--verbose", logging.DEBUG), ("--quiet", logging.WARNING)])
def test_log_level_follows_the_option(project, tmp_path, monkeypatch, capsys, option, level):
    def logs(args, config):
        logging.getLogger("pretrain.train").debug("a detail")
        logging.getLogger("pretrain.train").info("a step")
        logging.getLogger("pretrain.train").warning("a problem")

    monkeypatch.setitem(launch.RUN, "export", logs)
    try:
        assert launch.main(["export", f"--config={project / 'config.py'}", f"--workdir={tmp_path}", option]) == 0
    finally:
        log.configure()
    expected = ["a detail", "a step", "warning: a problem"]
    assert capsys.readouterr().out.splitlines() == expected[0 if level == logging.DEBUG else 2 :]
