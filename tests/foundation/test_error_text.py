"""Errors of the system as sentences."""

import errno

import pytest

from foundation.error_text import error_text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            OSError(errno.ENOSPC, "No space left", "a.npy"),
            "No space left: a.npy. Free space, and run the command again.",
        ),
        (OSError(errno.EDQUOT, "Quota exceeded"), "Quota exceeded. Free space, and run the command again."),
        (OSError(errno.EACCES, "Permission denied", "a.npy"), "Permission denied: a.npy"),
        (ValueError("one\ntwo"), "one"),
    ],
)
def test_a_full_disk_says_what_to_do_and_other_errors_name_the_file(error, text):
    assert error_text(error) == text
