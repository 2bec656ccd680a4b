"""The data that a run began with, as its workdir keeps it, and whether the data of a resumed run is the same."""

from __future__ import annotations

import itertools
import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data.sources.base import ContentDigest, Source
from data.sources.tar_shards import TarShards
from foundation.files.atomic import write_json
from foundation.files.json_lines import parse_json_lines, write_json_lines

logger = logging.getLogger(__name__)

DATA_FILE, CONTENT_FILE = "data.json", "data_content.jsonl"
_VERSION = 1  # of the rule by which sources choose what `content_digests` reads


class DataIdentity(NamedTuple):
    """The sources of a run, with all that tells them from others.

    `sources` are the lines of `data.json`: name, number of samples, fingerprint, and `stamp`, which changes when a
    shard is written again. `contents` are the digests of each source, empty for sources that are hashed as a whole.
    """

    sources: list[dict[str, Any]]
    contents: list[list[ContentDigest]]


def compare_data(
    workdir: pathlib.Path, names: Sequence[str], sources: Sequence[Source], *, moved: bool
) -> DataIdentity:
    """Return the identity of the sources, after a comparison with that in `workdir` if a run has begun there.

    Content decides, not the names of the files. It is read, unless shards have the names, sizes and times of before
    and the data has not `moved`. Raises `ValueError` naming the first file or sample that has changed: the run would
    see other batches from here on.
    """
    current = [_describe(name, source) for name, source in zip(names, sources, strict=True)]
    before = _read_sources(workdir)
    if before is None:
        return DataIdentity(current, [source.content_digests() for source in sources])
    kept = _read_contents(workdir, before)
    contents = []
    for number, (old, now, source) in enumerate(zip(before, current, sources, strict=True)):
        known = None if kept is None else kept[number]
        if old["samples"] != now["samples"] or (known is None and old["fingerprint"] != now["fingerprint"]):
            raise ValueError(_describe_change(old, now))
        same_stamp = now["stamp"] is not None and old.get("stamp") == now["stamp"]
        digests = known if known is not None and same_stamp and not moved else source.content_digests()
        if known is not None:
            _check_digests(known, digests, source=now["source"])
        contents.append(digests)
    return DataIdentity(current, contents)


def compare_hashed_data(workdir: pathlib.Path, sources: Sequence[Mapping[str, Any]]) -> DataIdentity:
    """Return the identity of sources whose fingerprints cover their content, after the same comparison.

    `sources` have the `source`, `samples` and `fingerprint` of `data.json`. Names do not count.
    """
    current = [dict(each) for each in sources]
    for old, now in zip(_read_sources(workdir) or current, current, strict=True):
        if (old["samples"], old["fingerprint"]) != (now["samples"], now["fingerprint"]):
            raise ValueError(_describe_change(old, now))
    return DataIdentity(current, [])


def write_data(workdir: pathlib.Path, identity: DataIdentity) -> None:
    """Write the identity of a run's data to its workdir."""
    if identity.contents:
        write_json_lines(
            workdir / CONTENT_FILE,
            (
                {"source": number, "name": name.encode("utf-8", "backslashreplace").decode(), "digest": digest}
                for number, digests in enumerate(identity.contents)
                for name, digest in digests
            ),
        )
    write_json(workdir / DATA_FILE, identity.sources)


def _describe(name: str, source: Source) -> dict[str, Any]:
    return {
        "source": name,
        "samples": len(source),
        "fingerprint": source.fingerprint,
        "stamp": source.content_fingerprint() if isinstance(source, TarShards) else None,  # costs no access to files
        "digests": _VERSION,
    }


def _read_sources(workdir: pathlib.Path) -> list[dict[str, Any]] | None:
    path = workdir / DATA_FILE
    if not path.exists():
        return None
    try:
        sources = json.loads(path.read_text(encoding="utf-8"))
        if all({"source", "samples", "fingerprint"} <= set(each) for each in sources):
            return sources
    except (ValueError, TypeError, RecursionError):
        pass
    raise ValueError(
        f"{path} is damaged. Restore it from a copy, or remove it: then the data is not compared with that of the run."
    )


def _read_contents(workdir: pathlib.Path, sources: Sequence[Mapping[str, Any]]) -> list[list[ContentDigest]] | None:
    """Return the digests of each source, or None, which is logged, if they are not known or damaged."""
    path = workdir / CONTENT_FILE
    if any(each.get("digests") != _VERSION for each in sources) or not path.exists():
        logger.info(
            f"note: the content of the data is not compared, only its size and names: {workdir} was begun by a version "
            "that did not store it. It is stored now."
        )
        return None
    rows, damaged = parse_json_lines(path)
    contents: list[list[ContentDigest]] = [[] for _ in sources]
    try:
        for row in rows:
            contents[row["source"]].append(ContentDigest(row["name"], row["digest"]))
    except (KeyError, IndexError, TypeError):
        damaged = [0]
    if damaged or not all(contents):
        logger.warning(f"{path} is damaged: the content of the data is not compared, only its size and names")
        return None
    return contents


def _check_digests(before: Sequence[ContentDigest], now: Sequence[ContentDigest], *, source: str) -> None:
    """Raise `ValueError` if digests differ, naming the first."""
    pairs = [pair for pair in itertools.zip_longest(before, now) if _digest_of(pair[0]) != _digest_of(pair[1])]
    if not pairs:
        return
    old, new = pairs[0]
    if old is None or new is None:
        what = f"it has {len(now)} files instead of {len(before)}"
    elif old.name == new.name:
        what = f"{new.name} has other content than when this run began"
    else:
        what = f"{new.name} has other content than {old.name}, which was in its place when this run began"
    more = f" ({len(pairs):,} of {len(now):,} compared files or samples differ)" if len(pairs) > 1 else ""
    raise ValueError(f"{source}: {what}{more}. Restore the data, or use another --workdir.")


def _digest_of(digest: ContentDigest | None) -> str | None:
    return None if digest is None else digest.digest


def _describe_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return (
        f"{now['source']} had {before['samples']:,} samples (fingerprint {before['fingerprint']}) when this run "
        f"began, but has {now['samples']:,} ({now['fingerprint']}) now. Restore the data, or use another --workdir."
    )
