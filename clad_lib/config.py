"""Every setting of a run in one frozen record, its profiles, and the view a stage gets of it."""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from clad_lib.facts import datasets, profiles, published

Encoder = Literal["small", "large"]
Stem = Literal["small", "full", "published"]
Schedule = Literal["onecycle", "constant"]
Optimiser = Literal["adam", "sgd"]
Objective = Literal["soft", "hard"]
SplitRule = Literal["shuffled", "by_writer"]
Unit = Literal["pixel", "published"]
PseudoLabels = Literal["patches", "none"]
Protocol = Literal["clean", "oracle", "paper_compat", "pretrained"]

DEFECTS: tuple[str, ...] = ("noisy_latents", "batch_target", "hidden_statistics", "odin_factor")
DEFECTS += ("flip_auroc", "hard_svdd", "best_f1")
MAY_BE_ZERO = {"seed", "epsilon", "min_steps", "dec_tolerance", "dec_epochs", "deep_min_steps"}


@dataclass(frozen=True)
class Config:
    """All settings of one run. `make_config` makes one; `dataclasses.replace` changes one."""

    dataset: str = "digits"
    scenario: str = "MIX"
    profile: str = "fast"
    seed: int = 0

    # split
    split: SplitRule = "shuffled"  # of the embedded digits; by_writer: other people wrote the test
    size: int | None = None  # side in pixels to which the images of a folder are brought
    calibration: float = 0.1  # share of the normal training images held out for thresholds
    max_train: int | None = None  # cap on normal training images, for smoke tests
    max_test: int | None = None  # cap on test images, for smoke tests

    # stage 1: autoencoder
    encoder: Encoder = "small"
    latent: int = 32
    ae_epochs: int = 16
    ae_lr: float = 3e-3
    ae_schedule: Schedule = "onecycle"
    ae_batch: int = 256
    min_steps: int = 300  # small data sets get more epochs: no stage takes fewer optimiser steps

    # stage 2: Deep Embedded Clustering
    clusters: int = 10
    kmeans_inits: int = 20
    dec_epochs: int = 12
    dec_lr: float = 3e-4
    dec_optimizer: Optimiser = "adam"
    dec_batch: int = 256
    dec_tolerance: float = 1e-3  # stop when a smaller share of the labels changes in an epoch

    # stage 3: classifier
    stem: Stem = "small"
    clf_epochs: int = 6
    clf_lr: float = 1e-3
    clf_batch: int = 128
    clf_schedule: Schedule = "onecycle"

    # stage 4: ODIN; Liang et al. (2018) use both values on CIFAR-10
    temperature: float = 1000.0
    epsilon: float = 0.0014  # step, in the unit below
    epsilon_unit: Unit = "pixel"  # images in [0, 1]; published: 161.4 standard deviations a channel

    # the one-class baselines
    nu: float = 0.1  # share of the training images that a boundary may leave outside
    ocnn_epochs: int = 50
    occnn_steps: int = 1000
    deep_pretraining: int = 10  # epochs of DeepSVDD's autoencoder; the last third at a tenth of lr
    deep_training: int = 10  # epochs of DeepSVDD itself, likewise
    deep_min_steps: int = 1000  # as min_steps, for each of the two
    deep_objective: Objective = "hard"

    # choosing without anomalies: pseudo-classes withheld as simulated anomalies
    folds: int = 2
    withheld: float = 0.3  # share of the pseudo-classes in each fold
    fold_epochs: int = 2  # of the classifier of a fold

    # beyond the paper
    patch_features: int = 1024  # numbers that describe an image, for each size of patch
    patch_images: int = 20_000  # training images remembered, at most
    rotation_views: int = 64_000  # turned images that the rotation network is trained on
    rotation_labels: PseudoLabels = "patches"  # named with the turn: k-means on patches, or none

    # the published code's defects, off unless measured on purpose (protocol paper_compat)
    noisy_latents: bool = False  # the encoder adds N(0, 1) sigma noise when it predicts too
    batch_target: bool = False  # DEC's target distribution per mini-batch, data not shuffled
    hidden_statistics: bool = False  # standardise with the mean of per-class statistics
    odin_factor: bool = False  # ODIN's epsilon times 50 / (79 / 255), in standardised units
    flip_auroc: bool = False  # an AUROC below 0.5 becomes 1 - AUROC
    hard_svdd: bool = False  # SVDD's ROC from its +-1 decisions
    best_f1: bool = False  # F1 at the threshold that is best on the test set

    @property
    def defects(self) -> tuple[str, ...]:
        """The published defects that are switched on."""
        return tuple(name for name in DEFECTS if getattr(self, name))

    @property
    def protocol(self) -> Protocol:
        """`paper_compat` with a defect on; `oracle` for the published choices; else `clean`."""
        if self.defects:
            return "paper_compat"
        return "oracle" if self.profile == "paper" else "clean"


