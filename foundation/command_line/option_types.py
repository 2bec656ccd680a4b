"""Types of command-line options for argparse: paths with `~` expanded, and numbers within their range."""

from __future__ import annotations

import argparse
import os
import pathlib
import re

from foundation.command_line.file_names import output_path


def output(text: str) -> pathlib.Path:
    """Return the path of an output folder or file."""
    try:
        return output_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def remote_output(text: str) -> pathlib.Path:
    """Return the path of an output folder, whose `~` is that of the machine that runs the job."""
    output(text)
    return pathlib.Path(text)


def input_name(text: str) -> str:
    """Return the name of an input, with `~` expanded."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the value is empty")
    return os.path.expanduser(text)


def count(text: str) -> int:
    """Return a whole number, 0 or more."""
    if not re.fullmatch(r"[0-9]{1,15}", text.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


def positive(text: str) -> int:
    """Return a positive whole number."""
    if not re.fullmatch(r"[0-9]{1,15}", text.strip()) or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def port(text: str) -> int:
    """Return the number of a port, or 0 for any free one."""
    if not re.fullmatch(r"[0-9]{1,5}", text.strip()) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return int(text)
