"""A detector for one's own images: normal images in, a promised threshold and a map out."""

from __future__ import annotations

import tempfile
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clad_lib.clad.scores import Scored, Scorer
from clad_lib.clad.training import pick_device
from clad_lib.config import make_config, unknown
from clad_lib.data.cache import ImageData
from clad_lib.data.folders import image_files, in_words, read_folder, stream_folder
from clad_lib.data.pictures import DataError, highest_values, shown
from clad_lib.data.reading import units_of
from clad_lib.data.scenarios import make_split
from clad_lib.data.split import Scenario, Split
from clad_lib.judge import guarantees
from clad_lib.methods.scorers import pixels
from clad_lib.study import bundle, stages
from clad_lib.study.engine import Study
from clad_lib.study.store import StoreError, stamp

ALPHAS = (0.01, 0.05, 0.1)  # of which the smallest possible one is taken
EXAMPLES = 1000  # training images that are kept, at most, to show which are like a new one
KEPT = {
    "settings": ("method", "size", "alpha", "delta", "seed"),
    "learnt": ("highest", "notes", "counts"),
}


class Explanation(NamedTuple):
    """Where the score of an image comes from, and the training images most like it."""

    map: np.ndarray | None  # (h, w), its cells cover the image; None where the method has no map
    nearest: np.ndarray  # (k, C, S, S) uint8 of the kept training images, nearest in pixels first
    distance: np.ndarray  # (k,) Euclidean, pixels in [0, 1]


