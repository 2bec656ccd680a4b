"""Memory and arithmetic of every rematerialization policy, for described devices.

    python -m benchmarks.remat [--models=S/16,B/16,L/16,So400m/14] [--topologies=v5e:16x16] [--batch=1024] [--compile]

Each row has what a policy keeps and recomputes per pair, counted from the architecture, and the estimated peak of a
device. `--compile` adds the peak of the compiled program, a minute or more per row. Nothing is run.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import get_args

from jax.sharding import Mesh

from configs.siglip_b16 import get_config
from models.config import Remat
from models.flops import count_forward_flops
from models.remat_costs import count_kept_bytes, count_offloaded_bytes, count_recomputed_flops
from models.towers import create_model
from pretrain.compilation.devices import DescribedDevices, describe_devices
from pretrain.compilation.step import compile_step
from pretrain.config.run import PretrainSettings, read_settings
from pretrain.distributed.sharding import create_mesh
from pretrain.remat_choice import GB, estimate_peak
from pretrain.train_step import build_train_step

MODELS = "S/16,B/16,L/16,So400m/14"
POLICIES = tuple(name for name in get_args(Remat) if name != "auto")
VOCABULARY = 32_000
_MOST_SHARDS = 16  # of the parameters


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.remat", description=__doc__.partition("\n")[0])
    parser.add_argument("--models", default=MODELS, help=f"sizes of the towers (default: {MODELS})")
    parser.add_argument("--topologies", default="v5e:16x16", help="as launch.py compile takes (default: v5e:16x16)")
    parser.add_argument("--policies", default=",".join(POLICIES), help="remat policies (default: all)")
    parser.add_argument("--batch", type=int, default=1024, help="pairs per device (default: 1024)")
    parser.add_argument("--compile", action="store_true", help="compile each row, and print its peak")
    args = parser.parse_args(arguments)
    print("| model | devices | policy | kept per pair | recomputed | estimated peak | compiled peak |")
    print("|---|---|---|---|---|---|---|")
    for topology in args.topologies.split(","):
        described = describe_devices(topology)
        mesh = create_mesh(min(len(described.devices), _MOST_SHARDS), described.devices)
        for name in args.models.split(","):
            settings = settings_for(name, batch_size=args.batch * mesh.size, fsdp=mesh.shape["fsdp"])
            for remat in args.policies.split(","):
                row = describe_policy(settings, mesh, remat=remat)
                peak = compiled_peak(settings, mesh, described, remat=remat) if args.compile else ""
                print(f"| {name} | {topology} | {remat} | {' | '.join(row)} | {peak} |", flush=True)
    return 0


def settings_for(variant: str, *, batch_size: int, fsdp: int) -> PretrainSettings:
    """Return the settings of configs/siglip_b16.py for another size, batch and mesh."""
    config = get_config().pretrain
    config.update(variant=variant, batch_size=batch_size)
    config.mesh.fsdp = fsdp
    config.mesh.rules = ((r"patch_embedding/kernel$", ()),)  # 588 rows for patches of 14: 8 does not divide them
    return read_settings(config.to_dict())


def describe_policy(settings: PretrainSettings, mesh: Mesh, *, remat: str) -> list[str]:
    """Return the counted cells of a row: kept bytes, recomputed share of a step, estimated peak."""
    model = create_model(settings.model(VOCABULARY), mesh=mesh).settings
    state = build_train_step(settings, mesh, model=settings.model(VOCABULARY)).abstract_state
    kept, offloaded = (count(model, remat=remat) / 1e6 for count in (count_kept_bytes, count_offloaded_bytes))
    share = count_recomputed_flops(model, remat=remat) / (3 * count_forward_flops(model))
    peak = estimate_peak(settings, model, mesh, state=state, remat=remat) / GB
    on_host = f", {offloaded:.1f} MB on the host" if offloaded else ""
    return [f"{kept:.1f} MB{on_host}", f"{share:.1%}", f"{peak:.1f} GB"]


def compiled_peak(settings: PretrainSettings, mesh: Mesh, described: DescribedDevices, *, remat: str) -> str:
    """Return the peak of the compiled program as text, or the reason why it does not compile."""
    model = dataclasses.replace(settings.model(VOCABULARY), remat=remat)
    try:
        needed = compile_step(settings, build_train_step(settings, mesh, model=model), mesh, described)
    except ValueError as error:
        return str(error)
    return f"{needed.peak / GB:.1f} GB" + (" (does not fit)" if needed.fits is False else "")


if __name__ == "__main__":
    sys.exit(main())
