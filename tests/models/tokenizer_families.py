"""Small tokenizers of every family, built with the classes of transformers, and texts to test them with."""

import json
from collections.abc import Callable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertTokenizer,
    CLIPTokenizer,
    GPT2Tokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Siglip2Tokenizer,
    T5Tokenizer,
    XLMRobertaTokenizer,
)

CAPTIONS = [
    "Face with tears of joy",
    "flag: Côte d’Ivoire",
    "a man’s shoe, and two dogs running through the high grass",
    "red apple, fruit",
    "thumbs up 👍🏽",
    "日本語の猫と犬",
    "красное яблоко на столе",
    "تفاحة حمراء",
    "한국어 사과",
    "ΕΝΑ ΜΗΛΟ",
]
LONG = " ".join(f"word{number % 7}" for number in range(200))
TEXTS = [
    *CAPTIONS,
    "A RED apple!",
    "",
    " ",
    "\t",
    "  spaced\tout,  \n",
    LONG,
    "ein Äffchen im Schnee",
    "👩‍🚀 ﬁsh ½ ŒUVRE",
    "Ο ΣΚΥΛΟΣ, Σ.Α. ΑΣ",
    "a_b-c's 3.14",
]


def clip() -> PreTrainedTokenizerBase:
    """Return a byte-level BPE of lower-cased text whose start and end tokens have the largest ids, as in CLIP."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    vocabulary, merges = _train(tokenizer, trainers.BpeTrainer, initial_alphabet=alphabet, end_of_word_suffix="</w>")
    for token in (*sorted(letter + "</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"):
        vocabulary.setdefault(token, len(vocabulary))
    return CLIPTokenizer(vocab=vocabulary, merges=merges)


def siglip() -> PreTrainedTokenizerBase:
    """Return a unigram model with Metaspace and NFKC that pads with the end token, like SigLIP's sentencepiece."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    _train(tokenizer, trainers.UnigramTrainer, special_tokens=["<unk>", "</s>"], unk_token="<unk>")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>", unk_token="<unk>")


def t5() -> PreTrainedTokenizerBase:
    """Return a unigram model in a class that rebuilds its backend, with a separate pad token."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    vocabulary, _ = _train(
        tokenizer, trainers.UnigramTrainer, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>"
    )
    return T5Tokenizer(vocab=[tuple(entry) for entry in vocabulary], extra_ids=2)


def siglip2() -> PreTrainedTokenizerBase:
    """Return a BPE with byte fallback that pads on the right, like the Gemma tokenizer of SigLIP 2."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary, merges = _train(tokenizer, trainers.BpeTrainer, special_tokens=special)
    options = {"add_bos_token": False, "add_eos_token": True, "padding_side": "right"}
    return Siglip2Tokenizer(vocab=vocabulary, merges=merges, **options)


def xlm() -> PreTrainedTokenizerBase:
    """Return a unigram model that keeps the case, between <s> and </s>, like the XLM-V tokenizer of MetaCLIP 2."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary, _ = _train(tokenizer, trainers.UnigramTrainer, special_tokens=special, unk_token="<unk>")
    return XLMRobertaTokenizer(vocab=[tuple(entry) for entry in vocabulary])


def bert() -> PreTrainedTokenizerBase:
    """Return a WordPiece model that adds [CLS] and [SEP]."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary, _ = _train(tokenizer, trainers.WordPieceTrainer, special_tokens=special)
    return BertTokenizer(vocab=vocabulary)


def gpt2() -> PreTrainedTokenizerBase:
    """Return a byte-level BPE that defines an end token without adding it, and has no pad token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocabulary, merges = _train(
        tokenizer, trainers.BpeTrainer, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"]
    )
    return GPT2Tokenizer(vocab=vocabulary, merges=merges)


FAMILIES: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "clip": clip,
    "siglip": siglip,
    "siglip2": siglip2,
    "t5": t5,
    "xlm": xlm,
    "bert": bert,
    "gpt2": gpt2,
}


def _train(tokenizer: Tokenizer, trainer: type, **options) -> tuple[dict | list, list[tuple[str, str]]]:
    """Train 100 tokens on top of the characters and special tokens; return the vocabulary and the merges."""
    size = 100 + len(options.get("special_tokens", ())) + len(options.get("initial_alphabet", ()))
    size += len(set("".join(CAPTIONS)))
    tokenizer.train_from_iterator(CAPTIONS, trainer(vocab_size=size, show_progress=False, **options))
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model.get("merges", ())]
