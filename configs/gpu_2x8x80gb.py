"""SigLIP B/16 at 224 px with the context objective, a batch of 32,768, on two hosts with eight GPUs of 80 GB each.

    python launch.py compile  --config=configs/gpu_2x8x80gb.py --topology=h100:2x8
    python launch.py pretrain --config=configs/gpu_2x8x80gb.py --workdir=runs/b16 \\
        --config.pretrain.data.sources='/data/shards/*.tar'

Hardware: two hosts with eight H100 or A100 each. Time: unknown; this config has been compiled, not trained. Expected:
as configs/siglip_b16.py, which has the settings that are not below.
"""

from ml_collections import ConfigDict

from configs import siglip_b16


def get_config() -> ConfigDict:
    config = siglip_b16.get_config()
    pretrain = config.pretrain
    pretrain.remat = "save_dot_except_mlp"  # recompute attention and half of the MLP: 12 % more arithmetic
    pretrain.mesh.fsdp = 8  # devices that the parameters are sharded over: those of a host

    config.submit = ConfigDict()
    config.submit.slurm = slurm = ConfigDict()
    slurm.nodes = 2
    slurm.gpus_per_node = 8
    slurm.cpus_per_task = pretrain.data.threads  # of the only process of a node; they decode images
    return config
