"""Submissions quote every word of a command, and wrong input is rejected before anything is submitted."""

import dataclasses
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
import yaml

import configs
import launch
from cluster.config import SkyPilotSettings, SlurmSettings, SubmitSettings
from cluster.job_array import plan_tasks, point_names
from cluster.submission import Submission, submit
from cluster.submit import prepare
from tests.cluster.submitted import HOSTILE, SETTINGS
from tests.data.shard_files import labelled, write_shard
from tests.pretrain.tiny import config


def tasks_of(*jobs, **named):
    return plan_tasks(jobs, config="configs/mine.py", workdir=pathlib.Path("/runs/x"), **named)


def words_after(text: str, start: str) -> list[list[str]]:
    """Return the words of each line that begins with `start`, split as a shell does."""
    return [shlex.split(line) for line in text.splitlines() if line.startswith(start)]


def test_slurm_script_contains_the_commands_verbatim(tmp_path):
    arguments = {"export": [f"--license={HOSTILE}"]}
    tasks = tasks_of("pretrain", "export", overrides=["--config.pretrain.steps=5"], arguments=arguments)
    prepared = prepare("slurm", tasks, SETTINGS, workdir=tmp_path)
    [(path, text)] = prepared.files.items()
    assert path == tmp_path / "submit" / "siglip-b16.sbatch" and prepared.commands == [["sbatch", str(path)]]
    for line in ("nodes=2", "ntasks-per-node=8", "gpus-per-node=8", "partition=gpu", "requeue", "signal=TERM@120"):
        assert f"#SBATCH --{line}\n" in text
    train, export = words_after(text, "srun ")
    same = ["--config=configs/mine.py", "--workdir=/runs/x", "--config.pretrain.steps=5"]
    assert train[:3] == ["srun", "--kill-on-bad-exit=0", "--cpus-per-task=12"] and train[-4:] == ["pretrain", *same]
    assert export[3:5] == ["--nodes=1", "--ntasks=1"] and export[-5:] == ["export", *same, f"--license={HOSTILE}"]
    assert text.index("module load cuda") < text.index("srun ")
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


def test_sweep_points_and_evaluation_shards_become_a_job_array(tmp_path):
    points = configs.grid({"pretrain.seed": (0, 1), "pretrain.optimizer.learning_rate": (1e-3, 3e-4)})
    tasks = tasks_of("pretrain", points=points)
    assert [task.name for task in tasks] == [
        "seed=0,learning_rate=0.001",
        "seed=0,learning_rate=0.0003",
        "seed=1,learning_rate=0.001",
        "seed=1,learning_rate=0.0003",
    ]
    assert "--config.pretrain.optimizer.learning_rate=0.0003" in tasks[1].commands[0].arguments
    assert "--workdir=/runs/x/seed=0,learning_rate=0.0003" in tasks[1].commands[0].arguments
    [text] = prepare("slurm", tasks, SETTINGS, workdir=tmp_path).files.values()
    assert "#SBATCH --array=0-3%4\n" in text and "3) # seed=1,learning_rate=0.0003\n" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    shards = tasks_of("evaluate", num_shards=3)
    assert [task.name for task in shards] == ["shard-0", "shard-1", "shard-2"]
    assert [task.commands[0].arguments[-1] for task in shards] == ["--shard=0/3", "--shard=1/3", "--shard=2/3"]


def test_point_names_are_unique_and_safe_folder_names():
    assert point_names([{"a.b": 1, "c.b": 2}, {"a.b": 1, "c.b": 3}]) == ["a.b=1,c.b=2", "a.b=1,c.b=3"]
    assert point_names([{"pretrain.data.sources": ("../x", "y z")}]) == ["sources=__.._x____y_z__"]
    alike = point_names([{"a.b": "x y"}, {"a.b": "x/y"}, {"a.b": "x" * 400}, {"a.b": "z"}])
    assert len(set(alike)) == 4 and alike[0].startswith("b=x_y,") and alike[3] == "b=z" and max(map(len, alike)) < 200
    with pytest.raises(ValueError, match=r"get_sweep\(\) returns the point {'pretrain.seed': 1} twice"):
        point_names([{"pretrain.seed": 1}, {"pretrain.seed": 1}])


