"""Tell names of splits, such as `train`, `cars_test` or `val2017`, from other names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_ROLES = {
    **dict.fromkeys(("train", "training", "trainval", "trn"), "train"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), "validation"),
}
_PAIRED = {"support": "train", "gallery": "train", "query": "test", "queries": "test", "probe": "test"}
_WORD = re.compile(rf"({'|'.join((*_ROLES, *_PAIRED))})(set|split|data|images|imgs|img|dir|folder)?")
_NEUTRAL = {"set", "split", "data", "dataset", "images", "image", "imgs", "img"}
_NUMBERED = re.compile(r"(fold|split|part|subset|set|batch|session|run|partition|chunk)[\W_]*([0-9]+|[a-z])", re.I)
_SHARD = re.compile(r"(?P<start>.*?)(?P<mark>[-_.]?)(?P<number>\d+(-of-\d+)?)?\.tar")
CLASSES_TOO = {"train", "training", "valid"}  # a vehicle, an activity, a verdict


def split_roles(names: Iterable[str]) -> dict[str, str]:
    """Return the role of each name of a split: "train", "validation" or "test"; other names are left out.

    Recognised are the usual words in any case, such as `Training`, `valid` or `TEST`, alone or with a neutral word or a
    year (`train_images`, `val2017`), and with another word if two names share it (`cars_train`, `cars_test`). The words
    `support`, `gallery`, `query` and `probe` count if there are two roles.
    """
    parsed = {name: found for name in names if (found := _parse(name))}
    shared: dict[tuple, set[str]] = {}
    for role, rest in parsed.values():
        shared.setdefault(rest, set()).add(role)
    found = {name: role for name, (role, rest) in parsed.items() if not rest or len(shared[rest]) > 1}
    if len(set(found.values())) > 1:
        return found
    return {name: role for name, role in found.items() if not _is_paired(name)}


def possible_roles(names: Iterable[str]) -> dict[str, str]:
    """Return the role of each name that has a word for a split, whatever its other words (`train_v1`, `test-noisy`)."""
    return {name: found[0] for name in names if (found := _parse(name))}


def shard_splits(names: Iterable[str]) -> dict[str, str]:
    """Return the splits in the names of shards (`train-00000.tar`, `test.tar`), and the pattern of the shards of each.

    A split is what is before a number, or a name with a word for a split.
    """
    matches = [match for match in map(_SHARD.fullmatch, names) if match and match["start"]]
    return {
        match["start"]: f"{match['start']}{match['mark']}{'[0-9]*' if match['number'] else ''}.tar"
        for match in matches
        if match["number"] or _parse(match["start"])
    }


def are_parts(names: Sequence[str]) -> bool:
    """Return whether all names can be parts of a dataset: they have a word such as `fold` and its number, a word for a
    split, or differ in their numbers only (`cam0`, `cam1`)."""
    if len({re.sub("[0-9]+", "0", name) for name in names}) == 1:
        return True
    return all(_NUMBERED.fullmatch(name) or _parse(name) for name in names)


def _is_paired(name: str) -> bool:
    return any(match[1] in _PAIRED for word in _words(name) if (match := _WORD.fullmatch(word)))


def _words(name: str) -> list[str]:
    separated = re.sub("(?<=[a-z])(?=[A-Z])", "_", name)  # carsTrain
    return re.findall(r"[^\W\d_]+|\d+", separated.casefold())


def _parse(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the role in a name and the other words, or None."""
    words = _words(name)
    matches = {word: match for word in words if (match := _WORD.fullmatch(word))}
    roles = {(_ROLES | _PAIRED)[match[1]] for match in matches.values()}
    rest = tuple(
        word
        for word in words
        if word not in matches and word not in _NEUTRAL and not re.fullmatch("[12][0-9]{3}", word)
    )
    if not roles or (len(roles) > 1 and roles != {"train", "validation"}) or (rest and _is_paired(name)):
        return None
    return "train" if "train" in roles else roles.pop(), rest
