"""Every chart is drawn, tells its numbers, and the numbers are those of the data."""

from __future__ import annotations

import json
from functools import cache
from types import SimpleNamespace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from sklearn.metrics import roc_auc_score

from clad_lib.look import charts, theme
from clad_lib.look import charts_of_clusters as clusters
from clad_lib.look import charts_of_scores as scored
from clad_lib.look.theme import ANOMALOUS, NORMAL

RANDOM = np.random.default_rng(0)
SCORES = np.concatenate([RANDOM.normal(0, 1, 300), RANDOM.normal(2, 1, 100)])
ANOMALY = np.arange(400) >= 300
LABELS = np.arange(400) % 4
POINTS = RANDOM.normal(0, 0.5, (400, 2)) + np.array([[0, 0], [4, 0], [0, 4], [4, 4]])[LABELS]
X, Y = np.linspace(-3, 7, 30), np.linspace(-2, 6, 20)


def alt_text(figure):
    return figure.layout.meta["alt"]


def side(inside=0.5, false_alarms=0.1, sheets=1, level=2.0):
    grid = np.stack(np.meshgrid(X, Y), axis=-1)
    centres = np.array([[0, 0], [4, 0], [0, 4], [4, 4]])[:sheets]
    distances = np.stack([np.linalg.norm(grid - centre, axis=-1) for centre in centres])
    threshold = SimpleNamespace(value=level)
    return SimpleNamespace(
        scores=distances, threshold=threshold, inside=inside, false_alarms=false_alarms
    )


SIDES = {"one boundary": side(), "one a latent class": side(0.1, np.nan, sheets=4)}
RESULTS = pd.DataFrame(
    {
        "dataset": "digits",
        "scenario": ["CUR", "CUR", "STR", "STR"],
        "method": ["ODIN", "SVDD", "ODIN", "SVDD"],
        "auroc": [0.9, 0.6, 0.95, 0.7],
        "low": [0.88, 0.5, 0.9, 0.65],
        "high": [0.91, 0.7, 0.97, 0.75],
        "paper": [0.92, 0.55, np.nan, np.nan],
    }
)
SWEEP = pd.DataFrame(
    {
        "value": [2, 6, 10, 2, 10],
        "scenario": ["CUR"] * 3 + ["STR"] * 2,
        "auroc": [0.65, 0.85, 0.91, 0.7, np.nan],
        "low": [0.6, 0.8, 0.9, np.nan, np.nan],
        "high": [0.7, 0.9, 0.92, np.nan, np.nan],
    }
)
MATRIX = pd.DataFrame({"ODIN": [0.9, 0.4], "SVDD": [0.8, 0.5]}, index=[3, 7])
BOUND = (np.linspace(-1, 4, 50), np.linspace(1, 0.05, 50), SCORES[:300])

FIGURES = {
    "loss": lambda: charts.loss_curves({"DEC": [0.5, 0.4], "other": [0.3, 0.2, 0.1]}),
    "histogram": lambda: scored.score_histogram(SCORES, ANOMALY, threshold=1.5),
    "roc": lambda: scored.roc_curves({"ODIN": (SCORES, ANOMALY), "flipped": (-SCORES, ANOMALY)}),
    "view": lambda: scored.threshold_view(SCORES, ANOMALY, 1.5),
    "alarms": lambda: scored.false_alarm_curve(*BOUND, normals=SCORES[:200]),
    "guarantee": lambda: scored.guarantee_check(RANDOM.beta(6, 94, 99), alpha=0.1, delta=0.1, n=60),
    "ablation": lambda: charts.ablation_lines(
        SWEEP, x="value", setting="clusters K", line="scenario"
    ),
    "bars": lambda: charts.auroc_bars(RESULTS),
    "classes": lambda: charts.auroc_matrix(MATRIX),
    "waterfall": lambda: charts.waterfall(("clean", 0.8), {"a": 0.05, "b": -0.02}),
    "boundaries": lambda: charts.boundary_panels(
        POINTS, POINTS + 2, SIDES, x=X, y=Y, labels=LABELS
    ),
    "map": lambda: clusters.latent_scatter(POINTS, LABELS, hover={"confidence": SCORES}),
    "values": lambda: clusters.latent_scatter(POINTS, SCORES, continuous=True, meaning="score"),
    "confidence": lambda: clusters.confidence_histograms(SCORES.clip(0, 1), LABELS, hidden=LABELS),
    "clusters": lambda: clusters.cluster_matrix(LABELS, LABELS % 2),
    "health": lambda: clusters.cluster_health(
        np.array([0.6, 0.399, 0.001]), [0.1, 0.01], [0.8, 0.4]
    ),
}


