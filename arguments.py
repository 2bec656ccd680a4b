"""Jobs of launch.py, their command-line options, and the config that the options select."""

from __future__ import annotations

import argparse
import logging
import os
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NoReturn

import configs
from cluster.config import SECTIONS as SUBMIT_SECTIONS
from cluster.config import TARGETS, SubmitSettings
from foundation.command_line.option_types import count, input_name, output, positive, remote_output
from foundation.command_line.option_values import split_list
from foundation.console import printable
from foundation.deprecation import warn_renamed
from foundation.suggestions import did_you_mean
from models.text.canonicalize import CANONICALIZATIONS

if TYPE_CHECKING:
    from ml_collections import ConfigDict

QUICKSTART_CONFIG = configs.FOLDER / "quickstart.py"
EVALUATE_CONFIG = configs.FOLDER / "evaluate.py"

OVERVIEW = """\
Pretrain vision-language encoders with the context objective, export them, and adapt them from a few examples.

A run has one workdir. Each job reads the files that earlier jobs wrote there:

  pretrain    trains the towers            writes  checkpoints/ metrics.jsonl tensorboard/ tokenizer/ evaluations/
  align       heads on stored features     writes  the same; or a text tower against stored image features
  export      the newest checkpoint        writes  export/ (a transformers directory), or export.npz for big_vision
  evaluate    the exported directory       writes  evaluation/results.jsonl
  report      metrics and results          writes  report.html report.csv tables/ figures/
  inspect     a config                     writes  inspect/ (images and captions of a batch, as the model gets them)
  compile     a config and a topology      prints  memory, arithmetic and traffic of a step, compiled ahead of time
  submit      jobs, to a cluster           writes  submit/ (scripts), shows the commands and runs them
  quickstart  embed to report              aligns the included encoder with icons, in six minutes on two cores

These need no run, only a checkpoint: exported here, public, or one of checkpoints/; a folder or a Hub id.

  adapt       examples in class folders    writes  predictions.csv, predictions.html, left_out.csv, classifier/
  embed       images, texts or both        writes  .safetensors and .npy files, and the ids of their rows
  convert     a checkpoint                 writes  a transformers directory, or an .npz for big_vision

`launch.py JOB --help` lists the options of a job. Run the same command again to resume an interrupted job.
"""

CONFIG_HELP = """\
A config is a Python file that defines get_config(); configs/ contains examples. Every setting can be overridden on the
command line, whether the file sets it or not:

  python launch.py {job} --config=configs/emoji.py --config.pretrain.steps=500 --workdir=runs/mine
"""

CHECKPOINT_HELP = """\
A checkpoint is a transformers or open_clip folder, a big_vision .npz, a Hub id, or one of checkpoints/:

  python launch.py {job} --checkpoint=google/siglip-base-patch16-224 {rest}
"""

CANONICALIZE_HELP = (
    f"preparation of texts, one of {', '.join(CANONICALIZATIONS)} (default: as the checkpoint was trained)"
)

EVALUATE_ARGUMENTS = {
    "datasets": "comma-separated dataset names, folders or shards",
    "features": "stored features instead of a checkpoint: a folder of data sets or one of them, or several as A,NAME=B",
    "shots": "comma-separated numbers of support images per class, such as 1,2,4,8,16",
    "seeds": "number of random draws of the support set",
    "methods": "comma-separated adapters, or training_free, or all",
    "tasks": "comma-separated tasks, such as zero_shot,few_shot",
    "retrieval": "comma-separated sources of image-text pairs",
    "canonicalize": CANONICALIZE_HELP,
}

WITHOUT_CONFIG = {
    "adapt": "--support=examples/ --query=photos/ --out=sorted/",
    "embed": "--images=photos/ --texts=captions.txt --out=embeddings/",
    "convert": "--out=siglip.npz",
}

JOBS = {
    "pretrain": "Train the towers described by the config's pretrain section, or resume the run in the workdir.",
    "align": "Train heads on stored features, or a text tower against them (the align section), or resume the run.",
    "export": "Write the newest checkpoint as a Hugging Face directory, or as an .npz for big_vision.",
    "evaluate": "Evaluate WORKDIR/export, --checkpoint or --features on few-shot and retrieval tasks.",
    "report": "Write WORKDIR/report.html, its tables and its figures from the results of pretrain and evaluate.",
    "inspect": "Show the exact batch of a step, count unusable records, and advise on the context objective.",
    "adapt": "Sort images, or stored features, into classes, given a few labelled examples of each class.",
    "embed": "Embed a folder or shards of images, a file of texts, or both, with any checkpoint.",
    "convert": "Write any checkpoint as a Hugging Face directory, or a SigLIP checkpoint as an .npz for big_vision.",
    "compile": "Compile the config's training step ahead of time for a described topology, and check that it fits.",
    "submit": "Submit jobs to SLURM, GKE, TPU VMs or SkyPilot: write and show the commands, then run them.",
    "quickstart": "Align, export, evaluate and report on the included icons, with and without context.",
}

