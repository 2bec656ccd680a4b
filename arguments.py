"""What the jobs of launch.py are, and what the command line may say to each."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence

import configs

QUICKSTART_CONFIG = configs.FOLDER / "quickstart.py"
EVALUATE_CONFIG = configs.FOLDER / "evaluate.py"

OVERVIEW = """\
Pretrain vision-language encoders with the context objective, export them, and adapt them from a few examples.

A run lives in one workdir. Each job reads what the one before left there:

  pretrain    trains the towers            writes  checkpoints/ metrics.jsonl tensorboard/ tokenizer/ evaluations/
  export      newest checkpoint            writes  export/ (opens with transformers), or export.npz of big_vision
  evaluate    the exported directory       writes  evaluation/results.jsonl
  report      what the others wrote        writes  report.html report.csv
  inspect     a config                     writes  inspect/ (pictures and captions of a batch, as the model gets them)
  compile     a config, and a topology     prints  memory, work and traffic of a step on devices that are not here
  submit      jobs, to a cluster           writes  submit/ (scripts), and runs what it shows
  quickstart  all four on the embedded emoji set, in about six minutes on two cores

Without a run, for any checkpoint of SigLIP or CLIP, exported here or public, a folder or a hub id:

  adapt       examples in class folders    writes  predictions.csv, predictions.html, left_out.csv, classifier/
  embed       images, texts or both        writes  safetensors and .npy with the ids of their rows
  convert     a checkpoint                 writes  a folder that transformers opens, or an .npz of big_vision

`launch.py JOB --help` explains a job. A job that was stopped continues when the same command is run again.
"""

CONFIG_HELP = """\
A config is a Python file with get_config(); configs/ has them. Any setting of a run, whether the file names it or not,
can be set on the command line:

  python launch.py {job} --config=configs/quickstart.py --config.pretrain.steps=500 --workdir=runs/mine
"""

CHECKPOINT_HELP = """\
A checkpoint is a folder as transformers or open_clip writes it, an .npz of big_vision, or a hub id:

  python launch.py {job} --checkpoint=google/siglip-base-patch16-224 {rest}
