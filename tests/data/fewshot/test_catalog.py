"""The catalogue of labelled datasets, compared with the installed TFDS builders; nothing is downloaded."""

import inspect
import pathlib
import re
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds

from data.embedded.sets import embedded_names
from data.fewshot.catalog import CATALOGUE, MissingSource, missing
from data.fewshot.embedded_catalog import EMBEDDED
from data.fewshot.labelled import in_words
from data.fewshot.preparation import ARCHIVES, MANUAL_DOWNLOADS
from data.sources.tfds import NAME, PREFIX

# fmt: off
SETS = (
    "imagenet2012", "imagenet_v2", "imagenet_sketch", "imagenet_a", "imagenet_r", "caltech101",
    "oxford_iiit_pet", "cars196", "oxford_flowers102", "food101", "sun397", "dtd", "eurosat", "cifar10",
    "cifar100", "caltech_birds2011", "resisc45", "svhn_cropped", "patch_camelyon", "stanford_dogs",
    "places365_small", "stl10", "fgvc_aircraft", "ucf101", "country211",
)
# fmt: on


def sources(name):
    settings = CATALOGUE[name]
    return [source for source in (settings.support, settings.query, settings.validation) if source]


TFDS_SETS = [name for name in CATALOGUE if sources(name)[0].startswith(PREFIX)]
IMAGENETS = [name for name in TFDS_SETS if name.startswith("imagenet")]

# Classes whose name in CLIP differs from their name in TFDS.
OTHER_WORDS = {
    "caltech101": {
        "airplanes": "airplane",
        "background_google": "background",
        "car_side": "side of a car",
        "cougar_body": "body of a cougar cat",
        "cougar_face": "face of a cougar cat",
        "crocodile_head": "head of a crocodile",
        "faces": "off-center face",
        "faces_easy": "centered face",
        "flamingo_head": "head of a flamingo",
        "leopards": "leopard",
        "motorbikes": "motorbike",
        "snoopy": "snoopy (cartoon beagle)",
        "yin_yang": "yin and yang symbol",
    },
    "oxford_flowers102": {"pink-yellow dahlia?": "pink and yellow dahlia", "ball moss": "air plant"},
    "eurosat": {
        "AnnualCrop": "annual crop land",
        "HerbaceousVegetation": "brushland or shrubland",
        "Highway": "highway or road",
        "Industrial": "industrial buildings or commercial buildings",
        "Pasture": "pasture land",
        "PermanentCrop": "permanent crop land",
        "Residential": "residential buildings or homes or apartments",
        "SeaLake": "lake or sea",
    },
}
SAME_WORDS = ["oxford_iiit_pet", "cars196", "food101", "sun397", "dtd", "resisc45", "places365_small", *OTHER_WORDS]
# Spot checks, including first and last, for datasets whose classes TFDS only numbers or names by synset.
SPOTS = {
    "cifar10": {0: "airplane", 1: "automobile", 6: "frog", 9: "truck"},
    "cifar100": {0: "apple", 1: "aquarium fish", 50: "mouse", 52: "oak tree", 98: "woman", 99: "worm"},
    "stl10": {0: "airplane", 2: "car", 7: "monkey", 9: "truck"},
    "svhn_cropped": {0: "zero", 1: "one", 9: "nine"},
    "patch_camelyon": {0: "lymph node", 1: "lymph node containing metastatic tumor tissue"},
    # The folders of the archive are numbered from 1: 001.Black_footed_Albatross.
    "caltech_birds2011": {
        0: "Black footed Albatross",
        16: "Cardinal",
        49: "Eared Grebe",
        86: "Mallard",
        99: "Brown Pelican",
        140: "Artic Tern",
        199: "Common Yellowthroat",
    },
}
SYNSETS = {
    "n01440764": "tench",
    "n02012849": "crane bird",
    "n02085620": "Chihuahua",
    "n02123045": "tabby cat",
    "n02510455": "giant panda",
    "n03126707": "construction crane",
    "n03344393": "fireboat",
    "n04147183": "schooner",
    "n04507155": "umbrella",
    "n07753592": "banana",
    "n09472597": "volcano",
    "n15075141": "toilet paper",
}


def builder_of(source):
    return tfds.builder(NAME.fullmatch(source.removeprefix(PREFIX))["builder"], data_dir="/nowhere")


def tfds_names(name):
    return builder_of(sources(name)[0]).info.features["label"].names


def letters(words):
    return re.sub(r"[^a-z0-9]+", " ", words.lower()).strip()


def test_the_usual_datasets_are_in_the_catalogue():
    assert set(SETS) <= set(CATALOGUE)
    coop = {name for name, settings in CATALOGUE.items() if settings.draws == "coop"}
    assert len(coop) == 10 and all(name.startswith("coop_") for name in coop)


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_dataset_documents_title_licence_and_templates(name):
    settings = CATALOGUE[name]
    assert settings.title and settings.licence and settings.templates_source
    assert all(words == " ".join(words.split()) != "" for words in settings.class_names)
    assert all(shift in CATALOGUE and CATALOGUE[shift].support is None for shift in settings.shifts)
    assert len(set(settings.templates)) == len(settings.templates)


