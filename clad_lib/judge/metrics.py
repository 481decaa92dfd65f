"""How well scores separate anomalies from normal images; with the intervals of `intervals`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from clad_lib.judge.counting import METRICS, checked, counts, finite
from clad_lib.judge.intervals import (  # noqa: F401  what `metrics` offers too
    Comparison,
    Interval,
    bootstrap,
    interval_over_seeds,
    paired_comparison,
)


class Metrics(NamedTuple):
    """auroc, aupr_anomaly, aupr_normal: higher is better; fpr95: lower is better. In [0, 1]."""

    auroc: float
    aupr_anomaly: float
    aupr_normal: float
    fpr95: float


class Confusion(NamedTuple):
    """Counts and rates of alarms; precision is 0 by convention where nothing alarms."""

    tp: int
    fp: int
    tn: int
    fn: int
    precision: float
    recall: float
    f1: float
    false_alarm_rate: float


def evaluate(scores: ArrayLike, anomaly: ArrayLike) -> Metrics:
    """The four metrics of scores (N,), higher = more anomalous, against anomaly (N,) bool.

    AUROC is the chance that an anomaly scores above a normal image, ties counting half; it is never
    flipped. AUPR is average precision, sum_t (R_t - R_t-1) P_t over the distinct scores, with
    anomalies, then with normal images as the positive class. FPR@95TPR is the share of anomalies
    accepted at the lowest threshold that accepts at least 95 % of the normal images.

    Warns ConstantScores when all scores are equal. Raises ValueError for scores that are not 1-D,
    NaN or infinite, for lengths that differ, and where one of the two classes is absent.
    """
    normal, anomalous = counts(*checked(scores, anomaly))
    return Metrics(*(float(metric(normal, anomalous)[0]) for metric in METRICS.values()))


def auroc(scores: ArrayLike, anomaly: ArrayLike) -> float:
    """Area under the ROC curve in [0, 1], as in `evaluate`."""
    return evaluate(scores, anomaly).auroc


def f1_at(scores: ArrayLike, anomaly: ArrayLike, threshold: ArrayLike) -> Confusion:
    """Alarms, score > threshold, at a threshold fixed beforehand; anomaly is the positive class.

    `threshold` is a number, or (N,) with one an image, as per-cluster thresholds give; inf never
    alarms. Raises ValueError as `evaluate`, and for a threshold that is NaN or of another length.
    """
    values, truth = checked(scores, anomaly)
    line = np.asarray(threshold, dtype=np.float64)
    if line.shape not in ((), values.shape) or np.isnan(line).any():
        raise ValueError(f"threshold is {line}: expected a number, or one an image {values.shape}")
    alarm = values > line
    (tn, fp), (fn, tp) = ((int((~alarm[c]).sum()), int(alarm[c].sum())) for c in (~truth, truth))
    rates = tp / max(tp + fp, 1), tp / (tp + fn), 2 * tp / (2 * tp + fp + fn), fp / (fp + tn)
    return Confusion(tp, fp, tn, fn, *rates)


def best_f1(scores: ArrayLike, anomaly: ArrayLike) -> Confusion:
    """ORACLE: alarms at the threshold with the largest F1, as published; never a clean result."""
    values, truth = checked(scores, anomaly)
    normal, anomalous = (count[0, ::-1].cumsum()[::-1] for count in counts(values, truth))
    f1 = 2 * anomalous / (truth.sum() + anomalous + normal)  # (G,) alarm from each score upwards
    lines = np.append(-np.inf, np.unique(values))  # alarms are strict: the next lower score
    return f1_at(values, truth, lines[f1.argmax()])


def holm(p_values: ArrayLike) -> np.ndarray:
    """P-values (M,) of M comparisons corrected for their number (Holm 1979), in their order.

    The k-th smallest becomes the largest (M - j + 1) p_(j) of j <= k, at most 1: reject where it is
    below 0.05, and the chance of any false rejection is at most 5 %, whatever the dependence.
    """
    p = finite(p_values, "p-values")
    order = np.argsort(p)
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(corrected, 1.0)[np.argsort(order)]


def flipped_auroc(value: float) -> float:
    """PAPER_COMPAT: max(a, 1 - a), as the published code reports; never a clean result."""
    if not 0 <= value <= 1:
        raise ValueError(f"AUROC is {value!r}: expected a number in [0, 1], as `auroc` gives")
    return max(value, 1 - value)


def hard_decision_auroc(scores: ArrayLike, threshold: float, anomaly: ArrayLike) -> float:
    """PAPER_COMPAT: AUROC of the +-1 decisions score > threshold, as for the published SVDD.

    A ROC curve of one point: (1 + recall - false-alarm rate) / 2, in [0, 1], not flipped.
    """
    counted = f1_at(scores, anomaly, threshold)
    return (1 + counted.recall - counted.false_alarm_rate) / 2