def test_gke_workloads_are_xpk_commands(tmp_path):
    tame = "".join(sorted(set(HOSTILE) - set("\"'\\")))
    tasks = tasks_of("pretrain", overrides=[f"--config.data_dir={tame}"])
    [command] = prepare("gke", tasks, SETTINGS, workdir=tmp_path).commands
    assert command[:3] == ["xpk", "workload", "create"] and "--tpu-type=v5litepod-256" in command
    assert {"--workload=siglip-b16", "--restart-on-exit-codes=75,76", "--num-slices=1"} <= set(command)
    [line] = [word.removeprefix("--command=") for word in command if word.startswith("--command=")]
    assert shlex.split(line)[:5] == ["cd", "/app", "&&", "exec", "python3"]
    assert shlex.split(line)[-1] == f"--config.data_dir={tame}"
    with pytest.raises(ValueError, match=r"it puts the command in double quotes\. Remove quotes and backslashes"):
        prepare("gke", tasks_of("pretrain", overrides=[f"--config.x={HOSTILE}"]), SETTINGS, workdir=tmp_path)
    several = prepare("gke", tasks_of("evaluate", num_shards=2), SETTINGS, workdir=tmp_path).commands
    assert [word for command in several for word in command if word.startswith("--workload=")] == [
        "--workload=siglip-b16-0",
        "--workload=siglip-b16-1",
    ]


def test_tpu_vms_get_a_startup_script(tmp_path):
    tasks = tasks_of("pretrain", overrides=[f"--config.data_dir={HOSTILE}"])
    prepared = prepare("tpu-vm", tasks, SETTINGS, workdir=tmp_path)
    [(path, text)] = prepared.files.items()
    [command] = prepared.commands
    assert command[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "siglip-b16"]
    assert {"--accelerator-type=v5litepod-256", "--runtime-version=v2-alpha-tpuv5-lite", "--spot"} <= set(command)
    assert {"--node-id=siglip-b16", f"--metadata-from-file=startup-script={path}"} <= set(command)
    assert words_after(text, "python3 ")[0][-1] == f"--config.data_dir={HOSTILE}"
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    assert any("delete" in hint for hint in prepared.hints)


@pytest.mark.parametrize(("codes", "ends_with"), [((75, 76, 0), 0), ((75, 1, 0), 1), ((0,), 0)])
def test_tpu_vm_restarts_a_job_that_was_preempted_or_lost_a_peer(tmp_path, codes, ends_with):
    for number, code in enumerate(codes):
        (tmp_path / f"code-{number}").write_text(str(code))
    job = "n=$(cat ran 2>/dev/null | wc -l); echo $2 >> ran; exit $(cat code-$n)"
    (tmp_path / "python").write_text(f"#!/bin/bash\n{job}\n")
    (tmp_path / "sleep").write_text("#!/bin/bash\n")  # no time is lost here
    for name in ("python", "sleep"):
        (tmp_path / name).chmod(0o755)
    settings = dataclasses.replace(SETTINGS.tpu_vm, folder=str(tmp_path), setup=(f"export PATH={tmp_path}:$PATH",))
    own = dataclasses.replace(SETTINGS, python=str(tmp_path / "python"), tpu_vm=settings)
    [text] = prepare("tpu-vm", tasks_of("pretrain"), own, workdir=tmp_path).files.values()
    assert subprocess.run(["bash"], input=text, text=True).returncode == ends_with
    assert (tmp_path / "ran").read_text().split() == ["pretrain"] * (codes.index(ends_with) + 1)


def test_skypilot_task_is_a_yaml_file(tmp_path):
    tasks = tasks_of("pretrain", "export", overrides=[f"--config.data_dir={HOSTILE}"])
    prepared = prepare("skypilot", tasks, SETTINGS, workdir=tmp_path)
    [(path, text)] = prepared.files.items()
    assert path == pathlib.Path("runs/submit/siglip-b16.yaml")  # in the current directory, wherever the workdir is
    page = yaml.safe_load(text)
    recovery = {"recover_on_exit_codes": [75]}
    asked = {"accelerators": "H100:8", "use_spot": True, "job_recovery": recovery}
    assert page["num_nodes"] == 2 and page["resources"] == asked
    assert page["file_mounts"] == {"/runs": {"source": "s3://b/runs", "mode": "MOUNT"}}
    assert words_after(page["run"], "python3 ")[0][-1] == f"--config.data_dir={HOSTILE}"
    assert 'if [ "$SKYPILOT_NODE_RANK" = 0 ]; then python3 launch.py export' in page["run"]
    assert prepared.commands[0][-1] == str(path) and "jax[cuda12]" in page["setup"]
    several = prepare("skypilot", tasks_of("evaluate", num_shards=2), SETTINGS, workdir=tmp_path)
    cancelled = [hint[-1] for hint in several.hints if "cancel" in hint]
    assert cancelled == [yaml.safe_load(text)["name"] for text in several.files.values()]


