"""Shows the batches that a run will see, pictures and captions as the model gets them, and what is wrong in them."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import logging
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.pipeline.loader import FAILURES, BatchLoader
from data.pipeline.thumbnails import data_uri
from data.sources.base import REASONS
from foundation.progress import track
from models.text.tokenizer import Tokenizer
from pretrain.config.run import PretrainSettings, read_settings
from pretrain.input_pipeline import ORDER_FILE, create_examples, open_data, prepare_order, prepare_tokenizer

logger = logging.getLogger(__name__)

_TILE = 160  # pixels of a picture on the sheet
_CAPTION_LINES = 4
_COLUMNS = 8
_LISTED = 100  # bad records on the page


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a batch: its sample, its picture `[height, width, 3]` with the patches that are dropped made pale, and
    its caption after tokenisation and back."""

    key: str
    picture: np.ndarray
    caption: str
    tokens: int


@dataclasses.dataclass
class Inspection:
    """What was found: the rows of the step that is shown, and counts over all steps that were read."""

    rows: list[Row] = dataclasses.field(default_factory=list)
    lengths: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    sources: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    bad: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)  # key → reason, detail
    reasons: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


def inspect(
    config: Mapping[str, Any],
    workdir: str | os.PathLike,
    *,
    data_dir: str | os.PathLike,
    step: int,
    steps: int,
    shown: int,
) -> pathlib.Path:
    """Reads batches `step` … `step + steps − 1` of the run that a config describes, and returns the page written.

    Step s is the one that a run logs as s + 1. Writes `inspect/step-NNNNNNNN.html` and `.png` to `workdir` with up to
    `shown` rows of batch `step`. Reads the run's tokenizer from `workdir` where there is one. Raises `ValueError` for
    numbers below what makes sense, and what opening the data raises.
    """
    for name, value, least in (("step", step, 0), ("steps", steps, 1), ("rows", shown, 1)):
        if value < least:
            raise ValueError(f"--{name}={value} makes no sense; it must be at least {least}")
    settings = read_settings(config, pathlib.Path(workdir))
    workdir = pathlib.Path(workdir)
    source = open_data(settings, data_dir)
    with tempfile.TemporaryDirectory() as temporary:
        begun = (workdir / "pretrain.json").is_file() and (workdir / "tokenizer").is_dir()
        folder = workdir if begun else pathlib.Path(temporary)
        tokenizer = prepare_tokenizer(folder / "tokenizer", source, settings)
        order = prepare_order(folder / ORDER_FILE, source, settings)
    examples = create_examples(settings, source, tokenizer, order)
    found = read_batches(examples, tokenizer, settings, step=step, steps=steps, shown=shown)
    folder = workdir / "inspect"
    folder.mkdir(parents=True, exist_ok=True)
    facts = summarize(settings, examples, found, step=step, steps=steps)
    for line in facts:
        logger.info(line)
    sheet = draw_sheet(found.rows)
    sheet.save(folder / f"step-{step:08d}.png")
    page = folder / f"step-{step:08d}.html"
    page.write_text(write_page(settings, examples, found, facts, step=step), encoding="utf-8")
    return page


def read_batches(
    examples: BatchLoader, tokenizer: Tokenizer, settings: PretrainSettings, *, step: int, steps: int, shown: int
) -> Inspection:
    """Makes the examples of the steps, as the run makes them."""
    found, sampler = Inspection(), examples.sampler
    with concurrent.futures.ThreadPoolExecutor(settings.data.threads) as threads:
        for current in track(range(step, step + steps), total=steps, description="reading batches", unit="batches"):
            made = threads.map(
                lambda row, current=current: examples.rows(current, range(row, row + 1)), range(sampler.batch_size)
            )
            for row, batch in enumerate(made):
                example = {name: array[0] for name, array in batch.items()}
                attempt = int(np.count_nonzero(example[FAILURES]))
                for failed in range(attempt):
                    _note_failure(found, examples, current, row, failed)
                sample = sampler.sample_id(current, row, attempt=attempt)
                tokens = _count_tokens(example["tokens"], tokenizer)
                found.lengths[tokens] += 1
                found.sources[examples.source.locate(sample)[0]] += 1
                if current == step and row < shown:
                    picture = _pale_dropped(example["images"], example.get("kept_patches"), settings.vision.patch_size)
                    caption = tokenizer.decode(example["tokens"])
                    found.rows.append(Row(examples.source.key(sample), picture, caption, tokens))
    return found


def _note_failure(found: Inspection, examples: BatchLoader, step: int, row: int, attempt: int) -> None:
    key = examples.source.key(examples.sampler.sample_id(step, row, attempt=attempt))
    problem = None if key in found.bad else examples.failure(step, row, attempt=attempt)
    if problem:
        found.bad[key] = (problem.reason, problem.detail)
        found.reasons[problem.reason] += 1


