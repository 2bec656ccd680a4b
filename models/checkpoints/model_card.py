"""The model card of an exported checkpoint, its README.md: architecture, training and measured results."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from foundation.files.atomic import write_text
from foundation.files.checksum_file import sha256_of
from models.config import ModelSettings

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

CARD_FILE = "README.md"
_BEGIN, _END = "<!-- measured results -->", "<!-- end of measured results -->"
_NO_LICENSE = "No license was given at export. The training data may restrict the use of the weights."
_USES = "for zero-shot classification, retrieval and few-shot\nadaptation."
_TOWERS = f"An image tower and a text tower that embed into one space, {_USES}"
_HEADS = f"Maps the features of frozen encoders into one space, {_USES} The encoders are not part of this folder."
_NO_RESULTS = "Nothing has been measured yet. `launch.py evaluate` writes its results here."


class MeasuredResult(NamedTuple):
    """A measured result: the formatted `value` of `metric` on `dataset`, and the protocol in words."""

    dataset: str
    metric: str
    value: str
    protocol: str


def model_card(
    settings: ModelSettings,
    *,
    name: str,
    architecture: str,
    license: str | None,
    base_model: str | None,
    training: Mapping[str, str],
) -> str:
    """Return the text of a model card with the metadata that the Hugging Face Hub reads.

    `training` maps the names of lines in the training table to their values. `license` is an identifier such as
    "apache-2.0", or None if no license was given.
    """
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        license=license or "unknown",
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=["vision", "contrastive", architecture.removesuffix("Model").lower()],
        base_model=base_model,
    )
    vision, text = settings.vision, settings.text
    padding = ', padding="max_length"' if text.pooling == "last" else ", padding=True"
    height, width = vision.image_shape
    size = f"{height} × {width} pixels"
    if vision.max_patches is not None:
        size = f"any aspect ratio, up to {vision.max_patches} patches; trained on squares of {height} pixels"
    towers = {
        "image tower": f"{size}, patch size {vision.patch_size}, width {vision.width}, "
        f"{vision.depth} layers, {vision.heads} heads",
        "text tower": f"{text.length} tokens, vocabulary of {text.vocab_size:,}, width {text.width}, "
        f"{text.depth} layers, {text.heads} heads",
        "embedding": f"{settings.dim} dimensions",
    }
    code = f"""from transformers import AutoImageProcessor, AutoTokenizer, {architecture}

model = {architecture}.from_pretrained(folder)
pixels = AutoImageProcessor.from_pretrained(folder)(images, return_tensors="pt")
tokens = AutoTokenizer.from_pretrained(folder)(texts{padding}, truncation=True, return_tensors="pt")
logits = model(**pixels, **tokens).logits_per_image"""
    return card_text(data, name=name, intro=_TOWERS, code=code, model=towers, training=training, license=license)


def aligned_card(
    *, name: str, license: str | None, model: Mapping[str, str], training: Mapping[str, str], opens_images: bool
) -> str:
    """Return the text of the card of aligned features; `model` and `training` are the lines of its tables.

    `opens_images` is whether the encoder of images can be opened, so that the code of the card embeds images.
    """
    from huggingface_hub import ModelCardData

    data = ModelCardData(license=license or "unknown", tags=["vision", "contrastive", "aligned-features"])
    use = "embed_images(images)" if opens_images else "embed_features(images=features)"
    code = f"""import adapt

encoder = adapt.Encoder(folder)
embeddings = encoder.{use}"""
    return card_text(data, name=name, intro=_HEADS, code=code, model=model, training=training, license=license)


def card_text(
    data: ModelCardData,
    *,
    name: str,
    intro: str,
    code: str,
    model: Mapping[str, str],
    training: Mapping[str, str],
    license: str | None,
) -> str:
    """Return the text of a card with its metadata; `model` and `training` are the lines of its tables."""
    return f"""---
{data.to_yaml()}
---

# {_cell(name)}

{intro}

```python
{code}
```

## Model

{_table(model)}

## Training

{_table(training)}

## Measured results

{_results(())}

## License

{_cell(license) if license else _NO_LICENSE}
"""


def write_results(folder: str | os.PathLike, results: Sequence[MeasuredResult]) -> bool:
    """Write measured results into the model card in `folder`; return False if there is no card by `model_card`."""
    path = pathlib.Path(folder) / CARD_FILE
    card = path.read_text(encoding="utf-8") if path.is_file() else ""
    if _BEGIN not in card or _END not in card:
        return False
    write_text(path, _with_results(card, _results(results)))
    return True


def write_card(folder: pathlib.Path, card: str, *, weights: str, replaced: pathlib.Path) -> None:
    """Write the card of a new checkpoint in `folder`, which will replace the one in `replaced`.

    The measured results of the replaced card are kept if the files `weights` of both have the same bytes.
    """
    results, before = read_card(replaced).results, replaced / weights
    if results is not None and before.is_file() and sha256_of(before) == sha256_of(folder / weights):
        card = _with_results(card, results)
    write_text(folder / CARD_FILE, card)


def _with_results(card: str, block: str) -> str:
    before, _, rest = card.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return before + block + after


def shortened(source: str) -> str:
    """Return the last two parts of a path, so that a card does not reveal local folders."""
    return "/".join(source.rsplit("/", 2)[-2:])


class CardContent(NamedTuple):
    """The parts of an existing card that a new export keeps: license and block of results, or None."""

    license: str | None
    results: str | None


def read_card(folder: str | os.PathLike) -> CardContent:
    """Return the license and the block of measured results of the card in `folder`, if `model_card` wrote it."""
    from huggingface_hub import ModelCard

    path = pathlib.Path(folder) / CARD_FILE
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    _, begin, rest = text.partition(_BEGIN)
    block, end, _ = rest.partition(_END)
    if not begin or not end:
        return CardContent(None, None)
    license = ModelCard(text, ignore_metadata_errors=True).data.license
    return CardContent(None if license == "unknown" else license, begin + block + end)


def _results(results: Sequence[MeasuredResult]) -> str:
    lines = ["| dataset | metric | value | protocol |", "|---|---|---|---|"]
    shown = [result._replace(dataset=shortened(result.dataset)) for result in results]
    lines += ["| " + " | ".join(map(_cell, result)) + " |" for result in shown]
    return f"{_BEGIN}\n{chr(10).join(lines) if results else _NO_RESULTS}\n{_END}"


def _table(values: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {_cell(name)} | {_cell(value)} |" for name, value in values.items())])


def _cell(text: str) -> str:
    """Return text escaped for a cell of a Markdown table, on one line."""
    for special, shown in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|")):
        text = text.replace(special, shown)
    return " ".join(text.split())
