"""SigLIP B/16 at 224 px with the context objective, 4,096 pairs per step, on one GPU with 24 GB.

    python launch.py compile  --config=configs/gpu_24gb.py --topology=l4:1
    python launch.py pretrain --config=configs/gpu_24gb.py --workdir=runs/b16 \\
        --config.pretrain.data.sources='/data/shards/*.tar'

Hardware: one L4, A10G or RTX 4090. Time: unknown; this config has been compiled, not trained. Expected: unknown. The
settings that are not below are those of configs/siglip_b16.py.
"""

from ml_collections import ConfigDict

from configs import siglip_b16


def get_config() -> ConfigDict:
    config = siglip_b16.get_config()
    pretrain = config.pretrain
    pretrain.batch_size = 4096  # image-text pairs per step
    pretrain.microbatch_size = 256  # pairs that the towers process at a time; their forward pass runs twice
    pretrain.remat = "minimal"  # keep the products outside attention; recomputes 1 % of a step
    pretrain.mesh.fsdp = 1  # devices that the parameters are sharded over
    pretrain.data.threads = 8  # decoding threads
    return config
