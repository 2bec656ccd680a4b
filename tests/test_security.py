"""What the project does with hostile input, and what its code must never do. docs/SECURITY.md says what is hostile."""

import ast
import io
import json
import os
import pathlib
import shutil
import tarfile
import time

import jinja2
import numpy as np
import pytest
import yaml
from PIL import Image

import adapt
from adapt.embeddings import load_array
from adapt.saving import ARRAYS_FILE
from data.images import FORMATS, Picture
from data.records import BadRecord
from data.sources import open_source
from models.checkpoint import open_checkpoint, save_checkpoint
from tests.data.shard_files import png
from tests.models.towers_of import tiny_checkpoint

ROOT = pathlib.Path(__file__).parents[1]
ROOMS = ("adapt", "cluster", "configs", "data", "models", "pretrain")
FILES = sorted([*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))])
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def calls():
    """Yields (file, dotted name, call) of each call in the project."""
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield path.relative_to(ROOT), ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> object:
    """Returns the constant that a call gives to a keyword; None where it has none."""
    return next((getattr(each.value, "value", "?") for each in call.keywords if each.arg == name), None)


def test_nothing_that_unpickles_is_imported():
    forbidden = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "torch"}
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & forbidden, f"{path}:{node.lineno}"


def test_arrays_are_loaded_without_pickles():
    found = [(path, call) for path, name, call in calls() if name in ("np.load", "numpy.load", "jnp.load")]
    assert len(found) > 3
    assert all(keyword(call, "allow_pickle") is False for _, call in found), found


def test_no_shell_is_built_from_strings_and_no_text_is_run():
    forbidden = {"os.system", "os.popen", "eval", "exec", "compile", "subprocess.getoutput", "os.startfile"}
    started = 0
    for path, name, call in calls():
        assert name not in forbidden, f"{path}:{call.lineno} {name}"
        if name.startswith("subprocess."):
            started += 1
            assert keyword(call, "shell") is None, f"{path}:{call.lineno}"
            assert not isinstance(call.args[0], ast.Constant | ast.JoinedStr), f"{path}:{call.lineno}"
        if name.startswith("runpy."):
            assert path == pathlib.Path("configs/__init__.py")  # a config is a program that its user runs
    assert started


def test_archives_are_never_extracted_and_yaml_is_read_and_written_safely():
    for path, name, call in calls():
        last = name.rpartition(".")[2]
        assert last not in ("extract", "extractall", "unpack_archive"), f"{path}:{call.lineno}"
        if name.startswith("yaml."):
            assert last in ("safe_load", "safe_dump"), f"{path}:{call.lineno}"
        assert keyword(call, "trust_remote_code") in (None, False), f"{path}:{call.lineno}"


def test_every_page_escapes_what_it_shows():
    environments = [(path, call) for path, name, call in calls() if name.endswith("jinja2.Environment")]
    assert environments and all(keyword(call, "autoescape") is True for _, call in environments), environments
    trusted = []
    for template in [*ROOT.glob("adapt/*.j2"), *ROOT.glob("pretrain/*.j2")]:
        tree = jinja2.Environment().parse(template.read_text(encoding="utf-8"))
        trusted += [node.node for node in tree.find_all(jinja2.nodes.Filter) if node.name == "safe"]
    assert [node.attr if isinstance(node, jinja2.nodes.Getattr) else node.name for node in trusted] == [
        "chart",
        "chart",
    ]  # drawings that matplotlib writes, which escapes text itself


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker: pathlib.Path):
        self.marker = marker

    def __reduce__(self):
        return (pathlib.Path.touch, (self.marker,))


