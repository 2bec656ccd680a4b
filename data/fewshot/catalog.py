"""The labelled sets that few-shot papers report, by name: where they lie, and their classes and prompts in words.

Names of classes and prompts are those of CLIP and CoOp where these have them, in the order of the class numbers:
`class_names/` and `templates/` hold the long ones. `{data_dir}` in the name of a source stands for the folder
of the data. docs/DATASETS.md has the table.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from data.fewshot.labelled import DatasetSettings
from data.fewshot.preparation import how_to_prepare, is_there

CLIP_PROMPTS = "https://github.com/openai/CLIP/blob/main/data/prompts.md"
CLIP_IMAGENET = "https://github.com/openai/CLIP/blob/main/notebooks/Prompt_Engineering_for_ImageNet.ipynb"
CLIP_BENCHMARK = "https://github.com/LAION-AI/CLIP_benchmark (datasets/en_zeroshot_classification_templates.json)"
COOP = "https://github.com/KaiyangZhou/CoOp/blob/main/trainers/zsclip.py"
MEAN_PER_CLASS = "mean_per_class_accuracy"


def _lines(folder: str, name: str) -> tuple[str, ...]:
    path = pathlib.Path(__file__).parent / folder / f"{name}.txt"
    return tuple(path.read_text(encoding="utf-8").splitlines())


def _class_names(name: str) -> tuple[str, ...]:
    return _lines("class_names", name)


_IMAGENET = DatasetSettings(
    support="tfds:imagenet2012:train",
    query="tfds:imagenet2012:validation",  # its test split has no labels
    shifts=("imagenet_v2", "imagenet_sketch", "imagenet_a", "imagenet_r"),
    class_names=_class_names("imagenet"),
    template="a photo of a {}.",
    templates=_lines("templates", "imagenet"),
    templates_source=CLIP_IMAGENET,
    title="ImageNet (ILSVRC 2012)",
    licence="non-commercial research and education, on registration",
)


def _shift(query: str, title: str, licence: str) -> DatasetSettings:
    """Returns a set of ImageNet's classes that is asked about only; TFDS numbers all of them as ImageNet's 1,000."""
    return dataclasses.replace(_IMAGENET, support=None, query=query, shifts=(), title=title, licence=licence)


def _coop_sources(folder: str, name: str, images: str) -> dict[str, str]:
    """Returns the three splits of a list of CoOp, in the folders that CoOp's DATASETS.md lays out."""
    source = f"coop:{{data_dir}}/{folder}/split_zhou_{name}.json:{{data_dir}}/{folder}{images and '/'}{images}"
    return {"support": f"{source}:train", "validation": f"{source}:val", "query": f"{source}:test"}


