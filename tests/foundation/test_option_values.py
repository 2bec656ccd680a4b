"""Values on the command line, for every kind of setting."""

import random

import pytest

import arguments
from foundation.command_line.option_values import parse_value, split_list
from foundation.settings import accepts


@pytest.fixture(scope="module")
def known():
    return arguments.known_settings()


@pytest.mark.parametrize("name", ["E2024", "1e400", "2024", "0x10", "True", "1_000", "1.5", "(a)", "-3"])
@pytest.mark.parametrize("spelling", ["{},b", "{}, b", " {} , b ,", "('{}', 'b')", "['{}','b']", "[{}, b]", "({},b)"])
def test_items_of_a_list_of_names_are_never_numbers(known, name, spelling):
    fits = lambda value: accepts(known["evaluate",], "datasets", value)  # noqa: E731
    assert parse_value(spelling.format(name), like=(), fits=fits) == (name, "b")


@pytest.mark.parametrize("text", ["2024", "E2024", "1e400", "True", "()", "[1]", "a b"])
def test_an_optional_name_is_never_a_number(known, text):
    fits = lambda value: accepts(known["pretrain",], "initial_checkpoint", value)  # noqa: E731
    for like in (None, "before"):
        assert parse_value(text, like=like, fits=fits) == text
        assert parse_value("None", like=like, fits=fits) is None


@pytest.mark.parametrize(("text", "value"), [("1,2", (1, 2)), ("1, 2", (1, 2)), ("(1,2)", (1, 2)), ("[1, 2]", (1, 2))])
def test_lists_of_numbers_take_every_bracket_and_blank(known, text, value):
    fits = lambda value: accepts(known["evaluate",], "shots", value)  # noqa: E731
    assert parse_value(text, like=(1,), fits=fits) == value
    assert parse_value("4", like=(1,), fits=fits) == (4,) and parse_value("", like=(1,), fits=fits) == ()


@pytest.mark.parametrize(
    ("text", "like", "value"),
    [("-1e-3", 1.0, -1e-3), (" 3 ", 1, 3), ("inf", 1.0, float("inf")), ("TRUE", False, True), ("x", 1, "x")],
)
def test_numbers_and_switches(text, like, value):
    assert parse_value(text, like=like) == value


def test_commas_in_braces_and_in_existing_paths_do_not_split(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a,b", "c, d", " e"):
        (tmp_path / name).mkdir()
    assert split_list("a,b,{x,y}-*.tar, z") == ["a,b", "{x,y}-*.tar", "z"]
    assert split_list("~/a,b,n=a,b,c, d, e") == ["~/a,b", "n=a,b", "c, d", " e"]
    assert split_list(",, ,") == []


def test_random_texts_give_a_value_for_every_kind_of_setting():
    draw = random.Random(0)
    for _ in range(3000):
        text = "".join(draw.choices("()[]{},'\"\\ =-1eE.x~漢\n\x00None", k=draw.randrange(12)))
        for like in (1, 1.0, True, "a", (), (1,), None):
            for fits in (None, lambda value: isinstance(value, int)):
                parse_value(text, like=like, fits=fits)
    for text in ("(" * 5000, "9" * 5000, "-" * 5000 + "1"):
        assert parse_value(text, like=1, fits=lambda value: value in (1, -1)) in (text, 1, -1)


@pytest.mark.parametrize("home", ["/home/somebody"])
def test_a_tilde_is_the_home_folder_in_every_path(tmp_path, monkeypatch, home):
    monkeypatch.setenv("HOME", home)
    config = tmp_path / "c.py"
    config.write_text(
        "from ml_collections import ConfigDict\ndef get_config():\n"
        "    return ConfigDict({'data_dir': '~/d', 'evaluate': {'datasets': ('~/a', 'b~')}})\n"
    )
    loaded = arguments.load_config(str(config), ["--config.evaluate.retrieval=~/r, ~/s"])
    assert loaded.data_dir == f"{home}/d" and loaded.evaluate.datasets == (f"{home}/a", "b~")
    assert loaded.evaluate.retrieval == (f"{home}/r", f"{home}/s")
    for job, given in {
        "evaluate": ("workdir", "cache", "data_dir", "config"),
        "adapt": ("checkpoint", "support", "query", "out", "tokenizer"),
        "embed": ("checkpoint", "images", "texts", "data_dir", "out", "tokenizer"),
        "convert": ("checkpoint", "out", "tokenizer"),
        "export": ("workdir", "out", "config"),
    }.items():
        args, _ = arguments.parse([job, *(f"--{name}=~/x" for name in given)])
        assert {name: str(getattr(args, name)) for name in given} == dict.fromkeys(given, f"{home}/x")
        for name in given:
            with pytest.raises(SystemExit):
                arguments.parse([job, *(f"--{each}={'' if each == name else 'x'}" for each in given)])


@pytest.mark.parametrize("value", ["3", "-3", "-1e-3", "a b", "(1, 2)", ""])
def test_a_setting_and_its_value_may_be_two_words(value):
    given = ["evaluate", "--workdir", "w"]
    for words in (["--config.evaluate.seeds", value], [f"--config.evaluate.seeds={value}"]):
        assert arguments.parse([*given, *words, "--shots=1"])[1] == [f"--config.evaluate.seeds={value}"]
    assert arguments.parse([*given, "--config.a", "--config.b", value])[1] == ["--config.a", f"--config.b={value}"]


@pytest.mark.parametrize(
    "option", ["inspect --step", "inspect --steps", "inspect --rows", "export --step", "embed --image_size"]
)
@pytest.mark.parametrize("value", ["-1", "1e3", "9" * 30, "", "x", "²"])
def test_counts_outside_their_range_are_usage_errors(option, value, capsys):
    job, name = option.split()
    given = {"embed": ["--checkpoint=c", "--out=o"]}.get(job, ["--workdir=w", "--config=c"])
    with pytest.raises(SystemExit) as exit:
        arguments.parse([job, *given, f"{name}={value}"])
    assert exit.value.code == 2 and f"argument {name}: " in capsys.readouterr().err