def public(module):
    """The functions of a module that draw: those that are written in it and return a Figure."""
    mine = [
        each for each in vars(module).values() if getattr(each, "__module__", "") == module.__name__
    ]
    return {
        each.__name__
        for each in mine
        if getattr(each, "__annotations__", {}).get("return") == "Figure"
    }


@cache
def drawn(name):
    return FIGURES[name]()


def note(figure):
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def test_every_chart_is_in_this_test():
    called = {name for draw in FIGURES.values() for name in draw.__code__.co_names}
    drawing = set().union(*map(public, (charts, clusters, scored)))
    assert len(drawing) == 15
    assert drawing <= called


@pytest.mark.parametrize("name", FIGURES)
def test_what_all_figures_have(name):
    figure = drawn(name)
    text = alt_text(figure)
    assert len(text) > len(figure.layout.meta["title"]) + 20
    assert "nan" not in text.lower().replace("nand", "")
    assert "<" not in text
    assert note(figure)
    assert figure.layout.width is None
    assert figure.layout.autosize
    assert figure.layout.template == theme.TEMPLATE
    assert go.Figure(json.loads(figure.to_json())).layout.meta == figure.layout.meta
    panels = [axis for axis in figure.layout if axis[:5] in ("xaxis", "yaxis")]
    if len(panels) == 2:
        assert figure.layout.xaxis.title.text
        assert figure.layout.yaxis.title.text


@pytest.mark.parametrize("name", FIGURES)
def test_colours_are_ours_and_categories_differ_without_colour(name):
    figure = drawn(name)
    known = {*theme.PALETTE, NORMAL, ANOMALOUS, theme.INK, "white"}
    looks = []
    for trace in figure.data:
        marker, line = trace.to_plotly_json().get("marker", {}), getattr(trace, "line", None)
        colour = marker.get("color", line.color if line else None)
        if isinstance(colour, str):
            assert colour in known, (name, trace.name)
        if (
            trace.showlegend is not False
            and trace.name
            and trace.type in ("bar", "scatter", "scattergl")
        ):
            pattern = marker.get("pattern", {}).get("shape")
            looks.append((trace.name, marker.get("symbol"), pattern, line.dash if line else None))
    assert len({look[1:] for look in looks}) == len({look[0] for look in looks}) or len(looks) < 2


def test_losses_keep_their_epochs():
    figure = charts.loss_curves({"a": [0.5, 0.4], "b": [0.3, 0.2, 0.1]}, loss="KL, nats an image")
    assert list(figure.data[1].x) == [1, 2, 3]
    assert figure.data[0].y[:2].tolist() == [0.5, 0.4]
    assert np.isnan(figure.data[0].y[2])
    assert "a from 0.5 to 0.4; b from 0.3 to 0.1" in alt_text(figure)
    assert figure.layout.yaxis.title.text == "KL, nats an image"
    assert figure.layout.yaxis.type == "log"  # 0.5 to 0.1
    assert charts.loss_curves({"a": [0.5, 0.4]}).layout.yaxis.type is None
    with pytest.raises(ValueError, match="losses"):
        charts.loss_curves({"a": [0.5, np.nan]})


def test_the_histogram_counts_every_image_of_a_kind():
    figure = scored.score_histogram(np.r_[SCORES, 1e9], np.r_[ANOMALY, True])
    normal, anomalous = figure.data
    assert (normal.name, len(normal.x)) == ("normal", 300)
    assert (anomalous.name, len(anomalous.x)) == ("anomalous", 101)
    assert max(anomalous.x) < 1e9  # counted in the last bin
    assert (normal.marker.color, anomalous.marker.color) == (NORMAL, ANOMALOUS)
    assert {normal.histnorm, anomalous.histnorm} == {"probability"}
    assert "normal 300, anomalous 101" in alt_text(figure)
    assert [trace.name for trace in scored.score_histogram(SCORES[:300], ANOMALY[:300]).data] == [
        "normal"
    ]
    with pytest.raises(ValueError, match="scores"):
        scored.score_histogram(np.array([0.0, np.nan]), np.array([True, False]))


