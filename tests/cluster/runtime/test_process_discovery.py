"""The processes of a run are found as each scheduler names them, and a workstation is alone."""

import pytest

from cluster.runtime.process_discovery import Processes, find

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
    return find(environment, has_tpu=lambda: tpu, **arguments)


def without(environment, *names):
    return {name: value for name, value in environment.items() if name not in names}


def test_a_workstation_is_alone():
    assert found({}) is None
    assert found({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "notebook"}) is None
    find({})  # whatever this machine has, nothing fails


def test_the_script_of_a_slurm_job_and_a_step_of_one_task_are_alone():
    script = without(SLURM, "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE")
    assert found(script) is None
    assert found(SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1"}) is None


def test_slurm_tasks_are_processes_which_share_the_gpus_of_their_node():
    task = found(SLURM)
    assert (task.found, task.count, task.index, task.method) == ("SLURM", 4, 3, "slurm")
    assert task.devices is None  # the one of its number, if there are any
    assert found(SLURM | {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}).devices == (2, 3)
    assert found(SLURM | {"CUDA_VISIBLE_DEVICES": "0,1"}).devices == (1,)
    assert found(SLURM | {"CUDA_VISIBLE_DEVICES": "3"}).devices == ()  # bound by SLURM
    alone = SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    assert found(alone).devices == ()  # one process a node drives all
    uneven = SLURM | {"SLURM_STEP_TASKS_PER_NODE": "3,1", "SLURM_NODEID": "0", "CUDA_VISIBLE_DEVICES": "0,1"}
    with pytest.raises(ValueError, match="3 processes on this host cannot share 2 GPUs evenly"):
        found(uneven)


def test_open_mpi_of_either_kind_is_found():
    older = found(MPI | {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911"})
    assert (older.count, older.index, older.method, older.coordinator) == (2, 1, "ompi", None)
    assert found(MPI).coordinator == "127.0.0.1:8476"
    with pytest.raises(ValueError, match="does not say where its 2 processes meet; add --coordinator=HOST:PORT,"):
        found(MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"})


def test_job_sets_are_found_as_xpk_writes_them():
    pod = Processes(found="JobSet", count=2, index=1, coordinator="set-job-0-0.set:6002")
    assert found(XPK_GPU) == pod
    assert found(XPK_CPU).index == 6 and found(XPK_CPU).coordinator == "set-job-0-0.set:8476"
    with pytest.raises(ValueError, match=r"names 2 processes at set-job-0-0\.set, and no NODE_RANK"):
        found(without(XPK_GPU, "NODE_RANK"))
    assert found(XPK_GPU | {"NNODES": "1", "NODE_RANK": "0"}) is None


def test_the_nodes_of_skypilot_meet_at_the_first():
    nodes = {"SKYPILOT_NODE_IPS": "10.0.0.4\n10.0.0.7\n", "SKYPILOT_NODE_RANK": "1"}
    assert found(nodes) == Processes(found="SkyPilot", count=2, index=1, coordinator="10.0.0.4:8476")
    assert found(nodes | {"SKYPILOT_NODE_IPS": "10.0.0.4", "SKYPILOT_NODE_RANK": "0"}) is None


def test_a_tpu_pod_is_left_to_jax_and_a_single_tpu_host_is_alone():
    assert found({}, tpu=True) == Processes(found="TPU")
    assert found({"TPU_WORKER_HOSTNAMES": "a,b"}, tpu=True) == Processes(found="TPU")
    assert found({"TPU_WORKER_HOSTNAMES": "a"}, tpu=True) is None
    slices = {"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_COORDINATOR_ADDRESS": "a:8080"}
    assert found(slices, tpu=True) == Processes(found="TPU")


def test_arguments_come_before_the_environment():
    given = found(SLURM, coordinator="10.0.0.1:99", processes=2, process=0)
    assert (given.count, given.index, given.coordinator, given.method) == (2, 0, "10.0.0.1:99", None)
    assert found(SLURM, processes=1) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"processes": 2}, "go together; --coordinator, --process is missing"),
        ({"coordinator": "host", "processes": 2, "process": 0}, "--coordinator=host is not HOST:PORT"),
        ({"coordinator": "host:1", "processes": 2, "process": 2}, "--process=2 is not among the 2 of --processes"),
    ],
)
def test_arguments_that_do_not_go_together_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        found({}, **arguments)
