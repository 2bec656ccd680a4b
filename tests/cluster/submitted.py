"""Settings for every target, and a word full of characters that shells treat specially."""

from cluster.config import GkeSettings, SkyPilotSettings, SlurmSettings, SubmitSettings, TpuVmSettings

HOSTILE = "a b'\"$(touch /tmp/evil);`id`|&&\\ ü"
SETTINGS = SubmitSettings(
    name="siglip-b16",
    python="python3",
    slurm=SlurmSettings(
        nodes=2, tasks_per_node=8, gpus_per_node=8, cpus_per_task=12, partition="gpu", setup=("module load cuda",)
    ),
    gke=GkeSettings(cluster="c", project="p", zone="us-east5-b", tpu_type="v5litepod-256", docker_image="gcr.io/p/i"),
    tpu_vm=TpuVmSettings(
        zone="us-east5-b", accelerator_type="v5litepod-256", runtime_version="v2-alpha-tpuv5-lite", spot=True
    ),
    skypilot=SkyPilotSettings(accelerators="H100:8", num_nodes=2, use_spot=True, mounts=(("/runs", "s3://b/runs"),)),
)