def test_the_threshold_is_told_as_it_was_counted():
    alarms, found = (SCORES[:300] > 1.5).mean(), (SCORES[300:] > 1.5).mean()
    told = f"lie {alarms:.1%} of the normal images and {found:.1%} of the anomalous images"
    figure = scored.score_histogram(SCORES, ANOMALY, threshold=1.5)
    assert figure.layout.shapes[0].x0 == figure.layout.shapes[0].x1 == 1.5
    assert told in note(figure)
    view = scored.threshold_view(SCORES, ANOMALY, 1.5)
    line, circle = view.layout.shapes
    assert line.x0 == line.x1 == 1.5
    assert (circle.xanchor, circle.yanchor) == (pytest.approx(alarms), pytest.approx(found))
    assert (circle.xref, circle.yref) == ("x2", "y2")
    assert told in note(view)
    assert told in alt_text(view)
    curve = next(trace for trace in view.data if trace.type == "scatter")
    on_curve = np.interp(alarms, curve.x, curve.y)
    assert on_curve == pytest.approx(found, abs=0.02)
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(roc_auc_score(ANOMALY, SCORES), abs=0.01)
    one_kind = scored.at_threshold(SCORES[:300], ANOMALY[:300], 1.5)
    assert one_kind == f"Above the threshold 1.5 (dashed) lie {alarms:.1%} of the normal images."


def test_shares_above_lines_by_hand():
    assert scored.above(np.array([3.0, 1.0, 2.0]), [0, 1, 2.5, 3]).tolist() == [
        *(1, pytest.approx(2 / 3), pytest.approx(1 / 3), 0)
    ]
    assert scored.above(np.zeros(0), [0.0]).tolist() == [0]


def test_roc_areas_against_scikit_learn():
    figure = drawn("roc")
    area = roc_auc_score(ANOMALY, SCORES)
    assert [trace.name for trace in figure.data] == [
        f"ODIN · AUROC {area:.3f}",
        f"flipped · AUROC {1 - area:.3f}",  # below 0.5 is shown as it is
    ]
    for trace, expected in zip(figure.data, (area, 1 - area), strict=True):
        assert np.trapezoid(trace.y, trace.x) == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"normal|anomal"):
        scored.roc_curves({"ODIN": (SCORES[:300], ANOMALY[:300])})


def test_false_alarms_are_counted_above_each_threshold():
    thresholds = np.array([-1.0, 0.5, 9.0])
    figure = scored.false_alarm_curve(
        thresholds, np.array([1, 0.6, 0.2]), np.array([0.0, 0.5, 1.0, 2.0]), normals=np.zeros(5)
    )
    values = [np.nan_to_num(trace.y, nan=-1).tolist() for trace in figure.data]
    assert values == [[1000, 600, 200], [1000, 500, -1], [1000, -1, -1]]  # no 0 on a log axis
    assert figure.layout.yaxis.type == "log"
    assert "0.9 over the draw of the 4 calibration images" in note(figure)
    assert len(scored.false_alarm_curve(*BOUND).data) == 2


def test_the_picture_of_the_check_counts_what_it_shows():
    rates = np.array([0.05] * 7 + [0.12] * 3)
    figure = scored.guarantee_check(rates, alpha=0.1, delta=0.2, n=60)
    assert "30.0% of 10 draws lie beyond alpha = 0.1 (dashed); at most 20%" in note(figure)
    assert figure.layout.shapes[0].x0 == pytest.approx(10)
    with pytest.raises(ValueError, match="rates"):
        scored.guarantee_check(np.array([0.1, np.nan]), alpha=0.1, delta=0.1, n=60)


def test_ablations_have_intervals_and_a_reference():
    figure = charts.ablation_lines(
        SWEEP, x="value", setting="clusters K", line="scenario", reference=("DeepSVDD", 0.8)
    )
    assert [line.name for line in figure.data] == ["CUR", "STR"]
    assert figure.data[0].y.tolist() == [0.65, 0.85, 0.91]
    assert figure.data[0].error_y.array == pytest.approx([0.05, 0.05, 0.01])
    assert figure.data[0].error_y.arrayminus == pytest.approx([0.05, 0.05, 0.01])
    assert "CUR 6 0.850" in alt_text(figure)
    assert "DeepSVDD, 0.800" in note(figure)
    assert figure.layout.shapes[0].y0 == 0.8


