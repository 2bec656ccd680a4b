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


LATE = """
import asyncio, concurrent.futures, logging, sys, threading
from cluster.runtime.exit_codes import handle_thread_error, handle_unraisable, is_not_repeated

sys.unraisablehook, threading.excepthook = handle_unraisable, handle_thread_error
logging.getLogger("concurrent.futures").addFilter(is_not_repeated)
loop = asyncio.new_event_loop()
loop.close()

def late(*_):
    if sys.argv[1] == "other":
        raise RuntimeError("a fault")
    loop.call_soon_threadsafe(print)

class Dying:
    __del__ = late

Dying()
thread = threading.Thread(target=late)
thread.start()
thread.join()
future = concurrent.futures.Future()
future.add_done_callback(late)
future.set_result(None)
"""


@pytest.mark.parametrize(("kind", "shown"), [("closed", 0), ("other", 3)])
def test_only_errors_of_a_closed_event_loop_are_dropped(kind, shown):
    """In a destructor, in a thread, and in the callback of a future."""
    ended = subprocess.run([sys.executable, "-c", LATE, kind], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0 and ended.stderr.count("RuntimeError: a fault") == shown
    assert bool(ended.stderr) == bool(shown)
