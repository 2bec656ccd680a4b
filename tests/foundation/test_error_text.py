"""Errors of the system as parts of sentences."""

import errno

import pytest

import launch
from foundation.error_text import error_text


@pytest.mark.parametrize(
    ("error", "text", "printed"),
    [
        (
            OSError(errno.ENOSPC, "No space left", "a.npy"),
            "No space left: a.npy",
            "error: No space left: a.npy. Free space, and run the command again.\n",
        ),
        (
            OSError(errno.EDQUOT, "Quota exceeded"),
            "Quota exceeded",
            "error: Quota exceeded. Free space, and run the command again.\n",
        ),
        (OSError(errno.EACCES, "No permission", "a.npy"), "No permission: a.npy", "error: No permission: a.npy\n"),
        (ValueError("one\ntwo"), "one", "error: one\n"),
    ],
)
def test_a_job_says_what_to_do_about_a_full_disk_and_other_errors_name_the_file(error, text, printed, capsys):
    assert error_text(error) == text
    assert launch.exit_code(error, traceback=False) == 1
    assert capsys.readouterr().err == printed