def test_bars_stand_in_panels_with_the_papers_values():
    figure = drawn("bars")
    heads = [head.text for head in figure.layout.annotations]
    assert heads == ["digits CUR", "digits STR"]
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert [list(trace.x) for trace in bars] == [[0.9, 0.6], [0.95, 0.7]]
    assert bars[0].error_x.array == pytest.approx([0.01, 0.1])
    assert bars[0].error_x.arrayminus == pytest.approx([0.02, 0.1])
    paper = [trace for trace in figure.data if trace.type == "scatter"]
    assert [(trace.xaxis, trace.yaxis) for trace in paper] == [(t.xaxis, t.yaxis) for t in bars]
    assert list(paper[0].x) == [0.92, 0.55]
    assert np.isnan(paper[1].x).all()
    assert all(axis.matches is None for axis in figure.select_xaxes())  # else bars are cut off
    assert "digits STR ODIN 0.950" in alt_text(figure)


def test_the_hardest_class_is_on_top():
    figure = drawn("classes")
    assert list(figure.data[0].y) == ["7", "3"]
    assert figure.data[0].z.tolist() == [[0.4, 0.5], [0.9, 0.8]]
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)  # 0.5 is white
    assert "7 0.450, 3 0.850" in alt_text(figure)


def test_the_waterfall_adds_up():
    figure = drawn("waterfall")
    bars = figure.data[0]
    assert np.isclose(sum(bars.y[:-1]), bars.y[-1])
    assert list(bars.text) == ["0.800", "+0.050", "-0.020", "0.830"]
    low, high = figure.layout.yaxis.range
    assert low < 0.8 < 0.85 < high


def test_boundaries_tell_their_shares_and_draw_some_points():
    figure = charts.boundary_panels(POINTS, POINTS + 2, SIDES, x=X, y=Y, labels=LABELS, drawn=40)
    left, right = (head.text for head in figure.layout.annotations)
    assert left == "one boundary<br>anomalies inside: 50%<br>normal test images outside: 10%"
    assert right == "one a latent class<br>anomalies inside: 10%<br>normal test images outside: –"
    marks = [trace for trace in figure.data if trace.type == "scatter"]
    assert [len(trace.x) for trace in marks if trace.name == "anomaly"] == [40, 40]
    assert sum(len(trace.x) for trace in marks if trace.name.startswith("latent")) == 80
    for k, centre in enumerate([[0, 0], [4, 0], [0, 4], [4, 4]]):  # thinned together with labels
        trace = next(trace for trace in marks if trace.name == f"latent class {k}")
        assert np.allclose([np.mean(trace.x), np.mean(trace.y)], centre, atol=1)
        assert trace.marker.color == theme.PALETTE[k]
    named = [trace.name for trace in marks if trace.showlegend]
    assert len(named) == len({*named}) == 5
    regions = [trace for trace in figure.data if trace.type == "contour"]
    assert [region.xaxis for region in regions] == ["x", "x2"]
    assert np.allclose(regions[1].z, SIDES["one a latent class"].scores.min(0))
    assert regions[0].contours.value == 2
    assert "anomalies inside: 50%" in alt_text(figure)


def test_no_class_wears_the_mark_of_the_anomalies():
    figure = charts.boundary_panels(POINTS, POINTS, SIDES, x=X, y=Y, labels=np.arange(400) % 12)
    symbols = {trace.name: trace.marker.symbol for trace in figure.data if trace.type == "scatter"}
    assert [name for name, symbol in symbols.items() if symbol == "x"] == ["anomaly"]
    assert len(symbols) == 13


def test_no_anomalies_are_drawn_as_none():
    figure = charts.boundary_panels(
        POINTS, POINTS[:0], {"one": side(np.nan)}, x=X, y=Y, labels=LABELS
    )
    assert "anomalies inside: –" in figure.layout.annotations[0].text
    assert "nan" not in alt_text(figure)


