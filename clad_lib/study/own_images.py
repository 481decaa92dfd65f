"""Images of one's own: read, recognised, held out, learnt from, added, and what that takes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import timeit
import typing
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clad_lib.clad.scores import Scored, Scorer
from clad_lib.config import Config, unknown
from clad_lib.data.cache import ImageData
from clad_lib.data.folders import in_words, read_folder
from clad_lib.data.pictures import DataError, shown
from clad_lib.data.reading import units_of
from clad_lib.data.scenarios import make_split
from clad_lib.data.split import Answers, Scenario, Split
from clad_lib.judge import guarantees
from clad_lib.study import stages
from clad_lib.study.engine import Study

SCENARIO = Scenario("own images", "ALL", "all images", (0,))
FIXED, COPIES = 1.2e9, 40  # bytes that any fit takes, and for each number learnt of an image
PROBE = "square @ square", "import torch; square = torch.rand(512, 512)"
PROBED = 2.3e-3  # seconds that the probe took where COSTS were measured
COSTS = {  # seconds of a fit: once, an image, a pair of images; 1: it grows beyond 64 pixels
    "Patches": (1.5, 3e-3, 0, 0),
    "Rotation": (0, 2e-3, 0, 1),
    "Contrastive": (0, 2e-3, 0, 1),
    "Fused": (2, 5e-3, 0, 1),
    "FusedPhotographs": (2, 7e-3, 0, 1),
    "Pretrained": (1, 8e-3, 0, 0),
    "ODIN": (60, 1.3e-2, 0, 1),
    "NearestImage": (0.1, 1e-4, 3e-8, 1),
    "OCSVM": (0.1, 1e-4, 3e-7, 1),
    "SVDD": (0.1, 1e-4, 3e-7, 1),
}
VIEWS = {"rotation_views": 1.9e-3, "contrastive_views": 1.15e-3}  # seconds of training on one, too


def as_images(images: Any) -> torch.Tensor:
    """Images (N, C, S, S) as a uint8 tensor; ValueError for another type or shape."""
    tensor = torch.as_tensor(images)
    square = tensor.ndim == 4 and tensor.shape[2] == tensor.shape[3] and tensor.shape[1] in (1, 3)
    if tensor.dtype != torch.uint8 or not square:
        raise ValueError(
            f"images are {tensor.dtype} {tuple(tensor.shape)}: expected uint8 (N, C, S, S), C 1 or "
            "3; save others to a folder, which is read at any size and depth"
        )
    return tensor


def read_images(
    images: Any, *, strict: bool = False, **how: Any
) -> tuple[np.ndarray, str, list[str]]:
    """An array (N, C, S, S) or a folder as an array, what was left out in words, and the folder.

    `how` are size, channels and highest as in `read_folder`.
    """
    if not isinstance(images, (str, Path)):
        return as_images(images).numpy(), "", []
    pixels, _, skipped = read_folder(images, strict=strict, **how)
    return pixels, in_words(skipped), [str(Path(images).resolve())]


def known(images: Any, units: np.ndarray) -> np.ndarray:
    """What recognises images (N, C, S, S) again: (N, 2) int64, of their pixels and `units` (N,)."""
    contents = (each.numpy().tobytes() for each in torch.as_tensor(images))
    digests = b"".join(hashlib.blake2b(each, digest_size=8).digest() for each in contents)
    return np.stack([np.frombuffer(digests, ">i8").astype(np.int64), units], 1)


def hold_out(
    images: np.ndarray,
    tracks: np.ndarray,
    *,
    alpha: float,
    delta: float,
    calibration: float,
    seed: int,
    mirror: bool = False,
) -> Split:
    """Normal images without test images; whole units are held out, as many as `alpha` takes.

    Raises DataError where less than as many would be left to learn from.
    """
    data = ImageData(images, np.zeros(len(images), int), tracks, ("normal",))
    none = ImageData(images[:0], data.labels[:0], data.tracks[:0], data.class_names)
    total, needed = len(np.unique(units_of(images, tracks))), guarantees.images_needed(alpha, delta)
    if total < 2 * needed:
        raise DataError(
            f"got {len(images)} images, {total} of them independent: to promise alpha = {alpha:g} "
            f"takes {2 * needed}, one half to learn from and one to calibrate; add normal images, "
            "or raise alpha"
        )
    scenario = replace(SCENARIO, mirror=mirror)
    return make_split(data, none, scenario, seed=seed, calibration=max(calibration, needed / total))


def estimate(method: str, count: int, shape: Sequence[int], config: Config) -> str:
    """Time and memory that fitting to `count` images (C, S, S) takes, in words; both are rough.

    The time is that of COSTS, on a machine as fast as this one is now; of other methods it is not
    known. The memory is rather too large than too small, but for networks, which may take more.
    Raises DataError where less is free.
    """
    import psutil  # a bare machine may have none: it loads and scores

    pixels, area = int(np.prod(shape)), (shape[-1] / 32) ** 2
    reads = stages.settings_of(method, config)
    layers = reads.get("patch_layers", 0)
    learnt = max(pixels * (method != "Patches"), config.patch_features * layers)
    needed = FIXED + count * 4 * pixels + min(count, config.patch_images) * COPIES * learnt
    if needed > (free := psutil.virtual_memory().available):
        raise DataError(
            f"{method} on {count:,} images of {shape} takes about {needed / 1e9:.1f} GB of memory, "
            f"{free / 1e9:.1f} GB are free: give a smaller size, such as --size 64, or fewer images"
        )
    once, each, pair, grows = COSTS.get(method, (np.nan,) * 4)
    once += sum(cost * reads.get(name, 0) for name, cost in VIEWS.items()) + 12 * (layers == 2)
    each += 5e-3 * (layers == 2)  # the dictionaries of photographs have eight times the centroids
    seconds = (once + (each + pair * count) * count) * min(area, 1) * max(1, area / 4) ** grows
    seconds *= min(timeit.repeat(*PROBE, number=1, repeat=5)) / PROBED
    time = f"about {seconds:,.0f} s" if method in COSTS else "a time that is not known"
    return f"{method} on {count:,} images takes {time} and about {needed / 1e6:,.0f} MB"


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside, torch computes with `count` threads, or with as many as there are processors."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(count, os.cpu_count() or 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_method(method: str) -> str:
    """The method itself; ValueError for an unknown one, and for one that scores no new images."""
    if method not in stages.methods():
        raise ValueError(unknown("method", method, stages.methods()))
    returns = typing.get_type_hints(stages.function_of(method))["return"]
    if returns is Scored or stages.row(method).protocol == "oracle":
        raise ValueError(f"{method} scores the test images of a study and no new ones: use Patches")
    return method


def fitted(
    method: str, split: Split, config: Config, device: torch.device, progress: bool = False
) -> Scorer:
    """The scorer of a row of the table of stages; what it needs is made in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        places, threads = stages.Places(Path(folder), config, "own"), torch.get_num_threads()
        return Study(config, split, places, device, threads, progress).fit(method)


