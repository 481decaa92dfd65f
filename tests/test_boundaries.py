"""One boundary against one a latent class: on hand-made points where the answer is known, then on the embedded digits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from clad_lib import boundaries, pipeline, plots
from clad_lib.boundaries import compare
from clad_lib.calibration import CONDITIONAL, MARGINAL, NONE
from clad_lib.config import make_config

CORNERS = np.array([[0.0, 0.0], [10.0, 0.0], [5.0, 9.0]])  # an equilateral triangle, near enough; its middle is the gap
MIDDLE = CORNERS.mean(0)


def blobs(count, *, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    return CORNERS[labels] + random.normal(0, 0.6, (count, 2)), labels


def hand_made(*, held_out=60, anomalies=40, **settings):
    train, labels = blobs(300, seed=0)
    gap = MIDDLE + np.random.default_rng(3).normal(0, 0.3, (anomalies, 2))
    test = np.concatenate([blobs(200, seed=2)[0], gap])
    return train, labels, blobs(held_out, seed=1)[0], test, np.arange(len(test)) >= 200, settings


def compared(**settings):
    *arrays, settings = hand_made(**settings)
    return compare(*arrays, **settings)


def same_boundaries(one, other):
    for side in ("single", "conditional", "narrow"):
        assert np.array_equal(getattr(one, side).scores, getattr(other, side).scores)
        assert getattr(one, side).threshold == getattr(other, side).threshold
    assert np.array_equal(one.x, other.x)
    assert np.array_equal(one.y, other.y)


def test_one_boundary_encloses_the_gap_and_one_a_class_does_not():
    found = compared()
    assert found.single.inside == 1
    assert found.conditional.inside == 0
    assert found.narrow.inside == 0  # the width alone does it too: the control says so
    assert found.note == ""


def test_both_thresholds_keep_to_the_same_false_alarm_rate():
    for seed in range(5):
        found = compared(seed=seed)
        for side in (found.single, found.conditional, found.narrow):
            assert side.threshold.guarantee == CONDITIONAL
            assert side.threshold.rank == found.single.threshold.rank
            assert side.calibration_alarms <= boundaries.ALPHA
            assert side.false_alarms <= 0.2  # a fixed draw, so a bound and not chance


def test_where_classes_are_one_blob_the_boundaries_of_classes_gain_little():
    random = np.random.default_rng(0)
    train, held_out, normal = (random.normal(0, 1, (count, 2)) for count in (300, 60, 300))
    ring = 4.5 * np.stack([np.cos(turn := np.linspace(0, 6, 60)), np.sin(turn)], axis=1)
    anomaly = np.arange(360) >= 300
    found = compare(train, random.integers(0, 3, 300), held_out, np.concatenate([normal, ring]), anomaly)
    assert found.single.inside == found.conditional.inside == 0
    assert abs(found.single.false_alarms - found.conditional.false_alarms) < 0.1


def test_test_labels_change_the_counts_and_no_boundary():
    *arrays, anomaly, _ = hand_made()
    first, other = compare(*arrays, anomaly), compare(*arrays, np.random.default_rng(0).permutation(anomaly))
    same_boundaries(first, other)
    assert first.conditional.false_alarms != other.conditional.false_alarms
    assert first.conditional.inside != other.conditional.inside


def test_the_grid_covers_every_image_and_agrees_with_the_shares():
    *arrays, anomaly, _ = hand_made()
    far = np.concatenate([arrays[-1], [[-30.0, 40.0]]])
    found = compare(*arrays[:-1], far, np.append(anomaly, True))
    assert found.single.scores.shape == (1, boundaries.GRID, boundaries.GRID)
    assert found.conditional.scores.shape == (3, boundaries.GRID, boundaries.GRID)
    assert found.x[0] < -30 < 10 < found.x[-1]
    assert found.y[0] < 0 < 40 < found.y[-1]
    assert np.isclose(found.single.inside, 40 / 41)
    column, row = (np.abs(axis - at).argmin() for axis, at in ((found.x, MIDDLE[0]), (found.y, MIDDLE[1])))
    assert found.single.scores.min(0)[row, column] <= found.single.threshold.value
    assert found.conditional.scores.min(0)[row, column] > found.conditional.threshold.value


def test_few_calibration_images_promise_less_and_say_so():
    assert compared(held_out=21).single.threshold.guarantee == MARGINAL
    some, few = compared(held_out=15), compared(held_out=4)
    assert "on average over draws" in some.note
    assert few.single.threshold.guarantee == few.conditional.threshold.guarantee == NONE
    assert np.isfinite([few.single.threshold.value, few.conditional.threshold.value]).all()
    assert few.single.calibration_alarms == 0
    assert "their largest scores" in few.note


def test_frames_of_one_track_count_once():
    *arrays, _ = hand_made()
    found = compare(*arrays, tracks=np.arange(60) // 2)
    assert found.single.threshold.n == found.conditional.threshold.n == 30


def test_a_tiny_class_gets_no_boundary_and_is_named():
    train, labels, *rest, _ = hand_made()
    tiny = np.where(np.arange(300) < 4, 7, labels)
    found = compare(train, tiny, *rest)
    assert len(found.conditional.scores) == 3
    assert "Latent class(es) 7 of 4 have fewer than 5 images" in found.note
    assert (found.labels == 7).sum() == 4
    with pytest.raises(ValueError, match="largest of 300 latent classes has 1 training images: expected 5"):
        compare(train, np.arange(300), *rest)


def test_no_anomalies_are_said_and_drawn_as_none():
    found = compared(anomalies=0)
    assert np.isnan(found.single.inside)
    assert "holds no anomalies" in boundaries.summary(found)
    assert "nan" not in boundaries.summary(found)
    figure = boundaries.draw(found)
    told = [note.text for note in figure.layout.annotations] + [plots.alt_text(figure)]
    assert not [text for text in told if "nan" in text or "of the anomalies" in text]
    assert "of normal test images outside" in told[0]


def test_big_data_is_capped(monkeypatch):
    monkeypatch.setattr(boundaries, "FIT_IMAGES", 90)
    sizes = []
    fit = boundaries.fit_svdd
    monkeypatch.setattr(boundaries, "fit_svdd", lambda images, **rest: sizes.append(len(images)) or fit(images, **rest))
    found = compared()
    assert sorted(sizes)[-2:] == [90, 90]
    assert sum(sizes) == 3 * 90
    assert len(found.normals) == 300


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (0, np.zeros((9, 3)), r"train is \(9, 3\): expected \(N, 2\)"),
        (1, np.zeros(7, dtype=int), r"labels is \(7,\): expected \(300,\)"),
        (2, np.zeros((0, 2)), r"held_out is \(0, 2\)"),
        (3, np.full((240, 2), np.nan), "test holds NaN"),
        (4, np.zeros(3, dtype=bool), r"anomaly is \(3,\): expected \(240,\)"),
    ],
)
def test_wrong_arrays_are_refused(place, value, said):
    *arrays, _ = hand_made()
    arrays[place] = value
    with pytest.raises(ValueError, match=said):
        compare(*arrays)


def test_the_picture_tells_shares_over_all_and_draws_some():
    found = compared()
    figure = boundaries.draw(found, drawn=25)
    left, right = (note.text for note in figure.layout.annotations)
    assert "100% of the anomalies inside" in left
    assert "0% of the anomalies inside" in right.split(">")[-1]
    marks = [trace for trace in figure.data if trace.type == "scatter"]
    assert [len(trace.x) for trace in marks if trace.name == "anomaly"] == [25, 25]
    assert sum(len(trace.x) for trace in marks if trace.name.startswith("latent class")) == 25
    for k, corner in enumerate(CORNERS):  # rows and labels are thinned together
        trace = next(trace for trace in marks if trace.name == f"latent class {k}")
        assert np.allclose([np.mean(trace.x), np.mean(trace.y)], corner, atol=1)
    assert "100% of the anomalies inside" in plots.alt_text(figure)


def test_no_class_wears_the_mark_of_the_anomalies():
    train, _, *rest, _ = hand_made()
    figure = boundaries.draw(compare(train, np.arange(300) % 12, *rest))
    symbols = {trace.name: trace.marker.symbol for trace in figure.data if trace.type == "scatter"}
    assert [name for name, symbol in symbols.items() if symbol == "x"] == ["anomaly"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    config = make_config(profile="smoke", clusters=4)
    return pipeline.open_study(config, runs_root=tmp_path_factory.mktemp("runs"), device="cpu", progress=False)


def test_a_study_is_drawn_from_its_own_plane_and_found_again(study):
    found = boundaries.compare_in_plane(study)
    assert found.normals.shape == (len(study.split.train), 2)
    assert len(found.anomalies) == study.split.answers.test_anomaly.sum()
    made = {path: path.stat().st_mtime_ns for path in study.run.root.rglob("*") if path.is_file()}
    assert {path.parts[-3].partition("-")[0] for path in made} == {"autoencoder", "clusters"}
    same_boundaries(found, boundaries.compare_in_plane(study))
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert not study.run.has("autoencoder")  # the study's own autoencoder has more latents


def test_hidden_classes_and_test_labels_reach_no_boundary(study, tmp_path):
    answers, random = study.split.answers, np.random.default_rng(1)
    shuffled = {field.name: random.permutation(getattr(answers, field.name)) for field in dataclasses.fields(answers)}
    split = dataclasses.replace(study.split, answers=type(answers)(**shuffled))
    again = dataclasses.replace(study, split=split, run=dataclasses.replace(study.run, root=tmp_path))
    first, other = boundaries.compare_in_plane(study), boundaries.compare_in_plane(again)
    same_boundaries(first, other)
    assert not np.array_equal(first.anomalies, other.anomalies)
