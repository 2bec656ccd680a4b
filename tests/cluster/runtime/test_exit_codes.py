"""How jobs end that are interrupted at bad moments."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[3]

PROGRAM = """
import gc, os, signal, sys, time
from cluster.runtime.exit_codes import Terminated, end_by_signal, on_unraisable

signal.signal(signal.SIGTERM, end_by_signal)
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let what they start with & ignore it
sys.unraisablehook = on_unraisable
signals = [signal.{name}]
gc.callbacks.append(lambda phase, info: signals and os.kill(os.getpid(), signals.pop()))
try:
    gc.collect()
    print("went on", flush=True)
    time.sleep(30)
except KeyboardInterrupt as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(("name", "error"), [("SIGINT", "KeyboardInterrupt"), ("SIGTERM", "Terminated")])
def test_an_interruption_within_a_garbage_collection_comes_again(name, error):
    program = [sys.executable, "-c", PROGRAM.replace("{name}", name)]
    ended = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.stdout.split("\n") == ["went on", error, ""] and not ended.stderr
