"""Submit jobs to a cluster, after their command lines are checked."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Mapping, Sequence

import configs
from arguments.config_file import EVALUATE_CONFIG, evaluate_overrides, load_config
from arguments.parser import parse
from cluster.config import SECTIONS as SUBMIT_SECTIONS
from cluster.config import SubmitSettings
from cluster.job_array import plan_tasks
from foundation.error_text import error_text
from jobs.settings import evaluation_settings, typed

logger = logging.getLogger(__name__)


def submit(
    target: str,
    workdir: pathlib.Path,
    *,
    jobs: Sequence[str] = ("pretrain",),
    num_shards: int = 1,
    dry_run: bool = False,
    config_path: str | None = None,
    overrides: Sequence[str] = (),
    job_options: Mapping[str, Sequence[str]] | None = None,
) -> int:
    """Submit jobs to a cluster, one task per point of the config's sweep and shard of `evaluate` or `embed`."""
    from cluster.submission import submit as run
    from cluster.submit import prepare

    own = [override for override in overrides if override.startswith("--config.submit.")]
    tasks = plan_tasks(
        jobs,
        config=config_path,
        workdir=workdir,
        overrides=[override for override in overrides if override not in own],
        points=configs.load_sweep(config_path) if config_path else [],
        num_shards=num_shards,
        arguments=job_options,
    )
    for task in tasks:
        for each in task.commands:
            check_command(each.arguments, remote=target not in ("local", "slurm"))
    config = load_config(config_path or str(EVALUATE_CONFIG), own)  # any config has the defaults of this section
    section = dict(config.get("submit", {}))
    section |= {name: typed(kind, f"submit.{name}", section.get(name, {})) for name, kind in SUBMIT_SECTIONS.items()}
    workdir = workdir.expanduser() if target in ("local", "slurm") else workdir
    prepared = prepare(target, tasks, typed(SubmitSettings, "submit", section), workdir=workdir)
    return run(prepared, dry_run=dry_run)


def check_command(arguments: Sequence[str], *, remote: bool) -> None:
    """Raise `ValueError` if the command line of a job contains unknown or invalid settings; exit for unknown options.

    The initial checkpoint of a `remote` run may exist on the machines of the cluster only.
    """
    from adapt.evaluation.config import EvaluateSettings
    from pretrain.align.config import read_settings as read_align_settings
    from pretrain.config.run import read_settings

    args, overrides = parse(arguments)
    config = (
        load_config(args.config, [*overrides, *evaluate_overrides(args)]) if getattr(args, "config", None) else None
    )
    if args.job == "align":
        read_align_settings(config.align)
        evaluation_settings(config, args.job)
    if args.job == "pretrain":
        try:
            read_settings(config.pretrain, args.workdir)
        except FileNotFoundError as error:
            if not remote:
                raise
            logger.info(f"settings that depend on the initial checkpoint are not checked ({error_text(error)})")
        evaluation_settings(config)
    if args.job == "embed":
        from adapt.embedding.export import check_given

        check_given(args.images, args.texts, args.image_features, args.text_features)
    if args.job == "evaluate":
        typed(EvaluateSettings, "evaluate", config.get("evaluate", {}))