def report(detector: Any) -> str:
    """What a Detector learnt from what, its threshold, the promise, and what was left out."""
    chosen = "as asked" if detector.alpha else "the smallest of 0.01, 0.05, 0.1 that they allow"
    shape, line = "{1} x {2} x {3}".format(*detector.examples.shape), detector.threshold
    counts = "{images:,} images: {train:,} to learn from, {held:,} to calibrate"
    lines = [
        f"{detector.method} on images of {shape} (channels, height, width), seed {detector.seed}.",
        f"{counts.format(**detector.counts)}, of which {len(detector.calibrated):,} are "
        "independent.",
        f"An image alarms above the score {line.value:.6g}, for alpha = {line.alpha:g}: {chosen}.",
        guarantees.in_words(line),
    ]
    return "\n".join(
        lines + [f"Left out or read in part: {detector.notes}."] * bool(detector.notes)
    )


def renew(
    detector: Any,
    images: Any,
    *,
    train: bool,
    places: Sequence[Any] = (),
    strict: bool = False,
    progress: bool = False,
) -> None:
    """Fit a detector to more normal images, or give it other calibration images and a threshold.

    `images` are as in `Detector.fit`; training images that it knows are left out. To `train`, it is
    fitted anew to all that it knew and the new ones, and scores its calibration images anew: the
    images of before must be there. `places`, folders or arrays, say where, by default the folders
    that they were read from; their pixels tell them from others. Otherwise `images` are to be a
    random sample of new normal images: the promise is void if they were chosen for their scores.
    Raises DataError, and changes nothing, where images of before are gone or `images` are too few.
    """
    count, how = detector.counts["train"], detector.reading
    pixels, notes, folders = read_images(images, strict=strict, **how)
    units = units_of(pixels, np.arange(len(pixels))) + detector.known[:, 1].max() + 1
    found, barred = known(pixels, units), detector.known[: None if train else count, 0]
    new = ~np.isin(found[:, 0], barred)
    least = 1 if train else guarantees.images_needed(detector.threshold.alpha, detector.delta)
    if (total := len(np.unique(units[new]))) < least:
        raise DataError(
            f"got {total} independent images that it does not know yet: expected {least} or more; "
            "add normal images"
        )
    if train:
        old = _found_again(places or detector.folders, detector.known[:, 0], how)
        parts = np.concatenate([old[:count], pixels[new]]), old[count:], old[:0]
        tracks = np.split(np.insert(detector.known[:, 1], count, units[new]), [len(parts[0])])
        fields: Any = *map(torch.from_numpy, parts), Answers(*[units[:0]] * 4), ("normal",)
        fields += *map(np.arange, map(len, parts)), *tracks, units[:0]
        detector.learn(Split(replace(SCENARIO, mirror=detector.mirror), *fields), progress)
    else:
        detector.set_threshold(pixels[new], units[new])
    detector.notes = "; ".join(filter(None, [detector.notes, notes]))
    folders += [each for each in places or detector.folders if isinstance(each, str)]
    detector.folders = sorted({*folders})


def _found_again(places: Sequence[Any], marks: np.ndarray, how: Any) -> np.ndarray:
    # The images with `marks` (N,), in that order, from folders or arrays that hold them all.
    images = np.array(
        [
            image
            for each in places
            if not isinstance(each, str) or Path(each).is_dir()
            for image in read_images(each, **how)[0]
        ]
    )
    found, rows = np.unique(known(images, np.arange(len(images)))[:, 0], return_index=True)
    if gone := len(np.setdiff1d(marks, found)):
        raise DataError(
            f"{gone:,} of the {len(np.unique(marks)):,} images that it was fitted to are gone from "
            f"{', '.join(shown(each) for each in places if isinstance(each, str)) or 'memory'}: "
            "say where they lie now (--known), or fit anew"
        )
    return images[rows[np.searchsorted(found, marks)]]
