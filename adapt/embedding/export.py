"""Embeddings of whole collections as files: safetensors and `.npy`, with the ids of their rows."""

from __future__ import annotations

import contextlib
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
    Pieces,
    collection_files,
    join_pieces,
    remove_leftovers,
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
from foundation.shard import WHOLE, Shard

logger = logging.getLogger(__name__)

_NOTHING = "nothing to embed. Pass --images, --texts or both, or --image_features and --text_features for heads."
_KEYS = {  # of the description that must match, and their names in messages
    "checkpoint": "checkpoint, dtype, image size, number of patches or tokenizer",
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
    shard: Shard = WHOLE,
    progress: Progress = _no_progress,
) -> dict[str, EmbeddedCollection]:
    """Embed images, texts or both into files in the folder `out`; return what was written for "images" and "texts".

    images: a folder of images, or another source for `data.sources.open.open_source`.
    texts: a file with one text per line, or with JSON lines, see `read_texts`.
    image_features, text_features: stored features, for a checkpoint of heads (`data.features.open_features`).
    data_dir: folder of the data that sources keep.
    shard: the part of the rows to embed. The shard that finishes last joins the pieces of all of them; earlier ones
        return nothing for the collection.
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
    check_given(images, texts, image_features, text_features)
    if texts is not None:
        encoder.check_embeds_texts()  # before hours are spent on the images
    check_output_folder(out)
    written = {}
    for kind, name in (("images", image_features), ("texts", text_features)):
        if name is not None:
            written[kind] = _feature_collection(encoder, name, kind).write(out, kind, progress, shard)
    if images is not None:
        written["images"] = _image_collection(encoder, images, data_dir).write(out, "images", progress, shard)
    if texts is not None:
        written["texts"] = _text_collection(encoder, texts).write(out, "texts", progress, shard)
    return {kind: collection for kind, collection in written.items() if collection is not None}


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
    check_given(images, texts, image_features, text_features)
    for kind, name in (("images", image_features), ("texts", text_features)):
        if name is not None:
            open_features([name], kind=kind)
    if texts is not None:
        read_texts(texts)
    if images is not None:
        _open_images(images, data_dir)


def check_given(
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

    def write(
        self, out: pathlib.Path, name: str, progress: Progress, shard: Shard = WHOLE
    ) -> EmbeddedCollection | None:
        """Embed the missing pieces of a shard; the last one joins all pieces and completes the description.

        Returns None if pieces of other shards are missing. Other processes are kept out of the same pieces.
        """
        if shard == WHOLE:
            with _lock(out, f".{name}.lock"):
                finished = self._begin(out, name, progress)
                if finished is not None:
                    return finished
                _check_no_shard_runs(out, name)
                self._embed_missing(out, name, progress, shard)
                return self._join(out, name)
        with contextlib.ExitStack() as own:
            with _lock(out, f".{name}.lock", wait=True):
                finished = self._begin(out, name, progress)
                if finished is not None:
                    return finished
                own.enter_context(_lock(out, f".{name}.shard-{shard.index}-of-{shard.count}.lock"))
            self._embed_missing(out, name, progress, shard)
        # Its own lock is released before the check, so that of two shards that finish together the later one joins.
        with _lock(out, f".{name}.lock", wait=True):
            finished = self._claim(out / f"{name}.json", out)
            return finished or self._join_if_complete(out, name)

    def _begin(self, out: pathlib.Path, name: str, progress: Progress) -> EmbeddedCollection | None:
        """Claim the folder; return the collection if it is finished."""
        finished = self._claim(out / f"{name}.json", out)
        remove_leftovers(out, name)
        if finished is not None:
            shutil.rmtree(_parts(out, name), ignore_errors=True)
            progress(name, self.count, self.count)
        else:
            _parts(out, name).mkdir(exist_ok=True)
        return finished

    def _join_if_complete(self, out: pathlib.Path, name: str) -> EmbeddedCollection | None:
        """Join the pieces if all are there and no shard is running; log what is missing."""
        pieces = Pieces(_parts(out, name), self.count)
        missing = sum(not piece.path.is_file() for piece in pieces)
        if missing:
            logger.info(f"{name}: {missing} of {len(pieces)} pieces belong to other shards; the last one joins them")
            return None
        try:
            _check_no_shard_runs(out, name)
        except ValueError:
            logger.info(f"{name}: another shard is still running; the last one joins the pieces")
            return None
        return self._join(out, name)

    def _join(self, out: pathlib.Path, name: str) -> EmbeddedCollection:
        """Join the pieces, complete the description, and remove pieces and the locks of shards."""
        pieces = Pieces(_parts(out, name), self.count)
        metadata = {"checkpoint": self.encoder.name, "fingerprint": self.checkpoint, "normalized": "false"}
        written = join_pieces(pieces, out, name, dim=self.encoder.dim, metadata=metadata)
        checksums = {path.name: sha256_of(path) for path in written.files.values()}
        counts = {"rows": written.rows, "bad": written.bad}
        write_json(out / f"{name}.json", self._description() | counts | {"sha256": checksums})
        shutil.rmtree(_parts(out, name))
        for path in _shard_locks(out, name):
            path.unlink(missing_ok=True)
        return written

    def _embed_missing(self, out: pathlib.Path, name: str, progress: Progress, shard: Shard) -> None:
        """Embed the pieces of the shard that are not there, with one of them in memory at a time."""
        pieces = Pieces(_parts(out, name), self.count)
        total = sum(len(piece.rows) for piece in pieces.of(shard))
        done = 0
        progress(name, done, total)
        for piece in pieces.of(shard):
            if not piece.exists():
                started = done
                for rows in self._embed_piece(piece):
                    progress(name, min(started + rows, total - 1), total)  # complete only when it is on disk
            done += len(piece.rows)
            progress(name, done, total)

    def _embed_piece(self, piece: Piece) -> Iterator[int]:
        """Embed and save a piece; yield the number of its rows that are embedded."""
        self.bad.clear()
        batches, done = [], 0
        for batch in self.embed(piece.rows):
            batches.append(batch)
            done += len(batch)
            yield done
        embeddings = np.concatenate(batches)
        check_finite(embeddings, lambda row: repr(self.id_of(piece.rows[row])), self.encoder)
        piece.save(embeddings, ids=[self.id_of(row) for row in piece.rows], bad=self.bad)

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


def _parts(out: pathlib.Path, name: str) -> pathlib.Path:
    return out / f"{name}.parts"


def _lock(out: pathlib.Path, file: str, *, wait: bool = False) -> contextlib.AbstractContextManager[None]:
    return lock_folder(out, file, job="embed job", option="--out", wait=wait)


def _shard_locks(out: pathlib.Path, name: str) -> list[pathlib.Path]:
    return sorted(out.glob(f".{name}.shard-*.lock"))


def _check_no_shard_runs(out: pathlib.Path, name: str) -> None:
    """Raise `ValueError` if a shard is running. None starts while the caller holds the lock of the collection."""
    for path in _shard_locks(out, name):
        with _lock(out, path.name):
            pass


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
