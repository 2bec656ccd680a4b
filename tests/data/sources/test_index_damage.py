"""Indexes of shards and tables are compared with their checksum; damaged ones are built again, with a line."""

import json

import numpy as np
import pytest

from data.sources import tar_shards
from data.sources.open import open_source
from tests.data.shard_files import labelled, write_shard

COUNT = 200


def write(folder, kind):
    if kind == "shard":
        return str(write_shard(folder / "s.tar", labelled(COUNT)))
    rows = [(f"{number}.png", f"thing {number}") for number in range(COUNT)]
    path = folder / f"t.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps({"image": image, "caption": text}) + "\n" for image, text in rows))
    else:
        path.write_text("image,caption\n" + "".join(f"{image},{text}\n" for image, text in rows))
    return str(path)


def zeroed(start, stop):
    return lambda content: (
        content[: int(start * len(content))]
        + bytes(int(stop * len(content)) - int(start * len(content)))
        + content[int(stop * len(content)) :]
    )


def flipped(share):
    def damage(content):
        at = int(share * (len(content) - 1))
        return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]

    return damage


DAMAGES = {
    "empty": lambda content: b"",
    "cut in half": lambda content: content[: len(content) // 2],
    "last byte missing": lambda content: content[:-1],
    "zeros": lambda content: bytes(len(content)),
    "other bytes": lambda content: b"\xff" * len(content),
    **{f"tenth {number} zeroed": zeroed(number / 10, (number + 1) / 10) for number in range(10)},
    **{f"bit flipped at {share}": flipped(share) for share in (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)},
}


def content_of(source):
    return [(source.key(index), source.texts(index)) for index in range(len(source))]


def indexes(folder):
    return [path for path in folder.rglob("*") if path.suffix in (".safetensors", ".npy")]


@pytest.fixture(autouse=True)
def fresh_process():
    """Forget the indexes that this process has opened."""

    def forget():
        tar_shards._map_index.cache_clear()
        tar_shards._checked.clear()

    forget()
    yield forget
    forget()


@pytest.mark.parametrize("kind", ["shard", "csv", "jsonl"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_is_built_again_with_a_line(tmp_path, said, fresh_process, kind, damage):
    name = write(tmp_path, kind)
    expected = content_of(open_source(name, tmp_path / "cache"))
    assert len(expected) == COUNT
    [index] = indexes(tmp_path / "cache")
    whole = index.read_bytes()
    index.write_bytes(DAMAGES[damage](whole))
    fresh_process()
    assert content_of(open_source(name, tmp_path / "cache")) == expected
    assert sum(str(index) in line and "is damaged and built again" in line for line in said) == 1
    fresh_process()
    said.clear()
    assert content_of(open_source(name, tmp_path / "cache")) == expected
    assert not any("and built again" in line for line in said)


def test_a_damaged_index_that_cannot_be_written_is_built_in_memory(tmp_path, said, fresh_process, monkeypatch):
    name = write(tmp_path, "shard")
    expected = content_of(open_source(name, tmp_path / "cache"))
    [index] = indexes(tmp_path / "cache")
    damaged = zeroed(0.6, 0.7)(index.read_bytes())
    index.write_bytes(damaged)
    fresh_process()

    def refuse(*arguments, **options):
        raise PermissionError("read-only")

    monkeypatch.setattr(tar_shards, "write_index", refuse)
    assert content_of(open_source(name, tmp_path / "cache")) == expected
    assert index.read_bytes() == damaged and any("is damaged and built again" in line for line in said)


def test_an_index_of_an_earlier_version_is_used_without_a_check(tmp_path, said, fresh_process):
    from safetensors import safe_open
    from safetensors.numpy import save_file

    name = write(tmp_path, "shard")
    expected = content_of(open_source(name, tmp_path / "cache"))
    [index] = indexes(tmp_path / "cache")
    with safe_open(index, "numpy") as opened:
        metadata = {key: value for key, value in opened.metadata().items() if key not in ("arrays", "header")}
        save_file({key: opened.get_tensor(key) for key in opened.keys()}, index, metadata=metadata)  # noqa: SIM118
    old = index.read_bytes()
    fresh_process()
    assert content_of(open_source(name, tmp_path / "cache")) == expected and index.read_bytes() == old and not said


def test_an_index_of_a_table_of_an_earlier_version_is_replaced_without_a_warning(tmp_path, said):
    name = write(tmp_path, "csv")
    expected = content_of(open_source(name, tmp_path / "cache"))
    [index] = indexes(tmp_path / "cache")
    stored = np.load(index)
    np.save(index, stored[3:])
    said.clear()
    assert content_of(open_source(name, tmp_path / "cache")) == expected
    assert not any("and built again" in line for line in said) and np.array_equal(np.load(index), stored)


def test_the_order_of_caption_groups_is_computed_again_if_damaged(tmp_path, said):
    from pretrain.config.run import read_settings
    from pretrain.input_pipeline import open_data, prepare_order
    from tests.pretrain.tiny import config

    name = write(tmp_path, "shard")
    settings = read_settings(config(name, data={"sources": (name,), "group_size": 4}))
    source, path = open_data(settings, tmp_path), tmp_path / "groups.npy"
    expected = prepare_order(path, source, settings)
    for damage in ("cut in half", "tenth 5 zeroed", "empty", "zeros"):
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
        assert np.array_equal(prepare_order(path, source, settings), expected)
        assert str(path) in said[-1] and "damaged" in said[-1]
