"""Incomplete and damaged variables of schedulers: the processes are found, or one sentence names the variable."""

import itertools
import random

import pytest

from cluster.runtime import environment as process_environment
from cluster.runtime.environment import choose_platform, set_defaults
from cluster.runtime.process_discovery import find_processes
from tests.cluster.runtime.test_process_discovery import MPI, SLURM, XPK_CPU, XPK_GPU

SKYPILOT = {"SKYPILOT_NODE_IPS": "10.0.0.4\n10.0.0.7", "SKYPILOT_NODE_RANK": "1"}
SCHEDULERS = {"SLURM": SLURM, "Open MPI": MPI, "JobSet": XPK_GPU, "JobSet on CPUs": XPK_CPU, "SkyPilot": SKYPILOT}
DAMAGED = ["", " ", "x", "-1", "1.5", "0", "7", "99999999999999999999", "2(x", "\u00b2", "1\n", "None", "a:b:c"]


def outcome(environment):
    """Return the group of an environment, or the message of the one error that is allowed."""
    try:
        return find_processes(environment, on_tpu=lambda: False)
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 500
        return str(error)


def check(environment):
    found = outcome(environment)
    if isinstance(found, str):
        named = [name for name in (*environment, *itertools.chain(*SCHEDULERS.values())) if name in found]
        assert named or "processes" in found or "index" in found
        assert "--num_processes=1" in found or "--coordinator" in found or "NODE_RANK" in found or "GPUs" in found
    elif found is not None:
        assert found.num_processes > 1 and 0 <= found.process_id < found.num_processes


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_subset_of_the_variables_of_a_scheduler_is_handled(name):
    variables = SCHEDULERS[name]
    for count in range(len(variables) + 1):
        for kept in itertools.combinations(variables, count):
            check({each: variables[each] for each in kept})


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_damaged_variable_of_a_scheduler_is_handled(name):
    for variable, value in itertools.product(SCHEDULERS[name], DAMAGED):
        check(SCHEDULERS[name] | {variable: value})


def test_random_mixtures_of_the_variables_of_all_schedulers_are_handled():
    draw = random.Random(0)
    everything = [item for variables in SCHEDULERS.values() for item in variables.items()]
    everything.append(("CUDA_VISIBLE_DEVICES", "0,1,2,3"))
    for _ in range(5000):
        environment = dict(draw.sample(everything, draw.randrange(len(everything))))
        for name in draw.sample(sorted(environment), draw.randrange(min(3, len(environment) + 1))):
            environment[name] = draw.choice([*DAMAGED, "0,-1,2", "GPU-8932f937", "all"])
        check(environment)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({**SLURM, "SLURM_PROCID": None}, "looks like one of a SLURM step, but SLURM_PROCID is not set"),
        ({**SLURM, "SLURM_LOCALID": None}, "SLURM_LOCALID is not set"),
        ({**SLURM, "SLURM_JOB_ID": None}, "SLURM_JOB_ID is not set"),
        ({**SLURM, "SLURM_PROCID": "4"}, "SLURM names 4 processes, but this one has index 4"),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "many"}, "SLURM_STEP_NUM_TASKS is 'many', not a number from 1"),
        ({**MPI, "OMPI_COMM_WORLD_RANK": None}, "an Open MPI job, but OMPI_COMM_WORLD_RANK is not set"),
        ({**SKYPILOT, "SKYPILOT_NODE_RANK": None}, "a SkyPilot task, but SKYPILOT_NODE_RANK is not set"),
        (
            {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"},
            "SKYPILOT_NUM_NODES is 2 and SKYPILOT_NODE_IPS has 0 addresses",
        ),
        (
            {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.0.0.4"},
            "SKYPILOT_NUM_NODES is 2 and SKYPILOT_NODE_IPS has 1 addresses",
        ),
        ({**XPK_GPU, "JAX_COORDINATOR_PORT": "x"}, "JAX_COORDINATOR_PORT is 'x', not a number from 0"),
    ],
)
def test_a_missing_or_invalid_variable_is_named_with_the_way_out(environment, message):
    found = outcome({name: value for name, value in environment.items() if value is not None})
    assert message in found and "use --num_processes=1 to run this process alone" in found


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"},  # a shell of salloc
        {"SLURM_STEP_NODELIST": "n1", "SLURM_STEP_NUM_TASKS": "1"},  # srun --pty bash
        {"OMPI_COMM_WORLD_SIZE": "1"},
        {"SKYPILOT_NODE_IPS": "10.0.0.4"},
        {"SKYPILOT_NODE_IPS": ""},
        {"SKYPILOT_NUM_NODES": "1", "SKYPILOT_NODE_RANK": "0"},
        {"NNODES": "auto", "NODE_RANK": "x"},  # of another program
    ],
)
def test_one_process_needs_no_further_variables(environment):
    assert outcome(environment) is None


@pytest.mark.parametrize(
    ("visible", "devices"), [("0,1,2,3", (2, 3)), ("0,1,-1,3", (1,)), ("-1", None), ("", None), ("GPU-a, GPU-b", (1,))]
)
def test_visible_gpus_end_at_the_first_invalid_one(visible, devices):
    assert outcome(SLURM | {"CUDA_VISIBLE_DEVICES": visible}).local_devices == devices


class Plugin:
    def __init__(self, name):
        self.name = name


@pytest.mark.parametrize(
    ("plugins", "device", "tpu", "chosen"),
    [
        ([], False, False, "cpu"),
        (["xla_cuda12"], False, False, "cpu"),
        (["xla_cuda12"], True, False, "cuda,cpu"),
        (["xla_rocm7"], True, False, "rocm,cpu"),
        (["metal"], True, False, None),
        ([], False, True, None),
    ],
)
def test_libtpu_without_a_tpu_leaves_the_other_platforms(monkeypatch, tmp_path, plugins, device, tpu, chosen):
    monkeypatch.setattr(process_environment.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(process_environment, "has_tpu", lambda: tpu)
    monkeypatch.setattr(process_environment, "entry_points", lambda group: [Plugin(name) for name in plugins])
    path = str(tmp_path if device else tmp_path / "nothing")
    monkeypatch.setattr(process_environment, "_GPU_DEVICES", {"cuda": (path,), "rocm": (path,)})
    environment = {}
    choose_platform(environment)
    assert environment.get("JAX_PLATFORMS") == chosen
    for given in ("tpu", "cuda"):
        environment = {"JAX_PLATFORMS": given}
        choose_platform(environment)
        assert environment == {"JAX_PLATFORMS": given}


def test_without_libtpu_jax_chooses_the_platform(monkeypatch):
    monkeypatch.setattr(process_environment.importlib.util, "find_spec", lambda name: None)
    environment = {}
    choose_platform(environment)
    assert environment == {}


@pytest.mark.parametrize("has_home", [True, False])
@pytest.mark.parametrize("cache", [None, "", "/proc/nothing", "relative", "/dev/null"])
def test_any_cache_folder_is_accepted(monkeypatch, tmp_path, has_home, cache):
    def home():
        if not has_home:
            raise RuntimeError("Could not determine home directory.")
        return tmp_path / "home"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process_environment.pathlib.Path, "home", home)
    environment = {} if cache is None else {"XDG_CACHE_HOME": cache}
    set_defaults(environment)
    assert environment["OPENBLAS_NUM_THREADS"] == "1" and not (tmp_path / "relative").exists()
    assert ("JAX_COMPILATION_CACHE_DIR" in environment) == (has_home and cache in (None, "", "relative"))