def test_only_two_pairs_of_classes_have_the_same_words():
    for name, settings in CATALOGUE.items():
        twice = {words for words in settings.class_names if settings.class_names.count(words) > 1}
        assert twice == ({"missile", "sunglasses"} if name in IMAGENETS else set()), name


@pytest.mark.parametrize("name", TFDS_SETS)
def test_tfds_has_the_dataset_with_its_config_splits_and_number_of_classes(name):
    for source in sources(name):
        builder = builder_of(source)
        config, split = NAME.fullmatch(source.removeprefix(PREFIX)).group("builder", "split")
        assert builder.info.full_name.startswith(f"{config}/")
        if "/" not in config:
            assert not builder.BUILDER_CONFIGS, f"{source} does not name one of the configs"
        label = builder.info.features["label"]
        assert len(CATALOGUE[name].class_names) == label.num_classes
        split = split.partition("[")[0]
        code = inspect.getsource(sys.modules[type(builder).__module__])
        assert re.search(rf"tfds\.Split\.{split.upper()}\b|name=['\"]{split}['\"]|['\"]{split}['\"]: self\._gen", code)


@pytest.mark.parametrize("name", TFDS_SETS)
def test_the_first_image_and_class_features_are_the_expected_ones(name):
    features = builder_of(sources(name)[0]).info.features
    assert next(key for key, feature in features.items() if isinstance(feature, tfds.features.Image)) == "image"
    assert next(key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)) == "label"


def test_every_tfds_dataset_has_a_check_of_its_class_order():
    assert sorted([*SAME_WORDS, *SPOTS, *IMAGENETS, "stanford_dogs"]) == sorted(TFDS_SETS)


@pytest.mark.parametrize("name", SAME_WORDS)
def test_class_names_are_in_the_order_of_tfds(name):
    other = OTHER_WORDS.get(name, {})
    expected = [other.get(label, label) for label in tfds_names(name)]
    if name == "sun397":
        expected = [label[len("/a/") :] for label in expected]
    assert [letters(words) for words in CATALOGUE[name].class_names] == [letters(label) for label in expected]


@pytest.mark.parametrize("name", SPOTS)
def test_class_names_are_at_their_labels(name):
    names = CATALOGUE[name].class_names
    assert {number: names[number] for number in SPOTS[name]} == SPOTS[name]
    if name.startswith(("cifar", "stl")):
        assert list(names) == sorted(names)  # the order of the archives
    assert tfds_names(name) == [str(number) for number in range(len(names))], (
        "TFDS has class names now: compare with them"
    )


@pytest.mark.parametrize("name", IMAGENETS)
def test_imagenet_classes_are_at_their_synsets(name):
    numbers = {synset: number for number, synset in enumerate(tfds_names(name))}
    assert {synset: CATALOGUE[name].class_names[numbers[synset]] for synset in SYNSETS} == SYNSETS
    assert CATALOGUE[name].class_names == CATALOGUE["imagenet2012"].class_names


def test_dogs_have_the_names_of_the_same_synsets_in_imagenet():
    words = dict(zip(tfds_names("imagenet2012"), CATALOGUE["imagenet2012"].class_names, strict=True))
    # TFDS numbers the folders, such as n02085620-Chihuahua, in the order of their names. They contain ImageNet's dogs
    # from Chihuahua to Mexican hairless, without the Dalmatian, and three wild dogs.
    breeds = [synset for synset in words if "n02085620" <= synset <= "n02113978" and synset != "n02110341"]
    synsets = [*breeds, "n02115641", "n02115913", "n02116738"]
    assert words["n02110341"] == "Dalmatian" and synsets == sorted(synsets)
    assert [words[synset] for synset in synsets] == list(CATALOGUE["stanford_dogs"].class_names)


def test_countries_are_in_the_order_of_their_codes():
    codes = dict(
        AD="Andorra",
        AE="United Arab Emirates",
        AX="Aland Islands",
        BA="Bosnia and Herzegovina",
        CD="DR Congo",
        CH="Switzerland",
        CZ="Czech Republic",
        DE="Germany",
        DZ="Algeria",
        ES="Spain",
        GB="United Kingdom",
        HR="Croatia",
        KH="Cambodia",
        KR="South Korea",
        LK="Sri Lanka",
        MK="Macedonia",
        RS="Serbia",
        SE="Sweden",
        SZ="Eswatini",
        UA="Ukraine",
        VA="Vatican",
        WS="Samoa",
        XK="Kosovo",
        YE="Yemen",
        ZA="South Africa",
        ZW="Zimbabwe",
    )
    names = CATALOGUE["country211"].class_names
    places = [names.index(codes[code]) for code in sorted(codes)]
    assert len(names) == 211 and places == sorted(places) and (places[0], places[-1]) == (0, 210)


