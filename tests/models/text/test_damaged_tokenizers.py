"""A damaged `tokenizer.json` ends in one sentence, also where tokenizers panics, or tokenizes every text."""

import copy
import json
import os
import random
import shutil
import subprocess
import sys

import pytest

from foundation.rust_panics import panics_as_errors
from models.checkpoints.describe import describe_checkpoint
from models.text.tokenizer import load_tokenizer, open_tokenizer
from tests.models.public_layouts import huggingface
from tests.models.tokenizer_families import FAMILIES, TEXTS

OTHER_TEXTS = [*TEXTS, "\U0001fae8\U000e0fff ÿ", "x" * 500, "<eos></s><pad>[SEP]<|endoftext|>"]


def special_tokens_missing(fields):
    processor = fields.get("post_processor") or {}
    if "special_tokens" in processor:
        processor["special_tokens"] = {}
    for name in ("sep", "cls"):
        if name in processor:
            processor[name] = ["<nowhere>", 999_999]


def special_token_without_id(fields):
    for token in ((fields.get("post_processor") or {}).get("special_tokens") or {}).values():
        token |= {"ids": [999_999], "tokens": ["<nowhere>"]}


def added_tokens_missing(fields):
    names = [token["content"] for token in fields["added_tokens"]]
    fields["added_tokens"] = []
    if isinstance(fields["model"]["vocab"], dict):
        for name in names:
            fields["model"]["vocab"].pop(name, None)


def unknown_unk_token(fields):
    fields["model"] |= {"unk_token": "<nowhere>"} | ({"unk_id": 999_999} if "unk_id" in fields["model"] else {})


def no_unk_token(fields):
    fields["model"] |= {"unk_token": None} | ({"unk_id": None} if "unk_id" in fields["model"] else {})


def overlong_prefix(fields):
    fields["model"]["continuing_subword_prefix"] = "#" * 200


def overlong_suffix(fields):
    fields["model"]["end_of_word_suffix"] = "#" * 200


def no_vocabulary(fields):
    fields["model"] |= {"vocab": type(fields["model"]["vocab"])()} | (
        {"merges": []} if "merges" in fields["model"] else {}
    )


def ids_too_large(fields):
    for token in fields["added_tokens"]:
        token["id"] = 2**31


def no_model(fields):
    del fields["model"]


DAMAGES = (
    special_tokens_missing,
    special_token_without_id,
    added_tokens_missing,
    unknown_unk_token,
    no_unk_token,
    overlong_prefix,
    overlong_suffix,
    no_vocabulary,
    ids_too_large,
    no_model,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tokenizer of each family, by name and by whether its class uses `tokenizer.json` unchanged."""
    made = {}
    for family in FAMILIES:
        for generic in (False, True):
            folder = made[family, generic] = tmp_path_factory.mktemp("tokenizers") / f"{family} {generic}"
            FAMILIES[family]().save_pretrained(folder)
            if generic:
                path = folder / "tokenizer_config.json"
                path.write_text(
                    json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"})
                )
    return made


def check(folder, fields, capfd):
    """Open a tokenizer with these fields; return whether that failed, which must be in one sentence."""
    path = folder / "tokenizer.json"
    original = path.read_text()
    path.write_text(json.dumps(fields))
    try:
        for name in (folder, path):
            tokenizer = open_tokenizer(str(name), length=16)
            assert tokenizer(OTHER_TEXTS).shape == (len(OTHER_TEXTS), 16)
        return False
    except (ValueError, FileNotFoundError) as error:
        assert "\n" not in str(error) and len(str(error)) < 500
        return True
    finally:
        path.write_text(original)
        assert "panicked" not in capfd.readouterr().err


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("family", FAMILIES)
def test_damaged_part_ends_in_a_sentence_or_does_not_matter(folders, family, damage, capfd):
    failed = set()
    for generic in (False, True):
        fields = json.loads((folders[family, generic] / "tokenizer.json").read_text())
        damage(fields)
        failed.add(check(folders[family, generic], fields, capfd))
    if damage in (no_model, no_vocabulary):
        assert failed == {True}


def test_random_damage_ends_in_a_sentence_or_does_not_matter(folders, capfd):
    rng, failures = random.Random(0), 0
    values = (None, "", "<nowhere>", 0, -1, 2**40, [], {}, True, 0.5, "#" * 99)
    for trial in range(120):
        folder = folders[list(folders)[trial % len(folders)]]
        fields = json.loads((folder / "tokenizer.json").read_text())
        for _ in range(rng.randrange(1, 3)):
            part = fields
            while isinstance(part, dict | list) and len(part):
                key = rng.choice(list(part) if isinstance(part, dict) else range(len(part)))
                if not isinstance(part[key], dict | list) or rng.random() < 0.3:
                    if rng.random() < 0.3:
                        del part[key]
                    else:
                        part[key] = copy.deepcopy(rng.choice(values))
                    break
                part = part[key]
        failures += check(folder, fields, capfd)
    assert 20 < failures < 120


def test_panic_is_an_error_without_its_stack_and_other_output_is_kept(capfd):
    from tokenizers import Tokenizer, models

    backend = Tokenizer(models.BPE())
    panicking = json.loads(backend.to_str()) | {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {},
        }
    }
    backend = Tokenizer.from_str(json.dumps(panicking))
    with pytest.raises(RuntimeError, match="tokenizers panicked: no entry found for key"), panics_as_errors():
        backend.encode("a")
    assert "panicked" not in capfd.readouterr().err
    with panics_as_errors():
        os.write(2, b"a warning\n")
    assert capfd.readouterr().err == "a warning\n"
    with pytest.raises(KeyError), panics_as_errors():
        os.write(2, b"another warning\n")
        raise KeyError("name")
    assert capfd.readouterr().err == "another warning\n"


def test_tokenizer_opens_without_standard_error(folders):
    code = f"""
import os
os.close(2)
from models.text.tokenizer import load_tokenizer
print(load_tokenizer({str(folders["clip", True])!r}, length=16)(["a"]).shape)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout == "(1, 16)\n"


def test_single_text_is_refused(folders):
    with pytest.raises(ValueError, match=r"not the single text 'a red apple'\. Write \['a red apple'\]"):
        load_tokenizer(folders["clip", False], length=16)("a red apple")


@pytest.mark.parametrize("damage", [special_tokens_missing, overlong_prefix], ids=lambda damage: damage.__name__)
def test_checkpoint_with_a_damaged_tokenizer_ends_in_a_sentence(folders, tmp_path, damage, capfd):
    folder = shutil.copytree(folders["siglip2", True], huggingface(tmp_path / "model"), dirs_exist_ok=True)
    path = folder / "tokenizer.json"
    fields = json.loads(path.read_text())
    damage(fields)
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"the tokenizer in .* (is damaged|cannot be opened)"):
        describe_checkpoint(folder).open_tokenizer()
    assert "panicked" not in capfd.readouterr().err
