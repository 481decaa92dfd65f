"""Operating points and the threshold explorer, without a browser: numbers against those of the test."""

import html
import json
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import beta

from clad_lib.config import make_config
from clad_lib.judge import guarantees
from clad_lib.look import operating_point as points
from clad_lib.look import threshold_explorer as module
from clad_lib.look.operating_point import HAND, NAMED, RATE, Setting, Sheet
from clad_lib.look.parts import number, read_number
from clad_lib.look.threshold_explorer import ThresholdExplorer
from clad_lib.study.store import StoreError

START = Setting("ODIN", 1000.0, 0.0014)
SMALL = Sheet(
    np.arange(10.0),
    np.array([1.0, 2, 3, 4, 5, 6]),
    np.arange(6),
    np.array([0, 0, 1, 0, 1, 1], bool),
)


def text(widget):
    return html.unescape(
        re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", getattr(widget, "value", widget)))
    ).strip()


def made_up(count=400, *, normals=300, clusters=4, n=200, seed=0):
    """Sheets on scales as far apart as those of real scores, some on a sample of the test images."""
    random = np.random.default_rng(seed)
    anomaly, images = (
        np.arange(count) >= normals,
        random.integers(0, 256, (count, 1, 8, 8), np.uint8),
    )
    places = random.integers(0, clusters, count) if clusters else None
    odin = [START, *(Setting("ODIN", t, e) for t in (1.0, 1000.0) for e in (0.0, 0.0014, 0.0112))]
    scales = dict.fromkeys(odin, (2.29, 0.003))
    scales |= {Setting("MSP"): (-0.9, 0.1), Setting("Mahalanobis"): (4.0e6, 3.0e5)}
    sheets = {}
    for setting, (middle, spread) in scales.items():
        whole = setting in (START, Setting("MSP"), Setting("Mahalanobis"))
        rows = np.arange(count) if whole else np.sort(random.permutation(count)[: count // 2])
        test = middle + spread * (random.normal(size=count) + 1.5 * anomaly)[rows]
        calibration = middle + spread * random.normal(size=n)
        sheets[setting] = Sheet(
            calibration, test, rows, anomaly[rows], None if places is None else places[rows]
        )
    return sheets, images


def counts(explorer):
    """The four counts as they stand on the screen."""
    block = re.search(r'class="clad-part clad-counts".*?</div>', explorer.costs.value, re.DOTALL)[0]
    return [int(cell.replace(",", "")) for cell in re.findall(r"<td>([\d,]+)</td>", block)]


def by_hand(sheet, threshold):
    alarm, anomaly = sheet.test > threshold, sheet.anomaly
    return [
        (alarm & anomaly).sum(),
        (~alarm & anomaly).sum(),
        (alarm & ~anomaly).sum(),
        (~alarm & ~anomaly).sum(),
    ]


def rank(n, alpha, delta=0.1):
    """The largest k for which the k-th largest of n scores keeps alpha with probability 1 - delta."""
    return max((k for k in range(1, n + 1) if beta.sf(alpha, k, n - k + 1) <= delta), default=0)


# --- numbers


def test_counts_by_hand():
    line = points.line_at(SMALL, 3.0)
    assert line.counts == dict(
        caught=2, missed=1, false_alarms=1, passed=2, above=6, calibration=10
    )
    assert line.by == HAND
    band = guarantees.false_alarm_band(SMALL.calibration, delta=0.1)
    assert line.bound_per_1000 == pytest.approx(1000 * float(guarantees.band_at(band, 3.0)))
    nothing = points.line_at(SMALL, np.inf)
    assert [nothing.counts[name] for name in ("caught", "false_alarms", "above")] == [0, 0, 0]


@pytest.mark.parametrize("above", range(11))
def test_a_share_of_calibration_images_lies_above_a_line(above):
    line = points.line_for_share(SMALL, above / 10)
    assert line.counts["above"] == above == (SMALL.calibration > line.threshold).sum()


def test_a_rate_gives_the_line_of_the_order_statistics():
    for n, alpha in ((200, 0.1), (200, 0.02), (70, 0.05), (1000, 0.3)):
        sheet = SMALL._replace(calibration=np.random.default_rng(n).normal(size=n))
        line = points.line_for_rate(sheet, alpha, named=0.1)
        assert line.threshold == np.sort(sheet.calibration)[n - rank(n, alpha)]
        assert (line.by, line.alpha) == (NAMED if alpha == 0.1 else RATE, alpha)


def test_where_no_line_promises_the_rate_it_is_the_highest_score():
    line = points.line_for_rate(SMALL, 0.01, named=0.01)
    assert (line.threshold, line.by, line.counts["above"]) == (9.0, NAMED, 0)
    assert line.promise.bound_per_1000 == pytest.approx(1000 * (1 - 0.1 ** (1 / 10)))


def test_rates_of_each_cluster_by_hand():
    found = points.cluster_rates(SMALL._replace(clusters=np.array([0, 2, 2, 0, 0, 2])), 3.5)
    assert found.index.tolist() == [0, 2]  # cluster 1 has no image
    assert found.loc[0].tolist() == [2, 0.5, 1, 1.0]  # normals 1 and 4, anomaly 5
    assert found.loc[2].tolist() == [1, 0.0, 2, 0.5]  # normal 2, anomalies 3 and 6
    alone = points.cluster_rates(SMALL._replace(clusters=np.array([0, 0, 1, 0, 1, 1])), 3.5)
    assert np.isnan(alone.loc[0, "found"])
    assert np.isnan(alone.loc[1, "false alarms"])


# --- sentences are functions of the numbers beside them


def test_a_promise_is_made_only_for_a_rate_named_beforehand():
    sheet = SMALL._replace(calibration=np.arange(200.0))
    words = guarantees.in_words(guarantees.threshold_for(sheet.calibration, alpha=0.1))
    assert (
        points.promise_sentence(points.line_for_rate(sheet, 0.1, named=0.1)) == f"Promised: {words}"
    )
    picked = points.promise_sentence(points.line_for_rate(sheet, 0.1, named=0.05))
    assert picked == f"Promised if it had been fixed before looking: {words}"
    assert "no rate is promised" in points.promise_sentence(points.line_at(sheet, 3.0))
    assert "tracks" in points.promise_sentence(
        points.line_for_rate(sheet, 0.1, named=0.1), tracks=True
    )


@pytest.mark.parametrize("named", [0.005, 0.1])
def test_a_rate_that_cannot_be_promised_says_so_and_no_more(named):
    sheet = SMALL._replace(calibration=np.arange(140.0), test=np.full(6, 1e3))  # all of them alarm
    line = points.line_for_rate(sheet, 0.005, named=named)
    told = points.promise_sentence(line)
    needed = next(n for n in range(1, 9999) if (1 - 0.005) ** n <= 0.1)
    assert told.startswith(f"0.5 % cannot be promised: that needs {needed:,} calibration images.")
    assert "highest of 140" in told
    assert line.counts["false_alarms"] == 3
    assert "othing alarms" not in told
    assert ("Promised: " in told) == (named == 0.005)


def test_false_alarms_are_told_apart():
    line = points.line_at(SMALL, 3.0)
    cells = points.false_alarms(line)[""]
    assert cells.iloc[0] == f"{line.bound_per_1000:.1f}"
    assert cells["expected"] == f"{1000 * 7 / 11:.1f}"
    assert cells["counted on 3 normal test images"] == "333.3"
    alone = points.line_at(SMALL._replace(anomaly=np.ones(6, bool)), 3.0)
    assert points.false_alarms(alone)[""].iloc[-1] == "no such image"


def test_numbers_as_people_read_them():
    assert number(2.298765432, 0.003) == "2.29877"
    assert number(4312479, 1e6) == "4,310,000"
    assert number(-0.91234, 0.1) == "\N{MINUS SIGN}0.912"
    assert number(0.0, 0.0) == "0.00"


@pytest.mark.parametrize(
    "typed", ["2,29", "1e99", "nan", "inf", "", "two", "-3", "2.2.2", "'; DROP"]
)
def test_nonsense_is_refused_with_a_word(typed):
    with pytest.raises(ValueError, match=r"the line cannot be .*expected a number from 2 to 3"):
        read_number(typed, "the line", 2.0, 3.0)


@pytest.mark.parametrize(
    ("typed", "value"), [("2.29", 2.29), (" 2.5 ", 2.5), ("2.5 %", 2.5), ("2e0", 2.0)]
)
def test_a_number_is_read(typed, value):
    assert read_number(typed, "the line", 2.0, 3.0) == value
    assert read_number("\N{MINUS SIGN}1", "the line", -2.0, 3.0) == -1.0


# --- the explorer


def check(explorer, sheets):
    """All that stands on the screen against numbers computed here."""
    sheet, line = sheets[explorer.setting], explorer.line
    assert explorer.score.value == explorer.setting.score
    if explorer.setting.score == "ODIN":
        assert explorer.setting[1:] == (explorer.temperature.value, explorer.epsilon.value)
    assert (
        explorer.temperature.disabled
        == explorer.epsilon.disabled
        == (explorer.setting.score != "ODIN")
    )
    assert counts(explorer) == by_hand(sheet, line.threshold)
    spread, above = sheet.test.std(), (sheet.calibration > line.threshold).sum()
    assert explorer.typed.value == number(line.threshold, spread)
    n = len(sheet.calibration)
    share = f"{100 * above / n:.3g} % ({above:,} of {n:,} calibration images)"
    assert explorer.slider.text == f"{share}, score {explorer.typed.value}"
    assert explorer.slider.value == pytest.approx(100 * above / n, abs=50 / n)
    assert 0 <= explorer.slider.value <= explorer.slider.max == 100
    *_, roc = explorer.figure.traces
    assert roc["name"] == "ROC curve"
    dashed, circle = explorer.figure.frame["shapes"]
    assert dashed["x0"] == dashed["x1"] == line.threshold
    found, missed, false, passed = by_hand(sheet, line.threshold)
    assert circle["xanchor"] == pytest.approx(false / (false + passed))
    assert circle["yanchor"] == pytest.approx(found / (found + missed))
    assert text(explorer.promise) == points.promise_sentence(line)
    assert (
        f"counted on {false + passed:,} normal test images {1000 * false / (false + passed):.1f}"
        in text(explorer.costs)
    )
    assert text(explorer.message) == ""


def test_what_is_drawn_first_is_final():
    sheets, images = made_up()
    explorer = ThresholdExplorer(sheets, images)
    assert explorer.setting == START
    sheet = sheets[START]
    assert explorer.line.threshold == np.sort(sheet.calibration)[-rank(200, 0.1)]
    assert explorer.line.by == NAMED
    check(explorer, sheets)
    sent = explorer.figure.get_state()  # what a page gets when it opens
    assert sent["frame"]["shapes"][0]["x0"] == explorer.line.threshold
    assert len(sent["traces"]) == 3


@pytest.mark.parametrize("alpha", [0.1, 0.02, 0.3])
def test_the_rule_survives_every_score_temperature_and_epsilon(alpha):
    sheets, images = made_up()
    explorer = ThresholdExplorer(sheets, images)
    explorer.rate.value = f"{100 * alpha:g}"
    for score, temperature, epsilon in [*sheets, *reversed(sheets)]:
        explorer.score.value = score
        if temperature is not None:
            explorer.temperature.value, explorer.epsilon.value = temperature, epsilon
        setting = Setting(score, temperature, epsilon)
        assert explorer.setting == setting
        assert explorer.line.threshold == np.sort(sheets[setting].calibration)[-rank(200, alpha)]
        assert explorer.line.by == (NAMED if alpha == 0.1 else RATE)
        check(explorer, sheets)


def test_a_hand_keeps_its_share_of_calibration_images():
    sheets, images = made_up()
    explorer = ThresholdExplorer(sheets, images)
    explorer.slider.value = 33.5
    assert explorer.line.by == HAND
    for score in ("MSP", "Mahalanobis", "ODIN"):
        explorer.score.value = score
        assert (explorer.line.counts["above"], explorer.line.by) == (67, HAND)
        check(explorer, sheets)


def test_an_echo_of_the_browser_is_no_hand():
    explorer = ThresholdExplorer(*made_up())
    before = explorer.line
    for name in ("slider", "typed"):
        control = getattr(explorer, name)
        control.set_state({"value": control.value})
        control.notify_change(
            dict(name="value", old=None, new=control.value, owner=control, type="change")
        )
    assert explorer.line == before


def test_a_pair_that_was_not_computed_is_not_shown():
    sheets, images = made_up()
    del sheets[Setting("ODIN", 1.0, 0.0014)]
    explorer = ThresholdExplorer(sheets, images)
    explorer.temperature.value = 1.0
    assert explorer.setting.temperature == 1.0
    assert explorer.setting in sheets
    check(explorer, sheets)


def test_extremes_of_the_slider():
    sheets, images = made_up()
    explorer = ThresholdExplorer(sheets, images)
    for position, above in ((0.0, 0), (100.0, 200), (0.5, 1)):
        explorer.slider.value = position
        assert explorer.line.counts["above"] == above
        check(explorer, sheets)


def test_typed_numbers_move_the_line_and_nonsense_does_not():
    sheets, images = made_up()
    explorer = ThresholdExplorer(sheets, images)
    explorer.typed.value = "2.2901"
    assert (explorer.line.threshold, explorer.line.by) == (2.2901, HAND)
    check(explorer, sheets)
    for control, nonsense in (
        ("typed", "2,29"),
        ("typed", "1e99"),
        ("rate", "0"),
        ("rate", "120"),
        ("rate", "ten"),
    ):
        before = explorer.line
        getattr(explorer, control).value = nonsense
        assert f"cannot be {nonsense!r}" in text(explorer.message)
        assert 'class="loud"' in explorer.message.value
        assert explorer.line == before
    explorer.rate.value = "20"
    assert text(explorer.message) == ""
    check(explorer, sheets)


def test_a_rate_tuned_on_the_anomalies_is_not_named_beforehand():
    explorer = ThresholdExplorer(*made_up())
    for rate, by in (("5", RATE), ("30", RATE), ("10", NAMED)):  # 10 % is what it opened with
        explorer.rate.value = rate
        assert explorer.line.by == by
    explorer.slider.value = 50.0
    explorer.by_rate.click()
    assert (explorer.line.by, explorer.line.alpha) == (NAMED, 0.1)


def test_keep_hands_on_what_is_shown():
    kept = []

    def keep(setting, line):
        kept.append((setting, line))
        return {"protocol": "oracle"}

    explorer = ThresholdExplorer(*made_up(), keep=keep)
    explorer.slider.value = 12.5
    explorer.keeper.click()
    assert kept == [(START, explorer.line)]
    assert (
        text(explorer.message)
        == f"Kept with the run as oracle: {explorer.slider.text}, on {START}, chosen {HAND}."
    )
    explorer.slider.value = 20.0
    assert text(explorer.message) == ""  # what is kept is no longer what is shown
    assert ThresholdExplorer(*made_up()).keeper.disabled


def test_a_disk_that_refuses_is_said_in_the_widget():
    def keep(*_):
        raise StoreError("cannot write: no space")

    explorer = ThresholdExplorer(*made_up(), keep=keep)
    explorer.keeper.click()
    assert text(explorer.message) == "cannot write: no space"


def test_the_images_next_to_the_line():
    sheet = Sheet(
        np.arange(5.0), np.array([5.0, 1, 4, 2, 3]), np.arange(5), np.array([1, 0, 0, 0, 1], bool)
    )
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 4, 4), np.uint8)
    above, below = (
        re.findall(r'alt="([^"]+)"', part)
        for part in module.nearest_images(sheet, images, 3.0).split("<p>")[1:]
    )
    assert above == ["4.00 normal", "5.00 anomaly"]
    assert below == ["3.00 anomaly", "2.00 normal", "1.00 normal"]  # equal to the line is no alarm


