"""Texts of `launch.py --help` and of the help of each job."""

from __future__ import annotations

from collections.abc import Mapping

import configs
from adapt.choices import (
    BASELINES,
    METHOD_SUMMARIES,
    TASKS,
    TRAINED_SUMMARIES,
    TRAINING_FREE_SUMMARIES,
    TRANSDUCTIVE_SUMMARIES,
)
from cluster.config import TARGETS
from models.text.canonicalize import CANONICALIZATIONS

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
  quickstart  embed to report              aligns the included encoder with icons, in six to nine minutes on two cores

These need no run, only a checkpoint: exported here, public, or one of checkpoints/; a folder or a Hub id.

  adapt       examples in class folders    writes  predictions.html, predictions.csv, classifier/, folders per class
  label       a folder of pictures         serves  a page to label them by clicking, and writes what adapt writes
  embed       images, texts or both        writes  .safetensors and .npy files, and the ids of their rows
  convert     a checkpoint                 writes  a transformers directory, or an .npz for big_vision

`launch.py JOB --help` lists the options of a job. Run the same command again to resume an interrupted job.
"""

JOBS = {
    "pretrain": "Train the towers described by the config's pretrain section, or resume the run in the workdir.",
    "align": "Train heads on stored features, or a text tower against them (the align section), or resume the run.",
    "export": "Write the newest checkpoint as a Hugging Face directory, or as an .npz for big_vision.",
    "evaluate": "Evaluate WORKDIR/export, --checkpoint or --features on few-shot and retrieval tasks.",
    "report": "Write WORKDIR/report.html, its tables and its figures from the results of pretrain and evaluate.",
    "inspect": "Show the exact batch of a step, count unusable records, and advise on the context objective.",
    "adapt": "Sort images, or stored features, into classes, given a few labelled examples of each class.",
    "label": "Label a folder of pictures by clicking on a web page, while a classifier learns from every label.",
    "embed": "Embed a folder or shards of images, a file of texts, or both, with any checkpoint.",
    "convert": "Write any checkpoint as a Hugging Face directory, or a SigLIP checkpoint as an .npz for big_vision.",
    "compile": "Compile the config's training step ahead of time for a described topology, and check that it fits.",
    "submit": "Submit jobs to SLURM, GKE, TPU VMs or SkyPilot: write and show the commands, then run them.",
    "quickstart": "Align, export, evaluate and report on the included icons, with and without context.",
}

WITHOUT_CONFIG = ("adapt", "label", "embed", "convert")

EXAMPLES = {
    "pretrain": (
        "--config=configs/emoji.py --workdir=runs/towers",
        "--config=configs/emoji.py --workdir=runs/short --config.pretrain.steps=500",
    ),
    "align": (
        "--config=configs/align.py --workdir=runs/heads",
        "--config=configs/align.py --workdir=runs/heads --config.align.batch_size=1024",
    ),
    "export": (
        "--config=configs/emoji.py --workdir=runs/towers",
        "--config=configs/emoji.py --workdir=runs/towers --format=big_vision",
    ),
    "evaluate": (
        "--config=configs/emoji.py --workdir=runs/towers",
        "--checkpoint=checkpoints/photos --workdir=runs/photos --datasets=digits --shots=1,4,16 --methods=gda,knn",
        "--features=features/clip --workdir=runs/stored --methods=all",
    ),
    "report": ("--workdir=runs/towers", "--workdir=runs --baseline=plain"),
    "inspect": ("--config=configs/emoji.py --workdir=runs/towers --step=100",),
    "adapt": (
        "--checkpoint=checkpoints/photos --support=examples --query=photos --out=sorted",
        "--checkpoint=checkpoints/photos --support=examples --query=photos --out=sorted --link --method=knn",
        "--features=features/clip/birds --out=sorted",
    ),
    "label": (
        "--checkpoint=checkpoints/photos --images=photos --out=labels",
        "--checkpoint=google/siglip-base-patch16-224 --images=photos --classes=cat,dog --out=labels",
    ),
    "embed": (
        "--checkpoint=checkpoints/photos --images=photos --out=embeddings",
        "--checkpoint=google/siglip-base-patch16-224 --images=photos --texts=captions.txt --out=embeddings",
    ),
    "convert": (
        "--checkpoint=google/siglip-base-patch16-224 --out=siglip.npz",
        "--checkpoint=siglip.npz --tokenizer=google/siglip-base-patch16-224 --out=siglip",
    ),
    "compile": (
        "--config=configs/siglip_b16.py --topology=v5e:16x16",
        "--config=configs/gpu_8x80gb.py --topology=h100:8",
    ),
    "submit": (
        "--target=slurm --config=configs/gpu_8x80gb.py --workdir=runs/big --jobs=pretrain,export,evaluate --dry_run",
        "--target=local --config=configs/evaluate.py --workdir=runs/towers --jobs=evaluate --num_shards=4",
        "--target=slurm --workdir=runs/embed --jobs=embed --num_shards=8 --checkpoint=clip --images=photos --out=emb",
    ),
    "quickstart": ("", "--workdir=runs/mine --config.align.epochs=2"),
}

CANONICALIZE_HELP = (
    f"preparation of texts, one of {', '.join(CANONICALIZATIONS)} (default: as the checkpoint was trained)"
)

# options of evaluate that set a value of the config's section
EVALUATE_OPTIONS = {
    "datasets": "comma-separated dataset names, folders or shards",
    "features": "stored features instead of a checkpoint: a folder of data sets or one of them, or several as A,NAME=B",
    "shots": "comma-separated numbers of support images per class, such as 1,2,4,8,16",
    "seeds": "number of random draws of the support set",
    "methods": "comma-separated adapters, or training_free, transductive, or all",
    "tasks": "comma-separated tasks, such as zero_shot,few_shot",
    "retrieval": "comma-separated sources of image-text pairs",
    "canonicalize": CANONICALIZE_HELP,
}

_SETTINGS = """
A config is a Python file that defines get_config(). Every setting can be overridden on the command line, whether the
file sets it or not, with = or a space: --config.{section}.{setting}={value}"""
_SETTING = {
    "align": ("align", "epochs", "5"),
    "evaluate": ("evaluate", "seeds", "3"),
    "quickstart": ("align", "epochs", "2"),
    "submit": ("submit.slurm", "time", "600"),
}
_CHECKPOINT = """
A checkpoint is a transformers or open_clip folder, a big_vision .npz, a Hub id, or one of checkpoints/. `photos` suits
photos and embeds images only, `drawings` suits drawings and emoji."""


def epilog(job: str) -> str:
    """Return the end of a job's help: examples, and the methods, tasks and files that its options choose from."""
    examples = [f"  python launch.py {job} {given}".rstrip() for given in EXAMPLES[job]]
    parts = ["examples:\n" + "\n".join(examples) + "\n"]
    if job == "adapt":
        auto = {"auto": "the most accurate of the training-free methods on held-out support images"}
        parts += [_table("methods without training", auto | TRAINING_FREE_SUMMARIES)]
        parts += [_table("transductive methods, which classify all images together", TRANSDUCTIVE_SUMMARIES)]
        parts += [_table("methods with training", TRAINED_SUMMARIES)]
    if job == "evaluate":
        inductive = {name: text for name, text in METHOD_SUMMARIES.items() if name not in TRANSDUCTIVE_SUMMARIES}
        parts += [_table("tasks", TASKS), _table("methods", inductive)]
        parts += [_table("transductive methods, which classify all queries together", TRANSDUCTIVE_SUMMARIES)]
        parts += [_table("baselines", BASELINES)]
    if job == "submit":
        parts += [f"targets: {', '.join(TARGETS)}\n"]
    if job in WITHOUT_CONFIG:
        parts += [_CHECKPOINT.lstrip("\n") + "\n"]
    else:
        section, setting, value = _SETTING.get(job, ("pretrain", "steps", "500"))
        parts += [_SETTINGS.lstrip("\n").format(section=section, setting=setting, value=value)]
        parts += [_wrapped_configs()]
    return "\n".join(parts)


def _table(title: str, rows: Mapping[str, str]) -> str:
    width = max(map(len, rows))
    return f"{title}:\n" + "".join(f"  {name:<{width}}  {summary}\n" for name, summary in rows.items())


def _wrapped_configs() -> str:
    """Return the sentence that lists the project's configs, without those of the study."""
    names = [name for name in configs.known_configs() if "/" not in name]
    return f"{configs.FOLDER.name}/ has {', '.join(names)}\nand, of the study, those in {configs.FOLDER.name}/study/.\n"
