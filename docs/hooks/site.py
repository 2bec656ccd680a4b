"""Hooks of mkdocs: pages of other folders, parts of pages that are made from the code, and links that leave docs/."""

from __future__ import annotations

import logging
import os
import pathlib
import re
import sys

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import reference  # noqa: E402

# Pages that other folders of the repository have, by their path there.
INCLUDED = {
    "data/README.md": "reference/data-sources.md",
    "checkpoints/README.md": "reference/included-checkpoints.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
ORIGINS = {page: path for path, page in INCLUDED.items()}
LINK = re.compile(r"(!?)\[([^\[\]]*)\]\(([^)#:\s]+)(#[^)]*)?\)")
logger = logging.getLogger("mkdocs.hooks.site")


def on_files(files, *, config):
    """Add the included pages."""
    for path, page in INCLUDED.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown, *, page, config, files):
    """Return the page with what the code adds to it, and with links that leave docs/.

    They lead to an included page or to the repository; without `repo_url` only their label is left.
    """
    source = page.file.src_uri
    folder = os.path.dirname(ORIGINS.get(source, f"docs/{source}"))

    def resolve(match: re.Match) -> str:
        image, label, target, anchor = match.groups()
        path = os.path.normpath(os.path.join(folder, target))
        if path.startswith("docs/"):
            inside = path.removeprefix("docs/")
        elif path in INCLUDED:
            inside = INCLUDED[path]
        elif not (ROOT / path).exists():
            logger.warning(f"{source} links to {target}, which does not exist")
            return match[0]
        else:
            address = f"{config.repo_url.rstrip('/')}/blob/main/{path}" if config.repo_url else None
            return f"[{label}]({address}{anchor or ''})" if address else label
        return f"{image}[{label}]({os.path.relpath(inside, os.path.dirname(source) or '.')}{anchor or ''})"

    generate = reference.PAGES.get(source)
    return LINK.sub(resolve, markdown) + (f"\n{generate()}" if generate else "")
