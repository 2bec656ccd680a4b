"""Completion in a real bash, with the code that argcomplete installs there."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from adapt.choices import METHOD_SUMMARIES
from arguments.help_texts import JOBS

ROOT = pathlib.Path(__file__).parents[2]
BASH = shutil.which("bash")
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
