"""Experiments on one study: a setting varied, defects switched on, one boundary or several."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from operator import or_
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from clad_lib.clad import dec
from clad_lib.clad.training import infer, seeded
from clad_lib.config import published
from clad_lib.judge import guarantees
from clad_lib.judge.metrics import auroc
from clad_lib.methods.kernel import Gamma, KernelScorer, fit_boundary
from clad_lib.study.engine import Study
from clad_lib.study.measure import ALPHA, DELTA, compare

FIT_IMAGES = 2000  # boundaries are fitted to at most this many training images
SMALLEST = 5  # a latent class of fewer images has no shape to draw a boundary round
GRID, MARGIN = 120, 0.06  # knots an axis; the room around the outermost image, of the range


def measure_settings(
    study: Study, settings: Iterable[Mapping[str, Any]], *, method: str = "ODIN"
) -> pd.DataFrame:
    """A method under each of several settings: a row each, with auroc, low, high, f1 and protocol.

    A stage that a setting does not touch is found again.
    """
    found, listed = [], list(settings)
    for each in tqdm(listed, desc="settings", unit="setting", disable=not study.progress):
        changed = study.with_settings(**each)
        names = {"auroc": "auroc", "low": "auroc_low", "high": "auroc_high", "f1": "f1"}
        row = {name: changed[method].metrics[key] for name, key in names.items()}
        found.append({**each, **row, "protocol": changed.config.protocol})
    return pd.DataFrame(found)


def waterfall_steps(study: Study) -> tuple[float, dict[str, float]]:
    """AUROC of ODIN, and its change as each published defect joins those before it.

    They come in the order in which a run meets them. ODIN's step takes the published epsilon of the
    data set, which is in the published unit.
    """
    epsilon = published(study.config.dataset, study.config.scenario)["epsilon"]
    defects: dict[str, dict[str, Any]] = {
        "hidden-class statistics": {"hidden_statistics": True},
        "noisy latents": {"noisy_latents": True},
        "target per batch": {"batch_target": True},
        "7x7 stem": {"stem": "published"},
        "published ODIN step": {"odin_factor": True, "epsilon": epsilon},
        "AUROC flipped": {"flip_auroc": True},
    }
    settings = accumulate(defects.values(), or_, initial=dict[str, Any]())
    found = measure_settings(study, settings).auroc
    return float(found[0]), dict(zip(defects, found.diff()[1:].tolist(), strict=True))


def expert_parts(study: Study, *, method: str = "Fused") -> pd.DataFrame:
    """Fused, or FusedPhotographs, taken apart: parts, experts, and rules that join the experts.

    The rules: scores added, p-values of equal weight, one of three left out, and as it is. Index:
    whose it is, and the part. Columns: auroc; lead, low and high, by how much the method is ahead
    of it on the same test images, with its 95 % interval.
    """
    scorer, split = study.fit(method), study.split
    parts = {name: expert.parts(split.test) for name, expert in scorer.experts.items()}
    wholes = {name: torch.stack([*found.values()]).mean(0) for name, found in parts.items()}
    rules = {
        "equal weights": dict.fromkeys(wholes, 1.0),
        **{f"without {n}": scorer.weights | {n: 0.0} for n in wholes if len(wholes) > 2},
        "as it is": scorer.weights,
    }
    table = {name: found | {"together": wholes[name]} for name, found in parts.items()}
    table[method] = {"scores added": sum(wholes.values())} | {
        name: type(scorer)(scorer.experts, each).join([*wholes.values()])
        for name, each in rules.items()
    }
    frame = pd.DataFrame({(n, p): v for n, found in table.items() for p, v in found.items()})
    anomaly = split.answers.test_anomaly

    def measured(values: pd.Series) -> list[float]:
        lead = compare(frame[method, "as it is"], values, anomaly, split.test_tracks)
        return [auroc(values, anomaly), *lead[:3]]

    names = ["auroc", "lead", "low", "high"]
    return frame.apply(measured, result_type="expand").T.set_axis(names, axis=1)


def dec_trail(study: Study, *, epochs: int = 10, count: int = 200) -> tuple[np.ndarray, ...]:
    """DEC once more, as the run did it: what it did to `count` (n) of the training images.

    Gives latents (E, n, D), centroids (E, K, D), q and p (E, n, K), before training and after each
    epoch. It goes on for `epochs` where the run stopped earlier, and leaves the run's clusters be.
    """
    train, seen = study.split.train, list[tuple[torch.Tensor, ...]]()
    rows = np.random.default_rng(study.config.seed).permutation(len(train))[:count]
    epochs = max(epochs, len(study["clusters"].losses))
    longer = study.with_settings(dec_epochs=epochs, dec_tolerance=0.0, min_steps=0)

    def watch(model: dec.DEC) -> None:
        soft, centroids = infer(model, train), model.centroids.detach().cpu().clone()
        latents = infer(model, train[rows], function=model.autoencoder.encode)
        seen.append((latents, centroids, soft[rows], dec.target_distribution(soft)[rows]))

    # beyond the run's last epoch clusters may die: that is to be seen, not to be warned of
    with seeded(study.config.seed), warnings.catch_warnings(action="ignore"), suppress(ValueError):
        settings = longer.settings("clusters")
        dec.clusters(study.split, settings, study["autoencoder"], watch=watch)
    return tuple(torch.stack(each).numpy() for each in zip(*seen, strict=True))


class Side(NamedTuple):
    """One way to call images normal, by a score of at most `threshold`, and what it costs.

    scores (K, Gy, Gx): anomaly scores on the grid, one sheet a boundary; the least counts.
    false_alarms: share of the normal test images outside; inside: share of the anomalies inside.
    A share of no images is NaN.
    """

    scores: np.ndarray
    threshold: guarantees.Threshold
    false_alarms: float
    inside: float


class Plane(NamedTuple):
    """Latents in a plane: train (N, 2), labels (N,), calibration, test, anomaly (M,) bool."""

    train: np.ndarray
    labels: np.ndarray
    calibration: np.ndarray
    test: np.ndarray
    anomaly: np.ndarray
    tracks: np.ndarray
    seed: int


def in_the_plane(study: Study) -> Plane:
    """Latents of an autoencoder of two, with DEC's pseudo-labels; trained where need be."""
    flat, split = study.with_settings(latent=2), study.split
    model, found = flat["autoencoder"].model, flat["clusters"]
    train, calibration, test = (
        infer(model, part, function=model.encode).double().numpy()
        for part in (split.train, split.calibration, split.test)
    )
    return Plane(
        train,
        found.labels,
        calibration,
        test,
        split.answers.test_anomaly,
        split.calibration_tracks,
        study.config.seed,
    )


