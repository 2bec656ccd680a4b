"""Files of the Hugging Face hub: fetched once, then found in its cache."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence

from foundation.error_text import first_line

_ID = re.compile(r"[\w.-]+/[\w.-]+|[\w.-]+")
_PREFIX = "hf-hub:"  # which open_clip writes before ids


def fetch(name: str, patterns: Sequence[str], *, what: str) -> pathlib.Path:
    """Returns the folder in the hub's cache with the files of a hub id that match `patterns`.

    Raises `OSError` that says what `what` is missing, for an id that is neither cached nor in reach.
    """
    from huggingface_hub import snapshot_download

    hub_id = name.removeprefix(_PREFIX)
    try:
        if not _ID.fullmatch(hub_id):
            raise ValueError("it is no hub id")
        return pathlib.Path(snapshot_download(hub_id, allow_patterns=list(patterns)))
    except Exception as error:  # no network, no such id, no permission, no id at all
        raise OSError(
            f"{what} {name!r} is not here, and as a hub id neither cached nor in reach ({first_line(error)}); run "
            f"`hf download {hub_id}` where there is a network, or name a folder"
        ) from error
