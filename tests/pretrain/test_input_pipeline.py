"""Data in which all images have one caption cannot train a contrastive model."""

import pytest

from data.sources.open import TEXT_KEYS, open_sources
from pretrain.input_pipeline import check_captions
from tests.data.shard_files import png, write_shard
from tests.data.sources.test_split_folders import tree


def check(tmp_path, *names):
    names = [str(name) for name in names]
    check_captions(open_sources(names, tmp_path / "cache", text_keys=TEXT_KEYS), names)


def shard(path, captions):
    return write_shard(
        path, [(f"{number:04}", png(0, (4, 4)), {"caption": text}) for number, text in enumerate(captions)]
    )


@pytest.mark.parametrize(
    "paths", [["images/{0,1,2}.png"], ["ant/{0,1}.png"], ["train/images/{0,1}.png"], ["ant/{train,test}/{0,1}.png"]]
)
def test_one_class_folder_stops_the_run(tmp_path, paths, said):
    name = tree(tmp_path / "set", *paths)
    with pytest.raises(ValueError, match=r"same caption|not in class folders"):
        check(tmp_path, name)
    with pytest.raises(ValueError, match=r"Give a folder with several class folders, or a table or shards"):
        check(tmp_path, tree(tmp_path / "big", *[f"images/{{{number},x{number}}}.png" for number in range(50)]))
    assert any("images in one folder only, so all" in line for line in said)


def test_one_caption_stops_small_data_and_is_reported_for_large(tmp_path, said):
    small = shard(tmp_path / "small.tar", ["an image"] * 5)
    with pytest.raises(ValueError, match=r"all images have the same caption 'an image', so a contrastive loss"):
        check(tmp_path, small)
    check(tmp_path, shard(tmp_path / "large.tar", ["an image"] * 100))
    assert "64 of 100 samples" in said[-1]
    said.clear()
    check(tmp_path, small, shard(tmp_path / "other.tar", ["an ant", "a bee"]))
    check(tmp_path, tree(tmp_path / "set", "{ant,bee}/{0,1}.png"))
    check(tmp_path, shard(tmp_path / "one.tar", ["an image"]))
    check(tmp_path, shard(tmp_path / "none.tar", ["", ""]))
    assert not said
