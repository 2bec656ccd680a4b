"""Tell at which level of a folder the classes are: above splits (`ants/train`) or below others (`fold1/ants`)."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

from data.sources.folders.listing import first_two, has_own_images, listed, subfolders, with_images
from data.sources.folders.split_names import are_parts, possible_roles, split_roles

_COMPARED = 50  # folders of a level whose content is compared; more are hardly splits or domains


def find_class_first(root: str, names: Sequence[str]) -> dict[str, str]:
    """Return the splits in each of the class folders `names` in `root` (`root/CLASS/train/1.jpg`), and their roles.

    The result is empty if the folders have no splits. Raises `ValueError` if only some have, and if the splits have
    class folders themselves: then `names` are domains.
    """
    if not any(_own_splits(f"{root}/{name}") for name in first_two(with_images(root, names))):
        return {}
    folders = list(with_images(root, names))
    splits = {name: _own_splits(f"{root}/{name}") for name in folders}
    without = [name for name in folders if not splits[name]]
    if without:
        having = [name for name in folders if splits[name]]
        raise ValueError(
            f"{root} has folders with splits in them ({listed(having)}) next to folders without ({listed(without)}). "
            f"Give the folder of one dataset, such as {root}/{having[0]}, or give every class the same splits."
        )
    first = folders[0]
    if any(
        first_two(with_images(f"{root}/{first}/{split}", subfolders(f"{root}/{first}/{split}")))
        for split in splits[first]
    ):
        raise ValueError(
            f"{root} has several folders ({listed(folders)}) with the splits {listed(splits[first])} and class folders "
            f"in each. Give the folder of one, such as {root}/{first}, or several of them as separate datasets."
        )
    shared = {split: role for split, role in splits[first].items() if all(split in found for found in splits.values())}
    if len(set(shared.values())) < 2:
        odd = next(name for name in folders if splits[name] != splits[first])
        raise ValueError(
            f"{root} has class folders with different splits: {listed(splits[first])} in {first}, but "
            f"{listed(splits[odd])} in {odd}. Give them the same names."
        )
    return shared


def check_classes(root: str, names: Sequence[str]) -> str:
    """Return a warning if the folders `names` in `root` are taken for the classes but have folders in common.

    Raises `ValueError` if these can as well be the classes, because they are half of the folders in one of `names` and
    at least as many as `names`, or because `names` look like parts of a dataset (`fold1`, `fold2`).
    """
    first = first_two(with_images(root, names))
    if len(first) < 2 or not all(_inner(f"{root}/{name}") for name in first):
        return ""
    folders = list(with_images(root, names))
    inner = [_inner(f"{root}/{name}") for name in folders[:_COMPARED]]
    shared = set.intersection(*map(set, inner))
    apart = not all(has_own_images(f"{root}/{name}") for name in first)
    similar = 2 * len(shared) >= min(map(len, inner))
    if apart and similar and (are_parts(folders) or len(shared) >= max(len(folders), 2)):
        raise ValueError(_ambiguous(root, folders, inner[0], shared))
    some = set(inner[0]) & set(inner[1])
    if len(some) < 2:
        return ""
    return (
        f"{root}: {listed(folders)} are taken for the classes, not the folders in them ({listed(sorted(some))}). If "
        f"these are the classes, give one folder, such as {root}/{folders[0]}; {root}/* confirms what was taken"
    )


def shared_classes(root: str, names: Sequence[str]) -> set[str]:
    """Return the names, in lower case, of the folders with images that all of the folders `names` in `root` have."""
    return set.intersection(*(set(_inner(f"{root}/{name}")) for name in names)) if names else set()


def name_key(name: str) -> str:
    """Return a name in lower case, composed, and without blanks at its ends, to compare names of classes."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).strip()


def _ambiguous(root: str, folders: Sequence[str], inner: Mapping[str, str], shared: set[str]) -> str:
    below = listed(name for key, name in inner.items() if key in shared)
    return (
        f"{root} has the folders {listed(folders)} with the same folders in each ({below}), so either can be the "
        f"classes. If {below} are, give one folder, such as {root}/{folders[0]}, or, for evaluate, a support and a "
        f"query folder: {root}:{folders[0]}:{folders[1]}. If {listed(folders)} are the classes, give {root}/*."
    )


def _own_splits(path: str) -> dict[str, str]:
    """Return the splits in a folder, if it has two roles, and their roles."""
    folders = list(with_images(path, subfolders(path)))
    strict, possible = split_roles(folders), possible_roles(folders)
    found = strict if len(set(strict.values())) > 1 or len(possible) < len(folders) else possible
    return found if len(set(found.values())) > 1 else {}


def _inner(path: str) -> dict[str, str]:
    """Return the folders with images in a folder, or in its only one, by their names as `name_key` gives them."""
    names = list(with_images(path, subfolders(path)))
    if len(names) == 1 and not has_own_images(path):
        deeper = f"{path}/{names[0]}"
        below = list(with_images(deeper, subfolders(deeper)))
        names = below if len(below) > 1 and not has_own_images(deeper) else names
    return {name_key(name): name for name in names}
