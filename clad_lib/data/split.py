"""A split of normal and anomalous images, as everything that trains, scores or judges gets it."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Scenario:
    """The labels that count as normal; every other class of the data set is anomalous."""

    dataset: str
    name: str
    title: str
    normal: tuple[int, ...]
    mirror: bool = False  # whether a mirrored image is as normal as the image itself
    turnable: bool = False  # whether a turned one is


@dataclass(frozen=True)
class Answers:
    """Hidden classes and test labels, for analysis only: no training or calibration reads them."""

    train_class: np.ndarray
    calibration_class: np.ndarray
    test_class: np.ndarray
    test_anomaly: np.ndarray


@dataclass(frozen=True)
class Split:
    """train and calibration: normal images; test: normal and anomalous. uint8 (N, C, H, W).

    *_index: rows of the data set's training or test part. *_tracks: equal for images that are not
    independent of each other, since they show one object or are copies of one image; training and
    calibration share none, and those of the test are numbered by themselves.
    """

    scenario: Scenario
    train: Tensor
    calibration: Tensor
    test: Tensor
    answers: Answers
    class_names: tuple[str, ...]
    train_index: np.ndarray
    calibration_index: np.ndarray
    test_index: np.ndarray
    train_tracks: np.ndarray
    calibration_tracks: np.ndarray
    test_tracks: np.ndarray
    source: str = ""  # where the images came from, in words
