"""The HTML page and the contact sheet of an inspected batch."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.pipeline.thumbnails import data_uri
from data.sources.base import REASONS
from foundation.html import render
from pretrain.tools.inspection import InspectedRow, Inspection

_TEMPLATE = pathlib.Path(__file__).parent / "inspection.html.j2"
_TILE = 160  # side of an image on the sheet, in pixels
_CAPTION_LINES = 4
_LINE_HEIGHT = 14
_GAP = 10
_COLUMNS = 8
_MAX_LISTED = 100  # unusable records on the page


def render_page(
    inspection: Inspection, facts: Sequence[str], advice: Sequence[str], *, step: int, max_tokens: int, dropped: bool
) -> str:
    """Return a self-contained page; `dropped` adds a note that patches are dropped."""
    largest = max(inspection.lengths.values())
    return render(
        _TEMPLATE,
        step=step,
        facts=[fact.strip() for fact in facts],
        advice=advice,
        rows=[
            (row, data_uri(Image.fromarray(row.image), max(row.image.shape[:2]), quality=90)) for row in inspection.rows
        ],
        lengths=[
            (tokens, inspection.lengths[tokens], inspection.lengths[tokens] / largest)
            for tokens in range(1, max_tokens + 1)
        ],
        reasons=[(reason, inspection.reasons[reason]) for reason in REASONS if inspection.reasons[reason]],
        bad=[(key, *problem) for key, problem in list(inspection.bad.items())[:_MAX_LISTED]],
        unlisted=max(0, len(inspection.bad) - _MAX_LISTED),
        dropped=dropped,
    )


def draw_sheet(rows: Sequence[InspectedRow]) -> Image.Image:
    """Return a contact sheet of the rows, each image with its caption below."""
    import matplotlib

    font = ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), 11)
    columns = min(_COLUMNS, len(rows))
    height = _TILE + _CAPTION_LINES * _LINE_HEIGHT + 3 * _GAP
    sheet = Image.new("RGB", (columns * (_TILE + _GAP) + _GAP, -(-len(rows) // columns) * height + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        left, top = _GAP + number % columns * (_TILE + _GAP), _GAP + number // columns * height
        sheet.paste(_resize_to_tile(row.image), (left, top))
        for line, text in enumerate(_wrap(row.caption, font, _TILE)[:_CAPTION_LINES]):
            pen.text((left, top + _TILE + _GAP // 2 + line * _LINE_HEIGHT), text, fill="black", font=font)
    return sheet


def _resize_to_tile(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels)
    is_small = image.width < _TILE
    return image.resize((_TILE, _TILE), Image.Resampling.NEAREST if is_small else Image.Resampling.LANCZOS)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break a text into lines of at most `width` pixels, at spaces if possible."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        lines.append("")
        for letter in word:  # a word wider than a line is broken anywhere
            if font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return [line for line in lines if line] or ["(empty)"]
