"""What the HTML pages have in common: templates of this folder, and pictures within the page."""

from __future__ import annotations

import base64
import io
import pathlib
from typing import Any

from PIL import Image


def render(template: pathlib.Path, **values: Any) -> str:
    """Returns the page that a template makes of values; a name it lacks is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(**values)


def data_uri(picture: Image.Image, pixels: int, *, quality: int) -> str:
    """Returns a picture as a WebP within the page, at most `pixels` wide and high."""
    picture.thumbnail((pixels, pixels))
    buffer = io.BytesIO()
    picture.save(buffer, "webp", quality=quality)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
