"""Operating points: counts by hand, rates a cluster, and the protocol of a kept threshold."""

import json
import math

import numpy as np
import pytest

from clad_lib import calibration, methods, operating, pipeline, runs, selection
from clad_lib.config import make_config
from clad_lib.operating import HAND, LARGEST, NAMED, RATE, Setting, Sheet

SHEET = Sheet(np.arange(10.0), np.array([1.0, 2, 3, 4, 5, 6]), np.arange(6))
ANOMALY = np.array([False, False, True, False, True, True])


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    config = make_config("digits", "CUR", profile="smoke", clusters=4)
    made = pipeline.open_study(config, runs_root=tmp_path_factory.mktemp("runs"), device="cpu", progress=False)
    for name in ("ODIN", "OCSVM", "Selected", "Oracle", "RankAverage"):
        methods.prepare(made, name)
        methods.scores(made, name)
    return made


def test_counts_by_hand():
    band = calibration.false_alarm_band(SHEET.calibration, delta=0.1)
    point = operating.operating_point(SHEET, ANOMALY, 3.0, band)
    assert (point.caught, point.missed, point.false_alarms, point.passed) == (2, 1, 1, 2)
    assert point.counted_per_1000 == pytest.approx(1000 / 3)
    assert point.bound_per_1000 == pytest.approx(1000 * float(calibration.band_at(band, 3.0)))
    nothing = operating.operating_point(SHEET, ANOMALY, math.inf, band)
    assert (nothing.caught, nothing.false_alarms) == (0, 0)


def test_without_normal_images_nothing_is_counted():
    band = calibration.false_alarm_band(SHEET.calibration, delta=0.1)
    assert math.isnan(operating.operating_point(SHEET, np.ones(6, bool), 3.0, band).counted_per_1000)


def test_rates_of_each_cluster_by_hand():
    clusters = np.array([0, 2, 2, 0, 0, 2])
    rows = operating.cluster_rates(SHEET.test, ANOMALY, clusters, 3.5)
    assert rows[0] == (0, 2, 0.5, 1, 1.0)  # normals 1 and 4, anomaly 5
    assert rows[1] == (2, 1, 0.0, 2, 0.5)  # normal 2, anomalies 3 and 6; cluster 1 has none and is left out
    assert len(rows) == 2


def test_images_around_the_line_are_the_nearest():
    above, below = operating.around(np.array([5.0, 1, 4, 2, 3]), 3.0, count=2)
    assert above.tolist() == [2, 0]
    assert below.tolist() == [4, 3]  # a score equal to the threshold is no alarm
    assert [len(part) for part in operating.around(np.arange(3.0), 9.0)] == [0, 3]


def test_the_grid_of_a_run_holds_what_odin_gives(study):
    gathered = operating.gather(study)
    start = Setting("ODIN", study.config.temperature, study.config.epsilon)
    assert gathered.start == start
    stored = methods.scores(study, "ODIN", make=False)
    np.testing.assert_array_equal(gathered.sheets[start].test, stored.test)
    grid = methods.odin_grid(study, make=False)
    at = grid.temperatures.index(1000.0), grid.epsilons.index(0.0014)
    np.testing.assert_allclose(grid.test[at], stored.test[grid.test_rows], rtol=1e-6)
    assert len([setting for setting in gathered.sheets if setting.score == "ODIN"]) == len(selection.TEMPERATURES) * len(
        selection.EPSILONS
    )
    assert set(gathered.clusters) <= set(range(4))


def test_calibration_images_that_a_method_used_up_are_left_out(study):
    sheets = operating.gather(study).sheets
    whole, half = len(sheets[Setting("OCSVM")].calibration), len(sheets[Setting("RankAverage")].calibration)
    assert half == whole - whole // 2


def test_only_what_was_chosen_without_anomalies_is_clean(study):
    start = Setting("ODIN", study.config.temperature, study.config.epsilon)
    stamped = {by: operating.protocol_of(study, start, by)[0] for by in (NAMED, LARGEST, RATE, HAND)}
    assert stamped == {NAMED: "clean", LARGEST: "clean", RATE: "oracle", HAND: "oracle"}
    for setting in set(operating.gather(study).sheets) - {start}:
        assert operating.protocol_of(study, setting, NAMED)[0] == "oracle"


def test_a_score_that_is_no_number_is_left_out_alone(study, monkeypatch):
    honest = methods.scores

    def broken(opened, name, *, make):
        found = honest(opened, name, make=make)
        return found._replace(test=found.test * np.nan) if name == "OCSVM" else found

    monkeypatch.setattr(methods, "scores", broken)
    gathered = operating.gather(study)
    assert gathered.left_out == ("OCSVM",)
    assert Setting("OCSVM") not in gathered.sheets
    assert gathered.start in gathered.sheets


def test_a_threshold_is_kept_whole_and_found_again(study):
    gathered = operating.gather(study)
    sheet = gathered.sheets[gathered.start]
    assert operating.kept_threshold(study) is None
    band = calibration.false_alarm_band(sheet.calibration, delta=0.1)
    point = operating.operating_point(sheet, gathered.anomaly, 1.25, band)
    record = operating.keep_threshold(study, gathered.start, sheet, 1.25, point, by=HAND)
    assert operating.kept_threshold(study) == json.loads(json.dumps(record))
    assert record["protocol"] == "oracle"
    assert record["caught"] + record["missed"] == int(gathered.anomaly.sum())
    assert {"commit", "machine", "seed", "profile"} <= set(record)
    assert record["overrides"] == {"clusters": 4}
    assert (record["calibration_scores"], record["test_images"]) == (len(sheet.calibration), len(sheet.test))
    assert not list(operating.kept_path(study).parent.glob(".threshold*"))


def test_a_folder_that_cannot_be_written_is_one_line(study, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(operating, "kept_path", lambda _: tmp_path / "file" / "threshold.json")
    point = operating.Point(1, 1, 1, 1, 1.0, 1.0)
    with pytest.raises(runs.RunError, match="choose another folder"):
        operating.keep_threshold(study, Setting("ODIN", 1.0, 0.0), SHEET, 1.0, point, by=HAND)


def test_an_empty_run_says_what_to_do(tmp_path):
    made = pipeline.open_study(make_config(profile="smoke"), runs_root=tmp_path, device="cpu", progress=False)
    with pytest.raises(runs.RunError, match="run notebook 05_odin_scoring first"):
        operating.gather(made)
