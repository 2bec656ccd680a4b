"""Programs are compiled fast rather than fast to run, and shared with the processes that tests start."""

import gc
import os
import pathlib
import sys
import tempfile

import pytest

from tests.xla_flags import FAST_COMPILATION

_CACHE = tempfile.TemporaryDirectory(prefix="compiled-")

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as launch.py has it
os.environ.setdefault("XLA_FLAGS", FAST_COMPILATION)


from foundation import log  # noqa: E402 - no package may be imported before the variables are set
from tests.browser.pages import browser, open_page  # noqa: E402, F401
from tests.logged import logged  # noqa: E402

log.configure()
gc.set_threshold(20_000)  # tracing makes many objects and little garbage; usual threshold: 8 % more CPU time

# Files that take half a minute or more, the longest first.
_LONGEST = (
    "test_faults.py",
    "test_slurm.py",
    "test_launch.py",
    "test_train.py",
    "test_job.py",
    "test_initialization.py",
)
_LONGEST += ("test_context_objective.py", "test_smoke.py", "test_quickstart.py", "test_notebooks.py", "test_run.py")
_LONGEST += ("test_adapters.py", "test_loss_rollback.py", "test_scikit_learn_checks.py", "test_page_in_browser.py")
_LONGEST += ("test_submit.py", "test_pair_kernel.py", "test_in_training.py", "test_hyperparameters.py")


def pytest_collection_modifyitems(items):
    """Run the longest files first, so that all workers finish at about the same time; mark parity tests as slow."""
    rank = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
    for item in items:
        if "parity" in item.path.parts:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Release compiled programs after a module that leaves many: a process may have only 65,530 memory mappings."""
    yield
    if "jax" in sys.modules and count_mappings() > 20_000:
        sys.modules["jax"].clear_caches()
        gc.collect()


def count_mappings() -> int:
    """Return the number of memory mappings of this process, or 0 off Linux; each compiled program has some."""
    maps = pathlib.Path("/proc/self/maps")
    return maps.read_bytes().count(b"\n") if maps.exists() else 0


@pytest.fixture(autouse=True)
def usual_log_level():
    """Undo the `--quiet` or `--verbose` of an earlier test."""
    log.configure()


@pytest.fixture
def said():
    """A list of the lines logged during the test, as the console shows them."""
    with logged() as messages:
        yield messages