class Detector:
    """Fit to normal images, score new ones, alarm at a threshold whose false alarms are promised.

    `method` is Patches or another of `stages.methods()` that can score new images. `size` is the
    side in pixels to which the pictures of a folder are brought. At most a share `alpha` of new
    normal images alarms in the long run, with probability 1 - `delta` over the draw of calibration
    images; None takes the smallest of ALPHAS that they allow. The share `calibration` of the
    images is held out to calibrate, or more where `alpha` needs more, at most one half.
    """

    def __init__(
        self,
        method: str = "Patches",
        size: int | None = None,
        alpha: float | None = None,
        delta: float = 0.1,
        seed: int = 0,
        device: str = "auto",
        *,
        calibration: float = 0.2,
        profile: str = "fast",
    ):
        if method not in stages.methods():
            raise ValueError(unknown("method", method, stages.methods()))
        self.method, self.size, self.alpha, self.delta, self.seed = method, size, alpha, delta, seed
        self.config = make_config("own images", "ALL", profile=profile, seed=seed, size=size)
        self.device, self.calibration = pick_device(device), calibration
        self.scorer: Any = None

    def fit(
        self, images: Any, *, tracks: Any = None, strict: bool = False, progress: bool = False
    ) -> Detector:
        """Learn from normal images and calibrate; returns the detector itself.

        `images` are uint8 (N, C, S, S), or a folder of pictures, whose unreadable files are counted
        in `report()`, with `strict` refused. `tracks` (N,) are equal for images of one object;
        these, and identical images, are one independent unit. Raises ValueError, before anything
        is learnt, for images that cannot be used or are too few for the promise.
        """
        self.highest, self.notes = dict[str, float](), ""
        if isinstance(images, (str, Path)):
            files, skipped = image_files(images, strict=strict)
            self.highest = highest_values(files)
            options: Any = dict(size=self.size, strict=strict, highest=self.highest)
            images, _, more = read_folder(files, progress=progress, **options)
            self.notes = in_words(skipped + more)
        pictures = as_images(images).numpy()
        split = self._split(pictures, np.arange(len(pictures)) if tracks is None else tracks)
        scorer = _fitted(self.method, split, self.config, self.device, progress)
        scores, units = scorer(split.calibration), split.calibration_tracks
        self.calibrated = guarantees.one_per_track(scores, units, seed=self.seed)
        every = 1 if self.method == "NearestImage" else -(-len(split.train) // EXAMPLES)
        self.scorer, self.examples = scorer, split.train[::every].clone()
        self.counts = {"images": len(pictures), "train": len(split.train), "held": len(units)}
        kept = [self.threshold_at(alpha) for alpha in ([self.alpha] if self.alpha else ALPHAS)]
        self.threshold = next((each for each in kept if each.rank), kept[-1])
        return self

    def _split(self, images: np.ndarray, tracks: Any) -> Split:
        """Images as a Split without test images, calibration images held out by whole units."""
        data = ImageData(images, np.zeros(len(images), int), np.asarray(tracks), ("normal",))
        none = ImageData(images[:0], data.labels[:0], data.tracks[:0], data.class_names)
        total = len(np.unique(units_of(images, data.tracks)))
        needed = guarantees.images_needed(self.alpha or max(ALPHAS), self.delta)
        if total < 2 * needed:
            raise DataError(
                f"got {len(images)} images, {total} of them independent: to promise alpha = "
                f"{self.alpha or max(ALPHAS):g} takes {2 * needed}, one half to learn from and one "
                "to calibrate; add normal images, or raise alpha"
            )
        scenario = Scenario("own images", "ALL", "all images", (0,))
        share = max(self.calibration, needed / total)
        return make_split(data, none, scenario, seed=self.seed, calibration=share)

    def threshold_at(self, alpha: float) -> guarantees.Threshold:
        """The threshold for any `alpha`, without fitting again; guarantee "none" if too few."""
        return guarantees.threshold_for(self.calibrated, alpha=alpha, delta=self.delta)

    def score(self, images: Any) -> np.ndarray:
        """Scores (N,) float64 of images (N, C, S, S) uint8, higher = more anomalous."""
        if self.scorer is None:
            raise ValueError("this detector has seen no images: call fit, or Detector.load")
        return np.asarray(self.scorer(as_images(images)), np.float64)

    def p_value(self, images: Any) -> np.ndarray:
        """Conformal p-values (N,) of "this image is normal", valid on average over calibration."""
        return guarantees.conformal_p_values(self.calibrated, self.score(images))

    def predict(self, images: Any) -> np.ndarray:
        """Whether each image alarms, (N,) bool: score > threshold."""
        return self.score(images) > self.threshold.value

    def score_folder(
        self, folder: str | Path, *, batch: int = 256, strict: bool = False
    ) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
        """A folder of any length in batches: path, score, p_value, alarm, skipped; and the images.

        `skipped` says why a file was not read, or read in part; unreadable files come last, without
        images. Pixels of more than 8 bits are scaled as those of the training images were.
        """
        _, channels, size, _ = self.examples.shape
        options: Any = dict(channels=channels, batch=batch, strict=strict)
        stream, told = stream_folder(folder, size=size, highest=self.highest or None, **options), 0
        for paths, images, out in stream:
            scores, remarks = self.score(images), {each.path: each.reason for each in out[told:]}
            columns = {
                "path": map(shown, paths),
                "score": scores,
                "p_value": guarantees.conformal_p_values(self.calibrated, scores),
                "alarm": scores > self.threshold.value,
                "skipped": [remarks.get(path, "") for path in paths],
            }
            told = len(out)
            yield pd.DataFrame(columns), images
        left = [(shown(each.path), each.reason) for each in out if not each.used]
        rest = pd.DataFrame(left, columns=["path", "skipped"])
        yield rest.reindex(columns=[*columns]), images[:0]

    def explain(self, image: Any, *, count: int = 5) -> Explanation:
        """Where the score of one image (C, S, S) uint8 comes from, and `count` images like it."""
        one, known = as_images(torch.as_tensor(image)[None]), pixels(self.examples)
        drawn = self.scorer.map(one)[0].numpy() if hasattr(self.scorer, "map") else None
        gaps = torch.cdist(pixels(one), known, compute_mode="donot_use_mm_for_euclid_dist")[0]
        near, places = gaps.topk(min(count, len(known)), largest=False)
        return Explanation(drawn, self.examples[places].numpy(), near.numpy())

    def report(self) -> str:
        """What was learnt from what, the threshold, what it promises, and what was left out."""
        chosen = "as asked" if self.alpha else "the smallest of 0.01, 0.05, 0.1 that they allow"
        shape = "{1} x {2} x {3}".format(*self.examples.shape)
        lines = [
            f"{self.method} on images of {shape} (channels, height, width), seed {self.seed}.",
            "{images:,} images: {train:,} to learn from, {held:,} to calibrate".format(
                **self.counts
            )
            + f", of which {len(self.calibrated):,} are independent.",
            f"An image alarms above the score {self.threshold.value:.6g}, for alpha = "
            f"{self.threshold.alpha:g}: {chosen}.",
            guarantees.in_words(self.threshold),
        ]
        return "\n".join(lines + [f"Left out or read in part: {self.notes}."] * bool(self.notes))

    def save(self, folder: str | Path) -> Path:
        """Write the bundle: model.safetensors, detector.json, MODEL_CARD.md, whole or not at all.

        Raises StoreError for a method that is not made of tensors, and where something lies there.
        """
        state, parts = bundle.taken_apart(self.method, self.scorer)
        record = {
            each: {name: getattr(self, name) for name in names} for each, names in KEPT.items()
        }
        record |= {"parts": parts, "threshold": self.threshold._asdict(), "made": stamp()}
        tensors = {"scores": torch.from_numpy(self.calibrated), "examples": self.examples, **state}
        return bundle.write_bundle(Path(folder), tensors, record, self.report())

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto") -> Detector:
        """The detector that `save` wrote, with equal scores; nothing in the folder is executed.

        Raises StoreError for a folder that is no bundle, was changed, or has another format.
        """
        try:
            tensors, record = bundle.read_bundle(Path(folder))
            found = cls(**record["settings"], device=device)
            vars(found).update({name: record["learnt"][name] for name in KEPT["learnt"]})
            found.examples = as_images(tensors["examples"])
            found.calibrated = tensors["scores"].numpy()
            found.scorer = bundle.put_together(found.method, tensors, record["parts"], found.device)
            found.threshold = found.threshold_at(record["threshold"]["alpha"])
            _ = found.explain(found.examples[0]), found.p_value(found.examples[:1]), found.report()
        except Exception as error:  # damaged files raise whatever their reader raises
            damaged = f"{folder} is damaged, or of no use here ({type(error).__name__}: {error})"
            words = str(error) if isinstance(error, StoreError) else " ".join(damaged.split())
            raise StoreError(words) from error
        return found


def as_images(images: Any) -> Tensor:
    """Images (N, C, S, S) as a uint8 tensor; ValueError for another type or shape."""
    tensor = torch.as_tensor(images)
    square = tensor.ndim == 4 and tensor.shape[2] == tensor.shape[3] and tensor.shape[1] in (1, 3)
    if tensor.dtype != torch.uint8 or not square:
        raise ValueError(
            f"images are {tensor.dtype} {tuple(tensor.shape)}: expected uint8 (N, C, S, S), C 1 or "
            "3; save others to a folder, which is read at any size and depth"
        )
    return tensor


def _fitted(method: str, split: Split, config: Any, device: torch.device, progress: bool) -> Scorer:
    """The scorer of a row of the table of stages; what it needs is made in a temporary folder."""
    gives = typing.get_type_hints(stages.function_of(method))["return"]
    if gives is Scored or stages.row(method).protocol == "oracle":
        raise ValueError(f"{method} scores the test images of a study and no new ones: use Patches")
    with tempfile.TemporaryDirectory() as folder:
        places, threads = stages.Places(Path(folder), config, "own"), torch.get_num_threads()
        return Study(config, split, places, device, threads, progress).fit(method)
