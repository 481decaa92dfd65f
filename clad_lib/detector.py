"""A detector for one's own images: normal images in, a promised threshold and a map out."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from clad_lib.clad.training import pick_device
from clad_lib.config import make_config
from clad_lib.data.folders import image_files, stream_folder
from clad_lib.data.pictures import highest_values, shown
from clad_lib.data.split import Split
from clad_lib.judge import guarantees
from clad_lib.judge.drift import Drift, drift
from clad_lib.methods.scorers import check_shape, pixels
from clad_lib.study import bundle, onnx_graph, own_images
from clad_lib.study.own_images import as_images
from clad_lib.study.store import StoreError, stamp

ALPHAS = (0.01, 0.05, 0.1)  # of which the smallest possible one is taken
EXAMPLES = 1000  # training images that are kept, at most, to show which are like a new one
BATCH = 2**24  # numbers of the images that are scored at a time, at most
KEPT = {
    "settings": ("method", "size", "alpha", "delta", "seed", "mirror", "profile"),
    "learnt": ("highest", "notes", "counts", "folders", "threads"),
}


class Explanation(NamedTuple):
    """Where the score of an image comes from, and the training images most like it."""

    map: np.ndarray | None  # (h, w), its cells cover the image; None where the method has no map
    nearest: np.ndarray  # (k, C, S, S) uint8 of the kept training images, nearest in pixels first
    distance: np.ndarray  # (k,) Euclidean, pixels in [0, 1]
    latent_class: int  # as of `Detector.latent_class`


class Detector:
    """Fit to normal images, score new ones, alarm at a threshold whose false alarms are promised.

    `method` is Patches, CLAD or another of `stages.methods()` that can score new images. `size` is
    the side in pixels to which the pictures of a folder are brought. At most a share `alpha` of new
    normal images alarms in the long run, with probability 1 - `delta` over the draw of calibration
    images; None takes the smallest of ALPHAS that they allow. The share `calibration` of the images
    is held out to calibrate, or more where `alpha` needs more, at most one half. `mirror` says that
    a mirrored image is as normal, which holds for scenes and animals, not for signs or letters; the
    settings are then those of photographs.
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
        mirror: bool = False,
        calibration: float = 0.2,
        profile: str = "fast",
    ):
        self.size, self.alpha, self.delta, self.seed, self.mirror = size, alpha, delta, seed, mirror
        self.method = own_images.check_method("ODIN" if method == "CLAD" else method)
        guarantees.images_needed(max(ALPHAS) if alpha is None else alpha, delta)  # it checks both
        how: Any = dict(profile=profile, seed=seed, mirror=mirror, size=size)
        self.config = make_config("own images", "ALL", **how)
        self.device, self.calibration, self.profile = pick_device(device), calibration, profile
        self.scorer: Any = None

    def fit(
        self, images: Any, *, tracks: Any = None, strict: bool = False, progress: bool = False
    ) -> Self:
        """Learn from normal images and calibrate; returns the detector itself.

        `images` are uint8 (N, C, S, S), or a folder of pictures, whose unreadable files are counted
        in `report()`, with `strict` refused. `tracks` (N,) are equal for images of one object;
        these, and identical images, are one independent unit. Raises ValueError, before anything
        is learnt, for what cannot be used, too few for the promise, or too many for the memory.
        """
        self.highest, shape = dict[str, float](), [3, self.size or 4, self.size or 4]
        if isinstance(images, (str, Path)):
            files, _ = image_files(images, strict=strict)
            own_images.estimate(self.method, len(files), shape, self.config)
            self.highest = highest_values(files)
        how: Any = dict(size=self.size, highest=self.highest, progress=progress)
        found, self.notes, self.folders = own_images.read_images(images, strict=strict, **how)
        takes = own_images.estimate(self.method, len(found), found.shape[1:], self.config)
        if progress:
            tqdm.write(takes, file=sys.stderr)
        names = np.arange(len(found)) if tracks is None else np.asarray(tracks)
        by: Any = {name: getattr(self, name) for name in ("delta", "calibration", "seed", "mirror")}
        split = own_images.hold_out(found, names, alpha=self.alpha or max(ALPHAS), **by)
        return self.learn(split, progress)

    def learn(self, split: Split, progress: bool = False) -> Self:
        """Fit to the training images of a split, and calibrate with its calibration images."""
        self.threads = torch.get_num_threads()
        self.scorer = own_images.fitted(self.method, split, self.config, self.device, progress)
        every = 1 if self.method == "NearestImage" else -(-len(split.train) // EXAMPLES)
        self.examples, self.counts = split.train[::every].clone(), {"train": len(split.train)}
        self.known = own_images.known(split.train, split.train_tracks)
        return self.set_threshold(split.calibration, split.calibration_tracks)

    def set_threshold(self, images: Any, units: np.ndarray) -> Self:
        """Calibrate with images (n, C, S, S), of which those with equal `units` (n,) count once."""
        count, scores = self.counts["train"], self.score(images)
        self.counts |= {"held": len(images), "images": count + len(images)}
        self.known = np.concatenate([self.known[:count], own_images.known(images, units)])
        self.calibrated = guarantees.one_per_track(scores, units, seed=self.seed)
        kept = [self.threshold_at(alpha) for alpha in ([self.alpha] if self.alpha else ALPHAS)]
        self.threshold = next((each for each in kept if each.rank), kept[-1])
        return self

    @property
    def reading(self) -> dict[str, Any]:
        """How pictures are read so that they are like those that it was fitted to."""
        _, channels, size, _ = self.examples.shape
        return {"channels": channels, "size": size, "highest": self.highest or None}

    def threshold_at(self, alpha: float) -> guarantees.Threshold:
        """The threshold for any `alpha`, without fitting again; guarantee "none" if too few."""
        return guarantees.threshold_for(self.calibrated, alpha=alpha, delta=self.delta)

    def score(self, images: Any) -> np.ndarray:
        """Scores (N,) float64 of images (N, C, S, S) uint8, higher = more anomalous.

        They are computed with as many threads as at the fit, where the machine has them: another
        number adds in another order.
        """
        return self._look(images)[0]

    def latent_class(self, images: Any) -> np.ndarray:
        """The cluster of training images nearest to each image, (N,); -1: the method has none."""
        return self._look(images)[1]

    def _look(self, images: Any) -> tuple[np.ndarray, np.ndarray]:
        if self.scorer is None:
            raise ValueError("this detector has seen no images: call fit, or Detector.load")
        look = getattr(self.scorer, "look", lambda each: (self.scorer(each), [-1] * len(each)))
        check_shape(new := as_images(images), tuple(self.examples.shape[1:]))
        with own_images.threads(self.threads):
            scores, classes = look(new)
        return np.asarray(scores, np.float64), np.asarray(classes, np.int64)

    def p_value(self, images: Any) -> np.ndarray:
        """Conformal p-values (N,) of "this image is normal", valid on average over calibration."""
        return guarantees.conformal_p_values(self.calibrated, self.score(images))

    def predict(self, images: Any) -> np.ndarray:
        """Whether each image alarms, (N,) bool: score > threshold."""
        return self.score(images) > self.threshold.value

    def score_folder(
        self, folder: str | Path, *, batch: int = 256, strict: bool = False
    ) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
        """A folder of any length in batches, as tables and images (B, C, S, S) uint8.

        Columns are path, score, p_value, alarm, latent_class, and skipped: why a file was not read
        or read in part. Unreadable files come last. Deep pixels are scaled as in training.
        """
        told, batch = 0, min(batch, max(1, BATCH // self.examples[0].numel()))
        for paths, images, out in stream_folder(folder, batch=batch, strict=strict, **self.reading):
            scores, classes = self._look(images)
            remarks = {each.path: each.reason for each in out[told:]}
            columns = {
                "path": map(shown, paths),
                "score": scores,
                "p_value": guarantees.conformal_p_values(self.calibrated, scores),
                "alarm": scores > self.threshold.value,
                "latent_class": classes,
                "skipped": [remarks.get(path, "") for path in paths],
            }
            told = len(out)
            yield pd.DataFrame(columns), images
        left = [(shown(each.path), each.reason) for each in out if not each.used]
        rest = pd.DataFrame(left, columns=["path", "skipped"])
        yield rest.reindex(columns=[*columns]), images[:0]

    def drift(self, scores: Any, *, level: float = 0.01) -> Drift:
        """Whether scores (m,) of normal images, one of each object, drifted since calibration."""
        return drift(self.calibrated, scores, level=level, seed=self.seed)

    def explain(self, image: Any) -> Explanation:
        """Where the score of one image (C, S, S) uint8 comes from, and five images like it."""
        one, known = as_images(torch.as_tensor(image)[None]), pixels(self.examples)
        drawn = self.scorer.map(one)[0].numpy() if hasattr(self.scorer, "map") else None
        gaps = torch.cdist(pixels(one), known, compute_mode="donot_use_mm_for_euclid_dist")[0]
        near, rows = gaps.topk(min(5, len(known)), largest=False)
        cluster = int(self.latent_class(one)[0])
        return Explanation(drawn, self.examples[rows].numpy(), near.numpy(), cluster)

    def report(self) -> str:
        """What was learnt from what, the threshold, what it promises, and what was left out."""
        return own_images.report(self)

    def save(self, place: str | Path, *, replace: bool = False) -> Path:
        """Write the bundle, a folder or a .zip file, whole or not at all.

        Raises StoreError for a method that is not made of tensors, and where something lies already
        that it is not to `replace`.
        """
        arrays = {"scores": self.calibrated, "known": self.known, "examples": self.examples}
        tensors = {name: torch.as_tensor(each) for name, each in arrays.items()}
        record: Any = {
            each: {name: getattr(self, name) for name in names} for each, names in KEPT.items()
        }
        record |= {"threshold": self.threshold._asdict(), "made": stamp()}
        record["scorer"] = bundle.taken_apart(self.scorer, tensors)
        return bundle.write_bundle(Path(place), tensors, record, self.report(), replace=replace)

    def to_onnx(self, path: str | Path) -> Path:
        """Write an ONNX graph: float32 images (N, C, S, S) in [0, 1] to score and map.

        Its metadata hold the threshold, the calibration scores, and what it does not carry. Raises
        StoreError for other methods than Patches, and without the extra `onnx`.
        """
        facts = {"calibration": self.calibrated.tolist(), "report": self.report(), "made": stamp()}
        facts["threshold"] = self.threshold._asdict()
        tensors = dict[str, torch.Tensor]()
        scorer = bundle.put_together(bundle.taken_apart(self.scorer, tensors), tensors, "cpu")
        return onnx_graph.write_onnx(Path(path), scorer, self.examples[:2], facts)

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto") -> Self:
        """The detector that `save` wrote, with equal scores; nothing in the folder is executed.

        Raises StoreError for a folder that is no bundle, was changed, or has another format.
        """
        try:
            tensors, record = bundle.read_bundle(Path(folder))
            found = cls(**record["settings"], device=device)
            vars(found).update({name: record["learnt"][name] for name in KEPT["learnt"]})
            found.examples = as_images(tensors["examples"])
            found.calibrated, found.known = tensors["scores"].numpy(), tensors["known"].numpy()
            found.scorer = bundle.put_together(record["scorer"], tensors, found.device)
            found.threshold = found.threshold_at(record["threshold"]["alpha"])
            _ = found.explain(found.examples[0]), found.p_value(found.examples[:1]), found.report()
        except Exception as error:  # damaged files raise whatever their reader raises
            if isinstance(error, StoreError):
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise StoreError(f"{folder} is damaged, or of no use here ({reason})") from error
        return found
