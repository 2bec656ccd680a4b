"""Old names of options and settings, kept for one version."""

from __future__ import annotations

import functools
import logging

logger = logging.getLogger(__name__)


@functools.cache
def warn_renamed(old: str, new: str) -> None:
    """Log once per process that `old` was renamed to `new` and will be removed in the next version."""
    logger.warning(f"{old} was renamed to {new}; the old name will be removed in the next version")