def test_aircraft_have_the_names_and_order_of_the_archive():
    names = CATALOGUE["fgvc_aircraft"].class_names
    assert len(names) == 100 and list(names) == sorted(names)
    assert (names[0], names[31], names[72], names[99]) == ("707-320", "A340-500", "F-16A/B", "Yak-42")


def test_class_names_are_listed_where_words_from_identifiers_would_differ():
    for name in ("coop_stanford_cars", "coop_oxford_flowers", "coop_dtd", "coop_fgvc_aircraft"):
        assert any(in_words(words) != words for words in CATALOGUE[name].class_names)
    assert CATALOGUE["coop_stanford_cars"].class_names[:2] == ("2000 AM General Hummer SUV", "2012 Acura RL Sedan")


def test_missing_sources_come_with_their_preparation_command(tmp_path):
    found = missing(["dtd", "country211"], tmp_path)
    assert [part.source for part in found[:2]] == ["tfds:dtd:train", "tfds:dtd:test"]
    assert f"tfds.builder('dtd', data_dir='{tmp_path}'" in found[0].command
    assert found[2] == MissingSource(
        "country211",
        f"{tmp_path}/country211/train",
        f"curl -L https://openaipublic.azureedge.net/clip/data/country211.tgz | tar xz -C {tmp_path}",
    )
    (tmp_path / "country211" / "train").mkdir(parents=True)
    assert [part.source for part in missing(["country211"], tmp_path)] == [f"{tmp_path}/country211/test"]
    assert not any(tmp_path.glob("d*")), "nothing is downloaded"


def test_lists_and_folders_of_archives_are_checked(tmp_path):
    (tmp_path / "dtd" / "images").mkdir(parents=True)
    assert len(missing(["coop_dtd"], tmp_path)) == 2
    (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").write_text("{}")
    assert missing(["coop_dtd"], tmp_path) == []
    folder = tmp_path / "fgvc-aircraft-2013b" / "data"
    (folder / "images").mkdir(parents=True)
    for name in ("variants.txt", "images_variant_train.txt"):
        (folder / name).write_text("")
    assert [part.source for part in missing(["fgvc_aircraft"], tmp_path)] == [f"aircraft:{folder}:test"]


@pytest.mark.parametrize("name", TFDS_SETS)
def test_manual_downloads_are_those_of_tfds(name):
    builder = builder_of(sources(name)[0])
    assert bool(builder.MANUAL_DOWNLOAD_INSTRUCTIONS) == (name in MANUAL_DOWNLOADS)
    if name in MANUAL_DOWNLOADS:
        assert "/data/downloads/manual" in missing([name], "/data")[0].command


def test_every_archive_has_preparation_steps():
    used = set()
    for name in set(CATALOGUE) - set(TFDS_SETS) - set(EMBEDDED):
        for part in missing([name], "/nowhere"):
            assert "/nowhere" in part.command and "{" not in part.command
        used |= {source.partition("{data_dir}/")[2].partition("/")[0] for source in sources(name)}
    assert used == set(ARCHIVES)


def test_embedded_datasets_are_never_missing(tmp_path):
    assert missing(EMBEDDED, tmp_path) == [] and not any(tmp_path.iterdir())
    assert {source for name in EMBEDDED for source in sources(name)} <= set(embedded_names())


def test_an_unknown_name_gets_suggestions(tmp_path):
    with pytest.raises(
        ValueError, match=r"unknown dataset 'imagenet'\. Did you mean 'imagenet_[ra]'\? Known: imagenet2012, "
    ):
        missing(["imagenet"], tmp_path)


def test_the_catalogue_imports_no_slow_package_and_looks_for_data_without_tensorflow():
    code = (
        "import sys, data.fewshot.catalog; slow = {'tensorflow', 'jax', 'transformers', 'torch'}; "
        "print((slow | {'tensorflow_datasets'}) & set(sys.modules)); "
        "data.fewshot.catalog.missing(['dtd'], '/nowhere'); print(slow & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["set()", "set()"]


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_documented_table_matches_the_catalogue(name):
    document = pathlib.Path(__file__).parents[3] / "docs" / "reference" / "datasets.md"
    cells = next(line for line in document.read_text().splitlines() if line.startswith(f"| `{name}` |")).split(" | ")
    settings = CATALOGUE[name]
    if settings.draws == "coop":
        return
    assert (cells[1], cells[-1]) == (settings.title, f"{settings.licence} |")
    assert cells[-2] == ("accuracy" if settings.metric == "accuracy" else "mean per class")
    if settings.class_names:
        assert cells[2].replace(",", "").split()[0] == str(len(settings.class_names))
    for source, cell in zip((settings.support, settings.validation, settings.query), cells[3:6], strict=True):
        assert source.endswith(cell) if source else cell == "–"
