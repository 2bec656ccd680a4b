"""Embeddings of whole collections as files: safetensors and `.npy`, with the ids of their rows beside them."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from adapt.embedding.encoder import Encoder
from data.io.fingerprint import fingerprint
from data.pipeline.image_ops import decode
from data.sources.base import BadRecord, Source
from data.sources.image_folders import ImageFiles
from data.sources.open import is_folder, open_source
from foundation.atomic import atomic_file, write_text

_NOTHING = "there is nothing to embed; name --images, --texts or both"
_PARTS = 200  # pieces that a collection is saved in, more or less
_LEAST_ROWS, _MOST_ROWS = 256, 65_536  # of a piece

Progress = Callable[[str, int, int], None]


class Embedded(NamedTuple):
    """What was written for a collection: `files` by kind, the number of `rows`, and of those left out as `bad`."""

    files: dict[str, pathlib.Path]
    rows: int
    bad: int


def embed_collections(
    encoder: Encoder,
    out: str | os.PathLike,
    *,
    images: str | None = None,
    texts: str | os.PathLike | None = None,
    data_dir: str | os.PathLike,
    progress: Progress = lambda name, done, total: None,
) -> dict[str, Embedded]:
    """Embeds a collection of images, one of texts, or both; returns what was written for each.

    `images` is a folder of pictures or what else `data.sources.open.open_source` opens, `texts` a file with a text a
    line, or with JSON lines: strings, or objects with `text` and perhaps `id`. For each of "images" and "texts", `out`
    gets `NAME.safetensors` (`embeddings` `[rows, dim]` float32, raw), the same as `NAME.npy`, `NAME.ids.jsonl` with the
    id of each row, `NAME.bad.jsonl` with the pictures that cannot be embedded, if any, and why, and `NAME.json` with
    what it was made of. Stopped, the same call goes on where it was. `progress(name, done, total)` is called after
    every batch.

    Raises `ValueError` where there is nothing to embed, and where `out` holds something else.
    """
    out = pathlib.Path(out)
    if images is None and texts is None:
        raise ValueError(_NOTHING)
    done = {}
    if images is not None:
        done["images"] = _Collection.of_images(encoder, images, data_dir).write(out, "images", progress)
    if texts is not None:
        done["texts"] = _Collection.of_texts(encoder, texts).write(out, "texts", progress)
    return done


class _Collection(NamedTuple):
    """`embed(numbers)` yields embeddings of rows, batch by batch, and puts those that fail into `bad`.

    `checkpoint` is the fingerprint of what embeds them.
    """

    encoder: Encoder
    checkpoint: str
    fingerprint: str
    count: int
    identify: Callable[[int], Any]
    embed: Callable[[range], Iterator[np.ndarray]]
    bad: dict[int, BadRecord]

    @classmethod
    def of_images(cls, encoder: Encoder, name: str, data_dir: str | os.PathLike) -> _Collection:
        source = _open_images(name, data_dir)
        pictures = isinstance(source, ImageFiles)
        content = (source.content_fingerprint() if pictures else None) or source.fingerprint
        identify = source.path if pictures else source.key
        bad: dict[int, BadRecord] = {}

        def picture(number: int) -> Image.Image:
            record = source[number]
            return decode(record.image, record.key)

        embed = lambda numbers: encoder.iterate_images(picture, numbers, bad=bad)  # noqa: E731
        return cls(encoder, encoder.image_fingerprint, content, len(source), identify, embed, bad)

    @classmethod
    def of_texts(cls, encoder: Encoder, path: str | os.PathLike) -> _Collection:
        ids, texts = read_texts(path)
        embed = lambda numbers: encoder.iterate_texts(texts, numbers)  # noqa: E731
        return cls(
            encoder, encoder.fingerprint, fingerprint(json.dumps(ids), *texts), len(texts), ids.__getitem__, embed, {}
        )

    def write(self, out: pathlib.Path, name: str, progress: Progress) -> Embedded:
        described, parts = out / f"{name}.json", out / f"{name}.parts"
        finished = self._claim(described, out)
        for leftover in out.glob(f".{name}.partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if finished is not None:
            shutil.rmtree(parts, ignore_errors=True)
            progress(name, self.count, self.count)
            return finished
        parts.mkdir(exist_ok=True)
        rows = -(-self.count // _PARTS)
        rows = -(-min(rows, _MOST_ROWS) // _LEAST_ROWS) * _LEAST_ROWS  # the same on any number of devices
        starts = range(0, self.count, rows)
        paths = [parts / f"{start:012d}.npz" for start in starts]
        missing = [start for start, path in zip(starts, paths, strict=True) if not _is_whole(path)]
        total, there = self.count, self.count - sum(min(rows, self.count - start) for start in missing)
        progress(name, there, total)
        for start in missing:
            numbers = range(start, min(start + rows, total))
            self.bad.clear()
            batches = []
            for batch in self.embed(numbers):
                batches.append(batch)
                there += len(batch)
                progress(name, min(there, total - 1), total)  # the last is told when it is on disk
            embeddings = np.concatenate(batches)
            good = np.array([number not in self.bad for number in numbers], bool)
            ids = [_json_line(self.identify(number)) for number in numbers]
            problems = [
                json.dumps({"id": json.loads(ids[number - start]), "reason": error.reason, "detail": error.detail})
                for number, error in sorted(self.bad.items())
            ]
            _save(
                parts / f"{start:012d}.npz",
                embeddings=embeddings[good],
                ids=_packed([line for line, kept in zip(ids, good, strict=True) if kept]),
                bad=_packed(problems),
            )
            progress(name, there, total)
        written = self._join(paths, out, name)
        write_text(described, _described(self._description() | {"rows": written.rows, "bad": written.bad}))
        shutil.rmtree(parts)
        return written

    def _description(self) -> dict[str, Any]:
        return {
            "checkpoint": self.checkpoint,
            "checkpoint_name": self.encoder.name,
            "collection": self.fingerprint,
            "count": self.count,
        }

    def _claim(self, path: pathlib.Path, out: pathlib.Path) -> Embedded | None:
        """Notes at `path` what is embedded, or checks that it is what is noted there; returns what is finished."""
        ours = self._description()
        if not path.is_file():
            out.mkdir(parents=True, exist_ok=True)
            foreign = next((file for file in _files(out, path.stem).values() if file.exists()), None)
            if foreign is not None:
                raise ValueError(f"{foreign} is there, and no {path.name} that says what it is; name another --out")
            write_text(path, _described(ours))
            return None
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            theirs = None
        if not isinstance(theirs, dict):
            raise ValueError(f"{path} is no description of embeddings; name another --out")
        for key in ("checkpoint", "collection", "count"):
            if theirs.get(key) != ours[key]:
                other = {"checkpoint": "checkpoint, dtype, image size or tokenizer", "count": "number of rows"}.get(
                    key, key
                )
                raise ValueError(f"{path} is of embeddings of another {other}; name another --out")
        if "rows" not in theirs:
            return None
        files = {kind: file for kind, file in _files(out, path.stem).items() if kind != "bad" or theirs["bad"]}
        gone = next((file for file in files.values() if not file.is_file()), None)
        if gone is not None:
            raise ValueError(f"{path} says that {gone} is finished, which is not there; remove {path} to start anew")
        return Embedded(files, theirs["rows"], theirs["bad"])

    def _join(self, paths: Sequence[pathlib.Path], out: pathlib.Path, name: str) -> Embedded:
        """Writes the files of a collection from its pieces, one after the other through memory."""
        files = _files(out, name)
        rows = sum(_load(path, "embeddings").shape[0] for path in paths)
        shape = (rows, self.encoder.dim)
        bad = 0
        with tempfile.TemporaryDirectory(dir=out, prefix=f".{name}.partial-") as temporary:
            partial = {kind: pathlib.Path(temporary) / path.name for kind, path in files.items()}
            with (
                open(partial["safetensors"], "wb") as tensors,
                open(partial["npy"], "wb") as array,
                open(partial["ids"], "wb") as ids,
                open(partial["bad"], "wb") as problems,
            ):
                tensors.write(_safetensors_header(shape, self.encoder.name, self.checkpoint))
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(array, header)
                for path in paths:
                    values = _load(path, "embeddings").astype("<f4", copy=False).tobytes()
                    tensors.write(values)
                    array.write(values)
                    ids.write(_load(path, "ids").tobytes())
                    lines = _load(path, "bad").tobytes()
                    bad += lines.count(b"\n")
                    problems.write(lines)
            if not bad:
                files["bad"].unlink(missing_ok=True)
                del files["bad"]
            for kind, path in files.items():
                os.replace(partial[kind], path)
        return Embedded(files, rows, bad)


def check_inputs(images: str | None, texts: str | os.PathLike | None, data_dir: str | os.PathLike) -> None:
    """Raises as `embed_collections` does for what cannot be embedded; no checkpoint is needed to know that."""
    if images is None and texts is None:
        raise ValueError(_NOTHING)
    if texts is not None:
        read_texts(texts)
    if images is not None:
        _open_images(images, data_dir)


def _open_images(name: str, data_dir: str | os.PathLike) -> Source:
    return ImageFiles(os.path.expanduser(name)) if is_folder(name) else open_source(name, data_dir)


def _json_line(value: Any) -> str:
    """Returns a value as JSON in UTF-8, or in ASCII where it is a file name that is not UTF-8."""
    line = json.dumps(value, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeError:
        line = json.dumps(value)
    return line


def _files(out: pathlib.Path, name: str) -> dict[str, pathlib.Path]:
    kinds = {"safetensors": "safetensors", "npy": "npy", "ids": "ids.jsonl", "bad": "bad.jsonl"}
    return {kind: out / f"{name}.{ending}" for kind, ending in kinds.items()}


def read_texts(path: str | os.PathLike) -> tuple[list[Any], list[str]]:
    """Returns the ids and the texts of a file: a text a line, or JSON lines where its name ends in .jsonl.

    A text without an id of its own has its line's number, from 0, as its id. Raises `ValueError` naming the line of
    what is no text.
    """
    path = pathlib.Path(path)
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})") from error
    lines = content.removesuffix("\n").split("\n") if content else []
    if not lines:
        raise ValueError(f"{path} holds no texts")
    if path.suffix != ".jsonl":
        return list(range(len(lines))), lines
    ids, texts = [], []
    for number, line in enumerate(lines):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number + 1} of {path} is no JSON") from error
        fields = value if isinstance(value, dict) else {"text": value}
        if not isinstance(fields.get("text"), str):
            raise ValueError(f"line {number + 1} of {path} is neither a string nor an object with a text")
        ids.append(fields.get("id", number))
        texts.append(fields["text"])
        try:
            json.dumps([ids[-1], texts[-1]], ensure_ascii=False).encode()
        except UnicodeError as error:
            raise ValueError(f"line {number + 1} of {path} spells half a surrogate pair, which is no text") from error
    return ids, texts


def _packed(lines: Sequence[str]) -> np.ndarray:
    return np.frombuffer("".join(line + "\n" for line in lines).encode(), np.uint8)


def _save(path: pathlib.Path, **arrays: np.ndarray) -> None:
    with atomic_file(path) as partial:
        np.savez(partial, **arrays)


def _is_whole(path: pathlib.Path) -> bool:
    """Tells whether a piece is there and can be read; one that cannot is made again."""
    try:
        return path.is_file() and all(_load(path, name) is not None for name in ("embeddings", "ids", "bad"))
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile):
        return False


def _load(path: pathlib.Path, name: str) -> np.ndarray:
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[name]


def _described(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def _safetensors_header(shape: tuple[int, int], checkpoint: str, fingerprint: str) -> bytes:
    """Returns what a safetensors file with one float32 array of a shape begins with."""
    header = {
        "__metadata__": {"checkpoint": checkpoint, "fingerprint": fingerprint, "normalized": "false"},
        "embeddings": {"dtype": "F32", "shape": list(shape), "data_offsets": [0, 4 * shape[0] * shape[1]]},
    }
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(8, "little") + content
