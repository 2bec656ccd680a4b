"""SigLIP B/16 at 224 px with the context objective, the papers' batch of 32,768, on eight GPUs with 80 GB.

    python launch.py compile  --config=configs/gpu_8x80gb.py --topology=h100:8
    python launch.py pretrain --config=configs/gpu_8x80gb.py --workdir=runs/b16 \\
        --config.pretrain.data.sources='/data/shards/*.tar'

Hardware: one host with eight H100 or A100. Time: unknown; this config has been compiled, not trained. Expected: as
configs/siglip_b16.py, which has the settings that are not below.
"""

from ml_collections import ConfigDict

from configs import siglip_b16


def get_config() -> ConfigDict:
    config = siglip_b16.get_config()
    pretrain = config.pretrain
    pretrain.remat = "full"  # the backward pass recomputes each layer
    pretrain.mesh.fsdp = 8  # devices that the parameters are sharded over

    config.submit = ConfigDict()
    config.submit.slurm = slurm = ConfigDict()
    slurm.nodes = 1
    slurm.gpus_per_node = 8
    slurm.cpus_per_task = pretrain.data.threads  # of the only process of a node; they decode images
    return config
