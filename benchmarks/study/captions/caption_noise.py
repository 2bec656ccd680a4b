"""Swap captions of data sets, and compare the estimate of `launch.py inspect` with the share that was swapped.

    python -m benchmarks.study.captions.caption_noise --data=FOLDER        # the table of docs/guides/context.md

FOLDER has pretrain/SET/train-*.tar; indexes of shards go to runs/data. The images of each set are embedded once.
Captions are swapped among random samples, and one of several is drawn.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from data.sources.open import open_sources
from pretrain.config.data import DataSettings
from pretrain.tools.context_advice import estimate
from pretrain.tools.pair_sample import compare_captions, embed_pairs

SETS = ("emoji9", "icons", "openclipart", "flickr8k", "fashion9k")
SHARES = (0.0, 0.25, 0.5, 0.8)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study.captions.caption_noise",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", required=True, help="folder that contains pretrain/SET/train-*.tar")
    parser.add_argument("--sets", default=",".join(SETS), help=f"names of sets (default: {','.join(SETS)})")
    parser.add_argument("--pairs", type=int, default=8192, help="largest number of pairs per set (default: 8192)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the sample and of the swaps (default: 1)")
    args = parser.parse_args(arguments)
    print("set", "pairs", "swapped", "low", "high", "known", "attention by batch size", sep="  ")
    for name in args.sets.split(","):
        data = DataSettings(sources=(f"{args.data}/pretrain/{name}/train-*.tar",))
        source = open_sources(data.sources, "runs/data", text_keys=data.text_keys, image_keys=data.image_keys)
        pairs = embed_pairs(source, data, pairs=args.pairs, seed=args.seed, seconds=np.inf)
        for share in SHARES:
            captions = swap(pairs.captions, share, seed=args.seed)
            found = estimate(compare_captions(pairs.images, captions, encoder="checkpoints/photos"))
            curve = (f"{point.batch_size}: {part:.0%}" for point, part in zip(found.curve, found.shares, strict=True))
            noise = found.noise
            cells = (name, len(captions), f"{share:.0%}", f"{noise.low:.0%}", f"{noise.high:.0%}", noise.identifiable)
            print(*cells, " ".join(curve), sep="  ", flush=True)
    return 0


def swap(captions: Sequence[str], share: float, *, seed: int) -> list[str]:
    """Return the captions with a random share of them exchanged among one another."""
    rng, swapped = np.random.default_rng(seed), list(captions)
    chosen = np.flatnonzero(rng.random(len(captions)) < share)
    for place, origin in zip(chosen, rng.permutation(chosen), strict=True):
        swapped[place] = captions[origin]
    return swapped


if __name__ == "__main__":
    sys.exit(main())