@pytest.fixture
def bomb(tmp_path):
    """An array of objects as .npy and .npz, and the file that appears when one of them is unpickled."""
    marker = tmp_path / "exploded"
    objects = np.array([Bomb(marker)], dtype=object)
    np.save(tmp_path / "bomb.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "bomb.npz", **{"img/embedding/kernel": objects})
    np.load(tmp_path / "bomb.npy", allow_pickle=True)
    assert marker.exists()  # it is one
    marker.unlink()
    return marker


def test_pickles_do_not_explode_wherever_arrays_are_read(bomb, tmp_path):
    with pytest.raises((ValueError, OSError)):
        open_checkpoint(tmp_path / "bomb.npz")
    assert load_array(tmp_path / "bomb.npy", (1, 4)) is None  # a kept embedding that cannot be read is made anew
    features = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    adapt.create("prototypes").fit(features, np.array([0, 0, 1, 1])).save(tmp_path / "classifier")
    shutil.copy(tmp_path / "bomb.npy", tmp_path / "classifier" / ARRAYS_FILE)
    with pytest.raises((ValueError, OSError)):
        adapt.load(tmp_path / "classifier")
    assert not bomb.exists()


def test_a_shard_of_traps_is_read_and_nothing_appears_outside_it(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    with tarfile.open(folder / "s.tar", "w") as archive:
        for number, name in enumerate(("../../evil", "/etc/evil", "inside/0001")):
            for suffix, content in ((".png", png(number)), (".txt", b"a caption")):
                member = tarfile.TarInfo(f"{name}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        device = tarfile.TarInfo("device.png")
        device.type = tarfile.CHRTYPE
        archive.addfile(device)
    source = open_source(str(folder / "s.tar"), tmp_path / "index")
    texts = [source[index].texts for index in range(len(source))]
    assert texts == [("a caption",)] * 3
    assert {path.name for path in tmp_path.iterdir()} <= {"index", "shards"} and not os.path.exists("/etc/evil.png")


def test_an_index_of_weights_names_no_file_outside_its_folder(tmp_path):
    folder = save_checkpoint(tmp_path / "export", tiny_checkpoint("siglip"))
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    from safetensors import safe_open

    with safe_open(tmp_path / "outside.safetensors", framework="numpy") as weights:
        names = list(weights.keys())
    for outside in ("../outside.safetensors", str(tmp_path / "outside.safetensors")):
        index = {"weight_map": dict.fromkeys(names, outside)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises((ValueError, OSError), match="outside"):
            open_checkpoint(folder)


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("vision_config", {"hidden_size": 10**12}),
        ("vision_config", {"num_hidden_layers": 10**9}),
        ("vision_config", {"image_size": 10**9}),
        ("vision_config", {"patch_size": 0}),
        ("text_config", {"vocab_size": 10**13}),
        ("text_config", {"hidden_size": -768}),
        ("text_config", {"hidden_size": "many"}),
        ("text_config", {"max_position_embeddings": 10**10}),
    ],
)
def test_a_config_of_absurd_sizes_is_refused_at_once(tmp_path, section, change):
    folder = save_checkpoint(tmp_path / "export", tiny_checkpoint("siglip"))
    config = json.loads((folder / "config.json").read_text())
    config[section].update(change)
    (folder / "config.json").write_text(json.dumps(config))
    began = time.monotonic()
    with pytest.raises((ValueError, OSError)):
        open_checkpoint(folder)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("content", ["[" * 100_000, "{}" * 9, '{"model_type": NaN}', "\x00", '{"vision_config": 3}'])
def test_a_config_that_is_none_is_a_sentence(tmp_path, content):
    folder = save_checkpoint(tmp_path / "export", tiny_checkpoint("siglip"))
    (folder / "config.json").write_text(content)
    with pytest.raises((ValueError, OSError)):
        open_checkpoint(folder)


def test_pictures_are_decoded_in_the_known_formats_alone(tmp_path):
    assert "EPS" not in FORMATS and "PDF" not in FORMATS
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(" + str(tmp_path).encode() + b"/evil) (w) file\n"
    for content in (postscript, b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7\n"):
        with pytest.raises(BadRecord, match="none of JPEG"):
            Picture(content, "x")
    buffer = io.BytesIO()
    Image.new("1", (60_000, 60_000)).save(buffer, "png")  # 450 kB, and 10.8 GB as RGB
    with pytest.raises(BadRecord, match="60000 × 60000 pixels, more than max_pixels"):
        Picture(buffer.getvalue(), "x")


def test_what_skypilot_reads_holds_plain_values_only():
    with pytest.raises(yaml.YAMLError):
        yaml.safe_dump(Bomb(pathlib.Path("x")))
