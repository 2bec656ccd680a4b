"""Results of sorting, made without a checkpoint."""

import numpy as np

from adapt.adapters.registry import create
from adapt.model_selection.calibration import Calibration
from adapt.model_selection.methods import Candidate, MethodChoice
from adapt.photos.folders import EmbeddedFolder
from adapt.photos.sorting_result import SortingResult


def make_result(root, paths, predicted, *, class_names=("cat", "dog"), far=(), accuracy=1.0, support=4, checkpoint="c"):
    """Return the result for images in `root/query`, whose classes are `predicted`.

    The support set has `support` images per class, `root/support/CLASS/N.png`, whether they exist or not.
    """
    names = list(class_names)
    examples = [f"{name}/{number}.png" for name in names for number in range(support)]
    chosen = Candidate("knn", create("knn"), accuracy=accuracy, selected_by="leave-one-out on the support")
    probabilities = np.full((len(paths), len(names)), 0.1 / max(len(names) - 1, 1))
    probabilities[np.arange(len(paths)), predicted] = 0.9 - 0.004 * np.arange(len(paths))
    return SortingResult(
        class_names=names,
        support=EmbeddedFolder(str(root / "support"), examples, np.eye(len(examples), 8), []),
        labels=np.repeat(np.arange(len(names)), support),
        query=EmbeddedFolder(str(root / "query"), list(paths), np.ones((len(paths), 8)), []),
        choice=MethodChoice(chosen, [chosen], None),
        calibration=Calibration(1.0, "held-out support images"),
        probabilities=probabilities,
        nearest=np.zeros(len(paths), int),
        cosines=np.array([0.1 if number in far else 0.9 for number in range(len(paths))]),
        far_threshold=0.5,
        checkpoint=checkpoint,
    )
