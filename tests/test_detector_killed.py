"""A kill at any moment of a fit, a save or an update: the old bundle or the new one, no mixture."""

import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest
from PIL import Image
from tqdm import tqdm

from clad_lib.detector import Detector
from clad_lib.study import own_images
from clad_lib.study.store import StoreError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
FEW, MANY = 15, 400


@pytest.fixture(autouse=True)
def own_lock():
    """The lock of progress bars, which processes share: a killed one may have held it."""
    before = tqdm.get_lock()
    tqdm.set_lock(threading.RLock())
    yield
    tqdm.set_lock(before)


def pictures(folder, count, seed):
    folder.mkdir()
    random = np.random.default_rng(seed)
    for number in range(count):
        pixels = random.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def killed(action, seconds, moment="start"):
    """Run `action` in a child that is killed so many seconds after a moment.

    The moments are its start, the call of what it is given (it is about to save), and its end. At
    `never saves` it waits in that call, so that it is killed for certain before it has saved.
    """
    told, tell = os.pipe()

    def saving():
        os.write(tell, b"x")
        if moment == "never saves":
            time.sleep(3600)

    if not (child := os.fork()):
        try:
            action(saving)
        finally:
            os.write(tell, b"x")
            os._exit(0)
    for _ in range({"start": 0, "never saves": 1, "saving": 1, "end": 2}[moment]):
        os.read(told, 1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(told)
    os.close(tell)


def moments_of(times, whole, saving):
    """Seconds and moments of so many kills: one before a save, one after it, the rest drawn."""
    yield 0, "never saves"
    for number in range(1, times - 1):
        drawn = np.random.default_rng(number).uniform(0, 1.5)
        yield (drawn * whole, "start") if number % 3 == 0 else (drawn * saving, "saving")
    yield 0, "end"


def seconds_of(action):
    """How long the whole of an action takes, and its end from the call of what it is given."""
    moments = [time.perf_counter()]
    action(lambda: moments.append(time.perf_counter()))
    end = time.perf_counter()
    return end - moments[0], end - moments[-1]


def check_fit(tmp_path, name, times):
    folder, place = pictures(tmp_path / "normal", 60, 0), tmp_path / name
    expected, found = Detector("NearestImage", device="cpu").fit(folder).threshold, set()

    def action(saving, place=place):
        detector = Detector("NearestImage", device="cpu").fit(folder)
        saving()
        detector.save(place)

    whole, saving = seconds_of(lambda told: action(told, tmp_path / f"other-{name}"))
    for number, (seconds, moment) in enumerate(moments_of(times, whole, saving)):
        killed(action, seconds, moment)
        try:
            assert Detector.load(place).threshold == expected
            found.add("new")
        except StoreError:
            assert not place.exists()
            found.add("none")
        if number % 10 == 0 and not place.exists():
            action(lambda: None)  # what a killed one has left is in nobody's way
            assert Detector.load(place).threshold == expected
        shutil.rmtree(place, ignore_errors=True)
        place.unlink(missing_ok=True)
    assert found == {"new", "none"}


def check_update(tmp_path, name, times):
    folder, more = pictures(tmp_path / "normal", 60, 0), pictures(tmp_path / "more", 40, 1)
    place = tmp_path / name
    Detector("NearestImage", device="cpu").fit(folder).save(place)

    def action(saving):
        detector = Detector.load(place)
        if detector.threshold.n == 22:
            own_images.renew(detector, more, train=False)
        else:
            detector.set_threshold(*first)
        saving()
        detector.save(place, replace=True)

    pixels, _, _ = own_images.read_images(folder, **Detector.load(place).reading)
    first = pixels[:22], np.arange(22)
    whole, saving = seconds_of(action)
    for seconds, moment in moments_of(times, whole, saving):
        before = Detector.load(place).threshold.n
        killed(action, seconds, moment)
        after = Detector.load(place).threshold.n
        assert {before, after} <= {22, 40}
        assert moment != "never saves" or after == before
        assert moment != "end" or after != before
    action(lambda: None)
    left = {each.name for each in tmp_path.glob("[!.]*")}
    assert left == {"normal", "more", name}


@pytest.mark.parametrize("name", ["kept", "kept.zip"])
def test_a_kill_during_fit_or_save_leaves_a_whole_bundle_or_none(tmp_path, name):
    check_fit(tmp_path, name, FEW)


@pytest.mark.parametrize("name", ["kept", "kept.zip"])
def test_a_kill_during_an_update_leaves_the_old_bundle_or_the_new_one(tmp_path, name):
    check_update(tmp_path, name, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kept", "kept.zip"])
@pytest.mark.parametrize("check", [check_fit, check_update])
def test_kills_at_many_moments(tmp_path, name, check):
    check(tmp_path, name, MANY)
