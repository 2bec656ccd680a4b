"""Names of classes that a person types: they become names of folders."""

from __future__ import annotations

import re
import unicodedata

LONGEST = 80  # characters
_RESERVED = '<>:"/\\|?*'
_DEVICE = re.compile(r"con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]", re.IGNORECASE)
_INVISIBLE = "\u200b\u200e\u200f\u2060\ufeff\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def check_class_name(name: object) -> str:
    """Return a class name without spaces at its ends, in Unicode's composed form.

    Raises `ValueError` for a name that is not text, is empty or too long, or cannot be the name of a folder.
    """
    if not isinstance(name, str):
        raise ValueError(f"class {name!r} is not a text. Type the name of a class.")
    name = unicodedata.normalize("NFC", name).strip()
    if not name:
        raise ValueError("the name of the class is empty. Type at least one letter.")
    if len(name) > LONGEST:
        raise ValueError(f"class {name[:20]!r}… has {len(name):,} characters. Use at most {LONGEST}.")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp", "Co", "Cn") for character in name):
        raise ValueError(f"class {name!r} contains a character that cannot be shown. Remove it.")
    if any(character in _INVISIBLE for character in name):
        raise ValueError(f"class {name!r} contains an invisible character. Remove it.")
    if name[0] == "." or name[-1] == "." or any(character in name for character in _RESERVED):
        raise ValueError(
            f"class {name!r} cannot be the name of a folder on every system. Leave out {' '.join(_RESERVED)} and a dot "
            "at either end."
        )
    if _DEVICE.fullmatch(name.partition(".")[0].rstrip()):
        raise ValueError(f"class {name!r} cannot be the name of a folder on Windows, where it is a device. Rename it.")
    return name


def parse_class_names(text: str | None) -> list[str]:
    """Return the names of a comma-separated list; raises `ValueError` as `check_class_name` does, and for doubles."""
    names = [check_class_name(part) for part in text.split(",")] if text else []
    folded = [name.casefold() for name in names]
    doubled = next((name for name in names if folded.count(name.casefold()) > 1), None)
    if doubled is not None:
        raise ValueError(f"--classes names {doubled!r} twice, but for case. Remove one of the two.")
    return names