"""

EVALUATE_ARGUMENTS = {
    "datasets": "names of the catalogue, folders or shards, by commas",
    "shots": "examples a class, such as 1,2,4,8,16",
    "seeds": "draws of the examples",
    "methods": "adapters by commas, training_free, or all",
    "tasks": "zero_shot,few_shot and others",
    "retrieval": "sources of images and texts, by commas",
}

WITHOUT_CONFIG = {
    "adapt": "--support=examples/ --query=photos/ --out=sorted/",
    "embed": "--images=photos/ --texts=captions.txt --out=embeddings/",
    "convert": "--out=siglip.npz",
}

JOBS = {
    "pretrain": "Trains the towers that the config's pretrain section describes, or continues the run in the workdir.",
    "export": "Writes the newest checkpoint as a Hugging Face directory, or as an .npz of big_vision.",
    "evaluate": "Few-shot and retrieval evaluation of WORKDIR/export or --checkpoint, by the evaluate section.",
    "report": "Writes WORKDIR/report.html and report.csv from what pretrain and evaluate left in the workdir.",
    "inspect": "Shows the exact batch of a step, counts sources, caption lengths and records that cannot be used.",
    "adapt": "Sorts a folder of pictures into classes, of each of which you have a few examples in a folder.",
    "embed": "Embeds a folder of pictures or shards, a file of texts, or both, with any SigLIP or CLIP checkpoint.",
    "convert": "Writes any checkpoint as a Hugging Face directory, or that of a SigLIP as an .npz of big_vision.",
    "compile": "Compiles the config's training step for described devices, without them, and says whether it fits.",
    "submit": "Sends jobs to SLURM, GKE, TPU VMs or SkyPilot: writes and shows what it will run, then runs it.",
    "quickstart": "Pretrains, exports, evaluates and reports on the embedded emoji set. Needs no download.",
}


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the job's arguments and the `--config.key=value` overrides; exits for what it does not know."""
    parser = argparse.ArgumentParser(
        prog="launch.py", description=OVERVIEW, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    jobs = parser.add_subparsers(dest="job", metavar="JOB", required=True, help=", ".join(JOBS))
    for name, summary in JOBS.items():
        epilog = CONFIG_HELP.format(job=name)
        if name in WITHOUT_CONFIG:
            epilog = CHECKPOINT_HELP.format(job=name, rest=WITHOUT_CONFIG[name])
        job = jobs.add_parser(
            name,
            description=summary,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        add_arguments(job, name)
        job.add_argument("--traceback", action="store_true", help="show where an error arose")
    args, rest = parser.parse_known_args(arguments)
    overridable = "config" in args
    if args.job == "submit":
        args.arguments, rest = split_by_job(args.jobs.split(","), rest)
    unknown = [argument for argument in rest if not (overridable and argument.startswith("--config."))]
    if unknown:
        one_word = "; those of its jobs are written --name=VALUE, in one word" if args.job == "submit" else ""
        parser.error(f"unknown argument {unknown[0]}; `launch.py {args.job} --help` lists the known ones{one_word}")
    return args, rest


def split_by_job(jobs: Sequence[str], arguments: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Returns the arguments that each of some jobs knows, all written `--name=value`, and those that none does."""
    known = {}
    for job in set(jobs) & set(JOBS):
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        add_arguments(parser, job)
        known[job] = set(parser.format_usage().replace("[", " ").replace("]", " ").split())
    own: dict[str, list[str]] = {job: [] for job in jobs}
    rest = []
    for argument in arguments:
        takers = [job for job in known if argument.partition("=")[0] in known[job] and "=" in argument]
        for job in takers:
            own[job].append(argument)
        rest += [] if takers else [argument]
    return own, rest


def add_arguments(job: argparse.ArgumentParser, name: str) -> None:
    """Adds the arguments of a job."""
    if name in WITHOUT_CONFIG:
        job.add_argument("--checkpoint", required=True, help="folder, .npz or hub id")
        job.add_argument("--out", required=True, type=pathlib.Path, help="what is written")
        job.add_argument("--image_size", type=int, help="pixels; position embeddings are resampled for them")
        job.add_argument("--tokenizer", help="folder, tokenizer.json or hub id; default: the checkpoint's own")
    if name == "adapt":
        job.add_argument("--support", required=True, help="folder with a folder of examples for each class")
        job.add_argument("--query", required=True, help="folder of the pictures to sort")
        job.add_argument("--method", default="auto", help="adapter; default: auto, the best on left-out examples")
        job.add_argument(
            "--template",
            action="append",
            help="text of a class, {} is its name; may be given again; none: pictures alone; default: "
            "'a photo of a {}.'",
        )
    if name in ("adapt", "embed"):
        job.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16, on CPUs float32")
    if name == "embed":
        job.add_argument("--images", help="folder of pictures, shards, or another source of data/README.md")
        job.add_argument("--texts", help="file with a text a line, or .jsonl with strings or {id, text}")
        job.add_argument("--data_dir", default="runs/data", help="indexes of sources; default: runs/data")
    if name in WITHOUT_CONFIG:
        return
    quick = name == "quickstart"
    if name == "submit":
        job.add_argument("--target", required=True, help="local, slurm, gke, tpu-vm or skypilot")
        job.add_argument(
            "--jobs",
            default="pretrain",
            help="of each run, in turn, with their arguments as --name=VALUE; default: pretrain",
        )
        job.add_argument("--parts", type=int, default=1, help="jobs that an evaluation is split over; default: 1")
        job.add_argument("--dry_run", action="store_true", help="write and show it, and run nothing")
    default = {"quickstart": str(QUICKSTART_CONFIG), "evaluate": str(EVALUATE_CONFIG)}.get(name)
    needed = default is None and name not in ("report", "submit")
    job.add_argument("--config", required=needed, default=default, help=f"config file; default: {default}")
    if name == "compile":
        job.add_argument(
            "--topology",
            required=True,
            help="TPU chips such as v5e:16x16, v5e:16x16*2 for two slices, or local:8 CPU devices",
        )
        return
    job.add_argument(
        "--workdir", required=not quick, default="runs/quickstart", type=pathlib.Path, help="folder of the run"
    )
    if name == "pretrain":
        job.add_argument("--coordinator", help="HOST:PORT of the first of several processes; default: as found")
        job.add_argument("--processes", type=int, help="how many there are; default: as found, 1: alone")
        job.add_argument("--process", type=int, help="the number of this one, from 0; default: as found")
    if name == "export":
        job.add_argument("--step", type=int, help="checkpoint that is exported; default: the newest")
        formats = ("huggingface", "big_vision")
        job.add_argument("--format", choices=formats, default=formats[0], help=f"default: {formats[0]}")
        job.add_argument(
            "--dtype", choices=("float32", "bfloat16", "float16"), help="of the weights; default: float32, as trained"
        )
        job.add_argument("--license", help="licence in the model card, for example apache-2.0")
        job.add_argument("--out", type=pathlib.Path, help="what is written; default: WORKDIR/export, or .npz")
    if name == "evaluate":
        job.add_argument("--checkpoint", help="folder, .npz or hub id, or several as A,NAME=B; default: WORKDIR/export")
        job.add_argument(
            "--shard", default="0/1", help="part i/n of the datasets, for arrays of jobs; default: 0/1, all"
        )
        job.add_argument(
            "--cache", type=pathlib.Path, help="folder of embeddings; default: WORKDIR/evaluation/embeddings"
        )
        for setting, what in EVALUATE_ARGUMENTS.items():
            job.add_argument(f"--{setting}", help=f"{what}; sets config.evaluate.{setting}")
        job.add_argument("--data_dir", help="where prepared data and indexes lie; sets config.data_dir")
    if name == "inspect":
        job.add_argument("--step", type=int, default=0, help="batch that is shown; default: 0, the first")
        job.add_argument("--steps", type=int, default=8, help="batches that are counted, from --step on; default: 8")
        job.add_argument("--rows", type=int, default=64, help="rows of the batch that are shown; default: 64")
    if quick:
        job.add_argument("--compare", action="store_true", help="train the plain base loss beside it, report both")
