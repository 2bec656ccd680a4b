"""Files of the Hugging Face Hub, downloaded once and then read from its cache."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence

from foundation.error_text import first_line

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+|[\w.-]+")
PREFIX = "hf-hub:"  # open_clip writes it before Hub IDs
_SUFFIXES = (".npz", ".safetensors", ".json")


def is_path(name: str) -> bool:
    """Return whether a name is a path rather than a Hub ID, which is NAME or OWNER/NAME; the path need not exist."""
    if name.startswith(PREFIX):
        return False
    path = pathlib.Path(name)
    if path.is_absolute() or name.startswith((".", "~")) or path.suffix in _SUFFIXES:
        return True
    return len(path.parts) > 2 or name.endswith("/") or (len(path.parts) == 2 and path.parent.is_dir())


def fetch(name: str, patterns: Sequence[str], *, what: str) -> pathlib.Path:
    """Return the folder in the Hub's cache with the files of a Hub ID that match `patterns`.

    `what` names the kind of thing in errors. Raises `OSError` for an ID that is not cached and cannot be downloaded.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    hub_id = name.removeprefix(PREFIX)
    if not _HUB_ID.fullmatch(hub_id):
        raise OSError(
            f"{what} {name!r} does not exist locally, and is not a valid Hub ID. Pass an existing path, or an ID such "
            "as google/siglip-base-patch16-224."
        )
    try:
        return pathlib.Path(snapshot_download(hub_id, allow_patterns=list(patterns)))
    except RepositoryNotFoundError as error:
        raise OSError(
            f"{what} {name!r} does not exist locally, and the Hub has no such repository or does not give access to it "
            f"({first_line(error)}). Check the name, or log in with `hf auth login`."
        ) from error
    except Exception as error:  # no network, no permission, an interrupted download
        raise OSError(
            f"{what} {name!r} does not exist locally, is not cached, and the Hub cannot be reached "
            f"({first_line(error)}). Run `hf download {hub_id}` on a machine with network access, or pass a local path."
        ) from error