CATALOGUE: dict[str, DatasetSettings] = {
    "imagenet2012": _IMAGENET,
    "imagenet_v2": _shift(
        "tfds:imagenet_v2/matched-frequency:test", "ImageNet-V2, matched frequency", "MIT; photos are their authors'"
    ),
    "imagenet_sketch": _shift("tfds:imagenet_sketch:test", "ImageNet-Sketch", "MIT; pictures are their authors'"),
    # Of ImageNet-A and ImageNet-R 200 classes have pictures, not the same 200.
    "imagenet_a": _shift("tfds:imagenet_a:test", "ImageNet-A", "MIT; photos are their authors'"),
    "imagenet_r": _shift("tfds:imagenet_r:test", "ImageNet-R", "MIT; pictures are their authors'"),
    "caltech101": DatasetSettings(
        support="tfds:caltech101:train",  # 30 of each class, as is the custom; it has no validation split
        query="tfds:caltech101:test",
        class_names=_class_names("caltech101"),  # with the background and both kinds of faces, as CLIP has it
        template="a photo of a {}.",
        templates=_lines("templates", "caltech101"),
        templates_source=CLIP_PROMPTS,
        metric=MEAN_PER_CLASS,
        title="Caltech-101",
        licence="CC BY 4.0",
    ),
    "oxford_iiit_pet": DatasetSettings(
        support="tfds:oxford_iiit_pet:train",  # the authors' trainval
        query="tfds:oxford_iiit_pet:test",
        class_names=_class_names("oxford_pets"),
        template="a photo of a {}, a type of pet.",
        templates_source=CLIP_PROMPTS,
        metric=MEAN_PER_CLASS,
        title="Oxford-IIIT Pet",
        licence="CC BY-SA 4.0",
    ),
    "cars196": DatasetSettings(
        support="tfds:cars196:train",
        query="tfds:cars196:test",
        class_names=_class_names("cars196"),
        template="a photo of a {}.",
        templates=(
            "a photo of a {}.",
            "a photo of the {}.",
            "a photo of my {}.",
            "i love my {}!",
            "a photo of my dirty {}.",
            "a photo of my clean {}.",
            "a photo of my new {}.",
            "a photo of my old {}.",
        ),
        templates_source=CLIP_PROMPTS,
        title="Stanford Cars",
        licence="non-commercial research",
    ),
    "oxford_flowers102": DatasetSettings(
        support="tfds:oxford_flowers102:train",  # 10 of each class, so never more than 10 shots; CoOp's lists have more
        query="tfds:oxford_flowers102:test",
        validation="tfds:oxford_flowers102:validation",
        class_names=_class_names("oxford_flowers102"),
        template="a photo of a {}, a type of flower.",
        templates_source=CLIP_PROMPTS,
        metric=MEAN_PER_CLASS,
        title="Oxford Flowers 102",
        licence="none stated",
    ),
    "food101": DatasetSettings(
        support="tfds:food101:train",
        query="tfds:food101:validation",  # what TFDS calls the authors' test split
        class_names=_class_names("food101"),
        template="a photo of {}, a type of food.",
        templates_source=CLIP_PROMPTS,
        title="Food-101",
        licence="scientific use; photos of Foodspotting's users",
    ),
    "sun397": DatasetSettings(
        support="tfds:sun397/standard-part1-120k:train",  # the first of the authors' ten partitions, 50 + 50 a class
        query="tfds:sun397/standard-part1-120k:test",
        class_names=_class_names("sun397"),
        template="a photo of a {}.",
        templates=("a photo of a {}.", "a photo of the {}."),
        templates_source=CLIP_PROMPTS,
        title="SUN397",
        licence="none stated; pictures of the web",
    ),
    "dtd": DatasetSettings(
        support="tfds:dtd:train",  # the first of the authors' ten splits
        query="tfds:dtd:test",
        validation="tfds:dtd:validation",
        class_names=_class_names("dtd"),
        template="{} texture.",
        templates=(
            "a photo of a {} texture.",
            "a photo of a {} pattern.",
            "a photo of a {} thing.",
            "a photo of a {} object.",
            "a photo of the {} texture.",
            "a photo of the {} pattern.",
            "a photo of the {} thing.",
            "a photo of the {} object.",
        ),
        templates_source=f"{CLIP_PROMPTS}; the one template: {COOP}",
        title="Describable Textures (DTD)",
        licence="research",
    ),
    # EuroSAT and RESISC45 have one split each; it is divided 60 : 20 : 20, as VTAB divides it.
    "eurosat": DatasetSettings(
        support="tfds:eurosat/rgb:train[:60%]",
        validation="tfds:eurosat/rgb:train[60%:80%]",
        query="tfds:eurosat/rgb:train[80%:]",
        class_names=(
            "annual crop land",
            "forest",
            "brushland or shrubland",
            "highway or road",
            "industrial buildings or commercial buildings",
            "pasture land",
            "permanent crop land",
            "residential buildings or homes or apartments",
            "river",
            "lake or sea",
        ),
        template="a centered satellite photo of {}.",
        templates=(
            "a centered satellite photo of {}.",
            "a centered satellite photo of a {}.",
            "a centered satellite photo of the {}.",
        ),
        templates_source=CLIP_PROMPTS,
        title="EuroSAT (RGB)",
        licence="MIT",
    ),
    "cifar10": DatasetSettings(
        support="tfds:cifar10:train",
        query="tfds:cifar10:test",
        class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        template="a photo of a {}.",
        templates=_lines("templates", "cifar"),
        templates_source=CLIP_PROMPTS,
        title="CIFAR-10",
        licence="none stated",
    ),
    "cifar100": DatasetSettings(
        support="tfds:cifar100:train",
        query="tfds:cifar100:test",
        class_names=_class_names("cifar100"),
        template="a photo of a {}.",
        templates=_lines("templates", "cifar"),
        templates_source=CLIP_PROMPTS,
        title="CIFAR-100",
        licence="none stated",
    ),
    "caltech_birds2011": DatasetSettings(
        support="tfds:caltech_birds2011:train",
        query="tfds:caltech_birds2011:test",
        class_names=_class_names("caltech_birds2011"),  # as its folders are spelled
        template="a photo of a {}, a type of bird.",
        templates_source=f"{CLIP_PROMPTS} (Birdsnap)",
        title="Caltech-UCSD Birds 200-2011",
        licence="non-commercial research and education",
    ),
    "resisc45": DatasetSettings(
        support="tfds:resisc45:train[:60%]",
        validation="tfds:resisc45:train[60%:80%]",
        query="tfds:resisc45:train[80%:]",
        class_names=_class_names("resisc45"),
        template="satellite imagery of {}.",
        templates=_lines("templates", "resisc45"),
        templates_source=CLIP_PROMPTS,
        title="NWPU-RESISC45",
        licence="none stated; pictures of Google Earth",
    ),
    "svhn_cropped": DatasetSettings(
        support="tfds:svhn_cropped:train",
        query="tfds:svhn_cropped:test",
        class_names=("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
        template="a photo of the number {} written on a sign",
        templates=(
            "a photo of the number {} written on a sign",
            "an outdoor house number {}",
            "the number {} in the center of the image",
            "an outdoor number {} writte on a sign",  # spelled so where it is from
            "an outdoor number {}",
            "a centered image of the number {}",
        ),
        templates_source=CLIP_BENCHMARK,
        title="Street View House Numbers, cropped",
        licence="non-commercial",
    ),
    "patch_camelyon": DatasetSettings(
        support="tfds:patch_camelyon:train",
        query="tfds:patch_camelyon:test",
        validation="tfds:patch_camelyon:validation",
        class_names=("lymph node", "lymph node containing metastatic tumor tissue"),
        template="this is a photo of {}",
        templates_source=CLIP_PROMPTS,
        title="PatchCamelyon",
        licence="CC0",
    ),
    "stanford_dogs": DatasetSettings(
        support="tfds:stanford_dogs:train",
        query="tfds:stanford_dogs:test",
        class_names=_class_names("stanford_dogs"),  # what CLIP calls the same synsets of ImageNet
        template="a photo of a {}, a type of dog.",
        templates_source=f"names: {CLIP_IMAGENET}; the template is ours, after CLIP's of pets",
        title="Stanford Dogs",
        licence="non-commercial research (ImageNet's terms)",
    ),
    "places365_small": DatasetSettings(
        support="tfds:places365_small:train",
        query="tfds:places365_small:validation",  # its test split has no labels
        class_names=_class_names("places365"),  # its own, `_` and `/` read as spaces, as CLIP has SUN397's
        template="a photo of a {}.",
        templates=("a photo of a {}.", "a photo of the {}."),
        templates_source=f"{CLIP_PROMPTS} (SUN397)",
        title="Places365, 256 px",
        licence="non-commercial research and education",
    ),
    "stl10": DatasetSettings(
        support="tfds:stl10:train",
        query="tfds:stl10:test",
        class_names=("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
        template="a photo of a {}.",
        templates=("a photo of a {}.", "a photo of the {}."),
        templates_source=CLIP_PROMPTS,
        title="STL-10",
        licence="ImageNet's terms",
    ),
    "fgvc_aircraft": DatasetSettings(
        support="aircraft:{data_dir}/fgvc-aircraft-2013b/data:train",
        query="aircraft:{data_dir}/fgvc-aircraft-2013b/data:test",
        validation="aircraft:{data_dir}/fgvc-aircraft-2013b/data:val",
        class_names=_class_names("fgvc_aircraft"),
        template="a photo of a {}, a type of aircraft.",
        templates=("a photo of a {}, a type of aircraft.", "a photo of the {}, a type of aircraft."),
        templates_source=CLIP_PROMPTS,
        metric=MEAN_PER_CLASS,
        title="FGVC Aircraft, variants",
        licence="non-commercial research",
    ),
    "ucf101": DatasetSettings(
        **_coop_sources("ucf101", "UCF101", "UCF-101-midframes"),
        # The names are the list's: CLIP's stand in another order, and are the same words.
        template="a photo of a person doing {}.",
        templates=_lines("templates", "ucf101"),
        templates_source=CLIP_PROMPTS,
        title="UCF101, middle frames",
        licence="none stated; videos of YouTube",
    ),
    "country211": DatasetSettings(
        support="{data_dir}/country211/train",
        query="{data_dir}/country211/test",
        validation="{data_dir}/country211/valid",
        class_names=_class_names("country211"),  # in the order of the folders, which are ISO 3166 codes
        template="a photo i took in {}.",
        templates=(
            "a photo i took in {}.",
            "a photo i took while visiting {}.",
            "a photo from my home country of {}.",
            "a photo from my visit to {}.",
            "a photo showing the country of {}.",
        ),
        templates_source=CLIP_PROMPTS,
        title="Country211",
        licence="Creative Commons, each photo its own",
    ),
}


def _as_coop(name: str, sources: dict[str, str], *, class_names: Sequence[str] = ()) -> DatasetSettings:
    """Returns a set as CoOp evaluates it: its splits, draws, one template and accuracy; the names are the list's."""
    return dataclasses.replace(
        CATALOGUE[name],
        **sources,
        class_names=tuple(class_names),
        templates=(),
        templates_source=COOP,
        metric="accuracy",
        draws="coop",
        title=f"{CATALOGUE[name].title}, CoOp's splits",
    )


def _year_first(car: str) -> str:
    model, _, year = car.rpartition(" ")
    return f"{year} {model}"


# `class_names` are given where the list's have hyphens, which would be read as spaces.
CATALOGUE |= {
    "coop_caltech101": _as_coop("caltech101", _coop_sources("caltech-101", "Caltech101", "101_ObjectCategories")),
    "coop_oxford_pets": _as_coop("oxford_iiit_pet", _coop_sources("oxford_pets", "OxfordPets", "images")),
    "coop_stanford_cars": _as_coop(
        "cars196",
        _coop_sources("stanford_cars", "StanfordCars", ""),
        class_names=[_year_first(car) for car in CATALOGUE["cars196"].class_names],
    ),
    "coop_oxford_flowers": _as_coop(
        "oxford_flowers102",
        _coop_sources("oxford_flowers", "OxfordFlowers", "jpg"),
        class_names=_class_names("coop_oxford_flowers"),
    ),
    "coop_food101": _as_coop("food101", _coop_sources("food-101", "Food101", "images")),
    "coop_sun397": _as_coop("sun397", _coop_sources("sun397", "SUN397", "SUN397")),
    "coop_dtd": _as_coop(
        "dtd",
        _coop_sources("dtd", "DescribableTextures", "images"),
        class_names=CATALOGUE["dtd"].class_names,
    ),
    "coop_eurosat": _as_coop("eurosat", _coop_sources("eurosat", "EuroSAT", "2750")),
    "coop_ucf101": _as_coop("ucf101", _coop_sources("ucf101", "UCF101", "UCF-101-midframes")),
    "coop_fgvc_aircraft": _as_coop("fgvc_aircraft", {}, class_names=CATALOGUE["fgvc_aircraft"].class_names),
}


class MissingSource(NamedTuple):
    """A source of the set `name` that is not there, and the command or the steps that prepare it."""

    name: str
    source: str
    command: str


def missing(names: Sequence[str], data_dir: str | os.PathLike) -> list[MissingSource]:
    """Returns which sources of these sets are not in `data_dir`, in order; nothing is downloaded.

    Only what is drawn from and asked about is looked for, and not the sets that a set names as its shifts. Raises
    `ValueError` for a name that is not in `CATALOGUE`.
    """
    found = []
    for name in names:
        if name not in CATALOGUE:
            raise ValueError(f"unknown dataset {name!r}; known: {', '.join(CATALOGUE)}")
        settings = CATALOGUE[name]
        for source in filter(None, (settings.support, settings.query)):
            if not is_there(source, data_dir):
                found.append(
                    MissingSource(name, source.format(data_dir=os.fspath(data_dir)), how_to_prepare(source, data_dir))
                )
    return found
