"""Suggest what to write in place of an unknown option."""

from __future__ import annotations

from collections.abc import Sequence

import configs
from arguments.config_file import known_settings
from arguments.help_texts import WITHOUT_CONFIG

# job → the sections whose settings it reads, the likeliest first
_SECTIONS = {
    "pretrain": ("pretrain", "evaluate", "evaluate_in_training"),
    "align": ("align", "evaluate", "evaluate_in_training"),
    "evaluate": ("evaluate",),
    "inspect": ("pretrain", "align"),
    "compile": ("pretrain",),
    "quickstart": ("align", "evaluate"),
    "submit": ("submit",),
}


def describe_unknown(name: str, value: str, *, jobs: Sequence[str], known: Sequence[str]) -> str:
    """Return the error message for an option that a job does not have.

    A setting of the config is answered with the override that sets it to `value`, another name with the nearest of the
    `known` options or settings. `jobs` are the job and, after it, those that it submits.
    """
    setting = name.lstrip("-").removeprefix("config.").replace("-", "_")
    job, keys = jobs[0], _settings(jobs)
    exact = [key for key in keys if f".{key}".endswith(f".{setting}")]
    if name.startswith("--config.") and job in WITHOUT_CONFIG:
        hint = f" {job} reads no config."
    elif exact:
        hint = f" It is a setting of the config: write --config.{exact[0]}={value or 'VALUE'}."
    else:
        named = {key.rpartition(".")[2]: f"--config.{key}={value or 'VALUE'}" for key in reversed(keys)}
        named |= {option.lstrip("-"): option for option in known}
        nearest = configs.nearest_name(setting, named)
        hint = f" Did you mean {named[nearest]!r}?" if nearest else ""
    return f"unknown option {name}.{hint} `launch.py {job} --help` lists all options."


def _settings(jobs: Sequence[str]) -> list[str]:
    """Return the dotted keys of the settings of jobs, those of their first section and of few components first."""
    sections = list(dict.fromkeys(section for job in jobs for section in _SECTIONS.get(job, ())))
    try:
        known = known_settings() if sections else {}
    except ImportError:  # a package is missing; the error about the option is to be printed nevertheless
        return []
    keys = configs.setting_keys(known)
    chosen = [key for key in keys if key.partition(".")[0] in sections]
    return sorted(chosen, key=lambda key: (sections.index(key.partition(".")[0]), key.count(".")))
