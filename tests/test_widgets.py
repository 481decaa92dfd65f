"""The explorers without a browser: traits are set, and what they show is compared with numbers computed here."""

import re

import numpy as np
import pytest

from clad_lib import calibration, operating, pipeline, plots, widgets
from clad_lib.config import make_config
from clad_lib.operating import HAND, LARGEST, NAMED, RATE, Gathered, Setting, Sheet
from clad_lib.runs import RunError
from clad_lib.widgets.mapped import Colouring, Mapped, Placed
from clad_lib.widgets.parts import strip, thumbnail

START = Setting("ODIN", 1000.0, 0.0014)


def text(widget):
    return re.sub(r"<[^>]+>", " ", widget.value)


def numbers(widget):
    return [int(found) for found in re.findall(r"<td[^>]*>(\d+)</td>", widget.value)]


def gathered(count=400, *, normals=300, seed=0, clusters=4):
    random = np.random.default_rng(seed)
    anomaly = np.arange(count) >= normals
    images = random.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
    settings = [START, Setting("ODIN", 1.0, 0.0), Setting("ODIN", 1.0, 0.0014), Setting("ODIN", 1000.0, 0.0), Setting("MSP")]
    sheets = {}
    for number, setting in enumerate(settings):
        scores = random.normal(number, 1, count) + 1.5 * anomaly
        sheets[setting] = Sheet(random.normal(number, 1, 200), scores, np.arange(count))
    places = random.integers(0, clusters, count) if clusters else None
    return Gathered(sheets, anomaly, images, places, START)


def by_hand(data, setting, threshold):
    sheet = data.sheets[setting]
    alarm, anomaly = sheet.test > threshold, data.anomaly[sheet.rows]
    return [(alarm & anomaly).sum(), (~alarm & anomaly).sum(), (alarm & ~anomaly).sum(), (~alarm & ~anomaly).sum()]


def test_the_explorer_starts_at_a_threshold_from_calibration_images():
    data = gathered()
    explorer = widgets.ThresholdExplorer(data)
    wanted = calibration.threshold_for(data.sheets[START].calibration, alpha=0.1, delta=0.1)
    assert explorer.threshold == wanted.value
    assert explorer.by == NAMED
    assert numbers(explorer.confusion) == by_hand(data, START, wanted.value)
    assert f"{wanted.bound_per_1000:.0f} false alarms in 1,000" in text(explorer.message)


def test_slider_and_number_move_the_same_line():
    data = gathered()
    explorer = widgets.ThresholdExplorer(data)
    explorer.slider.value = explorer.slider.min + 250 * explorer.slider.step
    assert explorer.threshold == explorer.typed.value == pytest.approx(explorer.slider.value)
    assert explorer.by == HAND
    assert numbers(explorer.confusion) == by_hand(data, START, explorer.threshold)
    explorer.typed.value = 0.75
    assert explorer.threshold == 0.75
    assert explorer.figure.layout.shapes[0].x0 == 0.75
    assert abs(explorer.slider.value - 0.75) <= explorer.slider.step / 2
    x, y = plots.threshold_point(data.sheets[START].test, data.anomaly, 0.75)
    assert explorer.figure.data[3].x == pytest.approx(x)
    assert explorer.figure.data[3].y == pytest.approx(y)


def test_an_echo_of_the_browser_is_no_hand():
    explorer = widgets.ThresholdExplorer(gathered())
    before = explorer.threshold
    explorer._on_slider(explorer.slider.value + explorer.slider.step / 3)
    assert (explorer.threshold, explorer.by) == (before, NAMED)
    explorer._on_slider(explorer.slider.value + explorer.slider.step)
    assert explorer.by == HAND


def test_each_score_temperature_and_epsilon_has_its_own_scores():
    data = gathered()
    explorer = widgets.ThresholdExplorer(data)
    explorer.score.value = "MSP"
    assert explorer.setting == Setting("MSP")
    assert explorer.temperature.disabled
    assert numbers(explorer.confusion) == by_hand(data, Setting("MSP"), explorer.threshold)
    explorer.score.value, explorer.temperature.value, explorer.epsilon.value = "ODIN", 1.0, 0.0
    assert numbers(explorer.confusion) == by_hand(data, Setting("ODIN", 1.0, 0.0), explorer.threshold)
    assert "epsilon = 0 " in explorer.figure.layout.xaxis.title.text