def test_a_map_has_a_mark_for_every_image_and_its_row_first():
    figure = clusters.latent_scatter(
        POINTS, LABELS, names=["w", "x<y", "z", "v"], hover={"confidence": SCORES}
    )
    assert [trace.name for trace in figure.data] == ["w", "x&lt;y", "z", "v"]
    rows = np.concatenate([trace.customdata[:, 0] for trace in figure.data]).astype(int)
    assert sorted(rows) == list(range(400))
    for k, trace in enumerate(figure.data):
        mine = trace.customdata[:, 0].astype(int)
        assert (LABELS[mine] == k).all()
        assert np.allclose(np.stack([trace.x, trace.y], axis=1), POINTS[mine], atol=1e-5)
        assert np.allclose(trace.customdata[:, 1], SCORES[mine], atol=1e-4)
        assert trace.type == "scattergl"
    assert "z 100" in alt_text(figure)


def test_a_map_of_values_has_a_scale():
    figure = drawn("values")
    assert len(figure.data) == 1
    assert figure.layout.coloraxis.colorbar.title.text == "score"
    rows = figure.data[0].customdata[:, 0].astype(int)
    assert np.allclose(figure.data[0].marker.color, SCORES[rows])
    with pytest.raises(ValueError, match="points"):
        clusters.latent_scatter(np.full((3, 2), np.nan), np.arange(3))


def test_a_map_of_ten_thousand_stays_small():
    many = np.random.default_rng(0).normal(size=(10_000, 2))
    figure = clusters.latent_scatter(many, np.arange(10_000) % 9)
    assert len(figure.to_json()) < 400_000


def test_confidence_has_a_panel_a_cluster_and_a_colour_a_hidden_class():
    labels, hidden = np.array([0, 0, 0, 2, 2, 11]), np.array([1, 1, 0, 0, 0, 1])
    q = np.array([0.9, 0.8, 0.7, 0.6, 1.0, 0.3])
    figure = clusters.confidence_histograms(q, labels, hidden=hidden, names=["a", "b"])
    assert [head.text for head in figure.layout.annotations] == [
        "cluster 0",
        "cluster 2",
        "cluster 11",
    ]
    assert sum(len(trace.x) for trace in figure.data) == 6
    assert {trace.name for trace in figure.data if trace.showlegend} == {"a", "b"}
    assert figure.layout.barmode in ("relative", "stack")
    assert all(tuple(axis.range) == (0, 1) for axis in figure.select_xaxes())
    assert "0 0.80, 2 0.80, 11 0.30" in alt_text(figure)


def test_the_matrix_counts_by_hand():
    labels, hidden = np.array([0, 0, 0, 1, 1, 2]), np.array([1, 1, 0, 0, 0, 1])
    figure = clusters.cluster_matrix(labels, hidden, names=["a", "b"])
    assert np.array(figure.data[0].text).tolist() == [[2, 0], [1, 2], [0, 1]]
    assert list(figure.data[0].y) == ["1", "0", "2"]
    assert np.allclose(figure.data[0].z, [[1, 0], [1 / 3, 2 / 3], [0, 1]])
    assert figure.layout.yaxis.type == figure.layout.xaxis.type == "category"
    assert "Purity: 0.833." in note(figure)
    assert "Purity: 0.833." in alt_text(figure)


def test_health_names_dead_clusters_and_the_last_values():
    figure = drawn("health")
    assert [list(trace.y) for trace in figure.data] == [
        [0.6, 0.399, 0.001],
        [0.1, 0.01],
        [0.8, 0.4],
    ]
    assert [list(trace.x) for trace in figure.data] == [[0, 1, 2], [1, 2], [1, 2]]
    lines = sorted((shape.xref, shape.y0) for shape in figure.layout.shapes)
    assert lines == [
        ("x domain", pytest.approx(0.05 / 3)),
        ("x domain", pytest.approx(1 / 3)),
        ("x2 domain", 0.001),
    ]
    assert "1 of 3 clusters are dead" in alt_text(figure)
    assert "last churn and entropy: 0.010 and 0.400" in alt_text(figure)
    kmeans = clusters.cluster_health(np.array([0.5, 0.5]), np.zeros(0), np.zeros(0))
    assert "0 of 2 clusters are dead" in alt_text(kmeans)
