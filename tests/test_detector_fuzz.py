"""Mutated bundles and pictures: read or refused in words, never a hang, a crash or a command run."""

import copy
import io
import json
import struct
import time
import warnings

import numpy as np
import pytest
from PIL import Image

from clad_lib.data.pictures import DataError, decode
from clad_lib.detector import Detector
from clad_lib.study import bundle
from clad_lib.study.store import StoreError

FEW, MANY, LONGEST = 300, 10_000, 10  # mutants, and processor seconds for one of them
ODD = [None, True, -1, 0, 3, 10**30, 1e308, float("nan"), "", "../../etc/passwd", "Patches", "ODIN"]
ODD += [[], [[]], {}, {"alpha": 0.1}, "\ud800", "x" * 10_000, [1] * 1000, "F64", "BOOL", "cuda:7"]
ODD += ["Fused", "PlainNet", "odin", "FusedScorer", "Memory", {"tensor": "known"}, "scorer.own"]
KEPT = {"Patches": False, "Fused": True, "OCSVM": False}  # whether mirrored: two layers


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """The files of a small bundle of each kind, and that the bundle is good."""
    images, found = np.random.default_rng(0).integers(0, 256, (60, 1, 12, 12), dtype=np.uint8), []
    for method, mirror in KEPT.items():
        detector = Detector(method, profile="smoke", mirror=mirror, device="cpu").fit(images)
        place = detector.save(tmp_path_factory.mktemp("good") / "kept")
        assert Detector.load(place).report()
        found.append({path.name: path.read_bytes() for path in place.iterdir()})
    return found


def places_in(value, path=()):
    """The paths to all values in a JSON value."""
    yield path
    items = dict(enumerate(value)) if isinstance(value, list) else value
    for key, each in items.items() if isinstance(items, dict) else ():
        yield from places_in(each, (*path, key))


def with_odd_values(value, random):
    """A JSON value in which one to three values were replaced, removed, or swapped."""
    for _ in range(random.integers(1, 4)):
        paths = [path for path in places_in(value) if path]
        if not paths:
            return value
        *path, last = paths[random.integers(len(paths))]
        owner = value
        for key in path:
            owner = owner[key]
        if random.random() < 0.2:
            del owner[last]
        elif isinstance(owner[last], int) and random.random() < 0.5:
            owner[last] += int(random.choice([-1, 1, 4, 2**31, -(2**40)]))
        else:
            owner[last] = copy.deepcopy(ODD[random.integers(len(ODD))])
    return value


def scratched(content, random):
    """Bytes of which a few were changed, or a part is missing, doubled, or new."""
    content = bytearray(content)
    for _ in range(random.integers(1, 9)):
        place = int(random.integers(len(content) or 1))
        content[place : place + 1] = random.bytes(1)
    start, end = sorted(random.integers(0, len(content) + 1, 2))
    kind = random.integers(6)
    if kind == 0:
        del content[start:end]
    elif kind == 1:
        content[start:start] = content[start:end]
    elif kind == 2:
        content[start:end] = random.bytes(end - start)
    return bytes(content)


def mutant(files, random):
    """The files of a bundle, one of which was changed, with checksums that fit."""
    record, weights = files[bundle.RECORD], files[bundle.WEIGHTS]
    length = struct.unpack("<Q", weights[:8])[0]
    kind = random.integers(5)
    if kind == 0:
        record = json.dumps(with_odd_values(json.loads(record), random)).encode()
    elif kind == 1:
        record = scratched(record, random)
    elif kind == 2:
        head = json.dumps(with_odd_values(json.loads(weights[8 : 8 + length]), random)).encode()
        weights = struct.pack("<Q", len(head)) + head + weights[8 + length :]
    elif kind == 3:
        weights = weights[: 8 + length] + scratched(weights[8 + length :], random)
    else:
        weights = scratched(weights[: 8 + length], random) + weights[8 + length :]
    changed = {bundle.WEIGHTS: weights, bundle.RECORD: record, bundle.CARD: files[bundle.CARD]}
    return changed | {bundle.SUMS: bundle.checksums(changed)}


def check_bundles(bundles, folder, count):
    read = 0
    for seed in range(count):
        files = bundles[seed % len(bundles)]
        for name, content in mutant(files, np.random.default_rng(seed)).items():
            (folder / name).write_bytes(content)
        began, said = time.process_time(), ""
        try:
            read += bool(Detector.load(folder, device="cpu").report())
        except StoreError as error:
            said = str(error)
        except BaseException as error:
            raise AssertionError(f"seed {seed} raises {type(error).__name__}: {error}") from error
        assert "\n" not in said, seed
        assert len(said) < 600, seed
        assert time.process_time() - began < LONGEST, seed
    assert 0 < read < count  # a number that was changed may still make sense


def test_mutated_bundles_are_read_or_refused(bundles, tmp_path):
    check_bundles(bundles, tmp_path, FEW)


@pytest.mark.slow
def test_many_mutated_bundles_are_read_or_refused(bundles, tmp_path):
    check_bundles(bundles, tmp_path, MANY)


def pictures():
    """One picture in many formats, by the name of the format."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    colour, found = Image.fromarray(pixels), {}
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    shown = [("PNG", colour), ("JPEG", colour), ("GIF", colour), ("BMP", colour), ("TIFF", colour)]
    shown += [("WEBP", colour), ("PPM", colour), ("TGA", colour), ("ICO", colour), ("PCX", colour)]
    shown += [("PNG", deep), ("TIFF", deep), ("PNG", colour.convert("P")), ("JPEG2000", colour)]
    for number, (kind, image) in enumerate(shown):
        image.save(stream := io.BytesIO(), kind)
        found[f"{number} {kind}"] = stream.getvalue()
    return found


def check_pictures(count):
    good, read = pictures(), 0
    for seed in range(count):
        random = np.random.default_rng(seed)
        name = list(good)[random.integers(len(good))]
        began, said = time.process_time(), ""
        try:
            with warnings.catch_warnings(action="ignore"):
                pixels, _ = decode(scratched(good[name], random), size=16)
        except DataError as error:
            said = str(error)
        except BaseException as error:
            raise AssertionError(f"seed {seed}, {name}: {type(error).__name__} {error}") from error
        else:
            read += 1
            assert pixels.shape[1:] == (16, 16)
            assert pixels.dtype == np.uint8
        assert "\n" not in said, (seed, name)
        assert time.process_time() - began < LONGEST, (seed, name)
    assert 0 < read < count


def test_mutated_pictures_are_read_or_refused():
    check_pictures(FEW)


@pytest.mark.slow
def test_many_mutated_pictures_are_read_or_refused():
    check_pictures(MANY)
