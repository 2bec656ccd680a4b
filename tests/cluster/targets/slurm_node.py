"""A one-node SLURM cluster on loopback for tests, from Debian's packages slurm-wlm and munge."""

import os
import pathlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


def missing() -> str | None:
    """Return why SLURM cannot be started on this machine, or None."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    if absent:
        return f"{', '.join(absent)} not installed (Debian's slurm-wlm and munge)"
    return None if os.geteuid() == 0 else "the SLURM daemons need root"


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def slurm_node(folder: pathlib.Path) -> Iterator[dict[str, str]]:
    """Start the daemons with their files in `folder`; yield the environment in which sbatch finds them."""
    host = socket.gethostname().partition(".")[0]
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    munge = folder / "munge" / "socket"
    settings = {
        "ClusterName": "test",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": free_port(),
        "SlurmdPort": free_port(),
        "SlurmUser": "root",
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={munge},cred_expire=5",  # in seconds; a requeued job waits for it
        "CredType": "cred/munge",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd.pid",
        "SlurmctldLogFile": folder / "slurmctld.log",
        "SlurmdLogFile": folder / "slurmd.log",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SwitchType": "switch/none",
        "MpiDefault": "none",
        "SlurmdParameters": "config_overrides",  # more tasks than CPU cores
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU",
        "SchedulerType": "sched/builtin",
        "SchedulerParameters": "batch_sched_delay=0",
        "ReturnToService": 2,
        "JobRequeue": 1,
        "MinJobAge": 300,
        "KillWait": 5,
        "AccountingStorageType": "accounting_storage/none",
        "JobAcctGatherType": "jobacct_gather/none",
    }
    lines = [f"{name}={value}" for name, value in settings.items()]
    lines.append(f"NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN")
    lines.append(f"PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP")
    config = folder / "slurm.conf"
    config.write_text("\n".join(lines) + "\n")
    environment = {**os.environ, "PATH": _PATH, "SLURM_CONF": str(config)}
    own = {"socket": munge, "key-file": key}
    own |= {f"{kind}-file": folder / f"munged.{kind}" for kind in ("pid", "log", "seed")}
    commands = [
        ["munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in own.items())],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D", "-N", host],
    ]
    daemons = []
    try:
        for command in commands:
            with open(folder / f"{command[0]}.out", "wb") as output:
                daemon = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            daemons.append(daemon)
            time.sleep(0.5)
            if daemon.poll() is not None:
                raise RuntimeError(f"{command[0]} ended: {(folder / f'{command[0]}.out').read_text()}")
        _wait_until_idle(environment)
        yield environment
    finally:
        subprocess.run(["scancel", "--user=root"], env=environment, capture_output=True)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _wait_until_idle(environment: dict[str, str]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True)
        if found.stdout.strip() == "idle":
            return
        time.sleep(0.3)
    raise RuntimeError(f"the node is not idle: {found.stdout}{found.stderr}")


def wait_for(job: str, environment: dict[str, str], *, seconds: float = 300) -> list[str]:
    """Wait until a job or a whole job array has ended; return the state of each task."""
    deadline = time.monotonic() + seconds
    command = ["scontrol", "--oneliner", "show", "job", job]
    while time.monotonic() < deadline:
        output = subprocess.run(command, env=environment, capture_output=True, text=True).stdout
        states = [part.split("=")[1] for part in output.split() if part.startswith("JobState=")]
        if states and not set(states) & {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED"}:
            return states
        time.sleep(0.5)
    raise TimeoutError(f"job {job} has not ended: {output}")