def test_bars_and_ticks_by_hand():
    sheet = SMALL._replace(calibration=np.arange(100.0))
    figure = module.view(sheet)
    normal, anomalous, roc = figure.data
    low, high = np.quantile(sheet.test, [0.001, 0.999])
    assert normal.x == pytest.approx([low, 2, 4])  # what lies beyond is counted in the end bars
    assert anomalous.x == pytest.approx([3, 5, high])
    assert (roc.x[0], roc.y[0], roc.x[-1], roc.y[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert figure.layout.xaxis.ticktext[0] == "98.0%<br>1.00"  # 2 to 99 lie above it
    assert figure.layout.xaxis.tickvals[-1] == pytest.approx(high)
    assert "calibration images above" in figure.layout.xaxis.title.text
    assert figure.layout.xaxis2.title.text == "normal images that alarm"


def test_only_the_line_is_sent_when_it_moves():
    explorer = ThresholdExplorer(*made_up())
    sent = []
    explorer.figure.observe(lambda change: sent.append(change["name"]))
    explorer.slider.value = 33.0
    assert set(sent) == {"frame", "alt"}
    json.dumps([explorer.figure.frame, explorer.figure.traces])  # plain values, as JSON needs
    sent.clear()
    explorer.score.value = "MSP"
    assert set(sent) == {"traces", "frame", "alt"}


@pytest.mark.parametrize("normals", [0, 400])
def test_one_kind_alone_still_has_a_threshold(normals):
    sheets, images = made_up(normals=normals)
    explorer = ThresholdExplorer(sheets, images)
    explorer.slider.value = 40.0
    assert counts(explorer) == by_hand(sheets[START], explorer.line.threshold)
    assert ("no such image" in text(explorer.costs)) == (normals == 0)


def test_scores_that_are_all_the_same_are_shown_as_they_are():
    sheets = {START: Sheet(np.ones(50), np.ones(40), np.arange(40), np.arange(40) > 20)}
    explorer = ThresholdExplorer(sheets, np.zeros((40, 1, 8, 8), np.uint8))
    assert counts(explorer) == [0, 19, 0, 21]


@pytest.mark.parametrize("clusters", [0, 1])
def test_one_cluster_or_none(clusters):
    shown = text(ThresholdExplorer(*made_up(clusters=clusters)).costs)
    assert ("pseudo-class" in shown) == bool(clusters)


def test_every_control_has_a_name():
    explorer = ThresholdExplorer(*made_up())
    for name in ("score", "temperature", "epsilon", "typed", "rate", "by_rate", "keeper"):
        assert getattr(explorer, name).description
    for control in (explorer.score, explorer.temperature, explorer.epsilon, explorer.rate):
        assert control.style.description_width == "initial"  # else a long label is cut
    assert explorer.slider.label
    assert dict(explorer.temperature.options) == {"1": 1.0, "1,000": 1000.0}  # what is read out
    assert explorer.figure.alt.startswith("Histogram and ROC curve of ODIN")


# --- a run


@pytest.fixture
def study(tmp_path):
    """What the explorer reads of a study: 40 calibration images on 20 tracks, ODIN, MSP and a grid."""
    random = np.random.default_rng(0)
    tracks, anomaly = np.arange(40) // 2, np.arange(30) >= 20
    frames = {name: random.normal(size=70) for name in ("MSP", "ODIN")}
    for name, scores in frames.items():
        (tmp_path / name).mkdir()
        table = pd.DataFrame({"split": ["calibration"] * 40 + ["test"] * 30, "score": scores})
        table.assign(track=[*tracks, *range(30)]).to_parquet(tmp_path / name / "scores.parquet")
    test_rows, calibration_rows = np.arange(0, 30, 2), np.arange(0, 40, 4)
    grid = SimpleNamespace(
        temperatures=np.array([1.0, 1000.0]),
        epsilons=np.array([0.0, 0.0014]),
        test_rows=test_rows,
        calibration_rows=calibration_rows,
        test=random.normal(size=(2, 2, 15)),
        calibration=random.normal(size=(2, 2, 10)),
    )
    made = {name: SimpleNamespace(test=scores[40:]) for name, scores in frames.items()}
    made |= {
        "odin_grid": grid,
        "outputs": SimpleNamespace(test=SimpleNamespace(logits=torch.eye(3)[np.arange(30) % 3])),
    }

    def find(name):
        if name not in made:
            raise StoreError(f"no {name}: run notebook 05 first")
        return made[name]

    split = SimpleNamespace(
        answers=SimpleNamespace(test_anomaly=anomaly),
        calibration_tracks=tracks,
        test=torch.zeros(30, 1, 8, 8, dtype=torch.uint8),
    )
    return SimpleNamespace(
        config=make_config("digits", "STR"),
        split=split,
        find=find,
        has=made.__contains__,
        path=lambda name: tmp_path / name,
        folder=tmp_path / "study",
        made=made,
    )


def test_a_run_gives_its_sheets_on_independent_images(study):
    sheets = points.gather(study)
    assert next(iter(sheets)) == START
    assert set(sheets) == {
        START,
        Setting("MSP"),
        *(Setting("ODIN", t, e) for t in (1.0, 1000.0) for e in (0.0, 0.0014)),
    }
    sheet = sheets[START]
    np.testing.assert_array_equal(
        sheet.test, study.find("ODIN").test
    )  # all of them, not the grid's sample
    assert (len(sheet.calibration), sheet.tracks) == (20, True)
    sampled = sheets[Setting("ODIN", 1.0, 0.0)]
    np.testing.assert_array_equal(sampled.rows, np.arange(0, 30, 2))
    np.testing.assert_array_equal(sampled.clusters, np.arange(0, 30, 2) % 3)
    np.testing.assert_array_equal(sampled.anomaly, np.arange(0, 30, 2) >= 20)
    np.testing.assert_array_equal(
        np.sort(sampled.calibration), np.sort(study.find("odin_grid").calibration[0, 0])
    )
    assert not sampled.tracks


def test_a_run_without_the_configured_score(study):
    del study.made["ODIN"], study.made["odin_grid"]
    assert list(points.gather(study)) == [Setting("MSP")]
    explorer = module.threshold_explorer(study)
    assert explorer.temperature.disabled


def test_an_empty_run_shows_a_sentence(study):
    study.made.clear()
    assert "no ODIN: run notebook 05 first" in text(module.threshold_explorer(study).children[-1])


def test_only_what_was_chosen_without_anomalies_is_clean(study):
    sheets = points.gather(study)
    lines = {by: points.line_at(sheets[START], 0.5, by) for by in (NAMED, RATE, HAND)}
    stamped = {
        by: points.keep_threshold(study, START, line)["protocol"] for by, line in lines.items()
    }
    assert stamped == {NAMED: "clean", RATE: "oracle", HAND: "oracle"}
    for setting in set(sheets) - {START}:
        assert points.keep_threshold(study, setting, lines[NAMED])["protocol"] == "oracle"
    study.config = make_config("digits", "STR", odin_factor=True)
    assert points.keep_threshold(study, START, lines[NAMED])["protocol"] == "paper_compat"


def test_a_threshold_is_kept_whole(study):
    explorer = module.threshold_explorer(study)
    explorer.keeper.click()
    record = json.loads((study.folder / "threshold.json").read_text(encoding="utf-8"))
    assert record["threshold"] == explorer.line.threshold
    assert (record["chosen_by"], record["protocol"], record["alpha"]) == (NAMED, "clean", 0.1)
    assert record["caught"] + record["missed"] == 10
    assert {"commit", "machine", "config", "delta", "bound_per_1000"} <= set(record)
    assert module.threshold_explorer(study, may_keep=False).keeper.disabled


def test_a_folder_that_cannot_be_written_is_one_line(study, tmp_path):
    (tmp_path / "study").write_text("in the way", encoding="utf-8")
    explorer = module.threshold_explorer(study)
    explorer.keeper.click()
    assert "cannot write" in text(explorer.message)
