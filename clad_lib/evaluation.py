"""How well anomaly scores separate, with intervals: AUROC, AUPR, FPR@95TPR, bootstrap, seeds, F1 at a threshold."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student

from clad_lib.curves import METRICS, checked, counts, finite, resampled


class Metrics(NamedTuple):
    """auroc, aupr_anomaly and aupr_normal: higher is better; fpr95: lower is better. All in [0, 1]."""

    auroc: float
    aupr_anomaly: float
    aupr_normal: float
    fpr95: float


class Interval(NamedTuple):
    """A metric of all images and its bootstrap interval, in [0, 1]."""

    estimate: float
    low: float
    high: float


class Comparison(NamedTuple):
    """One method's metric minus the other's, in [-1, 1], its interval, and the two-sided p-value of no difference."""

    difference: float
    low: float
    high: float
    p_value: float


class Spread(NamedTuple):
    """Mean, sample standard deviation and number of values over seeds, and Student's interval of the mean."""

    mean: float
    std: float
    n: int
    low: float
    high: float


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


class OracleF1(NamedTuple):
    """The largest F1 over all thresholds and the threshold that gives it, both chosen with the test labels."""

    f1: float
    threshold: float


def evaluate(scores: ArrayLike, anomaly: ArrayLike) -> Metrics:
    """The four metrics of anomaly scores (N,), higher = more anomalous, against anomaly (N,) bool; never flipped.

    AUROC is the chance that an anomaly scores above a normal image, ties counting half (midranks; below 0.5 stays so).
    AUPR is average precision, sum_t (R_t - R_t-1) P_t over the distinct scores, with anomalies, then normal images, as
    the positive class. FPR@95TPR is the share of anomalies accepted where at least 95 % of the normal images are.

    Warns ConstantScores when all scores are equal: AUROC is then 0.5. Raises ValueError for scores that are not 1-D,
    NaN or infinite, for lengths that differ, and where one of the two classes is absent.
    """
    normal, anomalous = counts(*checked(scores, anomaly))
    return Metrics(**{name: float(metric(normal, anomalous)[0]) for name, metric in METRICS.items()})


def auroc(scores: ArrayLike, anomaly: ArrayLike) -> float:
    """Area under the ROC curve in [0, 1], anomalies positive, ties counting half; warns and raises as `evaluate`."""
    return float(METRICS["auroc"](*counts(*checked(scores, anomaly)))[0])


def bootstrap(
    scores: ArrayLike,
    anomaly: ArrayLike,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int,
    metric: str = "auroc",
) -> Interval:
    """Percentile bootstrap interval of a metric, normal images and anomalies resampled apart (Efron & Tibshirani 1993).

    scores (N,), anomaly (N,) bool -> Interval; `metric` is a field of Metrics. It is about fresh images from the same
    two populations; the detector stays as trained (`over_seeds` is about that). Where no anomaly scores below a normal
    image every resample gives AUROC 1 and the interval is [1, 1]: read it as "too few images to see an error".

    Warns and raises ValueError as `evaluate`, and raises for fewer than two images of a class.
    """
    _check_settings(resamples, level, metric)
    values, truth = checked(scores, anomaly, least=2)
    estimate = float(METRICS[metric](*counts(values, truth))[0])
    draws = np.concatenate(list(resampled([values], truth, resamples=resamples, seed=seed, metric=metric)))  # (R, 1)
    return Interval(estimate, *_percentiles(draws[:, 0], level))


def paired_comparison(
    one: ArrayLike,
    other: ArrayLike,
    anomaly: ArrayLike,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int,
    metric: str = "auroc",
) -> Comparison:
    """Whether one method beats another on the same images: every resample takes the same images for both.

    one, other: scores (N,) -> Comparison by the stratified percentile bootstrap; the p-value inverts the interval,
    2 (1 + min(#d* <= 0, #d* >= 0)) / (resamples + 1), so it is never below 2 / (resamples + 1).

    one, other: scores (S, N), row s of both from seed s -> difference of the means over seeds. Its variance is that of
    the images (bootstrap) plus that of the seeds (s_d^2 / S), with Student's t on Satterthwaite's degrees of freedom,
    as for readers and cases in Obuchowski & Rockette (1995); a little wide, because their interaction counts twice.

    Warns and raises ValueError as `bootstrap`, and raises for shapes that differ.
    """
    _check_settings(resamples, level, metric)
    rows = [checked(row, anomaly, least=2) for row in _rows(one, other)]
    values, truth, seeds = [row for row, _ in rows], rows[0][1], len(rows) // 2
    every = np.array([METRICS[metric](*counts(row, truth))[0] for row in values])  # (2S,)
    observed = every[:seeds] - every[seeds:]  # (S,)
    drawn = np.concatenate(list(resampled(values, truth, resamples=resamples, seed=seed, metric=metric)))  # (R, 2S)
    draws = (drawn[:, :seeds] - drawn[:, seeds:]).mean(1)  # (R,)
    if seeds > 1:
        return _student(observed, level, image_variance=float(draws.var(ddof=1)))
    tail = int(min((draws <= 0).sum(), (draws >= 0).sum()))
    return Comparison(float(observed[0]), *_percentiles(draws, level), min(1.0, 2 * (1 + tail) / (resamples + 1)))


