"""A detector for one's own images: its promise, its refusals, and the bundle that stays as it was."""

import json
import re
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from clad_lib.config import make_config
from clad_lib.data.reading import load_dataset
from clad_lib.detector import Detector
from clad_lib.judge import guarantees
from clad_lib.judge.metrics import auroc
from clad_lib.methods.dictionary import encode
from clad_lib.study import bundle, own_images, stages
from clad_lib.study.store import StoreError

NORMAL = [1, 4, 7]


@pytest.fixture(scope="module")
def digits():
    train, test = load_dataset("digits")
    normal, new = np.isin(train.labels, NORMAL), np.isin(test.labels, NORMAL)
    return train.images[normal][:240], test.images[new], test.images[~new][:120]


@pytest.fixture(scope="module")
def fitted(digits):
    return Detector("NearestImage").fit(digits[0])


@pytest.fixture(scope="module")
def patches(digits):
    return Detector().fit(digits[0][:120])


@pytest.fixture(scope="module")
def kept(patches, tmp_path_factory):
    return patches.save(tmp_path_factory.mktemp("kept") / "detector")


@pytest.fixture
def copy(kept, tmp_path):
    for path in kept.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def noise(count, seed=0, channels=1, size=8):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, channels, size, size), dtype=np.uint8)


def repaired(folder):
    """Give a changed bundle checksums that fit, as an attacker would."""
    names = (bundle.WEIGHTS, bundle.RECORD, bundle.CARD)
    files = {name: (folder / name).read_bytes() for name in names}
    (folder / bundle.SUMS).write_bytes(bundle.checksums(files))
    return folder


def test_it_tells_digits_apart_and_alarms_above_its_threshold(digits, patches):
    _, normal, odd = digits
    scores = patches.score(np.concatenate([normal, odd]))
    assert auroc(scores, np.repeat([False, True], [len(normal), len(odd)])) > 0.97
    assert (patches.predict(odd) == (patches.score(odd) > patches.threshold.value)).all()
    assert patches.predict(odd).mean() > 0.7


def test_nearest_image_is_the_distance_to_what_it_learnt_from(digits, fitted):
    known = torch.from_numpy(digits[0]).flatten(1) / 255.0
    left = (fitted.examples.flatten(1) / 255.0)[:, None]
    assert len(fitted.examples) == fitted.counts["train"] == 240 - fitted.counts["held"]
    rows = (left == known).all(2).any(0)  # what was kept are images that it was given
    assert rows.sum() >= len(fitted.examples)
    new = torch.from_numpy(digits[1][:20]).flatten(1) / 255.0
    expected = torch.cdist(new.double(), fitted.examples.flatten(1).double() / 255).min(1).values
    np.testing.assert_allclose(fitted.score(digits[1][:20]), expected, atol=1e-5)


def test_p_values_and_threshold_are_those_of_the_calibration_scores(digits, fitted):
    scores = fitted.score(digits[1])
    by_hand = [(1 + (fitted.calibrated >= s).sum()) / (len(fitted.calibrated) + 1) for s in scores]
    np.testing.assert_allclose(fitted.p_value(digits[1]), by_hand)
    again = guarantees.threshold_for(fitted.calibrated, alpha=0.05, delta=0.1)
    assert fitted.threshold == again == fitted.threshold_at(0.05)


@pytest.mark.parametrize(("count", "alpha"), [(44, 0.1), (225, 0.05), (1150, 0.01)])
def test_the_smallest_alpha_that_the_images_allow_is_taken_and_said(count, alpha):
    detector = Detector("NearestImage").fit(noise(count))
    assert detector.threshold.alpha == alpha
    assert detector.threshold.guarantee == guarantees.CONDITIONAL
    assert f"alpha = {alpha:g}: the smallest" in detector.report()


def test_more_is_held_out_where_alpha_asks_for_it():
    detector = Detector("NearestImage", alpha=0.05).fit(noise(100))
    assert len(detector.calibrated) == guarantees.images_needed(0.05) == 45
    assert "as asked" in detector.report()


