"""Repair of texts as open_clip does before its canonicalizations: broken Unicode and HTML entities."""

from __future__ import annotations

import html


def repair_text(text: str) -> str:
    """Return a text with mis-decoded characters restored, quotes straightened and HTML entities resolved twice.

    This is `basic_clean` of open_clip, with which all its checkpoints were trained: `ftfy.fix_text`, then
    `html.unescape` twice, then no whitespace at the ends.
    """
    if text.isascii() and text.isprintable() and "&" not in text:  # most captions; ftfy would return them as they are
        return text.strip()
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()
