"""The commands for one's own images, pressed as a newcomer would."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from clad_lib.__main__ import app
from clad_lib.data.reading import load_dataset
from clad_lib.detector import Detector
from clad_lib.study.store import StoreError


def press(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def write(images, folder):
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image[0]).save(folder / f"{number:03}.png")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    train, test = load_dataset("digits")
    normal, new = np.isin(train.labels, [1, 4, 7]), np.isin(test.labels, [1, 4, 7])
    root = tmp_path_factory.mktemp("place")
    write(train.images[normal][:120], root / "normal")
    write(test.images[new][:50], root / "new")
    odd = write(test.images[~new][:20], root / "odd")
    (odd / "broken.png").write_bytes(b"\x89PNG")
    (odd / "notes.txt").write_text("not a picture", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def kept(place):
    done = press("fit", place / "normal", "--out", place / "kept")
    assert done.exit_code == 0, done.output
    assert "120 images: 96 to learn from, 24 to calibrate" in done.output
    assert "in the long run" in done.output
    return place / "kept"


def test_scores_of_a_folder_are_one_line_a_file(place, kept, tmp_path):
    csv = tmp_path / "scores.csv"
    done = press("score", kept, place / "odd", "--csv", csv, "--fail-on-alarm")
    assert done.exit_code == 3, done.output
    table = pd.read_csv(csv, keep_default_na=False)
    assert list(table) == ["path", "score", "p_value", "alarm", "skipped"]
    assert len(table) == 22
    assert table.path.str.endswith((".png", ".txt")).all()
    read = table[table.skipped == ""].astype({"score": float, "p_value": float})
    pictures = [np.asarray(Image.open(path))[None] for path in read.path]
    detector = Detector.load(kept)
    np.testing.assert_allclose(read.score, detector.score(np.stack(pictures)), atol=1e-5)
    np.testing.assert_allclose(read.p_value, detector.p_value(np.stack(pictures)))
    assert (read.alarm == np.where(read.score > detector.threshold.value, "True", "False")).all()
    left = table[table.skipped != ""].set_index("path").skipped
    assert left[str(place / "odd" / "notes.txt")] == "no picture by its name"
    assert left[str(place / "odd" / "broken.png")].startswith("not a readable image")
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]


def test_normal_images_are_checked_for_a_shift_and_json_is_json(place, kept, tmp_path):
    words = ("score", kept, place / "new", "--csv", tmp_path / "s.csv", "--normal", "--json")
    done = press(*words)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["images"] == 50
    assert said["threshold"] == Detector.load(kept).threshold.value
    assert "Mann-Whitney" in said["exchangeability"]


def test_the_page_stands_alone(place, kept, tmp_path):
    page = tmp_path / "page.html"
    done = press("score", kept, place / "odd", "--csv", tmp_path / "s.csv", "--html", page)
    assert done.exit_code == 0, done.output
    text = page.read_text(encoding="utf-8")
    assert text.count('role="img"') == 2  # the histogram, and the images with their maps
    assert "not a readable image" in text
    assert 'src="http' not in text
    assert 'href="http' not in text
    assert text.count("<li>") == 12
    assert len(text) < 6_000_000


def test_what_a_detector_says_of_itself(kept):
    assert press("inspect", kept).output.strip() == Detector.load(kept).report()
    done = press("threshold", kept, "--alpha", 0.2)
    assert float(done.output.splitlines()[0]) == pytest.approx(
        Detector.load(kept).threshold_at(0.2).value
    )
    refused = press("threshold", kept, "--alpha", 0.001)
    assert refused.exit_code == 1
    assert "Nothing is promised" in refused.output


def test_two_folders_are_told_apart(place, kept):
    done = press("evaluate", kept, "--normal", place / "new", "--anomalous", place / "odd")
    assert done.exit_code == 0, done.output
    assert "AUROC 0.9" in done.output
    assert "of 50 normal images" in done.output
    assert "of 20 anomalies" in done.output


def test_wrong_usage_and_errors_are_told_apart(place, kept, tmp_path):
    assert press("fit", place / "normal").exit_code == 2
    assert press("score", kept, place / "new", "--scv", "x").exit_code == 2
    errors = {
        ("fit", place / "normal", "--out", kept): "exists already",
        ("fit", place / "normal", "--out", tmp_path / "d", "--method", "OCSVM"): "cannot be saved",
        ("fit", place / "odd", "--out", tmp_path / "d", "--strict"): "nothing but pictures",
        ("fit", place / "odd", "--out", tmp_path / "d"): "got 20 images",
        ("fit", place / "no", "--out", tmp_path / "d"): "expected pictures",
        ("score", place / "new", place / "new", "--csv", tmp_path / "s"): "no detector in",
        ("score", kept, place / "new", "--csv", tmp_path / "no" / "s"): "cannot write",
        ("score", kept, place / "odd", "--csv", tmp_path / "s", "--strict"): "nothing but pictures",
    }
    for words, message in errors.items():
        error = press(*words).exception
        assert isinstance(error, (ValueError, StoreError)), words
        assert message in str(error)
        assert "\n" not in str(error)
    assert not list(tmp_path.iterdir())


def test_ones_own_scores_join_the_tables(tmp_path):
    from clad_lib import make_config, open_study
    from clad_lib.study import results, tables
    from clad_lib.study.measure import add_scores

    study = open_study(make_config("digits"), runs=tmp_path / "runs")  # as the command does
    theirs = study["NearestImage"]
    order = np.random.default_rng(0).permutation(len(theirs.test))
    frame = pd.DataFrame({"index": order, "score": theirs.test[order]})
    frame.to_csv(tmp_path / "mine.csv", index=False)
    done = press(
        "results", "--add", tmp_path / "mine.csv", "--method", "Mine", "--runs", tmp_path / "runs"
    )
    assert done.exit_code == 0, done.output
    table = tables.summary(results.collect(tmp_path / "runs")).set_index("method")
    assert table.auroc["Mine"] == table.auroc["NearestImage"]
    assert table["rank"]["Mine"] == 1
    pairs = tables.comparisons(results.collect(tmp_path / "runs"))
    assert pairs.difference[0] == 0
    frame.assign(score=-frame.score).to_csv(tmp_path / "mine.csv", index=False)
    add_scores(study, tmp_path / "mine.csv", "Mine")
    table = tables.summary(results.collect(tmp_path / "runs")).set_index("method")
    assert table.auroc["Mine"] == pytest.approx(1 - table.auroc["NearestImage"])
    with pytest.raises(ValueError, match="name yours otherwise"):
        add_scores(study, tmp_path / "mine.csv", "ODIN")
