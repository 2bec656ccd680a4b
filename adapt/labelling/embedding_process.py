"""Embed pictures in a process of its own, with a low priority after the first ones, so that the page stays fast."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adapt.embedding.encoder import Encoder
from adapt.labelling.embedding import FeatureStore, OnBad, OnFeatures, embed_missing
from adapt.labelling.pictures import PictureFolder
from foundation.error_text import error_text

_NICENESS = 5  # added to that of the job, where the system has it
_POLL_SECONDS = 0.2
_FEATURES, _BAD, _FAILED, _DONE = "features", "bad", "failed", "done"


def embed_in_process(
    pictures: PictureFolder,
    encoder: Encoder,
    folder: pathlib.Path,
    missing: Mapping[int, str],
    *,
    on_features: OnFeatures,
    on_bad: OnBad,
    stop: threading.Event,
) -> None:
    """Do as `embed_missing` does, in another process, which opens the checkpoint of `encoder` again.

    The features are stored in `folder`. Raises `ValueError` with the message of an error there, and
    `ChildProcessError` if the process is killed. It ends with this one, also if this one is killed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_embed, args=(sender, pictures, encoder.name, encoder.options, folder, missing), daemon=True
    )
    process.start()
    sender.close()  # so that `recv` fails if the process ends
    try:
        while not stop.is_set():
            if not receiver.poll(_POLL_SECONDS):
                continue
            kind, *values = receiver.recv()
            if kind == _FEATURES:
                on_features(*values)
            elif kind == _BAD:
                on_bad(*values)
            elif kind == _FAILED:
                raise ValueError(*values)
            else:
                return
    except EOFError as error:
        process.join()
        raise ChildProcessError(
            f"the process that embeds the pictures has ended with exit code {process.exitcode}, perhaps for lack of "
            "memory. Run the same command again to continue"
        ) from error
    finally:
        process.terminate()
        process.join()
        receiver.close()


def _embed(
    sender: multiprocessing.connection.Connection,
    pictures: PictureFolder,
    checkpoint: str,
    options: Mapping[str, Any],
    folder: pathlib.Path,
    missing: Mapping[int, str],
) -> None:
    """Embed pictures and send what is found; the target of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the job, which ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    first = True

    def send(numbers: Sequence[int], features: np.ndarray) -> None:
        nonlocal first
        if first and hasattr(os, "nice"):
            os.nice(_NICENESS)  # from now on: a person waits for the first pictures
        first = False
        sender.send((_FEATURES, numbers, features))

    try:
        encoder = Encoder(checkpoint, **options)
        embed_missing(
            pictures,
            encoder,
            FeatureStore(folder, encoder.dim),
            missing,
            on_features=send,
            on_bad=lambda number, reason: sender.send((_BAD, number, reason)),
            stop=threading.Event(),
        )
    except (ValueError, OSError) as error:
        sender.send((_FAILED, error_text(error)))
    else:
        sender.send((_DONE,))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
