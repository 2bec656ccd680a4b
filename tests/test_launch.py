"""The command line, as a user runs it."""

import ast
import contextlib
import inspect
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

import arguments
import jobs
import launch
from cluster.runtime.exit_codes import Terminated, raise_terminated
from foundation import log
from foundation.deprecation import warn_renamed
from models.checkpoints.describe import describe_checkpoint
from models.checkpoints.io import save_checkpoint
from tests.data.shard_files import labelled, png, write_shard
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
    """A workdir after all jobs, each run as a subprocess."""
    workdir = project / "run"
    for job in ("pretrain", "export", "evaluate", "report"):
        result = run(job, f"--config={project / 'config.py'}", f"--workdir={workdir}")
        assert result.returncode == 0, result.stderr
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
def test_model_card_describes_training_and_results(project, finished):
    card = (finished / "export" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\nlicense: unknown\n")
    given = f"--config={project / 'config.py'}"
    for license in (["--license=apache-2.0"], []):  # a second export of the same weights keeps licence and results
        assert run("export", given, f"--workdir={finished}", *license).returncode == 0
        licensed = (finished / "export" / "README.md").read_text()
        assert "license: apache-2.0" in licensed and "accuracy of knn" in licensed
    half = finished / "half"
    assert run("export", given, f"--workdir={finished}", "--dtype=float16", f"--out={half}").returncode == 0
    assert describe_checkpoint(half).files.float_dtype == "float16"
    refused = run("export", given, f"--workdir={finished}", f"--out={finished}")
    assert refused.returncode == 1 and "exists and is not a checkpoint. It was not changed" in refused.stderr
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
def test_export_converts_to_npz_and_back(project, finished, tmp_path):
    given = f"--config={project / 'config.py'}"
    assert run("export", given, f"--workdir={finished}", "--format=big_vision").returncode == 0
    assert (finished / "export.npz").is_file()
    for source, target in ((finished / "export", "a.npz"), (finished / "export.npz", "b")):
        arguments = [f"--checkpoint={source}", f"--out={tmp_path / target}"]
        arguments += [f"--tokenizer={finished / 'export'}"] if source.suffix == ".npz" else []
        result = run("convert", *arguments)
        assert result.returncode == 0 and result.stdout.splitlines()[-1] == str(tmp_path / target), result.stderr
    assert (tmp_path / "a.npz").read_bytes() == (finished / "export.npz").read_bytes()
    one, other = ((folder / "model.safetensors").read_bytes() for folder in (finished / "export", tmp_path / "b"))
    assert one == other
    again = run("convert", f"--checkpoint={finished / 'export'}", f"--out={tmp_path / 'b'}")
    assert again.returncode == 1 and "b already exists. Choose another --out." in again.stderr
    failed = run("convert", f"--checkpoint={finished / 'checkpoints'}", f"--out={tmp_path / 'c'}")
    assert failed.returncode == 1 and "is not a checkpoint: it has no config.json" in failed.stderr


@pytest.mark.slow
def test_piped_progress_is_plain_lines(project, tmp_path):
    result = run("pretrain", f"--config={project / 'config.py'}", f"--workdir={tmp_path}")
    steps = [line for line in result.stdout.splitlines() if line.startswith("step")]
    assert [line.split()[1] for line in steps] == ["2/9", "4/9", "6/9", "8/9", "9/9"]
    for word in ("loss", "scale", "context scale", "temperature", "attended", "pairs/s", "left"):
        assert all(word in line for line in steps)
    assert "\r" not in result.stdout and "\x1b" not in result.stdout


def test_help_loads_no_heavy_packages():
    began = time.monotonic()
    result = run("--help")
    assert result.returncode == 0 and "quickstart" in result.stdout
    assert time.monotonic() - began < 1.0
    code = "import sys, launch; launch.parse(['quickstart']); print({'jax', 'numpy'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout.strip() == "set()"
    )
    for job in arguments.JOBS:
        expected = "--config.pretrain.steps=500 --workdir=runs/mine"
        if job in arguments.WITHOUT_CONFIG:
            expected = f"launch.py {job} --checkpoint=google/siglip-base-patch16-224 --"
        assert expected in run(job, "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretran"], "choose from"),
        (["pretran"], "Did you mean 'pretrain'?"),
        (["export", "--config=c", "--workdir=w", "--format=hugingface"], "Did you mean 'huggingface'?"),
        (["submit", "--workdir=w", "--target=slrum"], "Did you mean 'slurm'?"),
        (
            ["pretrain", "--config=configs/quickstart.py", "--workdir=w", "--wrkdir=x"],
            "unknown option --wrkdir. Did you mean '--workdir'?",
        ),
    ],
)
def test_unknown_jobs_options_and_choices_are_usage_errors(arguments, message):
    result = run(*arguments)
    assert result.returncode == 2 and message in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["pretrain", "--config=nowhere.py"],
            "/configs has evaluate.py, one_gpu.py, post_train_clip.py",
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
    assert "Known names: emoji:noto, emoji:twemoji, emoji:fluent3d, tfds:NAME" in error and "imagenet2012" in error


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
def test_a_truncated_shard_is_reported_and_used(project, tmp_path):
    path = write_shard(tmp_path / "broken.tar", labelled(60, size=(64, 64)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    given = [f"--config={project / 'config.py'}", f"--workdir={tmp_path / 'run'}"]
    result = run("pretrain", *given, f"--config.pretrain.data.sources={path},")
    assert result.returncode == 0, result.stderr
    assert "warning: 1 of 1 shards are damaged" in result.stdout and "truncated at byte" in result.stdout


@pytest.mark.slow
def test_inspect_writes_the_pages_of_a_batch(project, tmp_path):
    given = [f"--config={project / 'config.py'}", f"--workdir={tmp_path}", "--step=3", "--steps=2", "--rows=5"]
    result = run("inspect", *given)
    assert result.returncode == 0, result.stderr
    assert "batches 3 to 4 of 8 pairs" in result.stdout and "all records are usable" in result.stdout
    assert result.stdout.splitlines()[-1] == str(tmp_path / "inspect" / "step-00000003.html")
    assert (tmp_path / "inspect" / "step-00000003.png").is_file()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Folders of support and query images, and other paths that a user may pass by mistake."""
    folder = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(("few/cat", "few/cat", "few/dog", "few/dog", "one/cat", "all", "flat", "broken/cat")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{number}.png").write_bytes(png(number))
    for name in ("none", "broken/dog", "unread"):
        (folder / name).mkdir()
    (folder / "broken" / "dog" / "cut.png").write_bytes(png(1)[:200])
    (folder / "unread" / "cut.png").write_bytes(png(2)[:200])
    (folder / "file").write_text("")
    save_checkpoint(folder / "export", tiny_checkpoint("clip"))
    return folder


def test_photos_are_sorted_and_embedded_only_once(photos, tmp_path, capsys):
    given = [f"--checkpoint={photos / 'export'}", f"--support={photos / 'few'}", f"--query={photos / 'all'}"]
    given += ["--method=knn", f"--out={tmp_path / 'out'}"]
    assert launch.main(["adapt", *given, "--template={}, a pet", "--template=a {}"]) == 0
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert any(line.startswith("support 4/4  ") and "/s  00:00 left" in line for line in lines) and not output.err
    assert any(line.startswith("query 1/1  ") for line in lines) and "knn " in output.out
    assert lines[-1].endswith(f"overview in {tmp_path / 'out' / 'predictions.html'}")
    described = json.loads((tmp_path / "out" / "classifier" / "classes.json").read_text())
    assert described["templates"] == ["{}, a pet", "a {}"] and described["checkpoint"] == str(photos / "export")
    assert launch.main(["adapt", *given, "--template=none"]) == 0
    assert "support 4/4" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"support": "nowhere"}, "folder {}/nowhere does not exist. Set --support to an existing folder."),
        ({"query": "file"}, "folder {}/file does not exist. Set --query to an existing folder."),
        ({"support": "flat"}, "flat contains no class folders with images. Expected {}/flat/CLASS/IMAGE.jpg."),
        ({"support": "one"}, "only cat has readable images in {}/one, but classification needs two or more classes"),
        ({"query": "none"}, "none contains no images (.jpg, "),
        ({"out": "file"}, "file is a file. Set --out to a folder."),
        ({"out": "few"}, "--out and --support are both {}/few. Set --out to another folder."),
        ({"out": "file/deeper"}, "file is a file. Set --out to a folder."),
        ({"method": "magic"}, "unknown method 'magic'. Known: zero_shot, prototypes, "),
        ({"method": "magic"}, "Use auto to compare the training-free methods."),
        (
            {"method": "zero_shot", "template": "none"},
            "zero_shot needs class texts. Leave out --template=none, or use another --method.",
        ),
        (
            {"template": "a photo"},
            "template 'a photo' has no {{}} for the class name. Write for example 'a photo of a {{}}.'",
        ),
        ({"template": "{{0"}, "template '{{0' has no {{}} for the class name"),
        ({}, "nowhere is not a checkpoint"),
        (
            {"support": "broken", "checkpoint": "export"},
            "only cat has readable images in {}/broken, but classification needs two",
        ),
        ({"query": "unread", "checkpoint": "export"}, "{}/unread has no readable image (1 unreadable). "),
    ],
)
def test_invalid_photo_options_are_one_sentence(photos, tmp_path, capsys, arguments, message):
    out = photos / arguments["out"] if "out" in arguments else tmp_path / "out"
    folders = {"support": "few", "query": "all", "checkpoint": "nowhere"} | arguments
    given = [f"--{name}={photos / folders[name]}" for name in ("support", "query", "checkpoint")] + [f"--out={out}"]
    given += [f"--{name}={arguments[name].format()}" for name in ("method",) if name in arguments]
    given += [f"--template={arguments['template'].replace('{{', '{')}"] if "template" in arguments else []
    assert launch.main(["adapt", *given]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message.format(photos) in error
    assert not (out / "predictions.csv").exists()
    unread = "checkpoint" in arguments
    assert (out / "left_out.csv").exists() == unread and (not unread or "cut.png" in (out / "left_out.csv").read_text())


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


# job → function, and an option list that parses
FUNCTIONS = {
    "pretrain": (jobs.pretrain, ["--config=c", "--workdir=w"]),
    "export": (jobs.export, ["--config=c", "--workdir=w"]),
    "evaluate": (jobs.evaluate, ["--workdir=w"]),
    "report": (jobs.report, ["--workdir=w"]),
    "quickstart": (jobs.quickstart, []),
    "inspect": (jobs.inspect_data, ["--config=c", "--workdir=w"]),
    "compile": (jobs.compile_step, ["--config=c", "--topology=local:2"]),
    "submit": (jobs.submit, ["--target=local", "--workdir=w"]),
    "adapt": (jobs.sort_photos, ["--checkpoint=c", "--support=s", "--query=q", "--out=o"]),
    "embed": (jobs.embed, ["--checkpoint=c", "--out=o"]),
    "convert": (jobs.convert, ["--checkpoint=c", "--out=o"]),
}


@pytest.mark.parametrize("job", arguments.JOBS)
def test_options_and_function_parameters_have_the_same_defaults(job):
    assert FUNCTIONS.keys() == launch.RUN.keys() == arguments.JOBS.keys()
    function, given = FUNCTIONS[job]
    args, _ = arguments.parse([job, *given])
    values = vars(args) | ({"jobs": tuple(args.jobs.split(","))} if job == "submit" else {})
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not parameter.empty and name not in ("config_path", "overrides", "job_options")
    }
    assert defaults == {name: values[name] for name in defaults}


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
    assert arguments.find_config("configs/quickstart.py") == str(ROOT / "configs" / "quickstart.py")
    assert arguments.load_config(arguments.parse(["quickstart"])[0].config, []).pretrain.steps > 0
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.py").write_text("")
    assert arguments.find_config("configs/quickstart.py") == "configs/quickstart.py"  # a file of the user comes first


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
