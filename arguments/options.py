"""Options of each job."""

from __future__ import annotations

import argparse
import logging

from arguments.config_file import EVALUATE_CONFIG, QUICKSTART_CONFIG, find_config
from arguments.help_texts import CANONICALIZE_HELP, EVALUATE_OPTIONS, WITHOUT_CONFIG
from cluster.config import TARGETS
from foundation.command_line.option_types import count, input_name, output, port, positive, remote_output


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
        "--max_patches",
        type=positive,
        help="largest number of patches of an image with its aspect ratio, for SigLIP 2 NaFlex (default: the "
        "checkpoint's)",
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
        placements = parser.add_mutually_exclusive_group()
        for option, verb in (("copy", "copy the images to"), ("link", "make links to the images in")):
            placements.add_argument(
                f"--{option}",
                dest="placement",
                action="store_const",
                const=option,
                help=f"{verb} OUT/classes/CLASS, and those far from every support image to OUT/far/CLASS",
            )
        parser.add_argument(
            "--method", default="auto", help="adapter, or auto for the best by cross-validation (default: auto)"
        )
    if job == "label":
        _add_label_arguments(parser)
    if job in ("adapt", "label"):
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
        parser.add_argument("--shard", default="0/1", help="shard i/n of the rows, for job arrays (default: 0/1)")
    if job in ("adapt", "label", "embed"):
        parser.add_argument(
            "--dtype", choices=("float32", "bfloat16"), help="dtype of the towers (default: bfloat16, float32 on CPUs)"
        )


def _add_label_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=input_name, required=True, help="folder of pictures, at any depth")
    parser.add_argument(
        "--classes", help="comma-separated names of classes (default: none; they are typed on the page as needed)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address at which the page is served; 0.0.0.0 lets other machines use it, too (default: 127.0.0.1)",
    )
    parser.add_argument(
        "--port", type=port, help="port of the page; 0: a free one (default: 8765, or a free one if it is in use)"
    )
    parser.add_argument("--no_browser", action="store_true", help="do not open the page in a browser")


def _add_submit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", required=True, choices=TARGETS, help=f"one of {', '.join(TARGETS)}")
    parser.add_argument(
        "--jobs",
        default="pretrain",
        help="comma-separated jobs of each run, in order; write their options as --name=VALUE (default: pretrain)",
    )
    parser.add_argument("--num_shards", type=int, default=1, help="number of tasks of evaluate or embed (default: 1)")
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
    for setting, summary in EVALUATE_OPTIONS.items():
        parser.add_argument(f"--{setting}", help=f"{summary}; sets config.evaluate.{setting}")
    parser.add_argument(
        "--data_dir", type=input_name, help="folder of prepared datasets and indexes; sets config.data_dir"
    )