def grid(plane: Plane) -> np.ndarray:
    """The knots in x and y (2, GRID) of a grid that covers all points of the plane with room."""
    points = np.concatenate([plane.train, plane.calibration, plane.test])
    low, high = points.min(0), points.max(0)
    edge = np.where(high > low, MARGIN * (high - low), 1.0)
    return np.linspace(low - edge, high + edge, GRID).T


def boundaries(plane: Plane, labels: np.ndarray, *, gamma: Gamma = "median") -> Side:
    """One support vector data description (Tax & Duin 2004) a label, all at one threshold.

    The threshold comes from the calibration points, one a track, for at most ALPHA false alarms
    with probability 1 - DELTA, on average where they are too few for that, or else it is the
    largest score. Labels (N,) of fewer than SMALLEST points get no boundary. Raises ValueError when
    none has as many.
    """
    rows = np.sort(np.random.default_rng(plane.seed).permutation(len(plane.train))[:FIT_IMAGES])
    regions = _fitted(plane.train[rows], np.asarray(labels)[rows], plane.seed, gamma)
    calibrated, tested = (_sheets(regions, each).min(0) for each in (plane.calibration, plane.test))
    independent = guarantees.one_per_track(calibrated, plane.tracks, seed=plane.seed)
    lines = [
        guarantees.threshold_for(independent, alpha=ALPHA, delta=DELTA, guarantee=promise)
        for promise in (guarantees.CONDITIONAL, guarantees.MARGINAL)
    ]
    largest = lines[0]._replace(value=float(independent.max()))
    line = next((each for each in lines if each.rank), largest)
    x, y = grid(plane)
    knots = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)  # (Gy Gx, 2), x fastest
    sheets = _sheets(regions, knots).reshape(len(regions), len(y), len(x))
    outside = tested > line.value
    parts = outside[~plane.anomaly], ~outside[plane.anomaly]
    return Side(sheets, line, *(float(pd.Series(part).mean()) for part in parts))


def _fitted(
    points: np.ndarray, labels: np.ndarray, seed: int, gamma: Gamma = "median"
) -> list[KernelScorer]:
    """A boundary round the points (N, 2) of each label that has SMALLEST; one must have as many."""
    groups = [points[labels == label] for label in np.unique(labels)]
    large = [_as_images(group) for group in groups if len(group) >= SMALLEST]
    if not large:
        few = f"no latent class has {SMALLEST} training images"
        raise ValueError(f"{few}: use more images or fewer clusters")
    return [fit_boundary(group, gamma=gamma, seed=seed) for group in large]


def three_ways(plane: Plane) -> dict[str, Side]:
    """One boundary, one a latent class, and the control: one with the classes' narrow kernel.

    Only what the classes keep out beyond the control is their doing; the rest is the kernel's.
    """
    each = _fitted(plane.train, plane.labels, plane.seed)
    narrow = float(np.median([scorer.gamma for scorer in each]))
    together = np.zeros_like(plane.labels)
    return {
        "one boundary": boundaries(plane, together),
        "one, kernel as narrow": boundaries(plane, together, gamma=narrow),
        "one a latent class": boundaries(plane, plane.labels),
    }


def boundaries_by_count(plane: Plane, counts: Sequence[int]) -> dict[int, dict[str, Side]]:
    """`three_ways` round the groups of k-means for each number of groups, at one measured rate.

    Thresholds come from the normal test points, so that the same number of those lies outside
    whatever is drawn: analysis, and no promise.
    """
    normal = plane.test[~plane.anomaly]
    equal = plane._replace(calibration=normal, tracks=np.arange(len(normal)))
    groups = {k: dec.kmeans(plane.train, clusters=k, inits=5, seed=plane.seed) for k in counts}
    return {k: three_ways(equal._replace(labels=found.labels_)) for k, found in groups.items()}


def _sheets(regions: Sequence[KernelScorer], points: np.ndarray) -> np.ndarray:
    return np.stack([region(_as_images(points)).numpy() for region in regions])  # (K, M)


def _as_images(points: np.ndarray) -> torch.Tensor:
    """Points (M, 2) as images of one pixel and two channels (M, 2, 1, 1)."""
    return torch.from_numpy(np.ascontiguousarray(points))[:, :, None, None]