def over_seeds(values: ArrayLike, *, level: float = 0.95) -> Spread:
    """Mean and spread of a metric over seeds, values (S,); with one seed the spread and the interval are NaN.

    low, high = mean -+ t_(S-1) std / sqrt(S): where the mean of many more seeds lies, on these test images.
    Raises ValueError for no values, NaN or infinite ones.
    """
    _check_settings(1, level, "auroc")
    seeds = finite(values, "values over seeds")  # (S,)
    mean, n = float(seeds.mean()), len(seeds)
    std = float(seeds.std(ddof=1)) if n > 1 else math.nan
    half = float(student.ppf((1 + level) / 2, n - 1)) * std / math.sqrt(n)
    return Spread(mean, std, n, mean - half, mean + half)


def paired_over_seeds(one: ArrayLike, other: ArrayLike, *, level: float = 0.95) -> Comparison:
    """Whether one method beats another over retraining: paired t-test of a metric, values (S,) at the same S seeds.

    The test images are held fixed; give `paired_comparison` scores (S, N) to count their chance too. Differences that
    are all equal give p = 0, or 1 where they are 0. Raises ValueError for fewer than two seeds or lengths that differ.
    """
    _check_settings(1, level, "auroc")
    first, second = finite(one, "values over seeds"), finite(other, "values over seeds")
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"got {len(first)} and {len(second)} values: expected the same seeds for both, two or more")
    return _student(first - second, level, image_variance=0.0)


def f1_at(scores: ArrayLike, anomaly: ArrayLike, threshold: ArrayLike) -> Confusion:
    """Alarms at a threshold fixed beforehand, counted: score > threshold is an alarm, anomaly the positive class.

    `threshold` is a number, or (N,) with one an image, as per-cluster thresholds give; inf never alarms.
    Raises ValueError as `evaluate`, and for a threshold that is NaN or of another length.
    """
    values, truth = checked(scores, anomaly)
    line = np.asarray(threshold, dtype=np.float64)
    if line.shape not in ((), values.shape) or np.isnan(line).any():
        raise ValueError(f"threshold {line} of shape {line.shape}: expected a number, or one an image {values.shape}")
    alarm = values > line
    tp, fp = int((alarm & truth).sum()), int((alarm & ~truth).sum())
    fn, tn = int(truth.sum()) - tp, int((~truth).sum()) - fp
    return Confusion(tp, fp, tn, fn, tp / max(tp + fp, 1), tp / (tp + fn), 2 * tp / (2 * tp + fp + fn), fp / (fp + tn))


def best_f1(scores: ArrayLike, anomaly: ArrayLike) -> OracleF1:
    """ORACLE: the largest F1 over all thresholds, chosen with the test labels as published; never a clean result.

    scores (N,), anomaly (N,) bool -> (f1, threshold); score > threshold alarms, -inf alarms on everything.
    """
    values, truth = checked(scores, anomaly)
    normal, anomalous = counts(values, truth)
    hits = anomalous[0, ::-1].cumsum()[::-1]  # (G,) anomalies that score at least each distinct value
    alarms = hits + normal[0, ::-1].cumsum()[::-1]
    f1 = 2 * hits / (truth.sum() + alarms)
    lines = np.append(-np.inf, np.unique(values))  # alarms are strict: the line is the next lower value
    return OracleF1(float(f1.max()), float(lines[f1.argmax()]))


def flipped_auroc(value: float) -> float:
    """PAPER_COMPAT: max(a, 1 - a), as the published code replaces an AUROC below 0.5; never a clean result."""
    if not 0 <= value <= 1:
        raise ValueError(f"AUROC is {value!r}: expected a number in [0, 1]; give what `auroc` returned")
    return max(value, 1 - value)


def hard_decision_auroc(scores: ArrayLike, threshold: float, anomaly: ArrayLike) -> float:
    """PAPER_COMPAT: AUROC of the +-1 decisions score > threshold, as for the published SVDD; not flipped here.

    A ROC of one point: (1 + recall - false-alarm rate) / 2, in [0, 1]. Raises ValueError as `f1_at`.
    """
    counted = f1_at(scores, anomaly, threshold)
    return (1 + counted.recall - counted.false_alarm_rate) / 2


def _rows(one: ArrayLike, other: ArrayLike) -> list[np.ndarray]:
    first, second = np.asarray(one), np.asarray(other)
    if first.shape != second.shape or first.ndim not in (1, 2) or not len(first):
        raise ValueError(f"scores are {first.shape} and {second.shape}: expected both (N,), or (S, N), one row a seed")
    return [*np.atleast_2d(first), *np.atleast_2d(second)]


def _percentiles(draws: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return low, high


def _student(differences: np.ndarray, level: float, *, image_variance: float) -> Comparison:
    """Student's interval of the mean of differences (S,), the variance due to the images added."""
    mean, among = float(differences.mean()), float(differences.var(ddof=1)) / len(differences)
    variance = among + image_variance
    if variance <= 1e-24:  # rounding alone
        return Comparison(mean, mean, mean, float(abs(mean) <= 1e-12))
    degrees = (len(differences) - 1) * (variance / among) ** 2 if among > 1e-12 * variance else math.inf
    error = math.sqrt(variance)
    half = float(student.ppf((1 + level) / 2, degrees)) * error
    return Comparison(mean, mean - half, mean + half, float(2 * student.sf(abs(mean) / error, degrees)))


def _check_settings(resamples: int, level: float, metric: str) -> None:
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"got {resamples} resamples at level {level}: expected 1 or more, and a level such as 0.95")
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}: expected one of {', '.join(METRICS)}")