def make_config(
    dataset: str = "digits",
    scenario: str = "MIX",
    *,
    profile: str = "fast",
    seed: int = 0,
    **overrides: Any,
) -> Config:
    """A Config for one scenario: the profile's values, the data set's, then `overrides`.

    `smoke` runs in seconds and proves only that the parts fit. `fast` is one setting for all
    scenarios of a data set. `paper` takes the published per-scenario values.

    Raises ValueError for an unknown profile or setting, or a value of the wrong type.
    """
    if dataset not in datasets() and Path(dataset).is_dir():
        dataset = str(Path(dataset).resolve())  # kernels work in other folders
    if profile not in profiles():
        raise ValueError(unknown("profile", profile, profiles()))
    values = datasets().get(dataset, {}).get("settings", {}) | profiles()[profile]
    if profile == "paper":
        values |= published(dataset, scenario)
    config = Config(dataset, scenario, profile, **check_fields({"seed": seed} | values))
    return replace(config, **check_fields(overrides))


@cache
def _types() -> dict[str, Any]:
    return typing.get_type_hints(Config)


def check_fields(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with each one checked against its field of Config; an int may stand for a float."""
    for name, value in values.items():
        if name not in _types():
            raise ValueError(unknown("setting", name, _types()))
        _check_value(name, value, _types()[name])
    return {name: float(v) if _types()[name] is float else v for name, v in values.items()}


def unknown(kind: str, name: str, known: Collection[str]) -> str:
    """The message for a name that is not known, with the nearest known one."""
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {kind} {name!r}: {hint}Expected one of {', '.join(known)}"


def _check_value(name: str, value: Any, hint: Any) -> None:
    if typing.get_origin(hint) is Literal:
        allowed = typing.get_args(hint)
        if value not in allowed:
            raise ValueError(
                f"{name} is {value!r}: expected one of {', '.join(map(repr, allowed))}"
            )
        return
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    options = (*options, int) if float in options else options
    if not isinstance(value, options) or (isinstance(value, bool) and bool not in options):
        wanted = " or ".join(getattr(option, "__name__", str(option)) for option in options)
        raise ValueError(f"{name} is {value!r} ({type(value).__name__}): expected {wanted}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_range(name, value)


def _check_range(name: str, value: float) -> None:
    if name == "calibration" and not 0 < value < 1:
        raise ValueError(f"calibration is {value!r}: expected a share between 0 and 1, such as 0.1")
    if name == "clusters" and value < 2:
        raise ValueError(
            f"clusters is {value!r}: expected 2 or more, one leaves nothing to classify"
        )
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}: expected a finite number")
    if value < 0 or (value == 0 and name not in MAY_BE_ZERO):
        least = "of at least 0" if name in MAY_BE_ZERO else "above 0"
        raise ValueError(f"{name} is {value!r}: expected a number {least}")


def as_dict(config: Config) -> dict[str, Any]:
    """The config and its protocol as plain JSON values."""
    return asdict(config) | {"protocol": config.protocol}


def overrides_of(config: Config) -> dict[str, Any]:
    """What differs from the config's profile: setting -> value."""
    plain = make_config(config.dataset, config.scenario, profile=config.profile, seed=config.seed)
    return {name: pair[0] for name, pair in differing_fields(config, plain).items()}


def differing_fields(one: Config, other: Config) -> dict[str, tuple[Any, Any]]:
    """Setting -> (value in one, value in other), for the settings in which two configs differ."""
    pairs = {
        each.name: (getattr(one, each.name), getattr(other, each.name)) for each in fields(one)
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


class SettingError(AttributeError):
    """A stage read a setting that its row in the table of stages does not declare."""


class Settings:
    """A view of a Config that shows a stage only the settings its row declares.

    What a stage reads decides under which hash its artefact is kept: a setting that could be read
    without being declared would let a result be found under settings that it does not have.
    `seed`, `device` and `progress` can always be read.
    """

    def __init__(
        self, config: Config, reads: Collection[str], *, device: Any = None, progress: bool = True
    ):
        self._config, self._reads = config, frozenset(reads)
        self.seed, self.device, self.progress = config.seed, device, progress

    @classmethod
    def everything(cls, config: Config, *, device: Any = None, progress: bool = False) -> Settings:
        """A view of all settings, for a stage function called outside the table of stages."""
        return cls(config, _types(), device=device, progress=progress)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._reads:
            raise SettingError(
                f"setting {name!r} is read but not declared: add it to `reads` of the stage's row"
            )
        return getattr(self._config, name)
