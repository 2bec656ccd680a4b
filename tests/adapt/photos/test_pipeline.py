"""Images of plain colours, classified with a few support images per colour."""

import csv
import html
import json
import os
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import adapt
from adapt.embedding.encoder import Encoder
from adapt.model_selection.calibration import probabilities
from adapt.photos.pipeline import SortingTask, sort_photos
from foundation.files.folder_lock import lock_folder
from models.checkpoints.io import save_checkpoint
from tests.logged import logged
from tests.models.tiny_models import tiny_checkpoint

COLORS = {"blue_birds": (30, 30, 220), "green_tree": (20, 180, 40), "red_fish": (220, 30, 30)}
METHODS = ("zero_shot", "prototypes", "knn", "tip_adapter", "gda")  # few, to compile less


def paint(path, color, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, 18, (30, 40, 3))
    Image.fromarray(np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)).save(path)


def make(folder: pathlib.Path, shots: int) -> pathlib.Path:
    """Write a support set of `shots` images per colour, and query images."""
    for number, (name, color) in enumerate(COLORS.items()):
        for i in range(shots):
            paint(folder / "support" / name / f"{i}.png", color, 100 * number + i)
        for i in range(5):
            paint(folder / "query" / "deep" / f"{name}-{i}.png", color, 100 * number + 50 + i)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return Encoder(save_checkpoint(tmp_path_factory.mktemp("run") / "export", tiny_checkpoint("siglip")))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = make(tmp_path_factory.mktemp("photos"), 4)
    (folder / "support" / "nothing").mkdir()
    (folder / "support" / "nothing" / "IMG_1.HEIC").write_bytes(b"x")
    (folder / "support" / "red_fish" / "broken.jpg").write_bytes(b"nothing")
    shutil.copy(folder / "support" / "red_fish" / "0.png", folder / "support" / "loose.png")
    whole = (folder / "query" / "deep" / "red_fish-0.png").read_bytes()
    (folder / "query" / "cut.png").write_bytes(whole[:300])
    (folder / "query" / ".DS_Store").write_bytes(b"x")
    return folder


