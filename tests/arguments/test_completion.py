"""Completion in a real bash and a real zsh, with the code that argcomplete installs there."""

import os
import pathlib
import pty
import select
import shutil
import subprocess
import sys
import time

import pytest

from adapt.choices import METHOD_SUMMARIES
from arguments.help_texts import JOBS

ROOT = pathlib.Path(__file__).parents[2]
BASH, ZSH = shutil.which("bash"), shutil.which("zsh")
SCRIPT = r"""
eval "$(activate-global-python-argcomplete --dest=-)"
COMP_LINE="$1" COMP_POINT=${#1} COMP_TYPE=9
COMP_WORDS=($1)
[[ "$1" == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_python_argcomplete_global "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\n' "${COMPREPLY[@]}"
"""


def completions(line, cwd=ROOT):
    """Return what bash offers at the end of a line."""
    path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    ended = subprocess.run(
        [BASH, "--norc", "-c", SCRIPT, "bash", line], cwd=cwd, env=os.environ | {"PATH": path}, capture_output=True
    )
    assert not ended.stderr, ended.stderr
    return [word.strip() for word in ended.stdout.decode().splitlines()]


@pytest.mark.skipif(BASH is None, reason="no bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("python launch.py ", {*JOBS, "-h", "--help"}),
        ("python launch.py qui", {"quickstart"}),
        ("python launch.py adapt --ima", {"--image_size"}),
        ("python launch.py adapt --method ", {"auto", *METHOD_SUMMARIES}),
        ("python launch.py evaluate --methods knn,tip_", {"knn,tip_adapter", "knn,tip_x", "knn,tip_adapter_f"}),
        ("python launch.py evaluate --tasks zero", {"zero_shot"}),
        ("python launch.py evaluate --datasets oxford_f", {"oxford_flowers102"}),
        ("python launch.py export --format big", {"big_vision"}),
        ("python launch.py pretrain --config configs/emo", {"configs/emoji.py"}),
        ("python launch.py pretrain --config configs/emoji.py --config.pretrain.st", {"--config.pretrain.steps"}),
        ("python launch.py quickstart --config.align.ep", {"--config.align.epochs"}),
        ("python launch.py pretrain --config configs/missing.py --config.pre", {""}),
    ],
)
def test_bash_completes(line, expected):
    assert set(completions(line)) == expected


def test_completion_imports_neither_jax_nor_the_models():
    line = "launch.py evaluate --methods knn,"
    code = (
        "import os, sys\n"
        "os._exit = lambda code: print(sorted({'jax', 'flax', 'transformers'} & set(sys.modules)), code)\n"
        "import launch, argcomplete\n"
        "try: launch.main()\n"
        "except BaseException: pass\n"
    )
    environment = os.environ | {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_SHELL": "bash", "_ARGCOMPLETE_IFS": "\n"}
    environment |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_STDOUT_FILENAME": os.devnull}
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.stdout.startswith("[] 0"), ended


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("launch.py evaluate --methods=knn,tip_x", "--methods=knn,tip_x"),
        ("launch.py repor", "report"),
        ("launch.py adapt --image_s", "--image_size"),
    ],
)
def test_zsh_gets_a_description_of_every_completion(tmp_path, line, expected):
    out = tmp_path / "out"
    environment = os.environ | {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_SHELL": "zsh", "_ARGCOMPLETE_IFS": "\n"}
    environment |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_STDOUT_FILENAME": str(out)}
    subprocess.run([sys.executable, "launch.py"], cwd=ROOT, env=environment, check=True)
    [found] = out.read_text().splitlines()
    completion, _, description = found.partition(":")
    assert completion.strip() == expected and description != "None"
    assert description.startswith("Write WORKDIR/report.html") == (expected == "report")


@pytest.mark.skipif(ZSH is None, reason="zsh is not installed")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("python launch.py qui", "quickstart"),
        ("python launch.py quickstart --config.align.ep", "--config.align.epochs"),
    ],
)
def test_zsh_completes_at_the_tab_key(tmp_path, typed, expected):
    shell = f'autoload -Uz compinit && compinit -D\nPATH={pathlib.Path(sys.executable).parent}:$PATH\nPS1="ready> "\n'
    (tmp_path / ".zshrc").write_text(shell + 'eval "$(activate-global-python-argcomplete --dest=-)"\n')
    terminal, inside = pty.openpty()
    process = subprocess.Popen(
        [ZSH, "-i"],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        cwd=ROOT,
        env=os.environ | {"ZDOTDIR": str(tmp_path), "TERM": "dumb"},
        start_new_session=True,
    )
    os.close(inside)
    try:
        shown = shown_until(terminal, "ready> ")
        os.write(terminal, f"{typed}\t".encode())
        assert "command not found" not in shown and expected in shown_until(terminal, expected)
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def shown_until(terminal, text, seconds=60):
    """Return what a terminal shows until it contains a text, or until the time is over."""
    shown, end = "", time.monotonic() + seconds
    while text not in shown and time.monotonic() < end:
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 65536).decode(errors="replace")
    return shown
