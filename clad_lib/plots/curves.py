"""Lines: losses of training, ROC, and an AUROC against a setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from sklearn.metrics import roc_curve

from clad_lib.plots.theme import INK, QUIET, finish, finite, look, plain, same_length


def loss_curves(
    curves: Mapping[str, np.ndarray],
    *,
    log: bool = False,
    loss: str = "mean loss",
    title: str = "Training",
    note: str = "Mean loss of each epoch. A curve that no longer falls has learnt what it can at this learning rate.",
) -> go.Figure:
    """One or more named losses, an epoch each; `log` for a logarithmic axis, `loss` for its title with the unit."""
    figure, ends = go.Figure(), []
    for index, (name, values) in enumerate(curves.items()):
        values, style = finite(f"losses of {name}", values), look(index)
        epochs = np.arange(1, len(values) + 1)
        mode = "lines+markers" if len(values) <= 60 else "lines"
        figure.add_scatter(
            x=epochs, y=values, name=plain(name), mode=mode, line=dict(color=style.colour, dash=style.dash, width=2.5),
            marker=dict(symbol=style.symbol, size=7),
            hovertemplate="epoch %{x}: %{y:.4g}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
        if len(values):
            ends.append(f"{name} from {values[0]:.4g} to {values[-1]:.4g} in {len(values)} epochs")
    figure.update_xaxes(title="epoch", dtick=1 if max(map(len, curves.values()), default=0) <= 20 else None)
    figure.update_yaxes(title=loss, type="log" if log else "linear", tickformat="~g" if log else None)
    figure.update_layout(showlegend=True)
    return finish(figure, title=title, note=note, alt=f"Loss curves: {'; '.join(ends)}.", height=440)


def roc_curves(
    scored: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    title: str = "ROC: anomalies found against false alarms",
    note: str = "Up and to the left is better; the diagonal is guessing. AUROC is the area under a curve, never flipped.",
) -> go.Figure:
    """Name -> (scores (N,), anomaly (N,) bool), higher = more anomalous, anomaly the positive class.

    The legend gives each AUROC in [0, 1]. Raises ValueError where one of the two classes is missing.
    """
    figure, areas = go.Figure(), {}
    for index, (name, (scores, anomaly)) in enumerate(scored.items()):
        false_alarms, found, areas[name] = roc_points(scores, anomaly, name=name)
        style = look(index)
        figure.add_scatter(
            x=false_alarms, y=found, mode="lines", line=dict(color=style.colour, dash=style.dash, width=2.5),
            name=f"{plain(name)} · AUROC {areas[name]:.3f}",
            hovertemplate="false alarms %{x:.1%}<br>anomalies found %{y:.1%}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", name="guessing · AUROC 0.500", hoverinfo="skip",
        line=dict(color=QUIET, dash="2px,4px", width=1.5),
    )  # fmt: skip
    figure.update_xaxes(title="false alarms (share of normal images)", range=[-0.01, 1.01], constrain="domain")
    figure.update_yaxes(title="anomalies found (share)", range=[-0.01, 1.01], scaleanchor="x", constrain="domain")
    alt = f"ROC curves. AUROC: {', '.join(f'{name} {area:.3f}' for name, area in areas.items())}."
    return finish(figure, title=title, note=note, alt=alt, height=560)


def roc_points(scores: np.ndarray, anomaly: np.ndarray, *, name: str = "") -> tuple[np.ndarray, np.ndarray, float]:
    """False-alarm rates, detection rates and the area under them; points on a straight line are left out."""
    same_length(scores=scores, anomaly=anomaly)
    scores, anomaly = finite("scores", scores), np.asarray(anomaly, dtype=bool)
    if anomaly.all() or not anomaly.any():
        missing = "normal" if anomaly.all() else "anomalous"
        raise ValueError(f"got no {missing} images{f' for {name}' if name else ''}: a ROC curve needs both kinds")
    false_alarms, found, _ = roc_curve(anomaly, scores)
    return false_alarms, found, float(np.trapezoid(found, false_alarms))


def ablation_lines(
    x: Sequence[float],
    means: Mapping[str, np.ndarray],
    *,
    setting: str,
    spread: Mapping[str, np.ndarray] | None = None,
    paper: Mapping[str, np.ndarray] | None = None,
    reference: tuple[str, float] | None = None,
    title: str = "What one setting is worth",
    note: str = "Mean over seeds, with one standard deviation; hollow marks on dotted lines are the paper's values.",
) -> go.Figure:
    """AUROC in [0, 1] against a setting: name -> means (n,), and where given spread (n,) and the paper's values (n,).

    `setting` names the axis with its unit; `reference` is a name and a level, drawn as a dashed line.
    """
    figure = go.Figure()
    for index, (name, values) in enumerate(means.items()):
        same_length(settings=x, means=values)
        style = look(index)
        error = dict(array=spread[name], thickness=1.2, width=4) if spread and name in spread else None
        figure.add_scatter(
            x=x, y=values, name=plain(name), error_y=error, mode="lines+markers",
            line=dict(color=style.colour, width=2.5), marker=dict(symbol=style.symbol, size=9),
        )  # fmt: skip
        if paper and name in paper:
            figure.add_scatter(
                x=x, y=paper[name], name=f"{plain(name)}, paper", mode="lines+markers",
                line=dict(color=style.colour, width=1.2, dash="dot"),
                marker=dict(symbol=f"{style.symbol}-open", size=9, line=dict(width=1.8)),
            )  # fmt: skip
    if reference:
        figure.add_hline(y=reference[1], line=dict(color=QUIET, dash="dash", width=1.5))
        figure.add_annotation(
            xref="paper", x=0.995, xanchor="right", y=reference[1], yanchor="bottom", showarrow=False,
            text=f"{plain(reference[0])} {reference[1]:.3f}", font=dict(color=INK, size=12),
        )  # fmt: skip
    figure.update_xaxes(title=setting, tickvals=list(x) if len(x) <= 15 else None)
    figure.update_yaxes(title="AUROC")
    figure.update_layout(showlegend=True)
    peaks = [f"{name} peaks at {np.max(v):.3f} for {x[int(np.argmax(v))]}" for name, v in means.items()]
    return finish(figure, title=title, note=note, alt=f"AUROC against {setting}: {'; '.join(peaks)}.")
