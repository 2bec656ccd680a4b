"""The command line of launch.py: jobs, options, help, and the config that the options select."""

from arguments.config_file import evaluate_overrides, find_config, known_settings, load_config
from arguments.help_texts import JOBS
from arguments.parser import build_parser, parse

__all__ = ["JOBS", "build_parser", "evaluate_overrides", "find_config", "known_settings", "load_config", "parse"]
