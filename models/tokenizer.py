"""Text to token ids, by the tokenizer that travels with a checkpoint."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tokenizers

# SigLIP pads with the end token; its text tower reads the last position (arXiv 2303.15343).
END = "</s>"
UNKNOWN = "<unk>"


class Tokenizer:
    """Maps texts to padded token ids `[texts, length]` int32; longer texts are cut, their end token kept."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, length: int):
        self.length = length
        self._tokenizer = tokenizer
        self._tokenizer.enable_truncation(length)
        end = self._tokenizer.token_to_id(END)
        if end is None:
            raise ValueError(
                f"this tokenizer has no {END!r} token; only tokenizers written by this project are read here"
            )
        self._tokenizer.enable_padding(length=length, pad_id=end, pad_token=END)

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self._tokenizer.get_vocab_size()

    @property
    def end_id(self) -> int:
        """The id of the end token, which also pads."""
        return self._tokenizer.token_to_id(END)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))], np.int32)

    def encode(self, text: str) -> np.ndarray:
        """Returns the token ids of one text, `[length]` int32."""
        return np.array(self._tokenizer.encode(text).ids, np.int32)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text as the model sees it, without padding."""
        return self._tokenizer.decode([int(token) for token in ids], skip_special_tokens=True)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes `tokenizer.json` and the `tokenizer_config.json` that `transformers.AutoTokenizer` reads beside it."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._tokenizer.save(str(folder / "tokenizer.json"))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": self.length,
            "model_input_names": ["input_ids"],  # as the SigLIP tokenizer: padding is attended to
            "padding_side": "right",
            "eos_token": END,
            "pad_token": END,
            "unk_token": UNKNOWN,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def train_tokenizer(captions: Iterable[str], *, vocab_size: int, length: int) -> Tokenizer:
    """Trains a byte-pair tokenizer on lower-cased captions without punctuation, as SigLIP canonicalises its texts.

    The same captions in any order give the same tokenizer.
    """
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(tokenizers.Regex(r"[\p{P}]"), " "),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[END, UNKNOWN], show_progress=False)
    tokenizer.train_from_iterator(sorted(set(captions)), trainer)
    end = tokenizer.token_to_id(END)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, end)])
    return Tokenizer(tokenizer, length)


def load_tokenizer(folder: str | os.PathLike, *, length: int) -> Tokenizer:
    """Opens a `tokenizer.json` that `Tokenizer.save` wrote."""
    import tokenizers

    path = os.path.join(folder, "tokenizer.json")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{folder} holds no tokenizer.json")
    return Tokenizer(tokenizers.Tokenizer.from_file(path), length)
