"""Interruptions at moments when Python cannot raise them."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[3]

PROGRAM = """
import gc, os, signal, sys, time
from cluster.runtime.exit_codes import Terminated, handle_unraisable, raise_terminated

signal.signal(signal.SIGTERM, raise_terminated)
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells make background jobs ignore SIGINT
sys.unraisablehook = handle_unraisable
signals = [signal.{name}]
gc.callbacks.append(lambda phase, info: signals and os.kill(os.getpid(), signals.pop()))
try:
    gc.collect()
    print("continued", flush=True)
    time.sleep(30)
except KeyboardInterrupt as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(("name", "error"), [("SIGINT", "KeyboardInterrupt"), ("SIGTERM", "Terminated")])
def test_an_interruption_during_garbage_collection_is_repeated(name, error):
    program = [sys.executable, "-c", PROGRAM.replace("{name}", name)]
    ended = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.stdout.split("\n") == ["continued", error, ""] and not ended.stderr
