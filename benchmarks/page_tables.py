"""Tables in the pages of the documentation that scripts write."""

from __future__ import annotations

import pathlib
import sys

from foundation.files.atomic import write_text


def put(text: str, table: str, *, page: pathlib.Path) -> None:
    """Replace what stands between `<!-- table -->` and `<!-- end of table -->` in a page."""
    content = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {table} -->\n", f"<!-- end of {table} -->\n"
    if begin not in content or end not in content:
        print(f"note: {page.name} has no place for {table}", file=sys.stderr)
        return
    before, _, rest = content.partition(begin)
    write_text(page, f"{before}{begin}{text}\n{end}{rest.partition(end)[2]}")
