"""Parts of reference pages made from the code: the command line, settings of a config, methods of adaptation."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable, Mapping

import configs
from adapt.adapters.registry import METHODS
from arguments.config_file import known_settings
from arguments.help_texts import EXAMPLES, JOBS
from arguments.options import add_arguments, add_log_arguments
from foundation.settings import accepted_values


def command_line() -> str:
    """Return a section for each job with its examples and options."""
    parts = []
    for job, summary in JOBS.items():
        parser = argparse.ArgumentParser(add_help=False)
        add_arguments(parser, job)
        examples = "\n".join(f"python launch.py {job} {given}".rstrip() for given in EXAMPLES[job])
        parts.append(f"## {job}\n\n{summary}\n\n```bash\n{examples}\n```\n\n{_options(parser)}")
    parser = argparse.ArgumentParser(add_help=False)
    add_log_arguments(parser)
    parts.append(f"## Options of every job\n\n{_options(parser)}")
    return "\n".join(parts)


def settings() -> str:
    """Return a section for each section of a config with its settings."""
    sections: dict[type, list[str]] = {}
    for path, settings_class in known_settings().items():
        sections.setdefault(settings_class, []).append(".".join(path))
    parts = []
    for settings_class, names in sections.items():
        parts.append(f"## {', '.join(f'`{name}`' for name in names)}\n\n{_section(settings_class)}")
    return "\n".join(parts)


def methods() -> str:
    """Return a section for each method of adaptation with its docstring."""
    parts = []
    for name, method in METHODS.items():
        fields = [f"`{field.name}={field.default!r}`" for field in dataclasses.fields(method)]
        shown = ", ".join(fields) if fields else "none"
        kind = "Transductive: classifies all queries together. " if method().transductive else ""
        parts.append(
            f"## {name}\n\n{kind}Settings with their defaults: {shown}.\n\n"
            f"::: {method.__module__}.{method.__qualname__}\n"
            "    options: {members: false, show_root_heading: false, show_root_toc_entry: false, show_bases: false}\n"
        )
    return "\n".join(parts)


def _options(parser: argparse.ArgumentParser) -> str:
    rows = []
    for action in parser._actions:
        name = f"`{action.option_strings[0]}`" + (" (required)" if action.required else "")
        choices = f": {', '.join(map(str, action.choices))}" if action.choices else ""
        text = (action.help or "").replace(f"{configs.FOLDER.parent}/", "")
        if not all(str(choice) in text for choice in action.choices or ()):
            text += choices
        rows.append((name, text))
    return _table(("option", "meaning"), rows)


def _section(settings_class: type) -> str:
    """Return the prose of the docstrings of a settings class, and a table of its fields."""
    fields = {field.name: field for field in dataclasses.fields(settings_class)}
    prose, meanings = [], {}
    for each in settings_class.__mro__:
        if dataclasses.is_dataclass(each) and each.__doc__:
            text, described = described_fields(inspect.cleandoc(each.__doc__), fields)
            prose.append(text if each is settings_class else text.partition("\n")[2].strip())
            meanings = described | meanings
    values = accepted_values(settings_class)
    rows = []
    for name, field in fields.items():
        if "a section of settings" in values[name]:
            continue  # has a table of its own
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        shown = "required" if default is dataclasses.MISSING else f"`{default!r}`"
        rows.append((f"`{name}`", shown, meanings.get(name, ""), values[name]))
    return "\n\n".join([*filter(None, prose), _table(("setting", "default", "meaning", "values"), rows)])


def described_fields(docstring: str, fields: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Return the prose of a docstring, and the text of each `name: text` or `name, name: text` in it."""
    known, prose, meanings = set(fields), [], {}
    current: list[str] = []
    for line in docstring.splitlines():
        entry = re.match(r"([a-z0-9_]+(?:, [a-z0-9_]+)*): (.*)", line)
        names = entry[1].split(", ") if entry else []
        if entry and set(names) <= known:
            meanings |= dict.fromkeys(names, entry[2])
            current = names
        elif current and line.startswith("    "):
            meanings |= {name: f"{meanings[name]} {line.strip()}" for name in current}
        else:
            current = []
            prose.append(line)
    paragraphs = [text for text in "\n".join(prose).split("\n\n") if not text.endswith(":")]  # no headings of entries
    return "\n\n".join(paragraphs).strip(), meanings


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


# What is added to these pages of the site.
PAGES: Mapping[str, Callable[[], str]] = {
    "reference/command-line.md": command_line,
    "reference/settings.md": settings,
    "reference/methods.md": methods,
}
