"""Group the members of a `.tar` shard into samples by their names, and find the files that its links lead to."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from data.io.fingerprint import fingerprint
from data.sources.image_folders import SUFFIXES
from data.sources.tar_headers import DamagedArchive, TarMember

PARTS = ("image", "json", "txt", "cls")
_IMAGE = 0
_NAME = re.compile(r"(?P<key>(?:.*/)?[^/.]+)\.(?P<suffix>[^/]+)", re.DOTALL)
_SYSTEM_FILES = (".DS_Store", "Thumbs.db", "desktop.ini")
_UNREADABLE = (".heic", ".heif", ".jxl", ".jp2", ".svg", ".psd", ".dng", ".cr2", ".nef", ".arw", ".exr")
_MAX_EXAMPLE = 200  # characters of a name in a message

_Span = tuple[int, int]  # offset and size


class NameNotes(NamedTuple):
    """Numbers of unusual names in a shard, and an example of each kind.

    `divided` samples have dots in their keys, where webdataset would see `joined` samples. `ambiguous` samples have
    several files that could be the same part. `dangling` links lead to files that are not in the shard. Left out are
    `sparse` files, images of an `unreadable` format, and files that macOS and Windows add (`system`).
    """

    divided: int = 0
    joined: int = 0
    ambiguous: int = 0
    dangling: int = 0
    sparse: int = 0
    unreadable: int = 0
    system: int = 0
    divided_example: str = ""
    ambiguous_example: str = ""
    dangling_example: str = ""
    sparse_example: str = ""
    unreadable_example: str = ""
    system_example: str = ""


class ShardIndex(NamedTuple):
    """The samples of one shard.

    `spans` `[samples, parts, 2]` int64 holds offset and size of each of `PARTS`, −1 and 0 if it is missing. `names` are
    the keys, UTF-8, concatenated, with their ends in `name_ends` `[samples]`. `problem` describes damage of the
    archive, or is empty.
    """

    spans: np.ndarray
    names: bytes
    name_ends: np.ndarray
    problem: str
    notes: NameNotes = NameNotes()

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that change with the names and positions of the samples."""
        return fingerprint(self.spans, self.names)


class _Sample(NamedTuple):
    key: str
    parts: dict[int, _Span]  # by the number of the part


class _Group(NamedTuple):
    """The members whose names are equal up to the first dot: what webdataset takes for a sample."""

    key: str
    members: dict[str, tuple[int, _Span]]  # suffix after the first dot → part and position


def index_members(members: Iterable[TarMember]) -> ShardIndex:
    """Group members into samples; if the archive is damaged, the samples before the damage are kept.

    The key of a sample is its name up to the first dot, as in webdataset, unless the names show that their keys contain
    dots (see `_divide`). A repeated name starts a new sample, and so does another archive.
    """
    listed: list[TarMember] = []
    problem = ""
    try:
        listed.extend(members)
    except DamagedArchive as damage:
        problem = str(damage)
    listed, left_out = _leave_out(listed)
    files, dangling = _follow_links(listed)
    samples: list[_Sample] = []
    divided = joined = ambiguous = 0
    divided_example = ambiguous_example = ""
    for group in _group(files):
        found, is_ambiguous = _divide(group)
        samples += found
        if len(found) > 1:
            divided, joined = divided + len(found), joined + 1
            divided_example = divided_example or found[0].key
        if is_ambiguous:
            ambiguous += 1
            ambiguous_example = ambiguous_example or found[0].key
    notes = NameNotes(
        divided=divided,
        joined=joined,
        ambiguous=ambiguous,
        dangling=len(dangling),
        divided_example=divided_example[:_MAX_EXAMPLE],
        ambiguous_example=ambiguous_example[:_MAX_EXAMPLE],
        dangling_example=dangling[0][:_MAX_EXAMPLE] if dangling else "",
        **{kind: len(names) for kind, names in left_out.items()},
        **{f"{kind}_example": names[0][:_MAX_EXAMPLE] for kind, names in left_out.items()},
    )
    missing, parts = (-1, 0), range(len(PARTS))
    rows = [[sample.parts.get(part, missing) for part in parts] for sample in samples]
    table = np.array(rows, np.int64).reshape(-1, len(PARTS), 2)
    encoded = [sample.key.encode("utf-8", "backslashreplace") for sample in samples]
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    return ShardIndex(table, b"".join(encoded), ends, problem, notes)


def _leave_out(members: list[TarMember]) -> tuple[list[TarMember], dict[str, list[str]]]:
    """Return the members that can be parts of samples, and the names of those left out by the fields of `NameNotes`."""
    kept, left_out = [], {}
    for member in members:
        base = member.name.rpartition("/")[2]
        if base.startswith("._") or base in _SYSTEM_FILES or "/__MACOSX/" in f"/{member.name}":
            left_out.setdefault("system", []).append(member.name)
        elif base.lower().endswith(_UNREADABLE):
            left_out.setdefault("unreadable", []).append(member.name)
        elif member.sparse and _part_of(_lower_end(base)) is not None:
            left_out.setdefault("sparse", []).append(member.name)
        else:
            kept.append(member)
    return kept, left_out


