"""The environment of a process before JAX starts."""

import os
import pathlib
import stat

import pytest

from cluster.runtime.environment import set_defaults

CACHE = "JAX_COMPILATION_CACHE_DIR"


def mode(path: pathlib.Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("exists", [False, True])
def test_compilation_cache_is_private_to_the_user(tmp_path, exists):
    folder, environment = tmp_path / "context-pretraining", {"XDG_CACHE_HOME": str(tmp_path)}
    if exists:
        folder.mkdir()
        folder.chmod(0o777)
    before = os.umask(0)
    try:
        set_defaults(environment)
    finally:
        os.umask(before)
    assert mode(folder) == 0o700 and pathlib.Path(environment[CACHE]).parent == folder


def test_compilation_cache_of_another_user_is_not_used(tmp_path):
    folder, environment = tmp_path / "context-pretraining", {"XDG_CACHE_HOME": str(tmp_path)}
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can change the owner of a folder")
    os.chown(folder, 65_534, 65_534)
    set_defaults(environment)
    assert CACHE not in environment


def test_unwritable_home_disables_the_compilation_cache(tmp_path):
    (tmp_path / "file").write_text("")
    environment = {"XDG_CACHE_HOME": str(tmp_path / "file")}
    set_defaults(environment)
    assert CACHE not in environment and environment["OPENBLAS_NUM_THREADS"] == "1"


def test_given_compilation_cache_is_unchanged(tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path), CACHE: "/somewhere"}
    set_defaults(environment)
    assert environment[CACHE] == "/somewhere" and not any(tmp_path.iterdir())
