"""Thumbnails embedded in HTML pages."""

from __future__ import annotations

import base64
import io

from PIL import Image


def data_uri(image: Image.Image, pixels: int, *, quality: int) -> str:
    """Return an image as a WebP data URI at most `pixels` wide and high; shrinks `image` in place."""
    image.thumbnail((pixels, pixels))
    buffer = io.BytesIO()
    image.save(buffer, "webp", quality=quality)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
