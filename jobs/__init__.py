"""Job functions of launch.py, one file a subject.

Each imports what it needs of pretrain/ and adapt/, which never import each other, when it is called.
"""

from jobs.checkpoints import convert, export
from jobs.embedding import embed, sort_photos
from jobs.evaluation import evaluate, report
from jobs.inspection import compile_step, inspect_data
from jobs.labelling import label
from jobs.quickstart import quickstart
from jobs.submission import submit
from jobs.training import align, pretrain

__all__ = [
    "align",
    "compile_step",
    "convert",
    "embed",
    "evaluate",
    "export",
    "inspect_data",
    "label",
    "pretrain",
    "quickstart",
    "report",
    "sort_photos",
    "submit",
]
