"""TensorBoard event files."""

import subprocess
import sys

PROGRAM = """
import pathlib, sys
from pretrain.monitoring.tensorboard_writer import EventFile

(pathlib.Path(sys.argv[1]) / "torch.py").write_text("imported = True")
sys.path.insert(0, sys.argv[1])
events = EventFile(pathlib.Path(sys.argv[1]), purge_step=1)
events.write(1, {"loss": 0.5})
events.close()
print("torch" in sys.modules)
import torch
print(torch.imported)
"""


def test_event_files_are_written_without_importing_pytorch_which_stays_importable(tmp_path):
    ran = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path], capture_output=True, text=True)
    assert ran.stdout.split() == ["False", "True"], ran.stderr
    [events] = tmp_path.glob("events.*")
    assert b"loss" in events.read_bytes()