def task(folder, out, **changes):
    return SortingTask(support=str(folder / "support"), query=str(folder / "query"), out=out, **changes)


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def sorted_photos(encoder, photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("sorted") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adapt.model_selection.methods.TRAINING_FREE", METHODS)
        with logged() as messages:
            result = sort_photos(encoder, task(photos, out))
    return out, result, messages


@pytest.mark.slow
def test_images_are_classified_by_their_color(sorted_photos):
    out, _, _ = sorted_photos
    found = rows(out / "predictions.csv")
    assert list(found[0]) == ["path", "class", "probability", "nearest", "cosine", "far"]
    assert [row["path"] for row in found] == sorted(f"deep/{name}-{i}.png" for name in COLORS for i in range(5))
    for row in found:
        assert row["path"].startswith(f"deep/{row['class']}-") and row["nearest"].startswith(f"{row['class']}/")
        assert 0.6 < float(row["probability"]) <= 1 and float(row["cosine"]) > 0.999 and row["far"] in ("yes", "no")


def test_unusable_files_are_listed_with_a_reason(sorted_photos, photos):
    out, _, messages = sorted_photos
    found = {
        pathlib.Path(row["path"]).relative_to(photos).as_posix(): row["reason"] for row in rows(out / "left_out.csv")
    }
    assert set(found) == {
        "support/nothing/IMG_1.HEIC",
        "support/red_fish/broken.jpg",
        "support/loose.png",
        "query/cut.png",
    }
    assert found["support/nothing/IMG_1.HEIC"].startswith("unsupported file type .HEIC; supported: .jpg, .jpeg")
    assert found["support/red_fish/broken.jpg"].startswith("not an image") and "truncated" in found["query/cut.png"]
    assert found["support/loose.png"] == "not in a class folder"
    assert "class folder nothing has no readable image and is left out" in messages
    assert any("12 support images of 3 classes, 15 images to classify; 4 files left out" in line for line in messages)


def test_auto_selects_the_first_of_the_best_methods_and_logs_the_comparison(sorted_photos):
    _, result, messages = sorted_photos
    accuracy = {one.method: one.accuracy for one in result.choice.candidates}
    assert tuple(accuracy) == METHODS and accuracy["zero_shot"] < 1 and accuracy["prototypes"] == 1
    assert result.choice.chosen.method == "prototypes"
    for method, right in accuracy.items():
        (line,) = [line for line in messages if line.startswith(f"{method:<12} ")]
        assert f"{right:.1%} correct" in line and "on the support, " in line
    assert "selected: prototypes (leave-one-out on the support)" in messages


def test_the_saved_classifier_gives_the_same_predictions(sorted_photos, encoder, photos):
    out, result, _ = sorted_photos
    described = json.loads((out / "classifier" / "classes.json").read_text())
    assert described["classes"] == list(COLORS) and described["templates"] == ["a photo of a {}."]
    assert described["method"] == "prototypes" and described["checkpoint_fingerprint"] == encoder.fingerprint
    features = encoder.embed_images(
        lambda number: Image.open(photos / "query" / result.query.paths[number]).convert("RGB"), 15
    )
    logits = np.asarray(adapt.load(out / "classifier")(features))
    np.testing.assert_allclose(probabilities(logits, described["calibration"]), result.probabilities, atol=1e-4)


def test_the_page_is_self_contained(sorted_photos):
    out, _, _ = sorted_photos
    page = (out / "predictions.html").read_text()
    assert page.count("data:image/webp;base64,") >= 30 and '<img src="data:' in page
    assert "http" not in page.replace("http-equiv", "") and "prefers-color-scheme: dark" in page
    for words in (
        "blue birds",
        "tip_adapter",
        "Least confident predictions",
        "Far from every support image",
        "broken.jpg",
    ):
        assert words in page


def test_names_with_markup_are_escaped_on_the_page(encoder, tmp_path):
    folder, hostile = make(tmp_path, 2), """<script>alert(1)<&" onerror='x' שלום"""
    (folder / "support" / "red_fish").rename(folder / "support" / hostile)
    (folder / "query" / "deep" / "red_fish-0.png").rename(folder / "query" / "deep" / f"{hostile}.png")
    (folder / "query" / f"{hostile}.jpg").write_bytes(b"nothing")  # appears among the files left out
    sort_photos(encoder, task(folder, tmp_path / "out", method="prototypes"))
    page = (tmp_path / "out" / "predictions.html").read_text(encoding="utf-8")
    assert page.count("<script") == 1  # the page's own
    assert not any(re.search(r"\bonerror=", re.sub(r'"[^"]*"', "", tag)) for tag in re.findall(r"<[^>]*>", page))
    for shown in (f"{hostile}.png", f"{hostile}.jpg", f">{hostile}<"):
        assert shown in html.unescape(page)


def test_a_second_run_embeds_nothing_and_gives_the_same_predictions(sorted_photos, encoder, photos, monkeypatch):
    out, _, _ = sorted_photos
    before = {name: (out / name).read_bytes() for name in ("predictions.csv", "left_out.csv")}
    with monkeypatch.context() as patch:
        patch.setattr(encoder, "embed_pixels", None)
        patch.setattr(encoder, "embed_tokens", None)
        patch.setattr("adapt.model_selection.methods.TRAINING_FREE", METHODS)
        sort_photos(encoder, task(photos, out))
    assert before == {name: (out / name).read_bytes() for name in before}
    (folder,) = (out / "embeddings").glob("query-*")
    assert {path.name for path in out.iterdir()} == {
        "predictions.csv",
        "left_out.csv",
        "predictions.html",
        "classifier",
        "embeddings",
        ".thumbnails",
        ".adapt.lock",
    }
    whole = (folder / "images.npy").read_bytes()
    (folder / "images.npy").write_bytes(whole[:-7])
    with pytest.raises(ValueError, match=r"images.npy is damaged or was changed: .*Remove .*images\.\* to embed again"):
        sort_photos(encoder, task(photos, out))
    (folder / "images.npy").write_bytes(whole)


def test_images_unlike_the_support_are_far(encoder, tmp_path):
    folder = make(tmp_path, 3)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)).save(folder / "query" / "odd.png")
    sort_photos(encoder, task(folder, tmp_path / "out", method="knn"))
    found = {row["path"]: row["far"] for row in rows(tmp_path / "out" / "predictions.csv")}
    assert found["odd.png"] == "yes" and list(found.values()).count("no") > 8
    assert "Far from every support image" in (tmp_path / "out" / "predictions.html").read_text()


@pytest.mark.parametrize(
    ("templates", "method", "source"),
    [(("a {}",), "tip_adapter", "the scale of the text logits"), ((), "prototypes", "the support images themselves")],
)
def test_one_support_image_per_class_gives_the_defaults(encoder, tmp_path, templates, method, source):
    folder = make(tmp_path, 1)
    with logged() as messages:
        result = sort_photos(encoder, task(folder, tmp_path / "out", templates=templates))
    assert result.choice.chosen.method == method and result.choice.chosen.selected_by == "defaults"
    assert result.calibration.source == source and np.isnan(result.choice.chosen.accuracy)
    assert any(line.startswith("no class has two support images") for line in messages)
    described = json.loads((tmp_path / "out" / "classifier" / "classes.json").read_text())
    assert described["left_out_accuracy"] is None and (described["calibration"] == 1.0) == bool(templates)
    if not templates:
        assert [row["class"] for row in rows(tmp_path / "out" / "predictions.csv")] == [
            n for n in COLORS for _ in "12345"
        ]