RENAMED_OPTIONS = {"--processes": "--num_processes", "--process": "--process_id", "--parts": "--num_shards"}


class CommandParser(argparse.ArgumentParser):
    """Argument parser that suggests the nearest valid choice."""

    def error(self, message: str) -> NoReturn:
        """Print usage and message, and exit with code 2."""
        invalid = re.search(r"invalid choice: '?([^']*)'? \(choose from (.*)\)", message)
        if invalid:
            message += "." + did_you_mean(invalid[1], re.findall(r"[\w.-]+", invalid[2]))
        super().error(printable(message))


def parse(arguments: Sequence[str], *, prog: str = "launch.py") -> tuple[argparse.Namespace, list[str]]:
    """Return the options of a job and the `--config.key=value` overrides; exit for unknown jobs and options."""
    parser = CommandParser(prog=prog, description=OVERVIEW, formatter_class=argparse.RawDescriptionHelpFormatter)
    parsers = parser.add_subparsers(dest="job", metavar="JOB", required=True, help=", ".join(JOBS))
    options, job_parsers = {}, {}
    for job, summary in JOBS.items():
        epilog = CONFIG_HELP.format(job=job)
        if job in WITHOUT_CONFIG:
            epilog = CHECKPOINT_HELP.format(job=job, rest=WITHOUT_CONFIG[job])
        job_parser = job_parsers[job] = parsers.add_parser(
            job,
            description=summary,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        add_arguments(job_parser, job)
        add_log_arguments(job_parser)
        options[job] = option_names(job_parser)
    args, rest = parser.parse_known_args([_current_spelling(argument) for argument in _join_values(arguments)])
    if args.job == "adapt":
        _check_adapt(job_parsers["adapt"], args)
    known, hint = options[args.job], ""
    if args.job == "submit":
        jobs = split_list(args.jobs)
        args.job_options, rest = split_by_job(jobs, rest)
        known = sorted({*known, *(name for job in jobs for name in options.get(job, ()))})
        hint = " Write options of the submitted jobs in one word: --name=VALUE."
    overrides = [argument for argument in rest if argument.startswith("--config.") and "config" in args]
    unknown = [argument.partition("=")[0] for argument in rest if argument not in overrides]
    if unknown:
        suggestion = did_you_mean(unknown[0], known)
        parser.error(f"unknown option {unknown[0]}.{suggestion} `launch.py {args.job} --help` lists all options.{hint}")
    return args, overrides


def _check_adapt(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit unless `adapt` has a checkpoint with two folders of images, or features without options of a checkpoint."""
    if args.features is None:
        missing = [f"--{name}" for name in ("checkpoint", "support", "query") if getattr(args, name) is None]
        if missing:
            parser.error(f"the following arguments are required: {', '.join(missing)}; or --features")
        return
    names = ("checkpoint", "support", "dtype", "image_size", "tokenizer", "canonicalize")
    given = next((f"--{name}={value}" for name in names if (value := getattr(args, name)) is not None), None)
    if args.template not in (None, ["none"]):
        given = f"--template={args.template[0]}"
    if given:
        parser.error(f"{given} cannot be used with --features, which need no checkpoint. Leave out one of them.")


def _join_values(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with `--config.key value` written as `--config.key=value`."""
    joined: list[str] = []
    for argument in arguments:
        last = joined[-1] if joined else ""
        if last.startswith("--config.") and "=" not in last and not argument.startswith("--"):
            joined[-1] = f"{last}={argument}"
        else:
            joined.append(argument)
    return joined


def _current_spelling(argument: str) -> str:
    """Return an argument with the current name of a renamed option."""
    name, equals, value = argument.partition("=")
    if name not in RENAMED_OPTIONS:
        return argument
    warn_renamed(name, RENAMED_OPTIONS[name])
    return RENAMED_OPTIONS[name] + equals + value


def option_names(parser: argparse.ArgumentParser) -> list[str]:
    """Return the options of a parser, such as `--workdir`."""
    return [name for action in parser._actions for name in action.option_strings]


def split_by_job(jobs: Iterable[str], arguments: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the switches and `--name=value` arguments that each job accepts, and those that no job accepts."""
    job_options: dict[str, list[str]] = {job: [] for job in jobs}
    accepted = set()
    for job in set(job_options) & set(JOBS):
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        add_arguments(parser, job)
        names = option_names(parser)
        switches = {name for action in parser._actions if action.nargs == 0 for name in action.option_strings}
        job_options[job] = [
            each for each in arguments if each in switches or ("=" in each and each.partition("=")[0] in names)
        ]
        accepted.update(job_options[job])
    return job_options, [argument for argument in arguments if argument not in accepted]


def add_log_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every job has."""
    levels = parser.add_mutually_exclusive_group()
    for option, level, summary in (
        ("--verbose", logging.DEBUG, "log details as well"),
        ("--quiet", logging.WARNING, "log warnings and errors only"),
    ):
        levels.add_argument(
            option, dest="log_level", action="store_const", const=level, default=logging.INFO, help=summary
        )
    parser.add_argument("--traceback", action="store_true", help="print the traceback of an error")


def add_arguments(parser: argparse.ArgumentParser, job: str) -> None:
    """Add the options of a job."""
    if job in WITHOUT_CONFIG:
        _add_checkpoint_arguments(parser, job)
        return
    if job == "submit":
        _add_submit_arguments(parser)
    default = {"quickstart": str(QUICKSTART_CONFIG), "evaluate": str(EVALUATE_CONFIG)}.get(job)
    parser.add_argument(
        "--config",
        type=find_config,
        required=default is None and job not in ("report", "submit"),
        default=default,
        help=f"config file (default: {default})" if default else "config file",
    )
    if job == "compile":
        parser.add_argument(
            "--topology",
            required=True,
            help="TPU chips such as v5e:16x16 (also v4, v5p, v6e; v5e:16x16*2 for two slices), NVIDIA GPUs such as "
            "h100:8 or h100:2x8 for two hosts (also b200, h200, a100, a100_40, l40s, l4, a10g, rtx4090), or simulated "
            "CPU devices such as local:8",
        )
        parser.add_argument("--hlo", type=output, help="file for the compiled program, as HLO text")
        parser.add_argument("--json", type=output, help="file for the figures of the report, as JSON")
        return
    if job == "quickstart":
        parser.add_argument(
            "--workdir",
            type=output,
            default="runs/quickstart",
            help="folder of the run (default: runs/quickstart)",
        )
        return
    # a submitted workdir may be on other machines, where ~ is another folder
    parser.add_argument(
        "--workdir", type=remote_output if job == "submit" else output, required=True, help="folder of the run"
    )
    if job in ("pretrain", "align"):
        parser.add_argument(
            "--extend",
            action="store_true",
            help="make the run in the workdir longer: the config may set more steps, examples or epochs than before",
        )
        parser.add_argument(
            "--data_moved",
            action="store_true",
            help="resume the run in the workdir with the same data at another path",
        )
        parser.add_argument("--coordinator", help="HOST:PORT of the first process (default: detected)")
        parser.add_argument("--num_processes", type=int, help="number of processes (default: detected)")
        parser.add_argument("--process_id", type=int, help="process index, from 0 (default: detected)")
    if job == "export":
        _add_export_arguments(parser)
    if job == "evaluate":
        _add_evaluate_arguments(parser)
    if job == "report":
        parser.add_argument(
            "--baseline", metavar="NAME", help="run that all runs are compared with (default: the first)"
        )
    if job == "inspect":
        parser.add_argument("--step", type=count, default=0, help="step whose batch is shown (default: 0)")
        parser.add_argument("--steps", type=positive, default=8, help="number of batches that are counted (default: 8)")
        parser.add_argument("--rows", type=positive, default=64, help="number of rows that are shown (default: 64)")
        parser.add_argument(
            "--pairs",
            type=count,
            default=8192,
            help="largest number of random pairs for the estimate of caption noise and companions, which takes up to a "
            "minute; 0: no estimate (default: 8192)",
        )


def _add_checkpoint_arguments(parser: argparse.ArgumentParser, job: str) -> None:
    parser.add_argument(
        "--checkpoint", type=input_name, required=job != "adapt", help="checkpoint folder, .npz file or Hub id"
    )
    parser.add_argument("--out", type=output, required=True, help="output folder or file")
    parser.add_argument(
        "--image_size",
        type=positive,
        help="image size in pixels; resamples position embeddings (default: the checkpoint's)",
    )
    parser.add_argument(
        "--tokenizer", type=input_name, help="folder, tokenizer.json or Hub id (default: the checkpoint's)"
    )
    parser.add_argument("--canonicalize", help=CANONICALIZE_HELP)
    if job == "adapt":
        parser.add_argument("--support", type=input_name, help="folder with one folder of example images per class")
        parser.add_argument(
            "--query", type=input_name, help="folder of images to sort; with --features, other features to sort"
        )
        parser.add_argument(
            "--features",
            type=input_name,
            help="stored features instead of --checkpoint and --support: a folder or .npz with support features and "
            "labels, query features and, if there are any, text features",
        )
        parser.add_argument(
            "--method", default="auto", help="adapter, or auto for the best by cross-validation (default: auto)"
        )
        parser.add_argument(
            "--template",
            action="append",
            help="text of a class, {} is its name; repeatable; none: images only (default: 'a photo of a {}.', or "
            "none for a checkpoint that embeds images only)",
        )
    if job == "embed":
        parser.add_argument(
            "--images", type=input_name, help="image folder, shards, or another source described in data/README.md"
        )
        parser.add_argument(
            "--texts", type=input_name, help="file with one text per line, or .jsonl with strings or {id, text}"
        )
        for side in ("image", "text"):
            parser.add_argument(
                f"--{side}_features",
                type=input_name,
                help=f"stored {side} features, for a checkpoint of `align`: .safetensors, .npy or a folder of `embed`",
            )
        parser.add_argument(
            "--data_dir", type=input_name, default="runs/data", help="folder of source indexes (default: runs/data)"
        )
    if job in ("adapt", "embed"):
        parser.add_argument(
            "--dtype", choices=("float32", "bfloat16"), help="dtype of the towers (default: bfloat16, float32 on CPUs)"
        )


def _add_submit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", required=True, choices=TARGETS, help=f"one of {', '.join(TARGETS)}")
    parser.add_argument(
        "--jobs",
        default="pretrain",
        help="comma-separated jobs of each run, in order; write their options as --name=VALUE (default: pretrain)",
    )
    parser.add_argument("--num_shards", type=int, default=1, help="number of tasks of an evaluation (default: 1)")
    parser.add_argument("--dry_run", action="store_true", help="show files and commands, but write and run nothing")


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--step", type=count, help="step of the checkpoint (default: the newest)")
    formats = ("huggingface", "big_vision", "aligned")
    parser.add_argument(
        "--format",
        choices=formats,
        help="format (default: huggingface; for a run of align: aligned, which huggingface folds into its CLIP)",
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="dtype of the weights (default: float32)"
    )
    parser.add_argument("--license", help="licence for the model card, such as apache-2.0")
    parser.add_argument(
        "--out", type=output, help="output folder or file (default: WORKDIR/export or WORKDIR/export.npz)"
    )


def _add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        type=input_name,
        help="folder, .npz file or Hub id, or several as A,NAME=B (default: WORKDIR/export)",
    )
    parser.add_argument("--shard", default="0/1", help="shard i/n of the datasets, for job arrays (default: 0/1)")
    parser.add_argument(
        "--cache", type=output, help="folder of cached embeddings (default: WORKDIR/evaluation/embeddings)"
    )
    for setting, summary in EVALUATE_ARGUMENTS.items():
        parser.add_argument(f"--{setting}", help=f"{summary}; sets config.evaluate.{setting}")
    parser.add_argument(
        "--data_dir", type=input_name, help="folder of prepared datasets and indexes; sets config.data_dir"
    )


def find_config(path: str) -> str:
    """Return the path of a config file; `configs/NAME.py` also works outside the project's folder."""
    path = input_name(path)
    own = configs.FOLDER.parent / path
    return str(own) if own.is_file() and not os.path.isfile(path) else path


def load_config(path: str, overrides: Sequence[str]) -> ConfigDict:
    """Return the config of a file with `--config.key=value` overrides; an unknown key raises and names known ones."""
    return configs.load(path, overrides, known=known_settings)


def known_settings() -> dict[tuple[str, ...], type]:
    """Return the dataclass of each section of a config."""
    from adapt.evaluation.run import EvaluateSettings
    from models.config import TextSettings
    from pretrain.align.config import SECTIONS as ALIGN_SECTIONS
    from pretrain.align.config import AlignSettings
    from pretrain.config.run import SECTIONS, PretrainSettings

    sections = {("pretrain", name): settings for name, settings in (SECTIONS | {"text": TextSettings}).items()}
    sections |= {("align", name): settings for name, settings in (ALIGN_SECTIONS | {"text": TextSettings}).items()}
    evaluations = dict.fromkeys([("evaluate",), ("evaluate_in_training",)], EvaluateSettings)
    submit = {("submit",): SubmitSettings} | {("submit", name): settings for name, settings in SUBMIT_SECTIONS.items()}
    return {("pretrain",): PretrainSettings, ("align",): AlignSettings} | evaluations | sections | submit


def evaluate_overrides(args: argparse.Namespace) -> list[str]:
    """Return the options of `evaluate` that set values of the config, as overrides."""
    from adapt.adapters.registry import METHODS, TRAINING_FREE

    if args.job != "evaluate":
        return []
    groups = {"all": METHODS, "training_free": TRAINING_FREE}
    given = {key: getattr(args, key) for key in EVALUATE_ARGUMENTS if getattr(args, key) is not None}
    if given.get("methods", "").strip() in groups:
        given["methods"] = ",".join(groups[given["methods"].strip()])
    overrides = [f"--config.evaluate.{key}={value}" for key, value in given.items()]
    return overrides + ([] if args.data_dir is None else [f"--config.data_dir={args.data_dir}"])
