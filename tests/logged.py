"""Capture of the messages that the project logs."""

import logging
from contextlib import contextmanager

from foundation.log import PACKAGES


class _List(logging.Handler):
    def __init__(self, messages):
        super().__init__()
        self.messages = messages

    def emit(self, record):
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        self.messages.append(prefix + record.getMessage())


@contextmanager
def logged():
    """Yield a list that receives each message as the console shows it, warnings with their prefix."""
    messages = []
    handler = _List(messages)
    loggers = [logging.getLogger(name) for name in PACKAGES]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
    try:
        yield messages
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
