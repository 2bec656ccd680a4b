"""The catalogue of labelled datasets that few-shot papers report: sources, class names and prompt templates.

Class names and templates are those of CLIP and CoOp where these have them, in the order of the labels; long lists are
files in `class_names/` and `templates/`. `{data_dir}` in a source stands for the data folder. The table is in
docs/reference/datasets.md.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import NamedTuple

from data.fewshot.class_lists import read_class_names, read_templates
from data.fewshot.coop_catalog import COOP, coop_datasets, coop_splits
from data.fewshot.embedded_catalog import EMBEDDED
from data.fewshot.labelled import DatasetSettings
from data.fewshot.preparation import is_prepared, preparation_steps
from foundation.suggestions import unknown_name

CLIP_PROMPTS = "https://github.com/openai/CLIP/blob/main/data/prompts.md"
CLIP_IMAGENET = "https://github.com/openai/CLIP/blob/main/notebooks/Prompt_Engineering_for_ImageNet.ipynb"
CLIP_BENCHMARK = "https://github.com/LAION-AI/CLIP_benchmark (datasets/en_zeroshot_classification_templates.json)"
MEAN_PER_CLASS = "mean_per_class_accuracy"

_IMAGENET = DatasetSettings(
    support="tfds:imagenet2012:train",
    query="tfds:imagenet2012:validation",  # its test split has no labels
    shifts=("imagenet_v2", "imagenet_sketch", "imagenet_a", "imagenet_r"),
    class_names=read_class_names("imagenet"),
    template="a photo of a {}.",
    templates=read_templates("imagenet"),
    templates_source=CLIP_IMAGENET,
    title="ImageNet (ILSVRC 2012)",
    licence="non-commercial research and education, requires registration",
)


def _shift(query: str, *, title: str, licence: str) -> DatasetSettings:
    """Return a query-only dataset of ImageNet's classes; TFDS labels all of these as ImageNet's 1,000."""
    return dataclasses.replace(_IMAGENET, support=None, query=query, shifts=(), title=title, licence=licence)


_DATASETS: dict[str, DatasetSettings] = {
    "imagenet2012": _IMAGENET,
    "imagenet_v2": _shift(
        "tfds:imagenet_v2/matched-frequency:test",
        title="ImageNet-V2, matched frequency",
        licence="MIT; photos © their authors",
    ),
    "imagenet_sketch": _shift(
        "tfds:imagenet_sketch:test", title="ImageNet-Sketch", licence="MIT; images © their authors"
    ),
    # ImageNet-A and ImageNet-R have images of 200 classes each, not the same ones.
    "imagenet_a": _shift("tfds:imagenet_a:test", title="ImageNet-A", licence="MIT; photos © their authors"),
    "imagenet_r": _shift("tfds:imagenet_r:test", title="ImageNet-R", licence="MIT; images © their authors"),
    "caltech101": DatasetSettings(
        support="tfds:caltech101:train",  # 30 per class, as usual; there is no validation split
        query="tfds:caltech101:test",
        class_names=read_class_names("caltech101"),  # with the background and both face classes, as in CLIP
        template="a photo of a {}.",
        templates=read_templates("caltech101"),
        templates_source=CLIP_PROMPTS,
        metric=MEAN_PER_CLASS,
        title="Caltech-101",
        licence="CC BY 4.0",
    ),
    "oxford_iiit_pet": DatasetSettings(
        support="tfds:oxford_iiit_pet:train",  # the authors' trainval
        query="tfds:oxford_iiit_pet:test",
        class_names=read_class_names("oxford_pets"),
        template="a photo of a {}, a type of pet.",
        templates_source=CLIP_PROMPTS,
        metric=MEAN_PER_CLASS,
        title="Oxford-IIIT Pet",
        licence="CC BY-SA 4.0",
    ),
    "cars196": DatasetSettings(
        support="tfds:cars196:train",
        query="tfds:cars196:test",
        class_names=read_class_names("cars196"),
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
        support="tfds:oxford_flowers102:train",  # 10 per class, so at most 10 shots; CoOp's lists have more
        query="tfds:oxford_flowers102:test",
        validation="tfds:oxford_flowers102:validation",
        class_names=read_class_names("oxford_flowers102"),
        template="a photo of a {}, a type of flower.",
        templates_source=CLIP_PROMPTS,
        metric=MEAN_PER_CLASS,
        title="Oxford Flowers 102",
        licence="none stated",
    ),
    "food101": DatasetSettings(
        support="tfds:food101:train",
        query="tfds:food101:validation",  # the authors' test split
        class_names=read_class_names("food101"),
        template="a photo of {}, a type of food.",
        templates_source=CLIP_PROMPTS,
        title="Food-101",
        licence="scientific use; photos by Foodspotting users",
    ),
    "sun397": DatasetSettings(
        support="tfds:sun397/standard-part1-120k:train",  # the first of the authors' ten partitions, 50 + 50 per class
        query="tfds:sun397/standard-part1-120k:test",
        class_names=read_class_names("sun397"),
        template="a photo of a {}.",
        templates=("a photo of a {}.", "a photo of the {}."),
        templates_source=CLIP_PROMPTS,
        title="SUN397",
        licence="none stated; images from the web",
    ),
    "dtd": DatasetSettings(
        support="tfds:dtd:train",  # the first of the authors' ten splits
        query="tfds:dtd:test",
        validation="tfds:dtd:validation",
        class_names=read_class_names("dtd"),
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
        templates_source=f"{CLIP_PROMPTS}; single template: {COOP}",
        title="Describable Textures (DTD)",
        licence="research",
    ),
    # EuroSAT and RESISC45 have one split each, divided 60 : 20 : 20 as in VTAB.
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
        templates=read_templates("cifar"),
        templates_source=CLIP_PROMPTS,
        title="CIFAR-10",
        licence="none stated",
    ),
    "cifar100": DatasetSettings(
        support="tfds:cifar100:train",
        query="tfds:cifar100:test",
        class_names=read_class_names("cifar100"),
        template="a photo of a {}.",
        templates=read_templates("cifar"),
        templates_source=CLIP_PROMPTS,
        title="CIFAR-100",
        licence="none stated",
    ),
    "caltech_birds2011": DatasetSettings(
        support="tfds:caltech_birds2011:train",
        query="tfds:caltech_birds2011:test",
        class_names=read_class_names("caltech_birds2011"),  # spelled as its folders
        template="a photo of a {}, a type of bird.",
        templates_source=f"{CLIP_PROMPTS} (Birdsnap)",
        title="Caltech-UCSD Birds 200-2011",
        licence="non-commercial research and education",
    ),
    "resisc45": DatasetSettings(
        support="tfds:resisc45:train[:60%]",
        validation="tfds:resisc45:train[60%:80%]",
        query="tfds:resisc45:train[80%:]",
        class_names=read_class_names("resisc45"),
        template="satellite imagery of {}.",
        templates=read_templates("resisc45"),
        templates_source=CLIP_PROMPTS,
        title="NWPU-RESISC45",
        licence="none stated; images from Google Earth",
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
            "an outdoor number {} writte on a sign",  # spelled as in its origin
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
        class_names=read_class_names("stanford_dogs"),  # CLIP's names of the same synsets of ImageNet
        template="a photo of a {}, a type of dog.",
        templates_source=f"names: {CLIP_IMAGENET}; the template is ours, after CLIP's of pets",
        title="Stanford Dogs",
        licence="non-commercial research (ImageNet's terms)",
    ),
    "places365_small": DatasetSettings(
        support="tfds:places365_small:train",
        query="tfds:places365_small:validation",  # its test split has no labels
        class_names=read_class_names("places365"),  # its own, with spaces for `_` and `/`, as CLIP does for SUN397
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
        class_names=read_class_names("fgvc_aircraft"),
        template="a photo of a {}, a type of aircraft.",
        templates=("a photo of a {}, a type of aircraft.", "a photo of the {}, a type of aircraft."),
        templates_source=CLIP_PROMPTS,
        metric=MEAN_PER_CLASS,
        title="FGVC Aircraft, variants",
        licence="non-commercial research",
    ),
    "ucf101": DatasetSettings(
        **coop_splits("ucf101", "UCF101", images="UCF-101-midframes"),
        # The names are those of the list; CLIP's are the same words in another order.
        template="a photo of a person doing {}.",
        templates=read_templates("ucf101"),
        templates_source=CLIP_PROMPTS,
        title="UCF101, middle frames",
        licence="none stated; videos from YouTube",
    ),
    "country211": DatasetSettings(
        support="{data_dir}/country211/train",
        query="{data_dir}/country211/test",
        validation="{data_dir}/country211/valid",
        class_names=read_class_names("country211"),  # in the order of the folders, ISO 3166 codes
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
        licence="Creative Commons, varies by photo",
    ),
}


CATALOGUE: dict[str, DatasetSettings] = {**_DATASETS, **EMBEDDED, **coop_datasets(_DATASETS)}


class MissingSource(NamedTuple):
    """A source of the dataset `name` that is not prepared, and the command or instructions that prepare it."""

    name: str
    source: str
    command: str


def missing(names: Sequence[str], data_dir: str | os.PathLike) -> list[MissingSource]:
    """Return the sources of these datasets that are not in `data_dir`, in order; nothing is downloaded.

    Checks the support and query sources, not those of the datasets' shifts. Raises `ValueError` for a name that is not
    in `CATALOGUE`.
    """
    found = []
    for name in names:
        if name not in CATALOGUE:
            raise ValueError(unknown_name("dataset", name, CATALOGUE))
        settings = CATALOGUE[name]
        for source in filter(None, (settings.support, settings.query)):
            if not is_prepared(source, data_dir):
                path = source.format(data_dir=os.fspath(data_dir))
                found.append(MissingSource(name, path, preparation_steps(source, data_dir)))
    return found
