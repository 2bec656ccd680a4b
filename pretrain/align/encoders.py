"""The encoders whose features a run is trained on, as its export records them."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from foundation.files.atomic import write_json
from models.checkpoints.aligned import RecordedEncoder
from pretrain.align.config import AlignSettings
from pretrain.align.data import AlignData

_FILE = "encoders.json"


def describe_encoders(settings: AlignSettings, data: AlignData) -> dict[str, RecordedEncoder]:
    """Return what is known of the encoders, by side: "vision" and, unless a text tower is trained, "text".

    Raises `ValueError` if the config names another encoder than the files record.
    """
    given = {"vision": settings.image_encoder, "text": settings.text_encoder}
    encoders = {}
    for side, statistics in data.statistics.items():
        found: Mapping[str, Any] = (data.images if side == "vision" else data.texts).encoder
        if given[side] and found.get("name") not in (None, given[side]):
            name = {"vision": "image_encoder", "text": "text_encoder"}[side]
            raise ValueError(
                f"align.{name} is {given[side]}, but the features were computed by {found['name']}. Remove the setting."
            )
        encoders[side] = RecordedEncoder(
            name=found.get("name") or given[side],
            fingerprint=found.get("fingerprint"),
            weights=found.get("weights"),
            options=dict(found.get("options") or {}),
            unit_length=statistics.unit_length,
        )
    return encoders


def write_encoders(workdir: pathlib.Path, encoders: Mapping[str, RecordedEncoder]) -> None:
    """Write the encoders to a file in the workdir."""
    write_json(workdir / _FILE, {side: encoder._asdict() for side, encoder in encoders.items()})


def read_encoders(workdir: pathlib.Path) -> dict[str, RecordedEncoder]:
    """Return the encoders of the run in `workdir`."""
    fields = json.loads((workdir / _FILE).read_text(encoding="utf-8"))
    return {side: RecordedEncoder(**each) for side, each in fields.items()}
