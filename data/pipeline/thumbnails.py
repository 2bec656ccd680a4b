"""Pictures inside HTML pages."""

from __future__ import annotations

import base64
import io

from PIL import Image


def data_uri(picture: Image.Image, pixels: int, *, quality: int) -> str:
    """Returns a picture as a WebP within the page, at most `pixels` wide and high."""
    picture.thumbnail((pixels, pixels))
    buffer = io.BytesIO()
    picture.save(buffer, "webp", quality=quality)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
