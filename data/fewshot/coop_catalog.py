"""Datasets as CoOp evaluates them: its published splits and draws, a single template, and accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from data.fewshot.class_lists import read_class_names
from data.fewshot.labelled import DatasetSettings

COOP = "https://github.com/KaiyangZhou/CoOp/blob/main/trainers/zsclip.py"


def coop_datasets(datasets: Mapping[str, DatasetSettings]) -> dict[str, DatasetSettings]:
    """Return the variants `coop_NAME` of the given datasets.

    `class_names` are listed where those of CoOp's split list contain hyphens, which would be read as spaces.
    """
    cars = datasets["cars196"].class_names
    return {
        "coop_caltech101": _as_coop(
            datasets["caltech101"], coop_splits("caltech-101", "Caltech101", images="101_ObjectCategories")
        ),
        "coop_oxford_pets": _as_coop(
            datasets["oxford_iiit_pet"], coop_splits("oxford_pets", "OxfordPets", images="images")
        ),
        "coop_stanford_cars": _as_coop(
            datasets["cars196"],
            coop_splits("stanford_cars", "StanfordCars", images=""),
            class_names=[_year_first(car) for car in cars],
        ),
        "coop_oxford_flowers": _as_coop(
            datasets["oxford_flowers102"],
            coop_splits("oxford_flowers", "OxfordFlowers", images="jpg"),
            class_names=read_class_names("coop_oxford_flowers"),
        ),
        "coop_food101": _as_coop(datasets["food101"], coop_splits("food-101", "Food101", images="images")),
        "coop_sun397": _as_coop(datasets["sun397"], coop_splits("sun397", "SUN397", images="SUN397")),
        "coop_dtd": _as_coop(
            datasets["dtd"],
            coop_splits("dtd", "DescribableTextures", images="images"),
            class_names=datasets["dtd"].class_names,
        ),
        "coop_eurosat": _as_coop(datasets["eurosat"], coop_splits("eurosat", "EuroSAT", images="2750")),
        "coop_ucf101": _as_coop(datasets["ucf101"], coop_splits("ucf101", "UCF101", images="UCF-101-midframes")),
        "coop_fgvc_aircraft": _as_coop(
            datasets["fgvc_aircraft"], {}, class_names=datasets["fgvc_aircraft"].class_names
        ),
    }


def _as_coop(dataset: DatasetSettings, sources: dict[str, str], *, class_names: Sequence[str] = ()) -> DatasetSettings:
    return dataclasses.replace(
        dataset,
        **sources,
        class_names=tuple(class_names),
        templates=(),
        templates_source=COOP,
        metric="accuracy",
        draws="coop",
        title=f"{dataset.title}, CoOp's splits",
    )


def coop_splits(folder: str, list_name: str, *, images: str) -> dict[str, str]:
    """Return the three splits of one of CoOp's lists, in the folders of CoOp's DATASETS.md."""
    source = f"coop:{{data_dir}}/{folder}/split_zhou_{list_name}.json:{{data_dir}}/{folder}{images and '/'}{images}"
    return {"support": f"{source}:train", "validation": f"{source}:val", "query": f"{source}:test"}


def _year_first(car: str) -> str:
    model, _, year = car.rpartition(" ")
    return f"{year} {model}"
