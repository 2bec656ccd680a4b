"""Embeddings of whole collections as files: safetensors and `.npy`, with the ids of their rows."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from adapt.embedding.cache import Progress, check_finite
from adapt.embedding.collection_files import (
    EmbeddedCollection,
    Piece,
    collection_files,
    join_pieces,
    remove_leftovers,
    split_into_pieces,
)
from adapt.embedding.encoder import Encoder
from adapt.embedding.text_file import read_texts
from data.features.open import open_features
from data.io.fingerprint import fingerprint
from data.pipeline.image_ops import decode
from data.sources.base import BadRecord, Source
from data.sources.image_folders import ImageFiles
from data.sources.open import is_folder, open_source
from data.sources.split_folders import splits_with_images
from foundation.files.atomic import write_json
from foundation.files.checksum_file import sha256_of
from foundation.files.folder_lock import lock_folder
from foundation.files.output_folder import check_output_folder

logger = logging.getLogger(__name__)

_NOTHING = "nothing to embed. Pass --images, --texts or both, or --image_features and --text_features for heads."
_KEYS = {  # of the description that must match, and their names in messages
    "checkpoint": "checkpoint, dtype, image size or tokenizer",
    "collection": "collection",
    "count": "number of rows",
}


def _no_progress(name: str, done: int, total: int) -> None:
    """Report nothing."""


def embed_collections(
    encoder: Encoder,
    out: str | os.PathLike,
    *,
    images: str | None = None,
    texts: str | os.PathLike | None = None,
    image_features: str | None = None,
    text_features: str | None = None,
    data_dir: str | os.PathLike,
    progress: Progress = _no_progress,
) -> dict[str, EmbeddedCollection]:
    """Embed images, texts or both into files in the folder `out`; return what was written for "images" and "texts".

    images: a folder of images, or another source for `data.sources.open.open_source`.
    texts: a file with one text per line, or with JSON lines, see `read_texts`.
    image_features, text_features: stored features, for a checkpoint of heads (`data.features.open_features`).
    data_dir: folder of the data that sources keep.
    progress: called with (name, done, total) after every batch.

    The files of a collection NAME are `NAME.safetensors` with `embeddings` `[rows, dim]`, float32 and not normalised;
    `NAME.npy` with the same; `NAME.ids.jsonl` with the id of each row; `NAME.bad.jsonl` with the images that could not
    be embedded and why, if any; and `NAME.json`, the description with the checksums of the files. The same call resumes
    after an interruption.

    Raises `ValueError` if there is nothing to embed, if `out` contains other files of these names or belongs to a run
    or a checkpoint, if another process embeds the same collection into it, if finished files are damaged, for
    embeddings that are not finite, and for texts if the checkpoint embeds images only.
    """
    out = pathlib.Path(out)
    _check_given(images, texts, image_features, text_features)
    if texts is not None:
        encoder.check_embeds_texts()  # before hours are spent on the images
    check_output_folder(out)
    written = {}
    for kind, name in (("images", image_features), ("texts", text_features)):
        if name is not None:
            written[kind] = _feature_collection(encoder, name, kind).write(out, kind, progress)
    if images is not None:
        written["images"] = _image_collection(encoder, images, data_dir).write(out, "images", progress)
    if texts is not None:
        written["texts"] = _text_collection(encoder, texts).write(out, "texts", progress)
    return written


def check_inputs(
    out: str | os.PathLike,
    images: str | None,
    texts: str | os.PathLike | None,
    data_dir: str | os.PathLike,
    *,
    image_features: str | None = None,
    text_features: str | None = None,
) -> None:
    """Raise what `embed_collections` would raise for these inputs, without opening a checkpoint."""
    check_output_folder(out)
    _check_given(images, texts, image_features, text_features)
    for kind, name in (("images", image_features), ("texts", text_features)):
        if name is not None:
            open_features([name], kind=kind)
    if texts is not None:
        read_texts(texts)
    if images is not None:
        _open_images(images, data_dir)


def _check_given(
    images: str | None, texts: str | os.PathLike | None, image_features: str | None, text_features: str | None
) -> None:
    """Raise `ValueError` if there is nothing to embed, or a collection is given twice."""
    if images is None and texts is None and image_features is None and text_features is None:
        raise ValueError(_NOTHING)
    for name, one, other in (("image", images, image_features), ("text", texts, text_features)):
        if one is not None and other is not None:
            raise ValueError(f"--{name}s and --{name}_features would write the same files. Pass one of them.")


class _CollectionExport(NamedTuple):
    """A collection to embed.

    checkpoint: fingerprint of the encoder for this kind of input.
    fingerprint: of the content of the collection.
    count: number of rows.
    id_of: returns the id of a row.
    embed: yields the embeddings of a range of rows batch by batch, and stores rows that fail in `bad`.
    bad: the rows of the last piece that could not be embedded.
    """

    encoder: Encoder
    checkpoint: str
    fingerprint: str
    count: int
    id_of: Callable[[int], Any]
    embed: Callable[[range], Iterator[np.ndarray]]
    bad: dict[int, BadRecord]

    def write(self, out: pathlib.Path, name: str, progress: Progress) -> EmbeddedCollection:
        """Embed the missing pieces, join them and complete the description; other processes are kept out meanwhile."""
        with lock_folder(out, f".{name}.lock", job="embed job", option="--out"):
            return self._write(out, name, progress)

    def _write(self, out: pathlib.Path, name: str, progress: Progress) -> EmbeddedCollection:
        description, parts = out / f"{name}.json", out / f"{name}.parts"
        finished = self._claim(description, out)
        remove_leftovers(out, name)
        if finished is not None:
            shutil.rmtree(parts, ignore_errors=True)
            progress(name, self.count, self.count)
            return finished
        parts.mkdir(exist_ok=True)
        pieces = split_into_pieces(parts, self.count)
        self._embed_missing(pieces, lambda done: progress(name, done, self.count))
        metadata = {"checkpoint": self.encoder.name, "fingerprint": self.checkpoint, "normalized": "false"}
        written = join_pieces(pieces, out, name, dim=self.encoder.dim, metadata=metadata)
        checksums = {path.name: sha256_of(path) for path in written.files.values()}
        counts = {"rows": written.rows, "bad": written.bad}
        write_json(description, self._description() | counts | {"sha256": checksums})
        shutil.rmtree(parts)
        return written

    def _embed_missing(self, pieces: list[Piece], progress: Callable[[int], None]) -> None:
        missing = [piece for piece in pieces if not piece.exists()]
        done = self.count - sum(len(piece.rows) for piece in missing)
        progress(done)
        for piece in missing:
            self.bad.clear()
            batches = []
            for batch in self.embed(piece.rows):
                batches.append(batch)
                done += len(batch)
                progress(min(done, self.count - 1))  # complete only when it is on disk
            embeddings = np.concatenate(batches)
            check_finite(embeddings, lambda row, rows=piece.rows: repr(self.id_of(rows[row])), self.encoder)
            piece.save(embeddings, ids=[self.id_of(row) for row in piece.rows], bad=self.bad)
            progress(done)

    def _description(self) -> dict[str, Any]:
        return {
            "checkpoint": self.checkpoint,
            "checkpoint_name": self.encoder.name,
            "weights": self.encoder.weights,
            "options": self.encoder.options,
            "collection": self.fingerprint,
            "count": self.count,
        }

    def _claim(self, path: pathlib.Path, out: pathlib.Path) -> EmbeddedCollection | None:
        """Write the description to `path`, or check that the one there is equal; return the result if it is finished.

        Raises `ValueError` if the files in `out` are of another checkpoint or collection, or incomplete.
        """
        ours = self._description()
        if not path.is_file():
            existing = next((file for file in collection_files(out, path.stem).values() if file.exists()), None)
            if existing is not None:
                raise ValueError(f"{existing} exists without its description {path.name}. Use another --out.")
            write_json(path, ours)
            return None
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            theirs = None
        if not isinstance(theirs, dict):
            raise ValueError(f"{path} is not a description of embeddings. Use another --out.")
        for key, meaning in _KEYS.items():
            if theirs.get(key) != ours[key]:
                raise ValueError(f"{path} describes embeddings of another {meaning}. Use another --out.")
        if "rows" not in theirs:
            return None
        files = collection_files(out, path.stem)
        if not theirs["bad"]:
            del files["bad"]
        missing = next((file for file in files.values() if not file.is_file()), None)
        if missing is not None:
            raise ValueError(f"{path} describes finished embeddings, but {missing} is missing. {_again(path)}")
        checksums = theirs.get("sha256", {})  # without any in earlier versions
        recorded = [file for file in files.values() if file.name in checksums]
        damaged = next((file for file in recorded if checksums[file.name] != sha256_of(file)), None)
        if damaged is not None:
            raise ValueError(
                f"{damaged} is damaged or was changed: it does not have the checksum in {path.name}. {_again(path)} To "
                "skip the check, remove sha256 from the description."
            )
        return EmbeddedCollection(files, theirs["rows"], theirs["bad"])


def _again(description: pathlib.Path) -> str:
    return f"Remove {description.with_suffix('')}.* to embed again."


def _image_collection(encoder: Encoder, name: str, data_dir: str | os.PathLike) -> _CollectionExport:
    source = _open_images(name, data_dir)
    is_image_folder = isinstance(source, ImageFiles)
    splits = splits_with_images(os.path.expanduser(name)) if is_folder(name) else []
    if len(splits) > 1:
        logger.info(
            f"{name}: the images of all splits are embedded ({', '.join(splits)}); their ids begin with the split"
        )
    content = (source.content_fingerprint() if is_image_folder else None) or source.fingerprint
    bad: dict[int, BadRecord] = {}

    def image(row: int) -> Image.Image:
        record = source[row]
        return decode(record.image, record.key)

    return _CollectionExport(
        encoder,
        checkpoint=encoder.image_fingerprint,
        fingerprint=content,
        count=len(source),
        id_of=source.path if is_image_folder else source.key,
        embed=lambda rows: encoder.iterate_images(image, rows, bad=bad),
        bad=bad,
    )


def _text_collection(encoder: Encoder, path: str | os.PathLike) -> _CollectionExport:
    ids, texts = read_texts(path)
    return _CollectionExport(
        encoder,
        checkpoint=encoder.fingerprint,
        fingerprint=fingerprint(json.dumps(ids), *texts),
        count=len(texts),
        id_of=ids.__getitem__,
        embed=lambda rows: encoder.iterate_texts(texts, rows),
        bad={},
    )


def _feature_collection(encoder: Encoder, name: str, kind: str) -> _CollectionExport:
    features = open_features([name], kind=kind)
    return _CollectionExport(
        encoder,
        checkpoint=encoder.head_fingerprint,
        fingerprint=fingerprint(*(source["fingerprint"] for source in features.sources)),
        count=len(features),
        id_of=lambda row: row if features.ids is None else features.ids[row],
        embed=lambda rows: iter([encoder.embed_features(**{kind: features.gather(np.asarray(rows))})]),
        bad={},
    )


def _open_images(name: str, data_dir: str | os.PathLike) -> Source:
    return ImageFiles(os.path.expanduser(name)) if is_folder(name) else open_source(name, data_dir)
