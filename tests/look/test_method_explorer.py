"""The method in motion: against the library's own stages, hand-made scores and geometry."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from scipy.spatial.distance import pdist

from clad_lib import make_config, open_study
from clad_lib.clad.training import infer
from clad_lib.look import method_explorer as explorer
from clad_lib.study import experiments
from clad_lib.study.engine import Scores


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    config = make_config("digits", "MIX", profile="smoke", clusters=3)
    return open_study(config, runs=tmp_path_factory.mktemp("runs"), progress=False)


def bits(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_frames_hold_what_moves_and_the_still_picture_is_the_one_asked_for():
    def one(height):
        figure = go.Figure([go.Bar(y=[1, 2]), go.Bar(y=[height])], {"height": 600})
        return figure.add_annotation(text=f"height {height}").update_layout(margin_t=80)

    moved = explorer.played({"a": one(1), "b": one(5), "c": one(9)}, setting="height", start=1)
    assert [frame.name for frame in moved.frames] == ["a", "b", "c"]
    assert [frame.traces for frame in moved.frames] == [(1,)] * 3
    assert [frame.data[0].y[0] for frame in moved.frames] == [1, 5, 9]
    assert moved.frames[2].layout.annotations[0].text == "height 9"
    assert moved.data[1].y[0] == 5
    slider = moved.layout.sliders[0]
    assert slider.active == 1
    assert [step.label for step in slider.steps] == ["a", "b", "c"]
    assert [step.args[0] for step in slider.steps] == [["a"], ["b"], ["c"]]
    assert [button.label for button in moved.layout.updatemenus[0].buttons] == ["Play", "Pause"]


def test_latents_keep_their_distances_and_bars_are_those_of_the_least_decided_image():
    random = np.random.default_rng(0)
    latents, centroids = random.normal(size=(4, 30, 2)), random.normal(size=(4, 3, 2))
    soft, target = random.dirichlet(np.ones(3), (2, 4, 30))
    soft[0, 17] = 1 / 3
    figure = explorer.dec_by_epoch(latents, centroids, soft, target)
    assert [frame.name for frame in figure.frames] == ["0", "1", "2", "3"]
    for epoch, frame in enumerate(figure.frames):
        images, middles, ring, q, p = frame.data
        drawn = np.transpose([np.append(images.x, middles.x), np.append(images.y, middles.y)])
        np.testing.assert_allclose(
            pdist(drawn), pdist(np.concatenate([latents[epoch], centroids[epoch]])), rtol=1e-4
        )
        assert (ring.x[0], ring.y[0]) == (images.x[17], images.y[17])
        np.testing.assert_array_equal(q.y, soft[epoch, 17])
        np.testing.assert_array_equal(p.y, target[epoch, 17])
        assert len(set(zip(images.marker.color, soft[epoch].argmax(1), strict=True))) == 3
    assert "100% of it" in figure.layout.title.subtitle.text.replace("<br>", " ")


def test_the_trail_of_dec_is_the_runs_own_and_goes_on(study):
    clusters, before = study["clusters"], bits(study.path("clusters"))
    latents, centroids, soft, target = experiments.dec_trail(study, epochs=3, count=50)
    assert latents.shape[:2] == soft.shape[:2] == (4, 50)
    assert centroids.shape[:2] == (4, 3)
    rows = np.random.default_rng(0).permutation(len(study.split.train))[:50]
    if clusters.source == "dec":
        np.testing.assert_array_equal(soft[len(clusters.losses)], clusters.soft[rows])
    distances = 1 / (1 + ((latents[2][:, None] - centroids[2]) ** 2).sum(2))
    np.testing.assert_allclose(soft[2], distances / distances.sum(1, keepdims=True), rtol=1e-4)
    np.testing.assert_allclose(target.sum(2), 1, rtol=1e-5)
    assert bits(study.path("clusters")) == before


def test_odins_step_is_as_large_as_epsilon_and_ranks_as_the_grid_does(study):
    grid = study["odin_grid"]
    row = int(grid.test_rows[3])
    outputs, above, pictures = explorer.odin_steps(study, row)
    expected = (grid.calibration > grid.test[:, :, 3:4]).mean(2)
    np.testing.assert_allclose(above, expected, atol=2.1 / grid.calibration.shape[2])
    for image, direction, *after in pictures.values():
        assert set(np.unique(direction)) <= {0, 0.5, 1}
        for epsilon, each in zip(grid.epsilons[1:], after, strict=True):
            np.testing.assert_allclose(each, image + epsilon * (2 * direction - 1), atol=1e-6)
    model = study["classifier"].model
    none = outputs[(outputs.epsilon == 0) & (outputs.temperature == "T = 10")]
    logits = infer(model, study.split.test[row : row + 1])[0]
    shown = {what: part.value.to_numpy() for what, part in none.groupby("what")}
    np.testing.assert_allclose(shown["logit f"], logits, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(shown["softmax of f / T"], (logits / 10).softmax(0), rtol=1e-4)
    figure = explorer.odin_on_one_image(outputs, above, start=2)
    assert figure.layout.sliders[0].active == 2
    heads = " ".join(note.text for note in figure.frames[-1].layout.annotations)
    assert f"T = 10<br>{above.iloc[1, -1]:.1%} of the normals above" in heads


def test_more_boundaries_keep_out_what_lies_between_at_the_same_rate():
    random = np.random.default_rng(0)
    homes = np.array([[0, 0], [10, 0], [0, 10]])
    around = [random.normal(homes[k % 3], 0.5) for k in range(300)]
    odd = random.normal([4, 4], 0.5, (60, 2))
    plane = experiments.Plane(
        train=np.array(around[:150]),
        labels=np.zeros(150, dtype=int),
        calibration=np.array(around[150:200]),
        test=np.concatenate([around[200:], odd]),
        anomaly=np.arange(160) >= 100,
        tracks=np.arange(50),
        seed=0,
    )
    ways = experiments.boundaries_by_count(plane, [1, 3])
    assert len({side.false_alarms for sides in ways.values() for side in sides.values()}) == 1
    assert ways[1]["one boundary"].inside == ways[1]["one a latent class"].inside == 1
    assert ways[3]["one a latent class"].inside == 0
    figure = explorer.boundaries_by_count(plane, ways)
    assert [frame.name for frame in figure.frames] == ["1", "3"]
    assert all(figure.data[at].type == "contour" for at in figure.frames[0].traces)
    assert "anomalies inside: 0%" in figure.layout.annotations[2].text
    assert "anomalies inside: 100%" in figure.frames[0].layout.annotations[2].text


def test_a_cell_opens_the_images_that_its_method_finds_least():
    answers = SimpleNamespace(
        test_anomaly=np.array([False, True, True, True, True]), test_class=np.array([0, 1, 1, 2, 1])
    )
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 1, 4, 4) * 50
    split = SimpleNamespace(test=images, answers=answers, class_names=("zero", "one", "two"))
    calibration = np.array([1.0, 2.0, 3.0, 4.0])
    found = {
        "Good": Scores(calibration, np.array([0.0, 9, 8, 7, 6]), {}),
        "Bad": Scores(calibration, np.array([5.0, 2.5, 0, 9, 3.5]), {}),
    }
    table = pd.DataFrame({"Good": [1.0, 1.0], "Bad": [0.2, 1.0]}, index=["one", "two"])
    widget = explorer.HardestImages(SimpleNamespace(split=split), found, table)
    assert (widget.classes, widget.methods) == (["one", "two"], ["Good", "Bad"])
    marks = widget.figure.traces[1]
    assert len(widget.figure.traces[0].get("x") or []) == 0
    assert marks["mode"] == "markers"
    widget._heard(None, {"what": "open", "rows": [1]}, [])
    shown = widget.panel.value
    assert "The hardest images of one for Bad" in shown
    captions = [part.partition("<")[0] for part in shown.split("<figcaption>")[1:]]
    assert captions == ["100 %", "50 %", "25 %"]
    widget._heard(None, {"what": "show", "rows": [2]}, [])
    assert widget.panel.value == shown
    widget._heard(None, {"what": "open", "rows": [2]}, [])
    assert "of two for Good" in widget.panel.value