def test_a_wish_that_no_threshold_can_promise_is_said():
    explorer = widgets.ThresholdExplorer(gathered())
    explorer.alpha.value = 0.001
    assert "needs 2302" in text(explorer.message)
    assert explorer.threshold == explorer.sheet.calibration.max()
    assert explorer.by == RATE
    assert widgets.ThresholdExplorer(gathered(), alpha=0.001).by == LARGEST


def test_keep_hands_on_what_is_shown():
    kept = []

    def keep(*what):
        kept.append(what)
        return {"protocol": "oracle", "reason": "because", "threshold": what[2], **what[0]._asdict()}

    explorer = widgets.ThresholdExplorer(gathered(), keep=keep)
    explorer.typed.value = 0.5
    explorer.keep_button.click()
    assert kept[0][0] == START
    assert kept[0][2:] == (0.5, explorer.point, HAND, None)
    assert "0.5 on ODIN, T = 1000, epsilon = 0.0014, protocol oracle: because" in text(explorer.kept)
    explorer.alpha.value = 0.2
    assert text(explorer.kept).strip() == ""
    explorer.keep_button.click()
    assert kept[1][4:] == (RATE, 0.2)


def test_a_rate_tuned_on_the_anomalies_and_typed_again_is_not_named_beforehand():
    explorer = widgets.ThresholdExplorer(gathered())
    for alpha in (0.05, 0.3, 0.2):
        explorer.alpha.value = alpha
        assert explorer.by == RATE
        assert "had this rate been named before looking" in text(explorer.message)
    explorer.alpha.value = 0.1  # the one that the explorer opened with
    assert explorer.by == NAMED


def test_a_score_that_cannot_be_shown_leaves_nothing_to_keep():
    data, kept = gathered(), []
    data.sheets[Setting("MSP")] = Sheet(np.ones(200), np.ones(400), np.arange(400))
    explorer = widgets.ThresholdExplorer(data, keep=lambda *what: kept.append(what))
    before = explorer.confusion.value
    explorer.score.value = "MSP"
    assert "all scores of MSP are 1" in text(explorer.message)
    assert explorer.keep_button.disabled
    assert explorer.slider.disabled
    assert (explorer.shown, explorer.confusion.value) == (START, before)
    explorer.score.value = "ODIN"
    assert not explorer.keep_button.disabled


def test_tracks_are_promised_as_tracks():
    assert "tracks, one image of each" in text(widgets.ThresholdExplorer(gathered()._replace(tracks=True)).message)
    assert "calibration images" in text(widgets.ThresholdExplorer(gathered()).message)


def test_a_disk_that_refuses_is_said_in_the_widget():
    def keep(*_):
        raise RunError("cannot write: no space")

    explorer = widgets.ThresholdExplorer(gathered(), keep=keep)
    explorer.keep_button.click()
    assert "cannot write: no space" in text(explorer.kept)


def test_a_run_without_anomalies_still_has_a_threshold():
    data = gathered(normals=400)
    explorer = widgets.ThresholdExplorer(data)
    explorer.slider.value = explorer.slider.min + 100 * explorer.slider.step
    assert numbers(explorer.confusion)[:2] == [0, 0]
    assert len(explorer.figure.data[3].x) == 0


def test_one_cluster_or_none():
    assert "cluster 0" in text(widgets.ThresholdExplorer(gathered(clusters=1)).clusters)
    assert widgets.ThresholdExplorer(gathered(clusters=0)).clusters.value == ""


def test_a_hundred_thousand_images():
    data = gathered(100_000, normals=80_000)
    explorer = widgets.ThresholdExplorer(data)
    explorer.typed.value = 1.0
    assert numbers(explorer.confusion) == by_hand(data, START, 1.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_one_line(value, monkeypatch):
    data = gathered()
    data.sheets[START].test[3] = value
    monkeypatch.setattr(operating, "gather", lambda _: data)
    shown = widgets.threshold_explorer(None)
    assert "NaN or infinite" in text(shown)
    monkeypatch.setattr(
        operating, "gather", lambda _: gathered()._replace(sheets={START: Sheet(*np.ones((2, 50)), np.arange(50))})
    )
    assert "there is no threshold to explore" in text(widgets.threshold_explorer(None))


def test_a_typed_threshold_that_is_no_number_is_refused():
    explorer = widgets.ThresholdExplorer(gathered())
    before = explorer.threshold
    explorer.typed.value = float("nan")
    assert "expected a number" in text(explorer.message)
    assert explorer.threshold == before


def test_an_empty_run_shows_a_line(tmp_path):
    study = pipeline.open_study(make_config(profile="smoke"), runs_root=tmp_path, device="cpu", progress=False)
    assert "run notebook 05_odin_scoring first" in text(widgets.threshold_explorer(study))
    assert "run notebook 02_latent_space first" in text(widgets.latent_explorer(study))


def mapped(count=60, clusters=3, **more):
    random = np.random.default_rng(0)
    labels, hidden = np.arange(count) % clusters, np.arange(count) % 2
    confidence = np.linspace(0.2, 0.9, count)
    colourings = {"cluster": Colouring(labels, tuple(f"cluster {k}" for k in range(clusters)))}
    colourings |= {"confidence": Colouring(confidence), "hidden class (analysis)": Colouring(hidden, ("even", "odd"))}
    return Mapped(random.normal(size=(count, 2)), random.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8), colourings, "told",
                  labels, confidence, hidden, ("even", "odd"), **more)  # fmt: skip


