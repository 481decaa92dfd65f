"""How well scores separate anomalies from normal images, with intervals and tests of that.

Intervals are bootstrapped over images or tracks; over seeds they add Student's t.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm
from scipy.stats import t as student

from clad_lib.judge.counting import (
    area,
    checked,
    counts,
    finite,
    fpr95,
    resampled,
    share,
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


class Interval(NamedTuple):
    """AUROC and its confidence interval; a published number below `low` has been exceeded."""

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """One method's AUROC minus the other's, its interval, the two-sided p-value of equality."""

    difference: float
    low: float
    high: float
    p_value: float


def evaluate(scores: ArrayLike, anomaly: ArrayLike) -> Metrics:
    """The four metrics of scores (N,), higher = more anomalous, against anomaly (N,) bool.

    AUROC is the chance that an anomaly scores above a normal image, ties counting half; it is never
    flipped. AUPR is average precision, sum_t (R_t - R_t-1) P_t over the distinct scores, with
    anomalies, then with normal images as the positive class. FPR@95TPR is the share of anomalies
    accepted at the lowest threshold that accepts at least 95 % of the normal images.

    Warns ConstantScores when all scores are equal. Raises ValueError for scores that are not 1-D,
    NaN or infinite, for lengths that differ, and where one of the two classes is absent.
    """
    from sklearn.metrics import average_precision_score  # half a second, for this function alone

    values, truth = checked(scores, anomaly)
    normal, anomalous = counts(values, truth)
    return Metrics(
        auroc=float(area(normal, anomalous)),
        aupr_anomaly=float(average_precision_score(truth, values)),
        aupr_normal=float(average_precision_score(~truth, -values)),
        fpr95=fpr95(normal, anomalous),
    )


def auroc(scores: ArrayLike, anomaly: ArrayLike) -> float:
    """Area under the ROC curve in [0, 1], as in `evaluate`."""
    return float(area(*counts(*checked(scores, anomaly))))


def f1_at(scores: ArrayLike, anomaly: ArrayLike, threshold: float) -> Confusion:
    """Alarms, score > threshold, at a threshold fixed beforehand; anomaly is the positive class.

    With a threshold of inf nothing alarms. Raises ValueError as `evaluate`, and for one of NaN.
    """
    values, truth = checked(scores, anomaly)
    if math.isnan(threshold):
        raise ValueError("threshold is NaN: expected a number; inf alarms on nothing")
    tn, fp, fn, tp = np.bincount(2 * truth + (values > threshold), minlength=4).tolist()
    rates = tp / max(tp + fp, 1), tp / (tp + fn), 2 * tp / (2 * tp + fp + fn), fp / (fp + tn)
    return Confusion(tp, fp, tn, fn, *rates)


def best_f1(scores: ArrayLike, anomaly: ArrayLike) -> float:
    """ORACLE: the largest F1 that any threshold gives, as published; never a clean result."""
    values, truth = checked(scores, anomaly)
    normal, anomalous = (count[::-1].cumsum()[::-1] for count in counts(values, truth))
    f1 = 2 * anomalous / (truth.sum() + anomalous + normal)  # (G,) alarm from each score upwards
    return float(f1.max())


def hard_decision_auroc(scores: ArrayLike, threshold: float, anomaly: ArrayLike) -> float:
    """PAPER_COMPAT: AUROC of the +-1 decisions score > threshold, as for the published SVDD.

    A ROC curve of one point: (1 + recall - false-alarm rate) / 2, in [0, 1], not flipped.
    """
    counted = f1_at(scores, anomaly, threshold)
    return (1 + counted.recall - counted.false_alarm_rate) / 2


def holm(p_values: ArrayLike) -> np.ndarray:
    """P-values (M,) of M comparisons corrected for their number (Holm 1979), in their order.

    The k-th smallest becomes the largest (M - j + 1) p_(j) of j <= k, at most 1: reject where it is
    below 0.05, and the chance of any false rejection is at most 5 %, whatever the dependence.
    """
    p = finite(p_values, "p-values")
    order = np.argsort(p)
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(corrected, 1.0)[np.argsort(order)]


def bootstrap(
    scores: ArrayLike,
    anomaly: ArrayLike,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int,
    units: ArrayLike | None = None,
) -> Interval:
    """Percentile bootstrap interval of AUROC (Efron & Tibshirani 1993); scores, anomaly (N,).

    Normal images and anomalies are resampled apart. `units` (N,) names what is independent of the
    rest, such as the track of each image: whole units are then drawn, and the percentiles are
    expanded to those of (U / (U - 1))^(1/2) t, t being Student's with U - 1 degrees of freedom and
    U the smaller number of units of the two classes (Hesterberg 2015). In simulations with 12
    normal units an interval of 95 % so holds in 94 % of draws, without expansion in 90 %.

    The interval is about fresh images (units) of the same two populations with the detector as it
    is. Where no anomaly scores below a normal image it is [1, 1]: read that as "too few images to
    see an error". Warns and raises as `evaluate`, and raises ValueError for fewer than two units of
    a class.
    """
    observed, draws, count = resampled(np.asarray(scores)[None], anomaly, resamples, seed, units)
    return Interval(float(observed[0]), *_percentiles(draws[:, 0], level, count))


def paired_comparison(
    one: ArrayLike,
    other: ArrayLike,
    anomaly: ArrayLike,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int,
    units: ArrayLike | None = None,
) -> Comparison:
    """Whether one method beats another on the same images: a resample takes the same for both.

    one, other: scores (N,) -> the bootstrap of `bootstrap`, with `units` as there. The p-value
    inverts the interval, 2 (1 + min(#d* <= 0, #d* >= 0)) / (resamples + 1), so it is never below
    2 / (resamples + 1). one, other: scores (S, N), row s of both from seed s -> the difference of
    the means over seeds. Its variance is that of the images, from the bootstrap, plus that of the
    seeds, s^2 / S, with Student's t on Satterthwaite's degrees of freedom, as for readers and cases
    in Obuchowski & Rockette (1995); drawing three seeds with replacement would be too narrow. It is
    a little wide, because the interaction of seeds and images counts twice.

    Warns and raises as `bootstrap`, and raises ValueError for shapes that differ.
    """
    if np.shape(one) != np.shape(other) or np.ndim(one) not in (1, 2):
        raise ValueError(
            f"scores are {np.shape(one)} and {np.shape(other)}: expected both (N,), or (S, N)"
        )
    rows = np.vstack([one, other])
    observed, draws, count = resampled(rows, anomaly, resamples, seed, units)
    seeds = len(rows) // 2
    difference = observed[:seeds] - observed[seeds:]  # (S,)
    drawn = (draws[:, :seeds] - draws[:, seeds:]).mean(1)  # (R,)
    if seeds > 1:
        return _over_seeds(difference, level, float(drawn.var(ddof=1)) / (1 - 1 / count), count)
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    p_value = min(1.0, 2 * (1 + int(tail)) / (resamples + 1))
    if math.isfinite(count):  # as the percentiles are expanded
        p_value = 2 * student.sf(norm.isf(p_value / 2) * math.sqrt(1 - 1 / count), count - 1)
    return Comparison(float(difference[0]), *_percentiles(drawn, level, count), float(p_value))


def _percentiles(draws: np.ndarray, level: float, count: float) -> tuple[float, float]:
    """The interval between the percentiles of draws (R,), expanded for a finite count of units."""
    tail = (1 - share(level, "level")) / 2
    if math.isfinite(count):
        tail = norm.cdf(student.ppf(tail, count - 1) / math.sqrt(1 - 1 / count))
    low, high = np.quantile(draws, [tail, 1 - tail]).tolist()
    return low, high


def _over_seeds(values: np.ndarray, level: float, images: float, count: float) -> Comparison:
    """Student's interval of the mean of values (S,), the variance due to the images added."""
    mean, n, among = float(values.mean()), len(values), float(values.var(ddof=1)) / len(values)
    variance = among + images
    if variance <= 1e-24:  # rounding alone
        return Comparison(mean, mean, mean, float(abs(mean) <= 1e-12))
    spread = (among / variance) ** 2 / (n - 1) + (images / variance) ** 2 / (count - 1)
    degrees, error = 1 / spread if spread > 1e-12 else math.inf, math.sqrt(variance)
    half = float(student.ppf((1 + share(level, "level")) / 2, degrees)) * error
    p_value = float(2 * student.sf(abs(mean) / error, degrees))
    return Comparison(mean, mean - half, mean + half, p_value)