@pytest.mark.parametrize(
    ("target", "settings", "message"),
    [
        ("lsf", SETTINGS, r"unknown --target 'lsf'\. Known: local, slurm, gke, tpu-vm, skypilot"),
        ("gke", SubmitSettings(), r"submit\.gke\.cluster is not set\. Add --config\.submit\.gke\.cluster=VALUE\."),
        ("tpu-vm", SubmitSettings(), r"submit\.tpu_vm\.zone is not set"),
        ("skypilot", SubmitSettings(), r"submit\.skypilot\.accelerators is not set"),
    ],
)
def test_unknown_targets_and_missing_settings_are_named(tmp_path, target, settings, message):
    with pytest.raises(ValueError, match=message):
        prepare(target, tasks_of("pretrain"), settings, workdir=tmp_path)


def test_invalid_submissions_raise(tmp_path):
    with pytest.raises(
        ValueError, match="tpu-vm runs the same command on every host, and only pretrain may run on all of them"
    ):
        prepare("tpu-vm", tasks_of("pretrain", "export"), SETTINGS, workdir=tmp_path)
    with pytest.raises(
        ValueError,
        match=r"unknown job in --jobs 'quickstart'\. Known: pretrain, align, export, evaluate, report, embed",
    ):
        tasks_of("quickstart")
    with pytest.raises(ValueError, match="--num_shards=2 splits evaluate or embed, and --jobs is pretrain"):
        tasks_of("pretrain", num_shards=2)
    with pytest.raises(ValueError, match="contains a line break"):
        tasks_of("pretrain", overrides=["--config.x=a\nrm -r /"])
    with pytest.raises(ValueError, match=r"--shard cannot be submitted: each task gets its own\. Use --num_shards=N\."):
        tasks_of("evaluate", arguments={"evaluate": ["--shard=0/2"]})
    with pytest.raises(
        ValueError, match=r"submit\.slurm\.partition is 'a\\nrm -r /'\. It must not contain line breaks"
    ):
        SubmitSettings(slurm=SlurmSettings(partition="a\nrm -r /"))
    with pytest.raises(ValueError, match=r"submit\.slurm\.options is .*\. It must not contain line breaks"):
        SubmitSettings(slurm=SlurmSettings(options=(("reservation", "a\nb"),)))
    with pytest.raises(
        ValueError,
        match=r"submit\.slurm\.options is \('reservation', 'mine'\)\. It must be a sequence of pairs, such as",
    ):
        SubmitSettings(slurm=SlurmSettings(options=("reservation", "mine")))
    with pytest.raises(
        ValueError, match=r"submit\.skypilot\.mounts is \('/runs', 's3://b'\)\. It must be a sequence of pairs, such as"
    ):
        SkyPilotSettings(mounts=("/runs", "s3://b"))
    with pytest.raises(ValueError, match=r"submit\.name is 'A B'"):
        SubmitSettings(name="A B")


def test_commands_run_without_a_shell_until_the_first_failure(tmp_path, said):
    show = [
        sys.executable,
        "-c",
        "import sys; open(sys.argv[1], 'w').write(sys.argv[2])",
        str(tmp_path / "out"),
        HOSTILE,
    ]
    fails = [sys.executable, "-c", "raise SystemExit(3)"]
    prepared = Submission(
        {tmp_path / "submit" / "file": "text\n"}, [show, fails, [*show[:-2], str(tmp_path / "no"), ""]]
    )
    assert submit(prepared, dry_run=True) == 0 and not list(tmp_path.iterdir())
    assert {shlex.join(show), "text", f"— {tmp_path / 'submit' / 'file'}"} <= set(said)
    assert submit(prepared, dry_run=False) == 3
    assert (tmp_path / "submit" / "file").read_text() == "text\n"
    assert (tmp_path / "out").read_text() == HOSTILE and not (tmp_path / "no").exists()
    with pytest.raises(
        ValueError, match=r"sbatch-x is not installed\. Install it, or use --dry_run to see its commands"
    ):
        submit(Submission({}, [show, ["sbatch-x"]]), dry_run=False)


@pytest.fixture
def project(tmp_path):
    shard = str(write_shard(tmp_path / "s.tar", labelled(20)))
    sections = {"data_dir": str(tmp_path), "pretrain": config(shard, steps=2)}
    (tmp_path / "config.py").write_text(
        f"from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({sections!r})\n"
        "def get_sweep():\n    return [{'pretrain.seed': 0}, {'pretrain.seed': 1}]\n"
    )
    return [f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'runs'}"]