def test_a_selection_shows_its_images_and_what_they_share():
    explorer = widgets.LatentExplorer(mapped())
    explorer.select(list(range(30)))
    assert explorer.selection.value.count("<img") == 24
    assert "30 images selected" in text(explorer.selection)
    assert "cluster 0: 10, cluster 1: 10, cluster 2: 10" in text(explorer.selection)
    assert "even: 15, odd: 15" in text(explorer.selection)
    explorer.select([])
    assert "nothing selected" in text(explorer.selection)


def test_the_card_of_a_cluster_by_hand():
    data = mapped()
    explorer = widgets.LatentExplorer(data)
    explorer.cluster.value = 1
    rows = np.flatnonzero(data.labels == 1)
    assert f"{data.confidence[rows].mean():.3f}" in text(explorer.card)
    assert "33.3%, 20 images" in text(explorer.card)
    assert "0.500, mostly even" in text(explorer.card)
    best, worst = data.images[rows[-1]], data.images[rows[0]]
    assert explorer.card.value.index(thumbnail(best)) < explorer.card.value.index(thumbnail(worst))
    explorer._click([2])
    assert explorer.cluster.value == 2
    explorer.cluster.value = -1
    assert explorer.card.value == ""


def test_colours_and_hover():
    data = mapped()
    explorer = widgets.LatentExplorer(data)
    np.testing.assert_array_equal(explorer.figure.data[0].marker.color, data.labels)
    assert len(set(explorer.figure.data[0].marker.symbol)) == 3  # told apart in grey
    explorer.colour.value = "confidence"
    np.testing.assert_allclose(explorer.figure.data[0].marker.color, data.confidence, rtol=1e-6)
    explorer._show([7])
    assert thumbnail(data.images[7]) in explorer.hover.value
    assert "confidence 0.283" in text(explorer.hover)


def test_test_images_are_placed_when_asked_for():
    placed = Placed(np.array([[0.0, 1.0], [2.0, 3.0]]), np.zeros((2, 3, 8, 8), np.uint8), np.array([True, False]))
    explorer = widgets.LatentExplorer(mapped(place=lambda: placed))
    explorer.place_button.click()
    assert list(explorer.figure.data[1].x) == [0.0, 2.0]
    assert list(explorer.figure.data[1].marker.symbol) == ["x", "circle-open"]
    explorer._show([0], placed=True)
    assert "anomaly" in text(explorer.hover)

    def refuses():
        raise ValueError("the map does not fit")

    explorer = widgets.LatentExplorer(mapped(place=refuses))
    explorer.place_button.click()
    assert "the map does not fit" in text(explorer.message)
    assert widgets.LatentExplorer(mapped()).place_button.disabled


def test_more_points_than_a_browser_likes_are_sampled():
    explorer = widgets.LatentExplorer(mapped(100_000))
    assert len(explorer.figure.data[0].x) == 20_000
    assert "20,000 of them drawn" in text(explorer.message)
    explorer.select([0])
    assert thumbnail(explorer.data.images[explorer.rows[0]]) in explorer.selection.value


def test_one_cluster_and_points_that_are_no_numbers():
    widgets.LatentExplorer(mapped(clusters=1)).cluster.value = 0
    data = mapped()
    data.points[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        widgets.LatentExplorer(data)


def test_a_strip_escapes_its_captions():
    shown = strip(np.zeros((1, 1, 4, 4), np.uint8), ["<b>5 & 6</b>"])
    assert "&lt;b&gt;5 &amp; 6" in shown
    assert strip(np.zeros((0, 1, 4, 4), np.uint8)) == "<i>no images</i>"
