"""The commands for one's own images, pressed as a newcomer would."""

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from clad_lib.__main__ import application
from clad_lib.config import make_config
from clad_lib.data.reading import load_dataset
from clad_lib.detector import Detector
from clad_lib.study import own_images
from clad_lib.study.bundle import SAVED
from clad_lib.study.store import StoreError


def press(*words):
    return CliRunner().invoke(application(), [str(word) for word in words])


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


def test_what_a_fit_takes_is_said_before_it_starts(place, tmp_path):
    words = ("fit", place / "normal", "--out", tmp_path / "kept", "--method", "NearestImage")
    done = press(*words)
    assert done.exit_code == 0, done.output
    said = r"NearestImage on 120 images takes about \d+ s and about 1,2\d\d MB"
    assert re.search(said, done.stderr)
    assert not re.search(said, done.stdout)


def seconds(method, count, size, mirror=False, **asked):
    config = make_config("own images", "ALL", mirror=mirror, **asked)
    said = own_images.estimate(method, count, (3, size, size), config)
    return int(re.search(r"about ([\d,]+) s", said)[1].replace(",", ""))


def test_a_longer_fit_is_expected_to_take_longer(monkeypatch):
    monkeypatch.setattr(own_images.timeit, "repeat", lambda *_, **__: [2.3e-3])
    few, many = (
        [seconds(m, n, 32) for m in ("NearestImage", "Patches", "Fused")] for n in (100, 9000)
    )
    assert few == sorted(few) and many == sorted(many)  # noqa: PT018
    assert all(one < other for one, other in zip(few[1:], many[1:], strict=True))
    assert seconds("Patches", 5000, 16) < seconds("Patches", 5000, 32)
    assert seconds("Patches", 5000, 128) < 600
    assert seconds("Patches", 5000, 32, True) > 3 * seconds("Patches", 5000, 32)
    assert seconds("Rotation", 5000, 32, True) > 3 * seconds("Rotation", 5000, 32)
    assert seconds("Rotation", 100, 32, profile="best") > 100 * seconds("Rotation", 100, 32)
    assert seconds("Fused", 5000, 128) > 2 * seconds("Fused", 5000, 64)
    assert set(own_images.COSTS) == set(SAVED)
    told = " ".join(press("fit", "--help").output.replace("│", " ").split())
    assert all(re.search(rf"\b{name}\b", told) for name in {*SAVED, "CLAD"} - {"ODIN"})
    assert "takes a time that is not known" in own_images.estimate(
        "OCNN", 100, (3, 32, 32), make_config()
    )
    monkeypatch.setattr(own_images.timeit, "repeat", lambda *_, **__: [2.3e-2])
    assert seconds("Patches", 9000, 32) == pytest.approx(10 * many[1], rel=0.05)


def test_scores_of_a_folder_are_one_line_a_file(place, kept, tmp_path):
    csv = tmp_path / "scores.csv"
    done = press("score", kept, place / "odd", "--csv", csv, "--fail-on-alarm")
    assert done.exit_code == 3, done.output
    table = pd.read_csv(csv, keep_default_na=False)
    assert list(table) == ["path", "score", "p_value", "alarm", "latent_class", "skipped"]
    assert len(table) == 22
    assert table.path.str.endswith((".png", ".txt")).all()
    read = table[table.skipped == ""].astype({"score": float, "p_value": float})
    pictures = [np.asarray(Image.open(path))[None] for path in read.path]
    detector = Detector.load(kept)
    np.testing.assert_allclose(read.score, detector.score(np.stack(pictures)), atol=1e-5)
    np.testing.assert_allclose(read.p_value, detector.p_value(np.stack(pictures)))
    assert (read.alarm == np.where(read.score > detector.threshold.value, "True", "False")).all()
    assert (read.latent_class.astype(int) == detector.latent_class(np.stack(pictures))).all()
    left = table[table.skipped != ""].set_index("path").skipped
    assert set(table.latent_class[table.skipped != ""]) == {""}
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
    assert "No drift was noticed in 50 images" in said["drift"]
    assert "drifted at" not in said


def test_a_drift_is_named_by_the_image_where_it_was_clear(kept, tmp_path):
    _, test = load_dataset("digits")
    normal = np.isin(test.labels, [1, 4, 7])
    stream = tmp_path / "stream"  # in the order of its paths: first normal ones, then others
    write(test.images[normal][:50], stream / "a")
    write(test.images[~normal][:60], stream / "b")
    words = ("score", kept, stream, "--csv", tmp_path / "s.csv", "--html", tmp_path / "p.html")
    done = press(*words, "--normal", "--json")
    assert done.exit_code == 0, done.output
    said, table = json.loads(done.stdout.splitlines()[-1]), pd.read_csv(tmp_path / "s.csv")
    found = Detector.load(kept).drift(table.score.dropna())
    assert said["drifted at"] == table.path[found.alarm]
    assert said["drifted at"].startswith(str(stream / "b"))
    assert (tmp_path / "p.html").read_text(encoding="utf-8").count('role="figure"') == 3


def test_the_page_stands_alone(place, kept, tmp_path):
    page = tmp_path / "page.html"
    done = press("score", kept, place / "odd", "--csv", tmp_path / "s.csv", "--html", page)
    assert done.exit_code == 0, done.output
    text = page.read_text(encoding="utf-8")
    assert text.count('role="figure"') == 2  # the histogram, and the images with their maps
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


