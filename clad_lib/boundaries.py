"""One boundary round everything normal against one a latent class, in a plane where both can be seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
import torch

from clad_lib import calibration, pipeline, plots
from clad_lib.kernel_baselines import Gamma, KernelScorer, fit_svdd
from clad_lib.training import infer

ALPHA, DELTA = 0.1, 0.1  # both boundaries: at most this false-alarm rate, with probability 1 - delta over calibration
FIT_IMAGES = 2000  # the boundaries are fitted to at most this many training images
SMALLEST = 5  # a latent class of fewer images has no shape to draw a boundary round
GRID, MARGIN = 120, 0.06  # knots an axis; what the grid leaves around the outermost image, as a share of the range


class Side(NamedTuple):
    """One way to call images normal, score <= threshold.value, and what it is worth.

    scores (K, Gy, Gx): anomaly scores on the grid, one sheet a region; the least counts, and K = 1 is one boundary.
    calibration_alarms, false_alarms: share of the calibration images and of the normal test images outside. inside:
    share of ALL anomalous test images inside. A share of no images is NaN.
    """

    scores: np.ndarray
    threshold: calibration.Threshold
    calibration_alarms: float
    false_alarms: float
    inside: float


class Boundaries(NamedTuple):
    """Both sides on one plane, and a control. normals (N, 2) are the training images, labels (N,) their latent classes.

    narrow, the control: one boundary again, its kernel as narrow as the classes' (the median of theirs). Only what
    `conditional` keeps out beyond `narrow` is the classes' doing; the rest is the width's. anomalies (A, 2): all
    anomalous test images; normal_tests: how many test images are normal; x (Gx,), y (Gy,): the grid, which covers all
    images; note: what to know before reading the picture, empty where there is nothing.
    """

    normals: np.ndarray
    labels: np.ndarray
    anomalies: np.ndarray
    normal_tests: int
    x: np.ndarray
    y: np.ndarray
    single: Side
    conditional: Side
    narrow: Side
    note: str


def in_the_plane(study: pipeline.Study) -> pipeline.Study:
    """The same split, run folder and settings with an autoencoder of two latents, so that the latent space is a plane."""
    config = replace(study.config, latent=2)
    return replace(study, config=config, run=replace(study.run, config=config))


def compare_in_plane(study: pipeline.Study) -> Boundaries:
    """`compare` for a study: the latents of its two-dimensional autoencoder, and DEC's pseudo-labels in that plane.

    Trains the autoencoder and DEC with latent = 2, or finds them again; all other settings are the study's. Test labels
    enter only the counts and the choice of what is drawn as an anomaly.
    """
    flat, split = in_the_plane(study), study.split
    model, _ = pipeline.autoencoder(flat)
    found = pipeline.clusters(flat)
    parts = [infer(model, images, function=model.encode).numpy() for images in (split.train, split.calibration, split.test)]
    compared = compare(
        parts[0], found.labels, parts[1], parts[2], split.answers.test_anomaly, nu=flat.config.nu, seed=flat.config.seed,
        tracks=split.calibration_tracks,
    )  # fmt: skip
    kept = "" if found.source == "dec" else "DEC left a cluster empty: the latent classes are k-means'. "
    return compared._replace(note=(kept + compared.note).strip())


def compare(
    train: np.ndarray,
    labels: np.ndarray,
    held_out: np.ndarray,
    test: np.ndarray,
    anomaly: np.ndarray,
    *,
    alpha: float = ALPHA,
    delta: float = DELTA,
    nu: float = 0.1,
    seed: int = 0,
    tracks: np.ndarray | None = None,
) -> Boundaries:
    """One SVDD round all training points against one SVDD a latent class, at the same false-alarm rate.

    Support vector data description (Tax & Duin 2004) with an RBF kernel, `fit_svdd` with its defaults, on either side:
    the kernel's width is the median distance within what the boundary goes round, hence narrower for the classes: a
    third side, `narrow`, parts the two effects. The score of many boundaries is the
    least of theirs. Both thresholds come from the same calibration points (one of a track) by `threshold_for` at alpha
    and delta; where those are too few, by its marginal form or, with still fewer, at the largest calibration score.

    train (N, 2), labels (N,) without hidden classes, held_out (n, 2) and test (M, 2) points of the plane; anomaly (M,)
    bool is for the counts alone. ValueError for points not in a plane, lengths that differ, or no latent class of
    5 images.
    """
    points = [_points(name, array) for name, array in (("train", train), ("held_out", held_out), ("test", test))]
    anomaly = np.asarray(anomaly, dtype=bool)
    for name, array, size in (("labels", labels, len(points[0])), ("anomaly", anomaly, len(points[2]))):
        if np.shape(array) != (size,):
            raise ValueError(f"{name} is {np.shape(array)}: expected ({size},), one a point; pass those of the same images")
    rows = np.sort(np.random.default_rng(seed).permutation(len(points[0]))[:FIT_IMAGES])
    fitted, places = points[0][rows], np.asarray(labels)[rows]
    classes, counts = np.unique(places, return_counts=True)
    if not (counts >= SMALLEST).any():
        raise ValueError(f"the largest of {len(counts)} latent classes has {counts.max()} training images: expected "
                         f"{SMALLEST} for a boundary; use more images or fewer clusters")  # fmt: skip
    groups = [fitted[places == name] for name, count in zip(classes, counts, strict=True) if count >= SMALLEST]
    x, y = _grid(np.concatenate(points))
    independent = np.arange(len(points[1])) if tracks is None else tracks

    def side(regions: Sequence[KernelScorer]) -> Side:
        calibrated, tested = (_sheets(regions, part).min(0) for part in points[1:])
        line = _line(calibration.one_per_track(calibrated, independent, seed=seed), alpha, delta)
        knots = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)  # (Gy Gx, 2), x fastest
        sheets = _sheets(regions, knots).reshape(len(regions), len(y), len(x)).astype(np.float32)
        return Side(sheets, line, _share(calibrated > line.value), _share(tested[~anomaly] > line.value),
                    _share(tested[anomaly] <= line.value))  # fmt: skip

    each = [fit_svdd(_images(group), nu=nu, seed=seed) for group in groups]
    widths: tuple[Gamma, Gamma] = ("median", float(np.median([scorer.gamma for scorer in each])))
    single, narrow = (side([fit_svdd(_images(fitted), nu=nu, gamma=gamma, seed=seed)]) for gamma in widths)
    note = _note(single.threshold, classes[counts < SMALLEST], len(classes), bool(anomaly.any()))
    return Boundaries(points[0], np.asarray(labels), points[2][anomaly], int((~anomaly).sum()), x, y, single, side(each),
                      narrow, note)  # fmt: skip


def draw(found: Boundaries, **settings: Any) -> go.Figure:
    """The two boundaries side by side, see `plots.two_boundaries`; the shares are over all test images."""
    sides = (found.single, found.conditional)
    single, conditional = ((side.scores, side.threshold.value) for side in sides)
    return plots.two_boundaries(
        found.normals, found.anomalies, x=found.x, y=found.y, labels=found.labels, single=single, conditional=conditional,
        inside=(sides[0].inside, sides[1].inside), alarms=(sides[0].false_alarms, sides[1].false_alarms), **settings,
    )  # fmt: skip


def summary(found: Boundaries) -> str:
    """The sides in words: false alarms among the normal test images, and the share of all anomalies inside."""
    line, rows = found.single.threshold, []
    names = ("one boundary", f"one a latent class ({len(found.conditional.scores)})", "one, kernel as narrow")
    for name, side in zip(names, (found.single, found.conditional, found.narrow), strict=True):
        alarms = f"{side.false_alarms:5.1%} of {found.normal_tests} normal test images outside"
        inside = f"{side.inside:5.1%} of {len(found.anomalies)} anomalies inside"
        counts = [alarms] * bool(found.normal_tests) + [inside] * bool(len(found.anomalies))
        rows.append(f"{name:23} {', '.join(counts)}")
    rows.append(f"thresholds from {line.n} calibration images, alpha = {line.alpha:g}, guarantee: {line.guarantee}")
    return "\n".join(rows + [found.note] * bool(found.note))


def _line(scores: np.ndarray, alpha: float, delta: float) -> calibration.Threshold:
    for guarantee in (calibration.CONDITIONAL, calibration.MARGINAL):
        found = calibration.threshold_for(scores, alpha=alpha, delta=delta, guarantee=guarantee)
        if found.rank:
            return found
    return found._replace(value=float(scores.max()))


def _note(line: calibration.Threshold, small: np.ndarray, classes: int, anomalies: bool) -> str:
    parts = []
    if line.guarantee == calibration.MARGINAL:
        parts.append(f"{line.n} calibration images are too few to promise alpha = {line.alpha:g} for this draw of them: it holds "
                     "on average over draws.")  # fmt: skip
    elif line.guarantee == calibration.NONE:
        parts.append(f"{line.n} calibration images are too few to promise alpha = {line.alpha:g}: the thresholds are their "
                     "largest scores.")  # fmt: skip
    if len(small):
        named = ", ".join(map(str, small))
        parts.append(f"Latent class(es) {named} of {classes} have fewer than {SMALLEST} images and no boundary.")
    if not anomalies:
        parts.append("The test split holds no anomalies: nothing to count inside.")
    return " ".join(parts)


def _sheets(regions: Sequence[KernelScorer], points: np.ndarray) -> np.ndarray:
    """Scores of points (M, 2) by each region: (K, M)."""
    return np.stack([region(_images(points)).numpy() for region in regions])


def _images(points: np.ndarray) -> torch.Tensor:
    """Points (M, 2) as images of one pixel and two channels, (M, 2, 1, 1), which the kernel methods take."""
    return torch.from_numpy(points)[:, :, None, None]


def _grid(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = points.min(0), points.max(0)
    edge = np.where(high > low, MARGIN * (high - low), 1.0)
    x, y = np.linspace(low - edge, high + edge, GRID).T
    return x, y


def _points(name: str, array: np.ndarray) -> np.ndarray:
    points = np.asarray(array, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(f"{name} is {points.shape}: expected (N, 2) with N > 0, points of a plane; train with latent = 2")
    if not np.isfinite(points).all():
        raise ValueError(f"{name} holds NaN or infinite values: expected finite points; train the autoencoder again")
    return points


def _share(hits: np.ndarray) -> float:
    return float(hits.mean()) if len(hits) else float("nan")
