"""Preparation of texts as published checkpoints were trained: case, punctuation, whitespace and special tokens.

The sources are the owners' own preprocessing:

- SigLIP 2: the demo of big_vision (`lower|tok(length=64, model="gemma", bos="no", eos="sticky")`) and
  `Siglip2Tokenizer` of transformers: lower case, `<eos>` at the end, `<pad>` on the right.
- SigLIP: `SiglipTokenizer` of transformers: lower case, no punctuation, padding with the end token `</s>`.
- CLIP, MetaCLIP and DFN: `CLIPTokenizer` of transformers, which equals open_clip's `clean="lower"`: lower case,
  whitespace collapsed.
- MetaCLIP 2: the tokenizer of XLM-V in transformers, which keeps the case.
- open_clip: `tokenizer_kwargs` of its config; before that, broken Unicode and HTML entities are repaired.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from models.text.family import CLIP, GEMMA_TOKENS, METACLIP2, SIGLIP, SIGLIP2, Family, TextEvidence, find_family
from models.text.hf_tokenizer import RECORD

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from models.text.tokenizer import Tokenizer

_CANONICALIZE = {SIGLIP2: "lower", SIGLIP: "siglip", CLIP: "whitespace_lower", METACLIP2: "none"}
_KEEP_CASE = ("whitespace", "whitespace_underscore")
_REPAIR = "broken Unicode and HTML entities are repaired, as by open_clip"
_OPEN_CLIP_SIGLIP = "open_clip"  # `clean="canonicalize"`, which every SigLIP config of open_clip has


class Preparation(NamedTuple):
    """The canonicalization to put before a tokenizer, one of `CANONICALIZATIONS`, and why.

    `changed` is whether the tokenizer's special tokens or padding were changed, `stored` whether the tokenizer itself
    tells how texts are prepared, and `repair` whether they are repaired first (`repair_text`).
    """

    canonicalize: str
    reason: str
    changed: bool = False
    stored: bool = False
    repair: bool = False


def prepare_texts(
    hf_tokenizer: PreTrainedTokenizerBase, evidence: TextEvidence, *, canonicalize: str | None = None
) -> Preparation:
    """Give `hf_tokenizer` the special tokens of the checkpoint's family; return what else its texts need.

    `canonicalize` overrides the canonicalization. A tokenizer that `Tokenizer.save` wrote is left as it is, except in
    an open_clip folder, whose config states how texts are prepared.
    """
    recorded = None if evidence.format == "open_clip" else hf_tokenizer.init_kwargs.get(RECORD)
    if recorded is not None:
        found = Preparation("none", f"stored as {recorded!r} with the tokenizer", stored=True)
    else:
        family = find_family(evidence, hf_tokenizer)
        changed = _set_special_tokens(hf_tokenizer, evidence, family)
        repair = evidence.format == "open_clip"
        reason = _reason(family, evidence)
        found = Preparation(_canonicalization_of(family, evidence), reason, changed, repair=repair)
    if canonicalize is not None:
        repair = found.repair and canonicalize != "none"
        reason = f"canonicalize is {canonicalize!r}"
        found = found._replace(canonicalize=canonicalize, reason=reason, stored=False, repair=repair)
    return found._replace(reason=f"{found.reason}; {_REPAIR}") if found.repair else found


def _reason(family: Family | None, evidence: TextEvidence) -> str:
    """Return why texts are prepared in this way, and how to change it."""
    if family is not None:
        return f"{family.name}, known by its {family.reason}; --canonicalize changes it"
    if evidence.format == "open_clip":
        return "as its open_clip config states; --canonicalize changes it"
    return (
        "by its tokenizer alone: nothing in its files or name says whether it is a CLIP or a SigLIP. If it was trained "
        "on texts prepared in another way, such as lower-cased ones, name the preparation with --canonicalize"
    )


def _canonicalization_of(family: Family | None, evidence: TextEvidence) -> str:
    """Return what an open_clip config states, unless it keeps the case of a SigLIP, or else the family's own."""
    if evidence.format != "open_clip":
        return "none" if family is None else _CANONICALIZE[family.name]
    if evidence.siglip and evidence.canonicalize in (None, *_KEEP_CASE):
        return _OPEN_CLIP_SIGLIP
    default = "whitespace" if "tokenizer" in evidence.names else "whitespace_lower"  # of HFTokenizer, SimpleTokenizer
    return evidence.canonicalize or default


def _set_special_tokens(hf_tokenizer: PreTrainedTokenizerBase, evidence: TextEvidence, family: Family | None) -> bool:
    """Set end token and padding as the model was trained, if it is known; return whether that changed anything."""
    before = _special_tokens(hf_tokenizer)
    if evidence.format == "open_clip":
        hf_tokenizer.padding_side = "right"
    if family is not None and family.name == SIGLIP2:
        hf_tokenizer.padding_side = hf_tokenizer.truncation_side = "right"
        pad, end = GEMMA_TOKENS[:2]
        if hf_tokenizer.is_fast and {pad, end} <= hf_tokenizer.get_vocab().keys():
            hf_tokenizer.pad_token, hf_tokenizer.eos_token = pad, end
            _set_template(hf_tokenizer, None, end)
    elif family is not None and family.name == SIGLIP and hf_tokenizer.eos_token is not None:
        hf_tokenizer.pad_token = hf_tokenizer.eos_token
    if evidence.strip_sep and hf_tokenizer.is_fast and hf_tokenizer.sep_token is not None:
        _set_template(hf_tokenizer, hf_tokenizer.cls_token, hf_tokenizer.pad_token)
    return _special_tokens(hf_tokenizer) != before


def _set_template(hf_tokenizer: PreTrainedTokenizerBase, start: str | None, end: str | None) -> None:
    """Put `start` before a text and `end` after it."""
    from tokenizers.processors import TemplateProcessing

    special = [(token, hf_tokenizer.convert_tokens_to_ids(token)) for token in (start, end) if token is not None]
    if hf_tokenizer("")["input_ids"] == [number for _, number in special]:
        return
    template = " ".join(piece for piece in (start, "$A", end) if piece is not None)
    hf_tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=special)


def _special_tokens(hf_tokenizer: PreTrainedTokenizerBase) -> tuple:
    ids = tuple(hf_tokenizer("")["input_ids"])
    return ids, hf_tokenizer.pad_token, hf_tokenizer.padding_side, hf_tokenizer.truncation_side


def describe_preparation(tokenizer: Tokenizer) -> str:
    """Return what a tokenizer does to case and punctuation, found by trying it."""
    plain, upper, marked = tokenizer(["red apple", "Red APPLE", "red, apple!"])
    case = "are lower-cased" if (plain == upper).all() else "keep their case"
    return f"texts {case} and {'lose' if (plain == marked).all() else 'keep'} their punctuation"
