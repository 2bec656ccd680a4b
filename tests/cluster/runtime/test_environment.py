"""What a process sets up before JAX starts."""

import os
import pathlib
import stat

import pytest

from cluster.runtime.environment import set_defaults

CACHE = "JAX_COMPILATION_CACHE_DIR"


def mode(path: pathlib.Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("there", [False, True])
def test_compiled_programs_are_kept_where_this_user_alone_writes_and_reads(tmp_path, there):
    folder, environment = tmp_path / "context-pretraining", {"XDG_CACHE_HOME": str(tmp_path)}
    if there:
        folder.mkdir()
        folder.chmod(0o777)
    before = os.umask(0)
    try:
        set_defaults(environment)
    finally:
        os.umask(before)
    assert mode(folder) == 0o700 and pathlib.Path(environment[CACHE]).parent == folder


def test_compiled_programs_of_a_folder_that_is_anothers_are_not_run(tmp_path):
    folder, environment = tmp_path / "context-pretraining", {"XDG_CACHE_HOME": str(tmp_path)}
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root gives a folder away")
    os.chown(folder, 65_534, 65_534)
    set_defaults(environment)
    assert CACHE not in environment


def test_a_home_that_cannot_hold_programs_ends_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    environment = {"XDG_CACHE_HOME": str(tmp_path / "file")}
    set_defaults(environment)
    assert CACHE not in environment and environment["OPENBLAS_NUM_THREADS"] == "1"


def test_a_folder_for_programs_that_is_named_is_left_as_it_is(tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path), CACHE: "/somewhere"}
    set_defaults(environment)
    assert environment[CACHE] == "/somewhere" and not any(tmp_path.iterdir())
