"""What a threshold costs, as HTML: the confusion matrix, false alarms, the rates of each pseudo-class, and the nearest images."""

from __future__ import annotations

import math

import numpy as np

from clad_lib.calibration import Threshold, in_words
from clad_lib.operating import DELTA, Point, around, cluster_rates
from clad_lib.plots.images import short_scores
from clad_lib.widgets.parts import strip, table


def promise(found: Threshold, *, named: bool, tracks: bool) -> str:
    """What a threshold promises, of normal images or of one image a track: only for a rate that was named beforehand."""
    lead = "Promised" if named else "Promised had this rate been named before looking (else the bound below holds)"
    return f"{lead}: {in_words(found, tracks=tracks)}."


def confusion_table(point: Point) -> str:
    """Images by kind and by alarm."""
    rows = [["anomalies", point.caught, point.missed], ["normal images", point.false_alarms, point.passed]]
    return table(["", "alarm", "no alarm"], rows)


def false_alarms(point: Point) -> str:
    """False alarms in 1,000 normal images: counted on the test images, and the bound that holds however the line was chosen."""
    counted = "–" if math.isnan(point.counted_per_1000) else f"{point.counted_per_1000:.1f}"
    return (
        f"<div style='line-height:1.4'>False alarms in 1,000 normal images<br>counted on the test images: <b>{counted}</b><br>"
        f"guaranteed, with probability {1 - DELTA:g} at this and all<br>other thresholds at once: at most "
        f"<b>{point.bound_per_1000:.0f}</b></div>"
    )


def cluster_table(scores: np.ndarray, anomaly: np.ndarray, clusters: np.ndarray, threshold: float) -> str:
    """False alarms and anomalies found in each pseudo-class that the classifier predicts; all arrays (m,)."""
    rows = cluster_rates(scores, anomaly, clusters, threshold)
    cells = [[f"cluster {k}", n, _percent(false), m, _percent(caught)] for k, n, false, m, caught in rows]
    return table(["pseudo-class", "normal", "false alarms", "anomalies", "found"], cells)


def image_strips(scores: np.ndarray, anomaly: np.ndarray, images: np.ndarray, rows: np.ndarray, threshold: float) -> str:
    """The images nearest to the threshold, above it and below; scores, anomaly, rows (m,), rows of images (N, C, H, W)."""
    parts, spread = [], float(scores.std())
    for name, places in zip(("just above the line (alarms)", "just below the line"), around(scores, threshold), strict=True):
        kinds = ["anomaly" if truth else "normal" for truth in anomaly[places]]
        texts = [f"{score} {kind}" for score, kind in zip(short_scores(scores[places], spread), kinds, strict=True)]
        parts.append(f"<b>{name}</b>{strip(images[rows[places]], texts)}")
    return "".join(parts)


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1%}"
