"""Self-contained HTML pages from Jinja templates."""

from __future__ import annotations

import pathlib
from typing import Any


def render(template: pathlib.Path, **values: Any) -> str:
    """Return the page that a template file makes of values, escaped; an undefined name raises."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(**values)
