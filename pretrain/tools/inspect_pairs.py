"""Inspection of the pairs of an alignment run: caption noise, companions, and whether context is likely to pay."""

from __future__ import annotations

import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from foundation.files.atomic import write_text
from pretrain.align.config import read_settings
from pretrain.align.data import open_align_data
from pretrain.tools.caption_noise import LEAST_PAIRS
from pretrain.tools.context_advice import describe, estimate, too_few
from pretrain.tools.pair_sample import sample_features

logger = logging.getLogger(__name__)


def inspect_pairs(
    config: Mapping[str, Any], workdir: str | os.PathLike, *, data_dir: str | os.PathLike, pairs: int
) -> pathlib.Path:
    """Write advice on the context objective for the run that an `align` section describes; return the file.

    Estimates from up to `pairs` random pairs, with the run's own image features. Writes `inspect/context.txt` to
    `workdir`. Raises `ValueError` for fewer than 512 pairs, and the errors of opening the data.
    """
    if pairs < LEAST_PAIRS:
        raise ValueError(f"--pairs is {pairs}; the estimate for an align config needs at least {LEAST_PAIRS}")
    settings = read_settings(config)
    data = open_align_data(settings, data_dir)
    if len(data.pairs) < LEAST_PAIRS:
        lines = [too_few(len(data.pairs))]
    else:
        found = estimate(sample_features(data, pairs=pairs, seed=settings.seed))
        lines = describe(found, batch_size=settings.batch_size, from_scratch=False)
    for line in lines:
        logger.info(line)
    page = pathlib.Path(workdir) / "inspect" / "context.txt"
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text(page, "".join(f"{line}\n" for line in lines))
    return page
