"""Iterate over the members of a tar archive by reading its headers only."""

from __future__ import annotations

import posixpath
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

_BLOCK = 512
_ZEROS_READ = 1 << 20  # bytes per read of the zeros at the end of an archive
_MAX_NAME_BYTES = 1 << 20  # longer names are treated as damage
_LINKS = (b"1", b"2")  # hard and symbolic


class TarMember(NamedTuple):
    """A file in an archive: its name and the position of its bytes.

    A link has the name of its `target` instead of a position. `archive` counts the archives that were joined before.
    A `sparse` file has holes that are not stored, so its bytes cannot be read as they are.
    """

    name: str
    offset: int
    size: int
    target: str = ""
    archive: int = 0
    sparse: bool = False


class DamagedArchive(ValueError):
    """The archive is truncated, or one of its headers is invalid."""


def iter_members(read: Callable[[int, int], bytes], size: int) -> Iterator[TarMember]:
    """Yield the files and links of an archive of `size` bytes; `read(start, stop)` returns bytes of it.

    Supports the ustar, GNU and pax formats, several archives one after the other, and zeros behind each. Raises
    `DamagedArchive` at the first invalid header, and if the archive is truncated.
    """
    offset, archive, long_name, long_link, pax = 0, 0, None, None, {}
    while True:
        header = read(offset, offset + _BLOCK)
        if len(header) < _BLOCK:
            raise DamagedArchive(f"truncated at byte {offset + len(header):,}")
        if header[0] == 0 and not any(header):
            zeros, offset = offset, _skip_zeros(read, offset, size)
            if offset >= size:
                return
            try:
                _content_length(read(offset, offset + _BLOCK).ljust(_BLOCK, b"\0"), {}, offset)
            except DamagedArchive:
                raise DamagedArchive(f"zeros instead of a header at byte {zeros:,}") from None
            archive, long_name, long_link, pax = archive + 1, None, None, {}
            continue
        start = offset + _BLOCK
        kind = header[156:157]
        length = _content_length(header, pax, offset)
        if kind in b"LKxg":
            if length > _MAX_NAME_BYTES:
                raise DamagedArchive(f"no valid header at byte {offset:,}")
            content = read(start, start + length)
            if kind == b"L":
                long_name = content.rstrip(b"\0")
            elif kind == b"K":
                long_link = content.rstrip(b"\0")
            elif kind == b"x":
                pax = _parse_pax(content)
        else:
            name = pax.get("path") or _decode(long_name if long_name is not None else _short_name(header))
            name = pax.get("GNU.sparse.name") or name
            sparse = kind == b"S" or any(field.startswith("GNU.sparse.") for field in pax)
            regular = kind in b"07\0S" and not name.endswith("/")
            target = _target(header, long_link, pax) if kind in _LINKS else ""
            long_name, long_link, pax = None, None, {}
            if kind == b"S" and header[482]:  # the map of a sparse file continues in extra blocks
                extended = True
                while extended:
                    block = read(start, start + _BLOCK)
                    extended, start = len(block) == _BLOCK and block[504], start + _BLOCK
            if kind in b"123456":  # links, devices and folders have no content
                length = 0
            if regular:
                yield TarMember(name, start, length, archive=archive, sparse=sparse)
            elif kind in _LINKS:  # the target of a symbolic link starts from its folder
                path = posixpath.join(posixpath.dirname(name), target) if kind == b"2" else target
                yield TarMember(name, -1, 0, target=path or ".", archive=archive)
        offset = start + (length + _BLOCK - 1) // _BLOCK * _BLOCK
        if offset > size:
            raise DamagedArchive(f"truncated at byte {size:,}")


def _skip_zeros(read: Callable[[int, int], bytes], offset: int, size: int) -> int:
    """Return the start of the first block from `offset` on that does not consist of zeros, or `size`."""
    while offset < size:
        content = read(offset, min(offset + _ZEROS_READ, size))
        rest = content.lstrip(b"\0")
        if rest or not content:
            return offset + (len(content) - len(rest)) // _BLOCK * _BLOCK if rest else size
        offset += len(content)
    return size


def _content_length(header: bytes, pax: dict[str, str], offset: int) -> int:
    """Return the length of a member's content; raises `DamagedArchive` for an invalid header."""
    try:
        # Adler-32's lower half is 1 plus the sum of the bytes, modulo 65,521. In the checksum of a tar header, its own
        # 8 bytes count as spaces.
        total = (zlib.adler32(header) & 0xFFFF) - 1 - sum(header[148:156]) + 256
        if (int(header[148:156].strip(b"\0 ") or b"-1", 8) - total) % 65_521:
            raise ValueError
        length = int(pax["size"]) if "size" in pax else _parse_number(header[124:136])
        if not 0 <= length < 1 << 62:
            raise ValueError
    except ValueError:
        raise DamagedArchive(f"no valid header at byte {offset:,}") from None
    return length


def _parse_number(field: bytes) -> int:
    if field[0] in (0x80, 0xFF):  # base 256, for numbers too large for octal digits
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else -1
    return int(field.strip(b"\0 ") or b"0", 8)


def _short_name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and header[345]:
        return header[345:500].split(b"\0", 1)[0] + b"/" + name
    return name


def _target(header: bytes, long_link: bytes | None, pax: dict[str, str]) -> str:
    """Return the name that a link leads to."""
    return pax.get("linkpath") or _decode(header[157:257].split(b"\0", 1)[0] if long_link is None else long_link)


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _parse_pax(content: bytes) -> dict[str, str]:
    """Return the records of a pax header: lines `LENGTH KEY=VALUE`, where LENGTH counts the whole line."""
    records, position = {}, 0
    while position < len(content):
        digits = content[position : position + 20].split(b" ", 1)[0]
        if not digits.isdigit() or int(digits) <= len(digits) + 1:
            break
        line = content[position + len(digits) + 1 : position + int(digits) - 1]
        name, _, value = line.partition(b"=")
        records[_decode(name)] = _decode(value)
        position += int(digits)
    return records