def test_a_kept_detector_is_renewed_in_place(place, tmp_path):
    zipped = tmp_path / "kept.zip"
    for out in (tmp_path / "kept", zipped):
        words = ("fit", place / "normal", "--out", out, "--method", "NearestImage")
        assert press(*words).exit_code == 0
        done = press("update", out, "--train", place / "new")
        assert done.exit_code == 0, done.output
        assert "170 images: 146 to learn from, 24 to calibrate" in done.output
        assert "void" in done.output
        assert "146 to learn from" in press("inspect", out).output
    done = press("update", zipped, "--calibrate", place / "odd")
    assert isinstance(done.exception, ValueError)
    assert "got 20 independent images" in str(done.exception)
    write([np.full((1, 8, 8), level, np.uint8) for level in range(30)], tmp_path / "grey")
    done = press("update", zipped, "--calibrate", tmp_path / "grey")
    assert done.exit_code == 0, done.output
    assert "30 to calibrate" in done.output
    assert press("update", zipped).exit_code == 2


def test_training_images_that_moved_are_found_where_one_says(place, tmp_path):
    copy = tmp_path / "copy"
    write([np.asarray(Image.open(path))[None] for path in (place / "normal").iterdir()], copy)
    out = tmp_path / "kept"
    assert press("fit", copy, "--out", out, "--method", "NearestImage").exit_code == 0
    copy.rename(tmp_path / "moved")
    refused = press("update", out, "--train", place / "new")
    assert "120 of the 120 images that it was fitted to are gone" in str(refused.exception)
    done = press("update", out, "--train", place / "new", "--known", tmp_path / "moved")
    assert done.exit_code == 0, done.output


def test_a_graph_is_exported_and_says_what_it_lacks(kept, tmp_path):
    pytest.importorskip("onnxscript")
    done = press("export", kept, "--onnx", tmp_path / "model.onnx")
    assert done.exit_code == 0, done.output
    assert "does not read pictures" in done.output
    assert (tmp_path / "model.onnx").stat().st_size > 1000


def phone_pictures(folder, count, seed, defects=0):
    """JPEGs as telephones write them: two sizes, turned by a tag, lit differently."""
    random = np.random.default_rng(seed)
    folder.mkdir()
    for number in range(count):
        height, width = ((90, 120), (120, 90), (60, 80))[number % 3]
        rows = np.linspace(0, 3, height)[:, None, None] * np.array([40, 25, 10])
        pixels = 90 + rows + random.normal(0, 6, (height, width, 3)) + random.uniform(-15, 15)
        if number < defects:
            pixels[20:45, 30:55] = 250
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        turned, tags = number % 8 + 1, Image.Exif()
        undone = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that a tag undoes
        tags[0x0112] = turned
        picture = picture if turned == 1 else picture.transpose(Image.Transpose(undone[turned]))
        picture.save(folder / f"IMG_{number:04}.JPG", "JPEG", quality=92, exif=tags)
    return folder


def test_a_folder_of_telephone_pictures_from_fit_to_export(tmp_path):
    learnt = phone_pictures(tmp_path / "Meine Bilder é", 60, 0)
    new = phone_pictures(tmp_path / "new", 24, 1)
    odd = phone_pictures(tmp_path / "odd", 24, 2, defects=24)
    whole = (new / "IMG_0000.JPG").read_bytes()
    (learnt / "broken.jpg").write_bytes(whole[: len(whole) // 3])
    (new / "broken.jpg").write_bytes(b"")
    (new / "renamed.jpg").write_text("no picture", encoding="utf-8")
    (new / "@eaDir").mkdir()
    kept, csv = tmp_path / "kept", tmp_path / "scores.csv"
    refused = press("fit", learnt, "--out", kept)
    assert "--size 64" in str(refused.exception)
    done = press("fit", learnt, "--out", kept, "--size", 32)
    assert done.exit_code == 0, done.output
    assert "1 not a readable image (such as " in done.output
    done = press("score", kept, new, "--csv", csv, "--normal", "--html", tmp_path / "page.html")
    assert done.exit_code == 0, done.output
    table = pd.read_csv(csv, keep_default_na=False)
    assert len(table) == 27
    assert (table.skipped != "").sum() == 3
    assert press("score", kept, odd, "--csv", csv, "--fail-on-alarm").exit_code == 3
    done = press("evaluate", kept, "--normal", new, "--anomalous", odd)
    assert float(re.search(r"AUROC ([\d.]+)", done.output)[1]) > 0.95
    assert press("inspect", kept).exit_code == press("threshold", kept, "--alpha", 0.1).exit_code


STREAMED = """
import resource, sys
from clad_lib import Detector
detector, peaks = Detector.load(sys.argv[1]), []
for folder in sys.argv[2:]:
    count = sum(len(images) for _, images in detector.score_folder(folder, batch=64))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    print(count, peaks[-1])
"""


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path):
    pytest.importorskip("resource")
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (2000, 64, 64, 3), dtype=np.uint8)
    detector = Detector("NearestImage").fit(pictures[:60].transpose(0, 3, 1, 2))
    few, many = tmp_path / "few", tmp_path / "many"
    for folder, count in ((few, 200), (many, 2000)):
        folder.mkdir()
        for number, picture in enumerate(pictures[:count]):
            Image.fromarray(picture).save(folder / f"{number}.bmp")
    words = [sys.executable, "-c", STREAMED, str(detector.save(tmp_path / "kept")), few, many]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    (one, before), (other, after) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (one, other) == (200, 2000)
    assert after - before < 10_000  # kilobytes; the pictures alone are 24,000


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
        ("fit", place / "normal", "--out", tmp_path / "d", "--method", "OCNN"): "cannot be saved",
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