@pytest.mark.slow
def test_local_sweep_runs_one_point_after_another(project, tmp_path, capfd):
    assert launch.main(["submit", "--target=local", "--jobs=pretrain,export", "--license=mit", *project]) == 0
    for seed in (0, 1):
        folder = tmp_path / "runs" / f"seed={seed}"
        assert (folder / "export" / "config.json").is_file() and "license: mit" in (
            folder / "export/README.md"
        ).read_text()
    assert "--config.pretrain.seed=1" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.pretrain.batch_size=0"], "batch_size is 0"),
        (
            ["--config.submit.slurm.nodez=3"],
            "unknown config key 'submit.slurm.nodez': no setting is named 'nodez'. Did you mean 'nodes'? Known: ",
        ),
        (["--config.submit.slurm.nodes=many"], "config key submit.slurm.nodes is 1 and cannot become 'many'"),
    ],
)
def test_wrong_settings_are_rejected_before_anything_is_written(project, tmp_path, capsys, arguments, message):
    assert launch.main(["submit", "--target=slurm", "--dry_run", *project, *arguments]) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.submit.slurm.nodez=3"], "unknown config key 'submit.slurm.nodez'"),
        (["--config.evaluate.shotz=3"], "unknown config key 'evaluate.shotz'"),
        (["--methods=knnn"], "unknown method 'knnn'. Did you mean 'knn'?"),
        (["--shots=many"], "evaluate.shots[0] is 'many'; it must be a positive whole number"),
    ],
)
def test_settings_of_jobs_without_a_config_are_checked(tmp_path, capsys, arguments, message):
    given = ["--jobs=evaluate", "--datasets=digits", f"--workdir={tmp_path / 'runs'}"]
    assert launch.main(["submit", "--target=slurm", "--dry_run", *given, *arguments]) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "runs").exists()


def test_submit_settings_need_no_config_and_a_dry_run_writes_nothing(tmp_path, said):
    workdir = tmp_path / "run"
    given = ["--jobs=evaluate", "--datasets=digits", f"--workdir={workdir}", "--config.submit.slurm.partition=gpu"]
    assert launch.main(["submit", "--target=slurm", "--dry_run", *given]) == 0
    shown = "\n".join(said)
    assert "#SBATCH --partition=gpu\n" in shown and not list(tmp_path.iterdir())
    assert "requests no GPUs: submit.slurm.gpus_per_node is not set" in shown
    assert "requests no CPU cores" in shown
    assert launch.main(["submit", "--target=slurm", "--dry_run", "--config.submit.slurm.gpus_per_node=8", *given]) == 0
    shown = "\n".join(said).removeprefix(shown)
    assert "#SBATCH --gpus-per-node=8\n" in shown and "no GPUs" not in shown


def submit_embed(workdir, *arguments):
    given = ["--jobs=embed", f"--workdir={workdir}", "--checkpoint=clip", "--out=features", *arguments]
    return launch.main(["submit", "--target=slurm", "--dry_run", *given])


def test_embed_is_submitted_as_shards_without_config_and_workdir(tmp_path, said):
    config = "--config=configs/gpu_8x80gb.py"
    assert submit_embed(tmp_path, "--num_shards=2", "--images=photos", "--max_patches", "64", config) == 0
    shown = "\n".join(said)
    for shard in range(2):
        words = f"--checkpoint=clip --out=features --images=photos --max_patches=64 --shard={shard}/2\n"
        assert f"--nodes=1 --ntasks=1 {sys.executable} launch.py embed {words}" in shown
    assert "#SBATCH --array=0-1%" in shown and "#SBATCH --gpus-per-node=8\n" in shown


def test_an_invalid_embed_is_not_submitted(tmp_path, capsys):
    assert submit_embed(tmp_path, "--num_shards=2") == 1
    assert "nothing to embed" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        submit_embed(tmp_path, "--images=photos", "--config.pretrain.seed=1")
    assert "--config.pretrain.seed" in capsys.readouterr().err


@pytest.mark.parametrize(("config", "nodes"), [("gpu_8x80gb", 1), ("gpu_2x8x80gb", 2)])
def test_the_configs_for_eight_gpus_request_nodes_gpus_and_cores(tmp_path, said, config, nodes):
    given = [f"--config=configs/{config}.py", f"--workdir={tmp_path}", "--dry_run"]
    assert launch.main(["submit", "--target=slurm", *given]) == 0
    shown = "\n".join(said)
    assert f"#SBATCH --nodes={nodes}\n" in shown and "#SBATCH --gpus-per-node=8\n" in shown
    assert "#SBATCH --cpus-per-task=32\n" in shown and " --cpus-per-task=32 " in shown and "requests no" not in shown


