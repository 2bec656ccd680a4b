"""Settings are checked strictly, and their errors name the setting, the value and what it must be."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import pytest
from ml_collections import ConfigDict

from foundation.deprecation import warn_renamed
from foundation.settings import NonNegativeInt, PositiveFloat, PositiveInt, UnitFloat, accepted_values, build, check


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    """A section within a section."""

    sigma: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """One field for each kind of annotation."""

    RENAMED: ClassVar[dict[str, str]] = {"size": "width"}

    width: PositiveInt
    kind: Literal["red", "green"] | None = "red"
    rate: PositiveFloat = 1.0
    share: UnitFloat = 0.5
    every: NonNegativeInt = 0
    ratio: float | None = None
    flag: bool = False
    name: str = ""
    names: tuple[str, ...] = ()
    rules: tuple[tuple[str, float], ...] = ()
    shape: int | tuple[int, int] = 1
    roles: tuple[Literal["values", "keys"], ...] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    inner: Inner = Inner()


def test_values_are_passed_on_as_they_are():
    rules = (("a", 1), ("b", 2.5))
    settings = build(Settings, "s", {"width": 3, "rate": 2, "kind": None, "rules": rules, "inner": Inner(sigma=3)})
    assert settings == Settings(width=3, rate=2, kind=None, rules=rules, inner=Inner(sigma=3))
    assert type(settings.rate) is int and type(settings.rules[0][1]) is int


def test_a_config_dict_and_its_lists_are_accepted():
    values = ConfigDict({"width": 3, "names": ["a", "b"], "shape": [1, 2], "options": {"x": {"y": 1}}})
    settings = build(Settings, "s", values)
    assert settings.names == ("a", "b") and settings.shape == (1, 2) and settings.options["x"]["y"] == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widht": 1}, "unknown key s.widht. Did you mean 'width'? Known: width, kind, rate, "),
        ({"zzz": 1}, "unknown key s.zzz. Known: width, kind, "),
        ({}, "the config lacks s.width"),
        ({"width": 0}, "s.width is 0; it must be a positive whole number"),
        ({"width": True}, "s.width is True; it must be a positive whole number"),
        ({"width": 3.0}, "s.width is 3.0; it must be a positive whole number"),
        ({"width": "3"}, "s.width is '3'; it must be a positive whole number"),
        ({"width": 1, "kind": "gren"}, "unknown s.kind 'gren'. Did you mean 'green'? Known: red, green, None"),
        ({"width": 1, "rate": float("inf")}, "s.rate is inf; it must be a positive, finite number"),
        ({"width": 1, "rate": float("nan")}, "s.rate is nan; it must be a positive, finite number"),
        ({"width": 1, "rate": False}, "s.rate is False; it must be a positive, finite number"),
        ({"width": 1, "share": 1.5}, "s.share is 1.5; it must be a number from 0 to 1"),
        ({"width": 1, "every": -1}, "s.every is -1; it must be a whole number, 0 or more"),
        ({"width": 1, "ratio": "x"}, "s.ratio is 'x'; it must be a number or None"),
        ({"width": 1, "flag": 1}, "s.flag is 1; it must be True or False"),
        ({"width": 1, "name": 1}, "s.name is 1; it must be a string"),
        ({"width": 1, "names": "ab"}, "s.names is 'ab'; it must be a tuple of strings"),
        ({"width": 1, "names": ("a", 2)}, "s.names[1] is 2; it must be a string"),
        ({"width": 1, "rules": (("a", 1), "b")}, "s.rules[1] is 'b'; it must be a tuple (a string, a number)"),
        ({"width": 1, "rules": (("a",),)}, "s.rules[0] is ('a',); it must be a tuple (a string, a number)"),
        ({"width": 1, "rules": (("a", "b"),)}, "s.rules[0][1] is 'b'; it must be a number"),
        ({"width": 1, "shape": "x"}, "s.shape is 'x'; it must be a whole number or a tuple (a whole number, a whole"),
        ({"width": 1, "roles": ("keys", "key")}, "unknown s.roles 'key'. Did you mean 'keys'? Known: values, keys"),
        ({"width": 1, "options": 3}, "s.options is 3; it must be a section of settings"),
        ({"width": 1, "inner": {"sigma": 1}}, "s.inner is {'sigma': 1}; it must be a section of settings"),
        (3, "s is 3; it must be a section of settings"),
    ],
)
def test_errors_name_the_setting_the_value_and_what_it_must_be(values, message):
    with pytest.raises(ValueError) as error:
        build(Settings, "s", values)
    assert str(error.value).startswith(message)


def test_the_values_that_a_field_accepts_are_described_in_words():
    values = accepted_values(Settings)
    assert list(values) == [field.name for field in dataclasses.fields(Settings)]
    assert values["kind"] == "'red', 'green', None" and values["share"] == "a number from 0 to 1"
    assert values["names"] == "a tuple of strings" and values["inner"] == "a section of settings"


def test_check_covers_settings_that_were_made_without_build():
    check(Settings(width=1), "s")
    with pytest.raises(ValueError, match=r"s\.width is -1; it must be a positive whole number"):
        check(Settings(width=-1), "s")


def test_an_old_key_is_accepted_with_one_warning(caplog):
    warn_renamed.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert build(Settings, "s", {"size": 3}) == build(Settings, "s", {"size": 3}) == Settings(width=3)
    assert [record.getMessage() for record in caplog.records] == [
        "s.size was renamed to s.width; the old name will be removed in the next version"
    ]
    with pytest.raises(ValueError, match=r"s\.size is the old name of s\.width, and both are set"):
        build(Settings, "s", {"size": 3, "width": 3})