def _count_tokens(tokens: np.ndarray, tokenizer: Tokenizer) -> int:
    """Returns the number of tokens up to the first end token, or up to the padding."""
    ends = np.flatnonzero(tokens == tokenizer.end_id) if tokenizer.end_id is not None else ()
    if len(ends):
        return int(ends[0]) + 1
    return int(np.count_nonzero(tokens != tokenizer.pad_id))


def _pale_dropped(picture: np.ndarray, kept: np.ndarray | None, patch: int) -> np.ndarray:
    """Returns the picture with the patches that the tower does not see mixed with white."""
    if kept is None:
        return picture
    rows, columns = picture.shape[0] // patch, picture.shape[1] // patch
    seen = np.zeros(rows * columns, bool)
    seen[kept] = True
    mask = np.kron(seen.reshape(rows, columns), np.ones((patch, patch), bool))
    pale = picture.copy()
    part = pale[: rows * patch, : columns * patch]
    part[~mask] = 255 - (255 - part[~mask]) // 4
    return pale


def summarize(
    settings: PretrainSettings, examples: BatchLoader, found: Inspection, *, step: int, steps: int
) -> list[str]:
    """Returns what was found in sentences."""
    sampler, total = examples.sampler, found.lengths.total()
    span = f"batch {step}" if steps == 1 else f"batches {step} to {step + steps - 1}"
    lines = [
        f"{span} of {sampler.batch_size:,} pairs; {sampler.num_samples:,} samples, after {_epoch(sampler, step):.2f} epochs"
    ]
    for number, (name, length) in enumerate(zip(settings.data.sources, sampler.lengths, strict=True)):
        count = found.sources[number]
        lines.append(f"  {name}: {count:,} examples ({count / total:.1%}), of {length:,} samples")
    whole = settings.text["length"]
    cut = found.lengths[whole]
    lengths = sorted(found.lengths.elements())
    lines.append(
        f"  tokens of a caption: median {lengths[total // 2]}, most {lengths[-1]}; {cut / total:.1%} fill all {whole}"
    )
    if not found.bad:
        return [*lines, "  every record can be used"]
    reasons = ", ".join(f"{count} {reason}" for reason, count in found.reasons.most_common())
    return [*lines, f"  {len(found.bad)} bad records were replaced: {reasons}"]


def _epoch(sampler: Any, step: int) -> float:
    return step * sampler.batch_size / sampler.num_samples


def draw_sheet(rows: list[Row]) -> Image.Image:
    """Returns a contact sheet of the rows, each picture with its caption under it."""
    import matplotlib

    font = ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), 11)
    line_height, gap = 14, 10
    columns = min(_COLUMNS, len(rows))
    height = _TILE + _CAPTION_LINES * line_height + 3 * gap
    sheet = Image.new("RGB", (columns * (_TILE + gap) + gap, -(-len(rows) // columns) * height + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        left, top = gap + number % columns * (_TILE + gap), gap + number // columns * height
        sheet.paste(_enlarge(row.picture), (left, top))
        for line, text in enumerate(_wrap(row.caption, font, _TILE)[:_CAPTION_LINES]):
            pen.text((left, top + _TILE + gap // 2 + line * line_height), text, fill="black", font=font)
    return sheet


def _enlarge(picture: np.ndarray) -> Image.Image:
    image = Image.fromarray(picture)
    coarse = image.width < _TILE
    return image.resize((_TILE, _TILE), Image.Resampling.NEAREST if coarse else Image.Resampling.LANCZOS)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Breaks a text into lines of at most `width` pixels, at spaces where there are some."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        lines.append("")
        for letter in word:  # words wider than a line are broken anywhere
            if font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return [line for line in lines if line] or ["(empty)"]


def write_page(
    settings: PretrainSettings, examples: BatchLoader, found: Inspection, facts: list[str], *, step: int
) -> str:
    """Returns the page, which needs no other file."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    most = max(found.lengths.values())
    longest = settings.text["length"]
    return environment.get_template("inspection.html.j2").render(
        step=step,
        facts=[fact.strip() for fact in facts],
        rows=[
            (row, data_uri(Image.fromarray(row.picture), max(row.picture.shape[:2]), quality=90)) for row in found.rows
        ],
        lengths=[(tokens, found.lengths[tokens], found.lengths[tokens] / most) for tokens in range(1, longest + 1)],
        reasons=[(reason, found.reasons[reason]) for reason in REASONS if found.reasons[reason]],
        bad=[(key, *why) for key, why in list(found.bad.items())[:_LISTED]],
        unlisted=max(0, len(found.bad) - _LISTED),
        dropped=examples.augmentation.keep_patches < 1,
    )