def test_every_sweep_point_is_checked_for_any_job(project, tmp_path, capsys):
    config_file = tmp_path / "config.py"
    config_file.write_text(config_file.read_text().replace("{'pretrain.seed': 1}", "{'pretrain.sead': 1}"))
    assert launch.main(["submit", "--target=slurm", "--dry_run", "--jobs=export", *project]) == 1
    assert "unknown config key 'pretrain.sead'" in capsys.readouterr().err and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("jobs", "argument", "message"),
    [
        ("export", "--step=last", "argument --step: 'last' is not a whole number, 0 or more"),
        ("export", "--format=zip", "argument --format: invalid choice: 'zip'"),
        ("pretrain", "--num_processes=two", "argument --num_processes: invalid int value: 'two'"),
    ],
)
def test_job_options_are_parsed_before_anything_is_written(project, tmp_path, capsys, jobs, argument, message):
    with pytest.raises(SystemExit):
        launch.main(["submit", "--target=slurm", "--dry_run", f"--jobs={jobs}", argument, *project])
    assert message in capsys.readouterr().err and not (tmp_path / "runs").exists()


def test_unknown_job_arguments_are_usage_errors(project, capsys):
    with pytest.raises(SystemExit):
        launch.main(["submit", "--target=slurm", "--dry_run", "--shotz=3", *project])
    assert "unknown option --shotz. Did you mean '--config.evaluate.shots=3'?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        launch.main(["submit", "--target=slurm", "--dry_run", "--jobs=evaluate", "--shotz=3", *project])
    assert "unknown option --shotz. Did you mean '--shots'?" in capsys.readouterr().err
    assert launch.main(["submit", "--target=slurm", "--dry_run", "--jobs=export", "--license", "mit", *project]) == 0
    assert "--license=mit" in capsys.readouterr().out


def test_a_checkpoint_on_other_machines_can_be_submitted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = [f"--config={configs.FOLDER / 'post_train_siglip.py'}", "--workdir=/mnt/runs/x", "--dry_run"]
    given += ["--config.pretrain.initial_checkpoint=/mnt/checkpoint"]
    given += [f"--config.submit.tpu_vm.{name}=a" for name in ("zone", "accelerator_type", "runtime_version")]
    assert launch.main(["submit", "--target=tpu-vm", *given]) == 0
    assert "are not checked (/mnt/checkpoint is not a checkpoint" in capsys.readouterr().out
    assert launch.main(["submit", "--target=slurm", *given]) == 1
    assert "/mnt/checkpoint is not a checkpoint" in capsys.readouterr().err


def test_local_tasks_run_in_parallel_on_separate_cores(tmp_path, capsys, said):
    program = tmp_path / "program"
    program.write_text(
        "#!/bin/bash\n"
        'echo "cores $(taskset -cp $$ | sed s/.*:.//) $*"\n'
        "[[ $* == *seed=0* ]] && exit 3\n"  # at once; the other two wait for each other
        f"touch {tmp_path}/$PPID-$$\n"
        f'for _ in $(seq 100); do [ "$(ls {tmp_path} | grep -c -- -)" -ge 2 ] && exit 0; sleep 0.1; done; exit 9\n'
    )
    program.chmod(0o755)
    points = [{"pretrain.seed": seed} for seed in range(3)]
    tasks = plan_tasks(["pretrain"], config="c.py", workdir=tmp_path / "runs", points=points)
    prepared = prepare("local", tasks, SubmitSettings(python=str(program), max_parallel=2), workdir=tmp_path / "runs")
    assert submit(prepared, dry_run=False) == 3
    assert any(line.startswith("seed=0: failed with exit code 3 after") for line in said)
    assert sum(": finished after" in line for line in said) == 2
    logs = [(tmp_path / "runs" / "submit" / f"seed={seed}.log").read_text() for seed in range(3)]
    assert all(f"--config.pretrain.seed={seed}" in log for seed, log in enumerate(logs))
    if len(os.sched_getaffinity(0)) == 2:
        assert all(re.match(r"cores \d ", log) for log in logs)
    with pytest.raises(ValueError, match=r"submit\.max_parallel is 0\. It must be at least 1\."):
        SubmitSettings(max_parallel=0)


def test_switches_of_the_submitted_jobs_are_passed_on(project, said):
    given = ["submit", "--target=slurm", "--dry_run", "--jobs=pretrain, export", "--extend", *project]
    assert launch.main(given) == 0
    commands = [line for line in "\n".join(said).splitlines() if line.startswith("srun")]
    assert commands and all(("--extend" in line.split()) == (" pretrain " in line) for line in commands)
