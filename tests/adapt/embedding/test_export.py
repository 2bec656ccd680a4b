"""Export of embedded collections, including interruptions at any point."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import launch
from adapt.embedding.encoder import Encoder
from adapt.embedding.export import embed_collections
from adapt.embedding.text_file import read_texts
from data.pipeline.image_ops import decode
from foundation.files.folder_lock import lock_folder
from models.checkpoints.io import save_checkpoint
from tests.data.shard_files import labelled, png, write_shard
from tests.models.tiny_models import tiny_checkpoint

ROOT = pathlib.Path(__file__).parents[3]
TEXTS = ["a red fish", "", "two birds, blue", "one green tree", "fish " * 50]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("run") / "export", tiny_checkpoint("siglip"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder tree of images, one of them damaged, with a file that is not an image."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(23):
        path = folder / ("deep/er" if number % 3 else ".") / f"p{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number, (20 + number, 31)) if number != 4 else b"nothing")
    (folder / "notes.txt").write_text("no picture")
    (folder / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    return folder


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_an_image_folder_and_a_text_file_become_embeddings_with_ids(checkpoint, photos, tmp_path):
    encoder, seen = Encoder(checkpoint), []
    written = embed_collections(
        encoder,
        tmp_path,
        images=str(photos),
        texts=photos / "texts.txt",
        data_dir=tmp_path,
        progress=lambda *reported: seen.append(reported),
    )
    ids = lines(tmp_path / "images.ids.jsonl")
    paths = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
    assert ids == [path for path in paths if "p04" not in path] and len(ids) == 22
    array = np.load(tmp_path / "images.npy", allow_pickle=False)
    np.testing.assert_array_equal(load_file(tmp_path / "images.safetensors")["embeddings"], array)
    pictures = [decode((photos / name).read_bytes(), name) for name in ids]
    np.testing.assert_allclose(array, encoder.embed_images(pictures.__getitem__, 22), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.load(tmp_path / "texts.npy"), encoder.embed_texts(TEXTS), rtol=1e-5, atol=1e-5)
    assert lines(tmp_path / "texts.ids.jsonl") == [0, 1, 2, 3, 4]
    assert lines(tmp_path / "images.bad.jsonl")[0]["reason"] == "not an image"
    assert (written["images"].rows, written["images"].bad) == (22, 1) and "bad" not in written["texts"].files
    assert seen[0] == ("images", 0, 23) and seen[-1] == ("texts", 5, 5)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"images.{end}" for end in ("safetensors", "npy", "ids.jsonl", "bad.jsonl", "json")} | {
        f"texts.{end}" for end in ("safetensors", "npy", "ids.jsonl", "json")
    } | {".images.lock", ".texts.lock"}
    described = json.loads((tmp_path / "images.json").read_text())
    assert described["checkpoint"] == encoder.image_fingerprint and described["rows"] == 22


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_separators_of_unicode_shift_no_text(tmp_path, line_end):
    texts = ["a\u2028b", "c\x85d", "", "e\x0bf\x1cg", "h"]
    for mark, last in (("", ""), ("\ufeff", line_end)):
        (tmp_path / "t.txt").write_bytes((mark + line_end.join(texts) + last).encode())
        assert read_texts(tmp_path / "t.txt").texts == texts


def test_finished_embeddings_are_reused_and_never_mixed_with_others(checkpoint, photos, tmp_path, monkeypatch):
    encoder = Encoder(checkpoint)
    first = embed_collections(encoder, tmp_path / "out", texts=photos / "texts.txt", data_dir=tmp_path)
    monkeypatch.setattr(encoder, "iterate_texts", None)
    assert embed_collections(encoder, tmp_path / "out", texts=photos / "texts.txt", data_dir=tmp_path) == first
    other = Encoder(save_checkpoint(tmp_path / "other", tiny_checkpoint("siglip", seed=1)))
    with pytest.raises(
        ValueError,
        match=r"texts.json .* another checkpoint, dtype, image size, number of patches or tokenizer\. Use",
    ):
        embed_collections(other, tmp_path / "out", texts=photos / "texts.txt", data_dir=tmp_path)
    (tmp_path / "more.txt").write_text("\n".join([*TEXTS, "more"]))
    with pytest.raises(ValueError, match=r"describes embeddings of another collection"):
        embed_collections(encoder, tmp_path / "out", texts=tmp_path / "more.txt", data_dir=tmp_path)
    (tmp_path / "out" / "texts.npy").unlink()
    with pytest.raises(
        ValueError, match=r"finished embeddings, but .*texts.npy is missing\. Remove .*texts\.\* to embed again"
    ):
        embed_collections(encoder, tmp_path / "out", texts=photos / "texts.txt", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"nothing to embed\. Pass --images, --texts or both"):
        embed_collections(encoder, tmp_path / "none", data_dir=tmp_path)


def test_an_export_interrupted_at_any_write_resumes_without_leftovers(checkpoint, photos, tmp_path, monkeypatch):
    encoder = Encoder(checkpoint)
    arguments = {"texts": photos / "texts.txt", "data_dir": tmp_path}
    expected = embed_collections(encoder, tmp_path / "whole", **arguments)["texts"].files["npy"].read_bytes()
    replace = os.replace

    def fails_at(number):
        calls = iter(range(number + 1))

        def failing(source, target):
            if next(calls) == number:
                raise KeyboardInterrupt
            replace(source, target)

        return failing

    for number in range(6):  # the description, a piece, three joined files, the complete description
        out = tmp_path / str(number)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("os.replace", fails_at(number))
            embed_collections(encoder, out, **arguments)
        (out / ".texts.partial-killed").mkdir()
        assert embed_collections(encoder, out, **arguments)["texts"].files["npy"].read_bytes() == expected
        names = {path.name for path in out.iterdir() if not path.name.endswith(".partial")}
        assert names == {".texts.lock", "texts.npy", "texts.safetensors", "texts.ids.jsonl", "texts.json"}


def test_files_without_a_description_are_not_overwritten(checkpoint, photos, tmp_path):
    (tmp_path / "texts.npy").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"texts.npy exists without its description texts.json\. Use another --out"):
        embed_collections(Encoder(checkpoint), tmp_path, texts=photos / "texts.txt", data_dir=tmp_path)
    assert (tmp_path / "texts.npy").read_bytes() == b"mine"


def test_embeddings_of_differently_decoded_images_are_not_reused(checkpoint, monkeypatch):
    before = Encoder(checkpoint).image_fingerprint
    assert Encoder(checkpoint).image_fingerprint == before
    monkeypatch.setattr("adapt.embedding.encoder.DECODING", 0)
    assert Encoder(checkpoint).image_fingerprint != before


@pytest.mark.parametrize("name", ["texts.npy", "texts.safetensors", "texts.ids.jsonl"])
def test_damaged_files_of_a_finished_collection_are_not_taken_for_results(checkpoint, photos, tmp_path, name):
    encoder, arguments = Encoder(checkpoint), {"texts": photos / "texts.txt", "data_dir": tmp_path}
    files = embed_collections(encoder, tmp_path, **arguments)["texts"].files.values()
    whole = {path: path.read_bytes() for path in files}
    content = whole[tmp_path / name]
    (tmp_path / name).write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    with pytest.raises(ValueError, match=rf"{name} is damaged or was changed: .* Remove .*texts\.\* to embed again"):
        embed_collections(encoder, tmp_path, **arguments)
    for path in tmp_path.glob("texts.*"):
        path.unlink()
    embed_collections(encoder, tmp_path, **arguments)
    assert whole == {path: path.read_bytes() for path in files}


def test_embeddings_that_are_not_finite_raise_with_the_id_of_their_row(photos, tmp_path):
    broken = tiny_checkpoint("siglip")
    parameters = jax.tree.map(np.array, broken.parameters)
    parameters["vision"]["head"]["probe"][:] = np.nan
    parameters["text"]["head"]["kernel"][:] = np.nan
    encoder = Encoder(save_checkpoint(tmp_path / "broken", broken._replace(parameters=parameters)))
    for kind, first in (("images", r"'deep/er/p01\.png'"), ("texts", "0")):
        source = {"images": str(photos)} if kind == "images" else {"texts": photos / "texts.txt"}
        with pytest.raises(ValueError, match=rf"the embedding of {first} by .*broken is not finite"):
            embed_collections(encoder, tmp_path / kind, **source, data_dir=tmp_path)
        assert not list((tmp_path / kind).glob("*.npy"))


def test_a_collection_is_embedded_by_one_process_at_a_time_and_never_into_a_checkpoint(checkpoint, photos, tmp_path):
    encoder, arguments = Encoder(checkpoint), {"texts": photos / "texts.txt", "data_dir": tmp_path}
    with (
        lock_folder(tmp_path, ".texts.lock", job="embed job", option="--out"),
        pytest.raises(ValueError, match=rf"in use by another embed job \(process {os.getpid()} on .*another --out"),
    ):
        embed_collections(encoder, tmp_path, **arguments)
    assert [path.name for path in tmp_path.iterdir()] == [".texts.lock"]
    with lock_folder(tmp_path, ".images.lock", job="embed job", option="--out"):  # of another collection
        assert embed_collections(encoder, tmp_path, **arguments)["texts"].rows == len(TEXTS)
    with pytest.raises(ValueError, match=r"belongs to the checkpoint .*export\. Use another folder"):
        embed_collections(encoder, checkpoint / "embeddings", **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["siglip", "clip"])
def test_bfloat16_embeddings_are_close_to_float32(tmp_path, photos, family):
    folder = save_checkpoint(tmp_path / "export", tiny_checkpoint(family))
    exact, coarse = Encoder(folder), Encoder(folder, dtype="bfloat16")
    pictures = [decode(png(number), "k") for number in range(7)]
    for embed in (lambda e: e.embed_images(pictures.__getitem__, 7), lambda e: e.embed_texts(TEXTS)):
        one, other = embed(exact), embed(coarse)
        assert other.dtype == np.float32 and 0 < np.linalg.norm(one - other) < 0.03 * np.linalg.norm(one)
    assert exact.fingerprint != coarse.fingerprint


def test_pieces_do_not_depend_on_the_batch_size_and_damaged_ones_are_embedded_again(checkpoint, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(f"fish {number}" for number in range(600)))
    encoder = Encoder(checkpoint)

    def stop(name, done, total):
        if done > 300:
            raise KeyboardInterrupt

    encoder.batch_size = 4
    arguments = {"texts": tmp_path / "texts.txt", "data_dir": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        embed_collections(encoder, tmp_path / "out", **arguments, progress=stop)
    (piece,) = (tmp_path / "out" / "texts.parts").glob("*.npz")
    encoder.batch_size = 64
    embed_collections(encoder, tmp_path / "out", **arguments)
    assert lines(tmp_path / "out" / "texts.ids.jsonl") == list(range(600))
    whole = embed_collections(encoder, tmp_path / "whole", **arguments)["texts"]
    np.testing.assert_allclose(
        np.load(tmp_path / "out" / "texts.npy"), np.load(whole.files["npy"]), rtol=1e-5, atol=1e-5
    )
    with pytest.raises(KeyboardInterrupt):
        embed_collections(encoder, tmp_path / "damaged", **arguments, progress=stop)
    (tmp_path / "damaged" / "texts.parts" / piece.name).write_bytes(b"x" * 10)
    files = embed_collections(encoder, tmp_path / "damaged", **arguments)["texts"].files
    assert files["npy"].read_bytes() == whole.files["npy"].read_bytes()
    (tmp_path / "out" / "texts.json").write_text("[]")
    with pytest.raises(ValueError, match=r"texts.json is not a description of embeddings"):
        embed_collections(encoder, tmp_path / "out", **arguments)


def test_replaced_images_are_another_collection_and_names_that_are_not_utf8_are_kept(checkpoint, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    names = [b"x\xe9.png", b"x\xe8.png", "ü.png".encode()]
    for number, name in enumerate(names):
        (folder / os.fsdecode(name)).write_bytes(png(number))
    encoder, arguments = Encoder(checkpoint), {"images": str(folder), "data_dir": tmp_path}
    embed_collections(encoder, tmp_path / "out", **arguments)
    assert sorted(os.fsencode(name) for name in lines(tmp_path / "out" / "images.ids.jsonl")) == sorted(names)
    (folder / "ü.png").write_bytes(png(9))
    with pytest.raises(ValueError, match=r"images.json describes embeddings of another collection"):
        embed_collections(encoder, tmp_path / "out", **arguments)


def test_an_image_whose_resized_version_would_be_huge_is_left_out(tmp_path):
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    Image.new("L", (1, 2_000_000)).save(tmp_path / "pictures" / "thin.png")
    (tmp_path / "pictures" / "usual.png").write_bytes(png(0))
    encoder = Encoder(save_checkpoint(tmp_path / "clip", tiny_checkpoint("clip")))
    written = embed_collections(encoder, tmp_path, images=str(tmp_path / "pictures"), data_dir=tmp_path)["images"]
    assert (written.rows, written.bad) == (1, 1)
    assert "1 × 2000000 pixels would be resized to 14 × 28000000" in lines(written.files["bad"])[0]["detail"]


def test_a_tokenizer_without_an_end_token_raises_for_a_tower_that_pools_at_it(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = save_checkpoint(tmp_path / "clip", tiny_checkpoint("clip"))
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<pad>": 1, "</s>": 2, "a": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    original = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    original.save_pretrained(tmp_path / "words")
    encoder = Encoder(folder, tokenizer=str(tmp_path / "words"))
    with pytest.raises(
        ValueError,
        match=r"the tokenizer gives 'a a' no end token 0, from which the text tower of .* takes the embedding",
    ):
        encoder.embed_texts(["a a"])


@pytest.mark.parametrize(("count", "rows"), [(0, []), (1, [1]), (3, [4]), (64, [64]), (65, [64, 64])])
def test_few_rows_are_padded_to_a_power_of_two_only(checkpoint, monkeypatch, count, rows):
    encoder, seen = Encoder(checkpoint), []
    encoder.batch_size, embed = 64, encoder.embed_tokens
    monkeypatch.setattr(encoder, "embed_tokens", lambda tokens: seen.append(len(tokens)) or embed(tokens))
    assert encoder.embed_texts(["a red fish"] * count).shape == (count, 24) and seen == rows


def test_json_lines_have_ids_and_errors_name_the_line(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('"plain"\n{"id": "x/1", "text": "named"}\n{"text": "unnamed\\u2028 but one"}\n', encoding="utf-8")
    assert read_texts(path) == ([0, "x/1", 2], ["plain", "named", "unnamed\u2028 but one"])
    for content, message in (
        ('"a"\n{"id": 3}\n', r"line 2 of .* is neither a string nor an object"),
        ("nope", "line 1 of .* is not valid JSON"),
        (r'"half \ud83d"', "line 1 of .* contains an unpaired surrogate"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_texts(path)
    plain = tmp_path / "texts.txt"
    plain.write_bytes(b"one\r\nt\xe2\x80\xa8wo\n\nfour\n")
    assert read_texts(plain)[1] == ["one", "t\u2028wo", "", "four"]
    for content, message in ((b"", "contains no texts"), (b"\xff\xfe", "is not UTF-8")):
        plain.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_texts(plain)


@pytest.mark.slow
def test_several_devices_give_the_same_rows(checkpoint, photos, tmp_path):
    outs = {}
    for devices in (1, 8):
        outs[devices] = tmp_path / str(devices)
        command = [sys.executable, "launch.py", "embed", f"--checkpoint={checkpoint}", f"--out={outs[devices]}"]
        command += [f"--images={photos}", f"--texts={photos / 'texts.txt'}", f"--data_dir={tmp_path}"]
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
        environment = {**os.environ, "XLA_FLAGS": flags}
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
        assert result.returncode == 0, result.stderr
        assert f"24 dimensions, float32, {devices} device(s)" in result.stdout
        assert "images 23/23" in result.stdout and "22 images in" in result.stdout and "1 skipped" in result.stdout
    for name in ("images.npy", "texts.npy"):
        np.testing.assert_array_equal(np.load(outs[8] / name), np.load(outs[1] / name))


@pytest.mark.slow
def test_an_export_killed_repeatedly_resumes_to_the_same_bytes(checkpoint, tmp_path):
    shard = str(write_shard(tmp_path / "s.tar", labelled(900)))
    arguments = [f"--checkpoint={checkpoint}", f"--images={shard}", f"--data_dir={tmp_path}"]
    environment = {**os.environ, "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "")}

    def run(out):
        command = [sys.executable, "-c", SLOW, "embed", *arguments, f"--out={out}"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)

    stopped = 0
    for _ in range(20):
        process = run(tmp_path / "killed")
        existing = len(list(tmp_path.glob("killed/images.parts/*.npz")))
        wanted = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < wanted:
            if len(list(tmp_path.glob("killed/images.parts/*.npz"))) > existing + 1:
                process.send_signal(signal.SIGKILL)
                stopped += 1
                break
            time.sleep(0.005)
        process.communicate()
        if process.returncode == 0:
            break
    assert process.returncode == 0 and stopped >= 2
    assert launch.main(["embed", *arguments, f"--out={tmp_path / 'whole'}"]) == 0
    for name in ("images.npy", "images.safetensors", "images.ids.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "killed" / "images.parts").exists()


# launch.py with pieces of 256 rows, slow enough to be killed between two of them.
SLOW = """
import os, sys, time
import adapt.embedding.collection_files, launch
Piece = adapt.embedding.collection_files.Piece
save = Piece.save
def slow(*args, **arrays):
    save(*args, **arrays)
    time.sleep(0.3)
Piece.save = slow
sys.exit(launch.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_invalid_arguments_are_one_line_errors(checkpoint, tmp_path, capsys):
    given = ["embed", f"--checkpoint={checkpoint}", f"--out={tmp_path}"]
    for arguments, message in (
        ((), "nothing to embed. Pass --images, --texts or both, or --image_features"),
        (("--images=nowhere",), "no file matches 'nowhere'"),
        ((f"--texts={tmp_path / 'none.txt'}",), "No such file or directory"),
        ((f"--images={tmp_path}",), "contains no images"),
        ((f"--texts={ROOT / 'LICENSE'}", "--image_size=2"), "vision.patch_size 5 does not fit image_size 2"),
    ):
        assert launch.main([*given, *arguments]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and message in error, error
    with pytest.raises(SystemExit, match="2"):
        launch.main([*given, "--config=x"])
