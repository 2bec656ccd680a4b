"""Check which sources of the catalogue are prepared, and describe how to prepare the missing ones."""

from __future__ import annotations

import os

from data.embedded.sets import is_embedded
from data.io.storage import is_remote
from data.sources import coop, fgvc_aircraft
from data.sources import tfds as tfds_source

DATA_DIR = "{data_dir}"
_COOP_PAGE = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"

# Datasets that TFDS cannot download, and where to put their files: {manual} is `downloads/manual` in the data folder.
MANUAL_DOWNLOADS = {
    "imagenet2012": (
        "download ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from https://image-net.org/download-images "
        "(requires registration) into {manual}"
    ),
    "resisc45": (
        "download https://1drv.ms/u/s!AmgKYzARBl5ca3HNaHIlzp_IXjs and unpack NWPU-RESISC45.rar so that the 45 class "
        "folders are {manual}/NWPU-RESISC45/airplane and so on"
    ),
}

# Folder within the data folder → how to fill it.
ARCHIVES = {
    "fgvc-aircraft-2013b": f"curl -L {fgvc_aircraft.ARCHIVE} | tar xz -C {DATA_DIR}",
    "country211": f"curl -L https://openaipublic.azureedge.net/clip/data/country211.tgz | tar xz -C {DATA_DIR}",
    "ucf101": (
        f"unzip UCF-101-midframes.zip and put split_zhou_UCF101.json, both linked in {_COOP_PAGE}#ucf101, into "
        f"{DATA_DIR}/ucf101"
    ),
    "caltech-101": (
        f"unpack 101_ObjectCategories.tar.gz and put split_zhou_Caltech101.json, both linked in "
        f"{_COOP_PAGE}#caltech101, into {DATA_DIR}/caltech-101"
    ),
    "oxford_pets": (
        f"unpack images.tar.gz and put split_zhou_OxfordPets.json, both linked in {_COOP_PAGE}#oxfordpets, into "
        f"{DATA_DIR}/oxford_pets"
    ),
    "stanford_cars": (
        f"unpack cars_train.tgz and cars_test.tgz and put split_zhou_StanfordCars.json, all linked in "
        f"{_COOP_PAGE}#stanfordcars, into {DATA_DIR}/stanford_cars"
    ),
    "oxford_flowers": (
        f"unpack 102flowers.tgz and put split_zhou_OxfordFlowers.json, both linked in {_COOP_PAGE}#flowers102, into "
        f"{DATA_DIR}/oxford_flowers"
    ),
    "food-101": (
        f"unpack food-101.tar.gz into {DATA_DIR} and put split_zhou_Food101.json, both linked in {_COOP_PAGE}#food101, "
        f"into {DATA_DIR}/food-101"
    ),
    "sun397": (
        f"unpack SUN397.tar.gz and put split_zhou_SUN397.json, both linked in {_COOP_PAGE}#sun397, into "
        f"{DATA_DIR}/sun397"
    ),
    "dtd": (
        f"unpack dtd-r1.0.1.tar.gz into {DATA_DIR} and put split_zhou_DescribableTextures.json, both linked in "
        f"{_COOP_PAGE}#dtd, into {DATA_DIR}/dtd"
    ),
    "eurosat": (
        f"unpack EuroSAT.zip and put split_zhou_EuroSAT.json, both linked in {_COOP_PAGE}#eurosat, into "
        f"{DATA_DIR}/eurosat"
    ),
}


def is_prepared(source: str, data_dir: str | os.PathLike) -> bool:
    """Return whether a source of the catalogue is in `data_dir`; for archives, whether their lists and folders are.

    Embedded datasets are always prepared. Remote paths count as prepared; they are checked when they are opened.
    """
    if is_embedded(source):
        return True
    source = source.format(data_dir=os.fspath(data_dir))
    if source.startswith(tfds_source.PREFIX):
        return _is_prepared_tfds(source.removeprefix(tfds_source.PREFIX), data_dir)
    if source.startswith(coop.PREFIX):
        name = coop.parse(source.removeprefix(coop.PREFIX))
        paths: tuple[str, ...] = (name.split_list, name.folder)
    elif source.startswith(fgvc_aircraft.PREFIX):
        folder, split = fgvc_aircraft.parse(source.removeprefix(fgvc_aircraft.PREFIX))
        paths = tuple(f"{folder}/{name}" for name in ("images", "variants.txt", f"images_variant_{split}.txt"))
    else:
        paths = (source,)
    return all(is_remote(path) or os.path.exists(os.path.expanduser(path)) for path in paths)


def preparation_steps(source: str, data_dir: str | os.PathLike) -> str:
    """Return the command or instructions that prepare a source of the catalogue in `data_dir`."""
    if source.startswith(tfds_source.PREFIX):
        builder = _parse(source.removeprefix(tfds_source.PREFIX))[0]
        steps = tfds_source.preparation_steps(builder, data_dir)
        if builder in MANUAL_DOWNLOADS:
            manual = os.path.join(os.fspath(data_dir), "downloads", "manual")
            return f"{MANUAL_DOWNLOADS[builder].format(manual=manual)}; then: {steps}"
        return steps
    folder = source.partition(f"{DATA_DIR}/")[2].partition("/")[0]
    return ARCHIVES[folder].format(data_dir=os.fspath(data_dir))


def _is_prepared_tfds(name: str, data_dir: str | os.PathLike) -> bool:
    import tensorflow_datasets as tfds

    builder, split = _parse(name)
    builder = tfds.builder(builder, data_dir=os.fspath(data_dir), file_format="array_record")
    return builder.is_prepared() and split.partition("[")[0] in builder.info.splits


def _parse(name: str) -> tuple[str, str]:
    match = tfds_source.NAME.fullmatch(name)
    if not match:
        raise ValueError(f"{tfds_source.PREFIX}{name} has no split")
    return match["builder"], match["split"]