def test_without_a_tokenizer_classification_is_by_images_alone(photos, tmp_path, monkeypatch):
    path = save_checkpoint(tmp_path / "export", tiny_checkpoint("siglip"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).unlink()
    bare = Encoder(path)
    with pytest.raises(ValueError, match=r"class names need a tokenizer .*--tokenizer=FOLDER, or .*--template=none"):
        sort_photos(bare, task(photos, tmp_path / "out"))
    monkeypatch.setattr("adapt.model_selection.methods.TRAINING_FREE", ("zero_shot", "tip_x", "prototypes", "ape"))
    result = sort_photos(bare, task(photos, tmp_path / "out", templates=()))
    assert [one.method for one in result.choice.candidates] == ["prototypes"]
    assert result.choice.chosen.accuracy == 1


def test_a_checkpoint_with_nan_weights_raises(photos, tmp_path):
    made = tiny_checkpoint("siglip")
    parameters = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), made.parameters)
    broken = Encoder(save_checkpoint(tmp_path / "export", made._replace(parameters=parameters)))
    with pytest.raises(
        ValueError, match=r"the embedding of 'blue_birds/0.png' by .* is not finite\. The checkpoint is damaged"
    ):
        sort_photos(broken, task(photos, tmp_path / "out"))


def test_a_name_that_is_not_utf_8_is_classified_and_shown_escaped(encoder, tmp_path):
    folder = make(tmp_path, 2)
    source = os.fsencode(folder / "query" / "deep" / "red_fish-0.png")
    try:
        os.rename(source, source.replace(b"red_fish-0", b"caf\xe9"))
    except OSError:
        pytest.skip("this file system accepts only names in UTF-8")
    sort_photos(encoder, task(folder, tmp_path / "out", method="zero_shot"))
    assert rows(tmp_path / "out" / "predictions.csv")[0]["path"] in ("deep/caf\\xe9.png", "deep/blue_birds-0.png")
    assert "caf\\xe9.png" in (tmp_path / "out" / "predictions.csv").read_text()


def test_one_job_sorts_into_a_folder_and_never_into_that_of_a_run(encoder, photos, tmp_path):
    with (
        lock_folder(tmp_path, ".adapt.lock", job="adapt job", option="--out"),
        pytest.raises(ValueError, match=rf"is in use by another adapt job \(process {os.getpid()} on"),
    ):
        sort_photos(encoder, task(photos, tmp_path))
    (tmp_path / "pretrain.json").write_text("{}")
    with pytest.raises(ValueError, match=r"--out=.* belongs to the run in .*Use another folder"):
        sort_photos(encoder, task(photos, tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {".adapt.lock", "pretrain.json"}


def test_images_to_classify_that_are_copies_of_support_images_are_noted(encoder, tmp_path):
    make(tmp_path, 2)
    shutil.copy(tmp_path / "support" / "red_fish" / "1.png", tmp_path / "query" / "again.png")
    with logged() as messages:
        sort_photos(encoder, task(tmp_path, tmp_path / "out", method="prototypes"))
    (note,) = [message for message in messages if "identical" in message]
    assert "1 of 16 images to classify are identical to a support image, first again.png to red_fish/1.png" in note


def test_a_transductive_method_uses_all_images_and_page_and_log_say_so(encoder, photos, tmp_path):
    with logged() as messages:
        result = sort_photos(encoder, task(photos, tmp_path / "out", method="transclip"))
    assert any("transclip is transductive: it classifies all 15 queries together" in line for line in messages)
    page = (tmp_path / "out" / "predictions.html").read_text(encoding="utf-8")
    assert "transclip is transductive: it classified all 15 images together" in page
    assert "<td>transclip<br>(transductive)</td>" in page
    described = json.loads((tmp_path / "out" / "classifier" / "classes.json").read_text())
    assert described["transductive"]
    again = adapt.load(tmp_path / "out" / "classifier")(result.query.features)
    np.testing.assert_array_equal(np.argmax(again, axis=1), result.predicted)
    [choice] = result.choice.candidates
    assert choice.method == "transclip" and np.isfinite(result.probabilities).all()
