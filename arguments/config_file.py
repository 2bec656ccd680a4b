"""The config that options select: its file, its overrides, and the settings that it may have."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import configs
from adapt.choices import METHOD_SUMMARIES, TRAINING_FREE_SUMMARIES, TRANSDUCTIVE_SUMMARIES
from arguments.help_texts import EVALUATE_OPTIONS
from cluster.config import SECTIONS as SUBMIT_SECTIONS
from cluster.config import SubmitSettings
from foundation.command_line.option_types import input_name

if TYPE_CHECKING:
    from ml_collections import ConfigDict

QUICKSTART_CONFIG = configs.FOLDER / "quickstart.py"
EVALUATE_CONFIG = configs.FOLDER / "evaluate.py"


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
    from adapt.evaluation.config import EvaluateSettings
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
    if args.job != "evaluate":
        return []
    groups = {
        "all": METHOD_SUMMARIES,
        "training_free": TRAINING_FREE_SUMMARIES,
        "transductive": TRANSDUCTIVE_SUMMARIES,
    }
    given = {key: getattr(args, key) for key in EVALUATE_OPTIONS if getattr(args, key) is not None}
    if given.get("methods", "").strip() in groups:
        given["methods"] = ",".join(groups[given["methods"].strip()])
    overrides = [f"--config.evaluate.{key}={value}" for key, value in given.items()]
    return overrides + ([] if args.data_dir is None else [f"--config.data_dir={args.data_dir}"])
