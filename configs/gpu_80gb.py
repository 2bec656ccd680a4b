"""SigLIP B/16 at 224 px with the context objective, 4,096 pairs per step, on one GPU with 80 GB.

    python launch.py compile  --config=configs/gpu_80gb.py --topology=h100:1
    python launch.py pretrain --config=configs/gpu_80gb.py --workdir=runs/b16 \\
        --config.pretrain.data.sources='/data/shards/*.tar'

Hardware: one H100 or A100 with 80 GB. Time: unknown; this config has been compiled, not trained. Expected: unknown. The
settings that are not below are those of configs/siglip_b16.py.
"""

from ml_collections import ConfigDict

from configs import siglip_b16


def get_config() -> ConfigDict:
    config = siglip_b16.get_config()
    pretrain = config.pretrain
    pretrain.batch_size = 4096  # image-text pairs per step
    pretrain.remat = "full"  # the backward pass recomputes each layer
    pretrain.mesh.fsdp = 1  # devices that the parameters are sharded over
    pretrain.data.threads = 16  # decoding threads
    return config