def test_the_promise_holds_over_many_draws():
    rates = []
    for seed in range(60):
        detector = Detector("NearestImage", alpha=0.1, seed=seed).fit(noise(60, seed, size=4))
        rates.append(detector.predict(noise(400, 1000 + seed, size=4)).mean())
    assert np.mean(np.array(rates) > 0.1 + 2 * np.sqrt(0.09 / 400)) < 0.2


def test_images_may_lie_in_memory_in_any_way(digits):
    turned = np.ascontiguousarray(digits[0][:60].transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    assert not turned.flags["C_CONTIGUOUS"]
    one, other = (Detector("NearestImage").fit(each) for each in (digits[0][:60], turned))
    assert (one.known == other.known).all()
    assert (one.calibrated == other.calibrated).all()


def test_copies_and_tracks_are_one_unit():
    images = np.repeat(noise(50), 4, axis=0)
    detector = Detector("NearestImage").fit(images)
    assert len(detector.calibrated) < detector.counts["held"]
    assert (detector.score(images) > 0).sum() == detector.counts["held"]  # none on both sides
    tracks = np.arange(200) // 4
    detector = Detector("NearestImage").fit(noise(200), tracks=tracks)
    assert 22 <= len(detector.calibrated) <= 25
    with pytest.raises(ValueError, match="40 images, 10 of them independent"):
        Detector().fit(noise(40), tracks=np.arange(40) // 4)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (noise(0), "got 0 images"),
        (noise(3), "takes 44"),
        (np.repeat(noise(1), 100, 0), "100 images, 1 of them independent"),
        (0 * noise(100), "1 of them independent"),
        (noise(60) / 255, "expected uint8"),
        (noise(60)[:, 0], r"expected uint8 \(N, C, S, S\)"),
        (noise(60)[..., :6], "expected uint8"),
        (noise(60, channels=2), "C 1 or 3"),
        ("no such folder", "expected pictures"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(images, words):
    with pytest.raises(ValueError, match=words) as error:
        Detector().fit(images)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "Patch"}, "did you mean 'Patches'"),
        ({"alpha": 2}, "alpha is 2"),
        ({"delta": 0}, "delta is 0"),
        ({"alpha": 0.01}, "takes 460"),
        ({"device": "gpu"}, "unknown device"),
        ({"method": "MSP"}, "no new ones"),
        ({"method": "Oracle"}, "no new ones"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_learnt(options, words):
    with pytest.raises(ValueError, match=words):
        Detector(**options).fit(noise(60))


def test_an_unfitted_detector_says_so():
    with pytest.raises(ValueError, match="call fit"):
        Detector().score(noise(1))


def test_mirrored_images_are_said_to_be_normal_and_that_is_kept(digits, tmp_path):
    detector = Detector("Fused", profile="smoke", mirror=True, device="cpu").fit(digits[0][:60])
    (patches, _), *_ = detector.scorer.experts["Patches"].views
    assert int(patches.layout[2]) == 2  # cells a side, as for data sets of photographs
    again = Detector.load(detector.save(tmp_path / "kept"), device="cpu")
    assert again.mirror
    own_images.renew(again, digits[0][60:70], train=True, places=[digits[0][:60]])
    (patches, _), *_ = again.scorer.experts["Patches"].views
    assert int(patches.layout[2]) == 2
    assert not np.allclose(again.score(digits[1]), detector.score(digits[1]))


def test_mirrored_images_get_the_settings_of_photographs():
    own, photographs = Detector(mirror=True, profile="smoke").config, make_config("cifar10", "LIV")
    for name in ("patch_layers", "rotation_weight", "trust_power", "rotation_labels"):
        assert getattr(own, name) == getattr(photographs, name) != getattr(Detector().config, name)
    assert (own.dataset, own.patch_features) == ("own images", 64)  # as the profile says


def test_a_longer_update_shows_how_far_it_is(digits, capsys):
    detector = Detector("Rotation", profile="smoke", device="cpu").fit(digits[0][:60])
    assert "rotation" not in capsys.readouterr().err
    more = dict(train=True, places=[digits[0][:60]], progress=True)
    own_images.renew(detector, digits[0][60:70], **more)
    assert re.search(r"rotation: 100%.*loss", capsys.readouterr().err)


def test_photographs_alone_are_refused_before_minutes_of_other_experts(digits, monkeypatch):
    def never(*_):
        raise AssertionError("another expert was fitted first")

    for name in ("Patches", "rotation_network"):
        monkeypatch.setitem(stages.rows(), name, stages.row(name)._replace(function=never))
    large = digits[0][:60].repeat(2, axis=2).repeat(2, axis=3)
    with pytest.raises(ValueError, match=r"mirror is False.*clad fit --mirror"):
        Detector("FusedPhotographs", profile="smoke", device="cpu").fit(large)


def test_explain_says_where_and_shows_what_is_like_it(digits, patches, fitted):
    found = patches.explain(digits[2][0])
    assert found.map.shape == (4, 4)
    assert found.map.min() >= 0
    assert (np.diff(found.distance) >= 0).all()
    assert found.latent_class == patches.latent_class(digits[2][:1])[0]
    own = fitted.explain(fitted.examples[7])
    assert own.map is None
    assert own.latent_class == -1
    assert (own.nearest[0] == fitted.examples[7].numpy()).all()
    assert own.distance[0] == 0


def test_the_map_points_at_a_planted_defect():
    rng = np.random.default_rng(0)
    plain = (np.add.outer(np.arange(32), np.arange(32)) * 3)[None, None]
    images = (plain + rng.integers(0, 20, (120, 1, 32, 32))).astype(np.uint8)
    detector = Detector().fit(images[:100])
    defect = images[110].copy()
    defect[0, 18:23, 10:14] = 255
    row, column = np.unravel_index(detector.explain(defect).map.argmax(), (4, 4))
    assert (row, column) == (2, 1)


def test_a_latent_class_is_the_nearest_cluster_and_follows_the_hidden_classes(patches):
    _, test = load_dataset("digits")
    normal = np.isin(test.labels, NORMAL)
    found, hidden = patches.latent_class(test.images[normal]), test.labels[normal]
    _, memory = patches.scorer.views[-1]
    seen = encode(torch.from_numpy(test.images[normal][:50]), patches.scorer.views[-1][0])
    expected = torch.cdist(seen.double(), memory.centres[1].double()).argmin(1)
    assert (found[:50] == expected.numpy()).all()
    assert patches.scorer.look(torch.from_numpy(test.images[:40]))[0].equal(
        patches.scorer(torch.from_numpy(test.images[:40]))
    )
    majority = sum(np.bincount(hidden[found == each]).max() for each in np.unique(found))
    assert majority / len(hidden) > 0.9  # against 0.36 for the most frequent digit


def test_a_stream_that_drifts_is_noticed(digits, fitted):
    same = fitted.drift(fitted.score(digits[1]))
    assert same.alarm is None
    other = fitted.drift(fitted.score(np.concatenate([digits[1][:30], digits[2]])))
    assert other.alarm >= 30


def test_the_graph_for_onnx_equals_the_detector(digits, patches, fitted, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = patches.to_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(path)
    new = np.concatenate([digits[1][:60], digits[2]])
    score, cells = session.run(None, {"images": (new / 255).astype(np.float32)})
    np.testing.assert_allclose(score, patches.score(new), atol=1e-4)
    maps = patches.scorer.map(torch.from_numpy(new)).numpy()
    np.testing.assert_allclose(cells, maps, rtol=1e-4, atol=1e-4 * maps.max())
    (one, _) = session.run(None, {"images": (new[:1] / 255).astype(np.float32)})
    assert one[0] == pytest.approx(score[0], abs=1e-5)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["threshold"])["value"] == patches.threshold.value
    assert json.loads(facts["calibration"]) == patches.calibrated.tolist()
    assert "does not read pictures" in facts["not_carried"]
    with pytest.raises(StoreError, match="only Patches"):
        fitted.to_onnx(tmp_path / "other.onnx")
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]


def test_two_layers_are_kept_and_exported_as_they_score(digits, tmp_path):
    detector = Detector(device="cpu")
    detector.config = replace(detector.config, patch_layers=2)
    detector.fit(digits[0][:120])
    new = np.concatenate([digits[1][:60], digits[2]])
    again = Detector.load(detector.save(tmp_path / "kept"), device="cpu")
    assert np.array_equal(again.score(new), detector.score(new))
    assert again.scorer.names[8] == "nearest neighbours, 2 cells"
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(again.to_onnx(tmp_path / "model.onnx"))
    score, cells = session.run(None, {"images": (new / 255).astype(np.float32)})
    np.testing.assert_allclose(score, detector.score(new), atol=1e-4)
    maps = detector.scorer.map(torch.from_numpy(new)).numpy()
    np.testing.assert_allclose(cells, maps, rtol=1e-4, atol=1e-4 * maps.max())


def test_without_the_packages_for_onnx_it_says_what_to_install(patches, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(StoreError, match=r"clad-lib\[onnx\]"):
        patches.to_onnx(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_more_images_join_the_training_and_calibration_stays(digits, tmp_path):
    place = write(digits[0][:60], tmp_path / "a")
    detector = Detector("NearestImage").fit(place)
    again = Detector.load(detector.save(tmp_path / "kept"))
    held = set(again.known[again.counts["train"] :, 0].tolist())
    new = write(digits[0][50:80], tmp_path / "b")  # ten of them are known already
    own_images.renew(again, new, train=True)
    assert again.counts == {"train": detector.counts["train"] + 20, "held": 22, "images": 80}
    assert set(again.known[again.counts["train"] :, 0].tolist()) == held
    known = {image.tobytes() for image in again.examples.numpy()}
    added = {image.tobytes() for image in digits[0][60:80]}
    assert known == {image.tobytes() for image in detector.examples.numpy()} | added
    kept = digits[0][:60][[image.tobytes() not in known for image in digits[0][:60]]]
    np.testing.assert_allclose(sorted(again.calibrated), sorted(again.score(kept)), rtol=1e-6)
    assert again.threshold == guarantees.threshold_for(again.calibrated, alpha=0.1)
    assert again.folders == sorted([str(place), str(new)])
    own_images.renew(again, write(digits[0][80:90], tmp_path / "c"), train=True)  # from two places
    assert again.counts["images"] == 90


def test_images_that_are_gone_are_said_and_may_lie_elsewhere(digits, tmp_path):
    place = write(digits[0][:60], tmp_path / "a")
    detector = Detector("NearestImage").fit(place)
    before, new = detector.report(), digits[0][60:70]
    (place / "003.png").unlink()
    with pytest.raises(ValueError, match="1 of the 60 images that it was fitted to are gone"):
        own_images.renew(detector, new, train=True)
    place.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="60 of the 60"):
        own_images.renew(detector, new, train=True)
    with pytest.raises(ValueError, match="got 0 independent images"):
        own_images.renew(detector, digits[0][:60], train=True)
    assert detector.report() == before
    places = [str(tmp_path / "moved"), digits[0][:60]]
    own_images.renew(detector, new, train=True, places=places)
    assert detector.counts["images"] == 70


def test_other_calibration_images_give_another_threshold(digits, tmp_path):
    detector = Detector("NearestImage").fit(digits[0][:60])
    learnt, before = detector.examples.numpy(), detector.threshold
    with pytest.raises(ValueError, match=r"got 5 independent images .* expected 22"):
        own_images.renew(detector, np.concatenate([digits[1][:5], learnt]), train=False)
    assert detector.threshold == before
    own_images.renew(detector, np.concatenate([digits[1], learnt, digits[1][:9]]), train=False)
    assert len(detector.calibrated) == len(digits[1])
    np.testing.assert_allclose(sorted(detector.calibrated), sorted(detector.score(digits[1])))
    again = Detector.load(detector.save(tmp_path / "kept"))
    assert again.report() == detector.report()
    assert again.threshold.n == len(digits[1])


def test_more_than_the_memory_is_refused_before_a_picture_is_read(tmp_path, monkeypatch):
    import psutil

    (tmp_path / "a.png").write_bytes(b"never read")
    found = psutil.virtual_memory()._replace(available=10**9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: found)
    with pytest.raises(ValueError, match=r"about 1\.2 GB of memory, 1\.0 GB are free"):
        Detector(size=64).fit(tmp_path)


def test_other_methods_are_fitted_but_not_all_can_be_kept(digits, tmp_path):
    detector = Detector("PixelLOF").fit(digits[0])
    assert np.isfinite(detector.score(digits[1])).all()
    for options in ({}, {"replace": True}):
        with pytest.raises(StoreError, match="PixelLOF cannot be saved: fit with one of Patches"):
            detector.save(tmp_path / "kept", **options)
    assert not list(tmp_path.iterdir())


FRESH = """
import pathlib, sys, numpy, torch
from clad_lib import Detector
place = pathlib.Path(sys.argv[1])
images, found = numpy.load(place / "images.npy"), {}
for kept in sorted(place.glob("kept-*")):
    detector = Detector.load(kept, device="cpu")
    scores = [torch.set_num_threads(n) or detector.score(images) for n in (1, 2)]
    found[kept.name.removeprefix("kept-")] = numpy.stack(scores)
numpy.savez(place / "scores.npz", **found)
"""


def test_every_method_that_can_be_kept_scores_alike_in_a_fresh_process(digits, tmp_path):
    expected = {}
    normal, new = (each.repeat(2, axis=2).repeat(2, axis=3) for each in digits[:2])  # for crops
    np.save(tmp_path / "images.npy", new)
    for method in bundle.SAVED:
        detector = Detector(method, profile="smoke", mirror=True, device="cpu").fit(normal[:60])
        expected[method] = detector.score(new)
        again = Detector.load(detector.save(tmp_path / f"kept-{method}"), device="cpu")
        assert np.array_equal(again.score(new), expected[method]), method
        assert again.report() == detector.report()
        assert len(np.unique(expected[method])) > 10, method  # no constant is compared
    subprocess.run([sys.executable, "-c", FRESH, str(tmp_path)], check=True)
    with np.load(tmp_path / "scores.npz") as found:
        assert set(found) == set(bundle.SAVED)
        for method, (same, other) in found.items():
            np.testing.assert_allclose(same, expected[method], rtol=0, atol=1e-6, err_msg=method)
            np.testing.assert_allclose(other, expected[method], rtol=0, atol=1e-6, err_msg=method)


def test_what_the_table_of_methods_says_can_be_kept_is_all_that_fits_in_a_bundle():
    import typing

    from clad_lib.clad.scores import Scored

    gives = {
        name: typing.get_type_hints(stages.function_of(name))["return"] for name in stages.methods()
    }
    new = {name for name in gives if gives[name] is not Scored}  # those that score new images
    assert set(bundle.SAVED) <= new
    assert new - set(bundle.SAVED) == {
        "OCNN", "OCCNN", "DeepSVDD", "PixelLOF", "PNGBytes", "FeatureNorm",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["patches", "fitted"])
def test_a_bundle_gives_equal_scores_and_promises(name, digits, tmp_path, request):
    detector = request.getfixturevalue(name)
    again = Detector.load(detector.save(tmp_path / "kept"))
    np.testing.assert_allclose(again.score(digits[1]), detector.score(digits[1]), atol=1e-6)
    assert again.report() == detector.report()
    assert again.threshold == detector.threshold
    one, other = (each.explain(digits[2][3]) for each in (detector, again))
    assert (one.nearest == other.nearest).all()


def test_a_zip_is_the_same_bundle(digits, patches, kept, tmp_path):
    place = patches.save(tmp_path / "kept.zip")
    again = Detector.load(place)
    assert (again.score(digits[1]) == Detector.load(kept).score(digits[1])).all()
    with zipfile.ZipFile(place) as archive:
        for name in archive.namelist():
            assert name == bundle.RECORD or archive.read(name) == (kept / name).read_bytes()
    with pytest.raises(StoreError, match="exists already"):
        patches.save(place)
    assert [each.name for each in tmp_path.iterdir()] == ["kept.zip"]


def zipped(kept, place, more=(), method=zipfile.ZIP_DEFLATED, without=()):
    with zipfile.ZipFile(place, "w", method) as archive:
        for path in kept.iterdir():
            if path.name not in without:
                archive.write(path, path.name)
        for name, content in more:
            archive.writestr(name, content)
    return place


def test_a_zip_that_was_made_by_hand_is_read_and_a_wrong_one_refused(kept, tmp_path, monkeypatch):
    assert Detector.load(zipped(kept, tmp_path / "a.zip")).report()
    for name in ("../../evil", "/etc/evil", "C:\\evil", "sub/evil"):
        place = zipped(kept, tmp_path / "b.zip", more=[(name, b"x")])
        with pytest.raises(StoreError, match="and no more"):
            Detector.load(place)
    with pytest.raises(StoreError, match="and no more"):
        Detector.load(zipped(kept, tmp_path / "c.zip", without=[bundle.CARD]))
    with pytest.raises(StoreError, match="no detector in"):
        Detector.load(zipped(kept, tmp_path / "d.zip", without=[bundle.RECORD]))
    half = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "e.zip").write_bytes(half[: len(half) // 2])
    with pytest.raises(StoreError, match="damaged"):
        Detector.load(tmp_path / "e.zip")
    monkeypatch.setattr(bundle, "LARGEST", 1000)
    with pytest.raises(StoreError, match="and no more"):
        Detector.load(tmp_path / "a.zip")
    with pytest.raises(StoreError, match="and no more"):
        Detector.load(kept)


KILLED = """
import os, signal, sys
from clad_lib import Detector
from clad_lib.study import bundle, own_images, store
step, place, images = int(sys.argv[1]), sys.argv[2], sys.argv[3]
detector, count = Detector.load(place), 0
own_images.renew(detector, images, train=False)
def die(real):
    def call(*words, **options):
        global count
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        return real(*words, **options)
    return call
for owner, name in [(os, "replace"), (os, "rmdir"), (os, "unlink"), (store.Path, "write_bytes")]:
    setattr(owner, name, die(getattr(owner, name)))
detector.save(place, replace=True)
print("ended")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kept", "kept.zip"])
def test_a_kill_while_it_is_replaced_leaves_the_old_bundle_or_the_new_one(digits, tmp_path, name):
    new, found = write(digits[1][:40], tmp_path / "new"), set()
    place = Detector("NearestImage").fit(digits[0][:60]).save(tmp_path / name)
    for step in range(20):
        words = [sys.executable, "-c", KILLED, str(step), str(place), str(new)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode in (0, -9), done.stderr
        found.add(Detector.load(place).threshold.n)  # 22 before, 40 after: never anything else
        if "ended" in done.stdout:
            break
    assert found == {22, 40}
    assert "ended" in done.stdout
    assert {each.name for each in tmp_path.glob("[!.]*")} == {"new", name}


def test_a_bundle_holds_what_it_says_and_replaces_nothing(kept, patches):
    assert {path.name for path in kept.iterdir()} == {
        bundle.WEIGHTS,
        bundle.RECORD,
        bundle.CARD,
        bundle.SUMS,
    }
    record = json.loads((kept / bundle.RECORD).read_text(encoding="utf-8"))
    assert record["threshold"]["value"] == patches.threshold.value
    assert record["format"] == bundle.FORMAT
    assert "When the promise is void" in (kept / bundle.CARD).read_text(encoding="utf-8")
    with pytest.raises(StoreError, match="exists already"):
        patches.save(kept)


def test_a_full_disk_leaves_nothing(patches, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", refuse)
    with pytest.raises(StoreError, match="No space left"):
        patches.save(tmp_path / "kept")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [bundle.WEIGHTS, bundle.RECORD, bundle.CARD, bundle.SUMS])
@pytest.mark.parametrize("damage", ["gone", "half", "one bit"])
def test_what_was_changed_is_refused(copy, name, damage):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    path = copy / name
    path.unlink()
    if damage != "gone":
        path.write_bytes(content if damage == "one bit" else content[: len(content) // 2])
    with pytest.raises(StoreError) as error:
        Detector.load(copy)
    assert "\n" not in str(error.value)


def changed(folder, **values):
    record = json.loads((folder / bundle.RECORD).read_text(encoding="utf-8"))
    (folder / bundle.RECORD).write_text(json.dumps(record | values), encoding="utf-8")
    return repaired(folder)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"format": 4}, "format 4, this clad_lib reads 2 and 3"),
        ({"format": "../../etc"}, "reads 2"),
        ({"settings": {"method": "../../etc/passwd"}}, "unknown method"),
        ({"settings": {}, "learnt": {}}, "damaged"),
        ({"learnt": 3}, "damaged"),
        ({"threshold": {"alpha": "x"}}, "damaged"),
        ({"threshold": {"alpha": float("nan")}}, "damaged"),
        ({"scorer": {"network": "ResNet18", "shape": {"classes": 10**9}}}, "damaged"),
        ({"scorer": {"kind": "system", "first": ["ls"], "options": {}}}, "damaged"),
        ({"scorer": {"kind": "odin", "first": [], "options": {}}}, "damaged"),
        ({"scorer": {"tensor": "scores"}}, "damaged"),
        ({"scorer": [[[3]]]}, "damaged"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused_even_with_good_checksums(copy, values, words):
    with pytest.raises(StoreError, match=words) as error:
        Detector.load(changed(copy, **values))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("scorer.views.0.0.layout", lambda each: each * 1000),
        ("scorer.views.0.0.layout", lambda each: torch.tensor([4, 0, 4, 1, 16])),
        ("scorer.views.0.0.layout", lambda each: torch.tensor([4, 1, 10**6, 1, 16])),
        ("scorer.views.0.1.points", lambda each: each[:-3]),
        ("scorer.views.0.1.density", lambda each: each[:-3].clone()),
        ("scorer.views.0.0.filters", lambda each: each[:, :-1].clone()),
        ("scorer.own", lambda each: each * torch.nan),
        ("examples", lambda each: each[..., :8].clone()),
        ("scores", lambda each: each * torch.nan),
        ("scores", lambda each: each[:0]),
    ],
)
def test_tensors_that_do_not_fit_are_refused_even_with_good_checksums(copy, name, change):
    tensors = load_file(copy / bundle.WEIGHTS)
    save_file(tensors | {name: change(tensors[name]).contiguous()}, copy / bundle.WEIGHTS)
    with pytest.raises(StoreError):
        Detector.load(repaired(copy))


def test_a_pickle_in_place_of_the_weights_is_not_run(copy, tmp_path):
    import os
    import pickle

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    (copy / bundle.WEIGHTS).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(StoreError):
        Detector.load(repaired(copy))
    assert not (tmp_path / "run").exists()


def test_no_detector_in_a_folder_is_said(tmp_path):
    with pytest.raises(StoreError, match="no detector in"):
        Detector.load(tmp_path)


def write(images, folder, scale=1, mode=None, suffix="png"):
    folder.mkdir()
    for number, image in enumerate(images):
        picture = Image.fromarray(image[0].astype(mode or np.uint8) * scale)
        picture.save(folder / f"{number:03}.{suffix}")
    return folder


def test_a_folder_gives_the_scores_of_its_pixels_in_any_batches(digits, tmp_path):
    known = write(digits[0][:60], tmp_path / "known")
    new = write(digits[1][:10], tmp_path / "new")
    (new / "broken.png").write_bytes(b"\x89PNG")
    detector = Detector("NearestImage").fit(known)
    whole = Detector("NearestImage").fit(digits[0][:60])
    assert (detector.calibrated == whole.calibrated).all()
    frames, images = zip(*detector.score_folder(new, batch=4), strict=True)
    assert [len(frame) for frame in frames] == [4, 4, 2, 1]
    assert (np.concatenate(images) == digits[1][:10]).all()
    found = np.concatenate([frame.score for frame in frames])[:10]
    np.testing.assert_allclose(found, whole.score(digits[1][:10]), rtol=1e-6)
    assert frames[-1].skipped[0].startswith("not a readable image")
    with pytest.raises(ValueError, match="broken"):
        list(detector.score_folder(new, strict=True))


def test_deep_pixels_are_scaled_as_in_training(digits, tmp_path):
    deep = write(digits[0][:60], tmp_path / "deep", 257, np.uint16, "tif")
    detector = Detector("NearestImage").fit(deep)
    dark = np.minimum(digits[1][:10], 3)  # alone, these would be taken for pictures of 10 bits
    shallow = Detector("NearestImage").fit(write(digits[0][:60], tmp_path / "shallow"))
    new = write(dark, tmp_path / "new", 257, np.uint16, "tif")
    again = Detector.load(detector.save(tmp_path / "kept"))
    found = next(again.score_folder(new))[0].score
    np.testing.assert_allclose(found, shallow.score(dark), rtol=1e-6)
