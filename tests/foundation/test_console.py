"""Any text reaches any terminal: encodings, control characters, and names that are not UTF-8."""

import logging
import os
import pathlib
import subprocess
import sys

import pytest

from foundation import console, log
from foundation.command_line.file_names import check_encoding, is_utf8, output_path
from foundation.console import hidden_stderr
from foundation.progress import ProgressBar
from foundation.suggestions import nearest_path

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import logging, sys
from foundation import console, log
console.configure_streams(); log.configure()
logging.getLogger("jobs").info("— a ± b → 漢字 caf\\udce9")
print("error – 漢", file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"PYTHONIOENCODING": "ascii"}, rb"- a +- b -> \u6f22\u5b57 caf\udce9"),
        ({"PYTHONIOENCODING": "latin-1"}, "- a ± b -> \\u6f22\\u5b57 caf\\udce9".encode("latin-1")),
        ({"PYTHONIOENCODING": "cp1252:strict"}, "— a ± b -> \\u6f22\\u5b57 caf\\udce9".encode("cp1252")),
        ({"PYTHONIOENCODING": "utf-8"}, "— a ± b → 漢字 caf\\udce9".encode()),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, rb"- a +- b -> \u6f22\u5b57 caf\udce9"),
    ],
)
def test_any_text_is_printed_in_any_encoding(environment, line, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONUTF8", "LC_ALL")}
    clean |= {"PYTHONPATH": str(ROOT)} | environment
    ended = subprocess.run([sys.executable, tmp_path / "program.py"], capture_output=True, env=clean)
    assert ended.returncode == 0 and ended.stdout.rstrip() == line and ended.stderr.startswith(b"error ")


@pytest.mark.parametrize("number", [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, 0x202E, 0x2066])
def test_control_characters_are_escaped(number, capsys):
    name = f"a{chr(number)}b"
    shown = console.printable(name)
    assert (shown == name) == (chr(number) in "\n\t") and (shown == name or shown.isprintable())
    with ProgressBar(2, description=f"{name.strip()}x") as bar:
        bar.update()
    assert chr(number) in "\n\t" or chr(number) not in capsys.readouterr().out.replace("\n", "")


def test_other_letters_are_unchanged():
    assert console.printable("漢字 ø ± “x” 🍎\n\t\udce9") == "漢字 ø ± “x” 🍎\n\t\udce9"


def test_names_that_are_not_utf8_are_refused_in_one_sentence(tmp_path, monkeypatch):
    assert is_utf8("漢") and not is_utf8("caf\udce9")
    check_encoding(["--workdir=漢"])
    with pytest.raises(ValueError, match=r"^--out=caf\\udce9 is not valid UTF-8\. Rename the file or folder") as raised:
        check_encoding(["embed", "--out=caf\udce9"])
    assert is_utf8(str(raised.value))
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=r"the current folder .*caf\\udce9 is not valid UTF-8"):
        check_encoding([])


@pytest.mark.parametrize(
    ("name", "size"), [("x", None), ("x" * 235, None), ("x" * 236, 236), ("漢" * 78, None), ("漢" * 90, 270)]
)
def test_names_too_long_for_a_file_system_are_refused_first(tmp_path, name, size):
    if size is None:
        output_path(str(tmp_path / name)).mkdir()
        return
    for text in (name, f"a/{name}/b"):
        with pytest.raises(ValueError, match=f"has {size} bytes; a name may have 235. Use a shorter one."):
            output_path(text)


@pytest.mark.parametrize("text", ["", " ", "\t"])
def test_an_empty_path_is_refused(text):
    with pytest.raises(ValueError, match="the path is empty"):
        output_path(text)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("runs/art/plian/export", "runs/art/plain/export"),
        ("RUNS/art/plain/export", "runs/art/plain/export"),
        ("runs/art/plain/exprt", "runs/art/plain/export"),
        ("runs/art/plian/best", "runs/art/plain"),
        ("other/art", None),
        ("runs/art/zzz", None),
        ("runs/art/plain", None),
    ],
)
def test_the_nearest_existing_path_is_suggested(tmp_path, monkeypatch, given, hint):
    (tmp_path / "runs/art/plain/export").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert nearest_path(given) == (f" Did you mean {hint!r}?" if hint else "")


def test_hidden_stderr_discards_what_libraries_write_and_nothing_later(capfd):
    with hidden_stderr():
        os.write(2, b"a library's line\n")
        print("a result")
    os.write(2, b"an error\n")
    assert capfd.readouterr() == ("a result\n", "an error\n")


def test_hidden_stderr_shows_everything_with_verbose(capfd):
    log.configure(level=logging.DEBUG)
    try:
        with hidden_stderr():
            os.write(2, b"a library's line\n")
    finally:
        log.configure()
    assert capfd.readouterr().err == "a library's line\n"
