"""The README.md of an exported checkpoint: what it is, what it was trained on and how, what was measured."""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from models.config import ModelSettings

CARD_FILE = "README.md"
_BEGIN, _END = "<!-- measured results -->", "<!-- end of measured results -->"
_NONE = "Nothing has been measured yet; `launch.py evaluate` measures, and writes its results here."


class Result(NamedTuple):
    """A measured number: `value` as it is to be shown, of `metric` on `dataset`, with the protocol in words."""

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
    """Returns the text of a model card with the fields that the Hugging Face hub reads.

    `training` are lines of a table, name → value. `license` is an identifier such as "apache-2.0"; None says that none
    was given.
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
    towers = {
        "image tower": f"{height} × {width} px in patches of {vision.patch_size}, width {vision.width}, "
        f"{vision.depth} layers, {vision.heads} heads",
        "text tower": f"{text.length} tokens of {text.vocab_size:,}, width {text.width}, {text.depth} layers, "
        f"{text.heads} heads",
        "embedding": f"{settings.dim} dimensions",
    }
    return f"""---
{data.to_yaml()}
---

# {_cell(name)}

Two towers that embed images and texts in one space, for zero-shot classification, retrieval, and adaptation from a few
examples.

```python
from transformers import AutoImageProcessor, AutoTokenizer, {architecture}

model = {architecture}.from_pretrained(folder)
pixels = AutoImageProcessor.from_pretrained(folder)(images, return_tensors="pt")
tokens = AutoTokenizer.from_pretrained(folder)(texts{padding}, truncation=True, return_tensors="pt")
logits = model(**pixels, **tokens).logits_per_image
```

## Model

{_table(towers)}

## Training

{_table(training)}

## Measured results

{_results(())}

## Licence

{_cell(license) if license else "None was stated by who exported it. The data it was trained on may restrict its use."}
"""


def write_results(folder: str | os.PathLike, results: Sequence[Result]) -> bool:
    """Puts measured results into the model card in `folder`; returns False where there is no card made here."""
    return keep_results(folder, _results(results))


def keep_results(folder: str | os.PathLike, block: str) -> bool:
    """Puts a block of measured results into a card; returns False where there is no card made here."""
    path = pathlib.Path(folder) / CARD_FILE
    if not path.is_file():
        return False
    before, begin, rest = path.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        return False
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        partial = pathlib.Path(temporary) / path.name
        partial.write_text(before + block + after, encoding="utf-8")
        os.replace(partial, path)
    return True


def shortened(source: str) -> str:
    """Returns the last parts of a path: who reads a card need not know the folders of who trained."""
    return "/".join(source.rsplit("/", 2)[-2:])


def read_card(folder: str | os.PathLike) -> tuple[str | None, str | None]:
    """Returns the licence and the block of measured results of a card made here, None where there is none."""
    from huggingface_hub import ModelCard

    path = pathlib.Path(folder) / CARD_FILE
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    _, begin, rest = text.partition(_BEGIN)
    block, end, _ = rest.partition(_END)
    if not begin or not end:
        return None, None
    license = ModelCard(text, ignore_metadata_errors=True).data.license
    return None if license == "unknown" else license, begin + block + end


def _results(results: Sequence[Result]) -> str:
    lines = ["| dataset | metric | value | protocol |", "|---|---|---|---|"]
    shown = [result._replace(dataset=shortened(result.dataset)) for result in results]
    lines += ["| " + " | ".join(map(_cell, result)) + " |" for result in shown]
    return f"{_BEGIN}\n{chr(10).join(lines) if results else _NONE}\n{_END}"


def _table(values: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {_cell(name)} | {_cell(value)} |" for name, value in values.items())])


def _cell(text: str) -> str:
    """Returns text that Markdown and HTML show as it is, on one line."""
    for special, shown in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|")):
        text = text.replace(special, shown)
    return " ".join(text.split())
