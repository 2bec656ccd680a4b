"""Each scheduler's processes are found in the environment; a workstation runs one process."""

import pytest

from cluster.runtime.process_discovery import ProcessGroup, find_processes

SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_NODELIST": "node[001-002]",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}
MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
MPI |= {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
XPK_GPU = {
    "NNODES": "2",
    "NODE_RANK": "1",
    "JAX_COORDINATOR_ADDRESS": "set-job-0-0.set",
    "JAX_COORDINATOR_PORT": "6002",
}
XPK_CPU = {"JAX_PROCESS_COUNT": "8", "JOB_INDEX": "1", "PROCESSES_IN_JOB": "4", "JOB_COMPLETION_INDEX": "2"}
XPK_CPU |= {"JAX_COORDINATOR_ADDRESS": "set-job-0-0.set"}


def found(environment, tpu=False, **arguments):
    return find_processes(environment, on_tpu=lambda: tpu, **arguments)


def without(environment, *names):
    return {name: value for name, value in environment.items() if name not in names}


def test_a_workstation_runs_one_process():
    assert found({}) is None
    assert found({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "notebook"}) is None
    find_processes({})  # does not fail, whatever this machine has


def test_a_slurm_script_and_a_step_of_one_task_run_one_process():
    script = without(SLURM, "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE")
    assert found(script) is None
    assert found(SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1"}) is None


def test_slurm_tasks_divide_the_gpus_of_their_node():
    task = found(SLURM)
    assert (task.source, task.num_processes, task.process_id, task.detection_method) == ("SLURM", 4, 3, "slurm")
    assert task.local_devices is None  # JAX chooses by local index, if there are any
    assert found(SLURM | {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}).local_devices == (2, 3)
    assert found(SLURM | {"CUDA_VISIBLE_DEVICES": "0,1"}).local_devices == (1,)
    assert found(SLURM | {"CUDA_VISIBLE_DEVICES": "3"}).local_devices == ()  # bound by SLURM
    alone = SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    assert found(alone).local_devices == ()  # one process per node drives all
    uneven = SLURM | {"SLURM_STEP_TASKS_PER_NODE": "3,1", "SLURM_NODEID": "0", "CUDA_VISIBLE_DEVICES": "0,1"}
    with pytest.raises(ValueError, match="2 GPUs cannot be divided evenly among 3 processes on this host"):
        found(uneven)


def test_both_kinds_of_open_mpi_are_found():
    older = found(MPI | {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911"})
    assert (older.num_processes, older.process_id, older.detection_method, older.coordinator) == (2, 1, "ompi", None)
    assert found(MPI).coordinator == "127.0.0.1:8476"
    with pytest.raises(
        ValueError, match=r"does not name the first host of its 2 processes\. Add --coordinator=HOST:PORT"
    ):
        found(MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"})


def test_job_sets_of_xpk_are_found():
    pod = ProcessGroup(source="JobSet", num_processes=2, process_id=1, coordinator="set-job-0-0.set:6002")
    assert found(XPK_GPU) == pod
    assert found(XPK_CPU).process_id == 6 and found(XPK_CPU).coordinator == "set-job-0-0.set:8476"
    with pytest.raises(
        ValueError, match=r"names 2 processes at set-job-0-0\.set but not the index of this one\. Set NODE_RANK\."
    ):
        found(without(XPK_GPU, "NODE_RANK"))
    assert found(XPK_GPU | {"NNODES": "1", "NODE_RANK": "0"}) is None


def test_the_first_skypilot_node_is_the_coordinator():
    nodes = {"SKYPILOT_NODE_IPS": "10.0.0.4\n10.0.0.7\n", "SKYPILOT_NODE_RANK": "1"}
    assert found(nodes) == ProcessGroup(source="SkyPilot", num_processes=2, process_id=1, coordinator="10.0.0.4:8476")
    assert found(nodes | {"SKYPILOT_NODE_IPS": "10.0.0.4", "SKYPILOT_NODE_RANK": "0"}) is None


def test_jax_detects_a_tpu_pod_and_a_single_tpu_host_runs_one_process():
    assert found({}, tpu=True) == ProcessGroup(source="TPU")
    assert found({"TPU_WORKER_HOSTNAMES": "a,b"}, tpu=True) == ProcessGroup(source="TPU")
    assert found({"TPU_WORKER_HOSTNAMES": "a"}, tpu=True) is None
    slices = {"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_COORDINATOR_ADDRESS": "a:8080"}
    assert found(slices, tpu=True) == ProcessGroup(source="TPU")


def test_arguments_take_precedence_over_the_environment():
    given = found(SLURM, coordinator="10.0.0.1:99", num_processes=2, process_id=0)
    assert (given.num_processes, given.process_id, given.coordinator, given.detection_method) == (
        2,
        0,
        "10.0.0.1:99",
        None,
    )
    assert found(SLURM, num_processes=1) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"num_processes": 2},
            "^--coordinator, --process_id is missing. --coordinator, --num_processes and --process_id must",
        ),
        ({"coordinator": "host", "num_processes": 2, "process_id": 0}, "--coordinator=host is not HOST:PORT"),
        (
            {"coordinator": "host:1", "num_processes": 2, "process_id": 2},
            "--process_id=2 is out of range for --num_processes=2",
        ),
    ],
)
def test_incomplete_and_invalid_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        found({}, **arguments)