def _follow_links(members: list[TarMember]) -> tuple[list[TarMember], list[str]]:
    """Return the members with the positions of their targets, and the names of links without a target.

    A link leads to the last file of that name before it or, failing that, behind it, within its own archive.
    """
    if all(member.offset >= 0 for member in members):
        return members, []
    found: dict[int, TarMember] = {}
    known: dict[tuple[int, str], TarMember] = {}
    numbers: Sequence[int] = range(len(members))
    while True:  # links to links are found one after the other
        waiting = []
        for number in numbers:
            member = members[number]
            target = known.get((member.archive, posixpath.normpath(member.target))) if member.target else member
            if target is None:
                waiting.append(number)
            else:
                found[number] = member._replace(offset=target.offset, size=target.size)
                known[member.archive, posixpath.normpath(member.name)] = found[number]
        if len(waiting) in (0, len(numbers)):
            return [found[number] for number in sorted(found)], [members[number].name for number in waiting]
        numbers = waiting


def _group(members: list[TarMember]) -> list[_Group]:
    """Return the groups of members with the same key, in the order of their first members."""
    groups: list[_Group] = []
    latest: dict[str, _Group] = {}
    archive = 0
    for member in members:
        if member.archive != archive:
            archive, latest = member.archive, {}
        match = _NAME.fullmatch(member.name)
        if match is None:
            continue
        key, suffix = match["key"], _lower_end(match["suffix"])
        part = _part_of(suffix)
        if part is None:
            continue
        group = latest.get(key)
        if group is None or suffix in group.members:
            group = latest[key] = _Group(key, {})
            groups.append(group)
        group.members[suffix] = part, (member.offset, member.size)
    return groups


def _lower_end(suffix: str) -> str:
    """Return a suffix with what follows its last dot in lower case."""
    stem, dot, end = suffix.rpartition(".")
    return stem + dot + end.lower()


def _part_of(suffix: str) -> int | None:
    last = suffix.rpartition(".")[2]
    if f".{last}" in SUFFIXES:
        return _IMAGE
    return PARTS.index(last) if last in PARTS[1:] else None


def _divide(group: _Group) -> tuple[list[_Sample], bool]:
    """Return the samples of a group, and whether a part of one could be another file as well.

    `a.jpg`, `a.json` and `a.seg.png` are one sample, as in webdataset. `a.1.jpg`, `a.1.txt`, `a.2.jpg` and `a.2.txt`
    are two: a name up to the last dot with an image and a text of its own is a sample. Other files belong to the sample
    whose name begins theirs, or that begins with theirs, if they are not images. Images without any text are a sample
    each, unless one has a name without further dots.
    """
    parts = dict(group.members.values())
    if len(parts) == len(group.members) and "." not in "".join(group.members):  # the usual case, fast
        return [_Sample(group.key, parts)], False
    stems = _stems(group)
    if len(stems) == 1:
        ((_, spans),) = stems.items()
        return [_Sample(group.key, {part: found[0] for part, found in spans.items()})], _has_choice(spans)
    only_images = all(list(spans) == [_IMAGE] for spans in stems.values())
    complete = {stem for stem, spans in stems.items() if only_images or (_IMAGE in spans and len(spans) > 1)}
    if not complete - {""} or (only_images and "" in stems):
        return _join(group.key, stems)
    beginnings = {start for stem in complete for start in _beginnings(stem)}
    samples: dict[str, dict[int, _Span]] = {}
    others: dict[str, str] = {}  # stem of further files → beginning of the samples to which they belong
    for stem, spans in stems.items():
        longest = next((start for start in _beginnings(stem) if start in complete), None)
        if stem not in complete and longest is not None:
            others[stem] = longest
        elif stem not in complete and _IMAGE not in spans and stem in beginnings:
            others[stem] = stem
        else:
            samples[stem] = {part: found[0] for part, found in spans.items()}
    is_ambiguous = any(_has_choice(stems[stem]) for stem in samples)
    for stem, start in others.items():
        more = {part: found[0] for part, found in stems[stem].items()}
        for name in [start] if start in complete else [name for name in samples if start in _beginnings(name)]:
            is_ambiguous |= not more.keys().isdisjoint(samples[name])
            samples[name] = more | samples[name]
    if len(samples) == 1:
        return [_Sample(group.key, next(iter(samples.values())))], is_ambiguous
    keys = (f"{group.key}.{stem}" if stem else group.key for stem in samples)
    return list(map(_Sample, keys, samples.values())), is_ambiguous


def _beginnings(stem: str) -> list[str]:
    """Return what is before each dot of a stem, the longest first, and the empty beginning."""
    words = stem.split(".") if stem else []
    return [".".join(words[:count]) for count in range(len(words) - 1, -1, -1)]


def _stems(group: _Group) -> dict[str, dict[int, list[_Span]]]:
    """Return the files of each part by the name between key and last dot, empty for `KEY.jpg`."""
    with_image = {suffix.rpartition(".")[0] for suffix, (part, _) in group.members.items() if part == _IMAGE}
    stems: dict[str, dict[int, list[_Span]]] = {}
    for suffix, (part, span) in group.members.items():
        stem = suffix.rpartition(".")[0]
        if stem not in with_image and _lower_end(stem) in group.members:  # `a.jpg.txt` next to `a.jpg`
            stem = stem.rpartition(".")[0]
        stems.setdefault(stem, {}).setdefault(part, []).append(span)
    return stems


def _has_choice(spans: dict[int, list[_Span]]) -> bool:
    return any(len(found) > 1 for found in spans.values())


def _join(key: str, stems: dict[str, dict[int, list[_Span]]]) -> tuple[list[_Sample], bool]:
    """Return one sample of all files: of several for a part, `KEY.jpg` comes before `KEY.seg.png`, then the first."""
    candidates: dict[int, list[_Span]] = {}
    for stem in sorted(stems, key=bool):
        for part, found in stems[stem].items():
            candidates.setdefault(part, []).extend(found)
    return [_Sample(key, {part: found[0] for part, found in candidates.items()})], _has_choice(candidates)
