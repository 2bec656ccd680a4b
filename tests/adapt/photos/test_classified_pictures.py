"""Predicted class, confidence and far flag of pictures: the sorted folders and the label page have the same rules."""

import numpy as np

from adapt.labelling.classifier.model import PicturePredictions
from adapt.model_selection.calibration import Calibration
from adapt.photos.classified_pictures import ClassifiedPictures
from adapt.photos.sorting_result import SortingResult


def test_predictions_are_the_first_most_likely_class_and_far_pictures_lie_below_the_threshold():
    pictures = ClassifiedPictures(
        probabilities=np.array([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]]),
        calibration=Calibration(1.0, "a test"),
        cosines=np.array([0.5, 0.7, 0.9]),
        far_threshold=0.7,
    )
    assert pictures.predicted.tolist() == [1, 0, 0] and pictures.confidence.tolist() == [0.8, 0.5, 0.9]
    assert pictures.far.tolist() == [True, False, False]
    for row in range(3):
        expected = pictures.predicted[row], pictures.confidence[row], pictures.far[row]
        assert pictures.picture(row) == expected


def test_sorting_and_labelling_define_none_of_it_again():
    for kind in (SortingResult, PicturePredictions):
        assert not {"predicted", "confidence", "far", "picture"} & set(vars(kind))
