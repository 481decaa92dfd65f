"""Config: every hyper-parameter of a run in one frozen record, its profiles, and the published settings."""

from __future__ import annotations

import difflib
import types
import typing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from clad_lib.published import Encoder, published

Stem = Literal["small", "full", "published"]
Schedule = Literal["onecycle", "constant"]
Protocol = Literal["clean", "oracle", "paper_compat"]
Objective = Literal["soft", "hard"]

DEFECTS = ("noisy_latents", "batch_target", "hidden_statistics", "odin_factor", "flip_auroc", "hard_svdd", "best_f1")
DATASETS = ("digits", "mnist", "gtsrb", "cifar10", "tiny_imagenet")
PROFILES = ("smoke", "fast", "paper")

# the methods of the tables, by what they need
ONE_PASS = ("MSP", "MaxLogit", "Energy", "KNN", "Mahalanobis", "RelativeMahalanobis", "ViM")
CLAD = ("ODIN", *ONE_PASS, "RankAverage")
CHOSEN = ("Selected", "Oracle")
ONE_CLASS = ("OCSVM", "OCNN", "OCCNN", "SVDD", "DeepSVDD")
METHODS = (*CLAD, *CHOSEN, *ONE_CLASS)


@dataclass(frozen=True)
class Config:
    """All hyper-parameters of one CLAD run. Make one with `make_config`; change one with `dataclasses.replace`."""

    dataset: str = "digits"
    scenario: str = "CUR"
    profile: str = "fast"
    seed: int = 0

    # split
    calibration: float = 0.1  # share of the normal training images held out for thresholds
    max_train: int | None = None  # cap on normal training images, for smoke tests
    max_test: int | None = None  # cap on test images, for smoke tests

    # stage 1: autoencoder
    encoder: Encoder = "small"
    latent: int = 10
    ae_epochs: int = 8
    ae_lr: float = 1e-3
    ae_batch: int = 256
    min_steps: int = 300  # small data sets get more epochs, so that no stage takes fewer optimiser steps

    # stage 2: Deep Embedded Clustering
    clusters: int = 10
    kmeans_inits: int = 20
    dec_epochs: int = 8
    dec_lr: float = 0.01
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
    epsilon: float = 0.0014  # step in pixel units, images in [0, 1]

    # the one-class baselines
    nu: float = 0.1  # share of the training images that a boundary may leave outside
    ocnn_epochs: int = 50
    occnn_steps: int = 1000
    deep_pretraining: int = 10  # epochs of DeepSVDD's autoencoder; the last third at a tenth of the learning rate
    deep_training: int = 10  # epochs of DeepSVDD itself, likewise
    deep_min_steps: int = 1000  # as min_steps, for each of the two
    deep_objective: Objective = "hard"

    # choosing without anomalies: pseudo-classes withheld as simulated anomalies
    folds: int = 2
    withheld: float = 0.3  # share of the pseudo-classes in each fold
    fold_epochs: int = 2  # of the classifier of a fold

    # the published code's defects, off unless measured on purpose (protocol paper_compat)
    noisy_latents: bool = False  # the encoder adds N(0, 1) sigma noise when it predicts too
    batch_target: bool = False  # DEC's target distribution per mini-batch, data not shuffled
    hidden_statistics: bool = False  # standardise with the mean of per-class statistics
    odin_factor: bool = False  # ODIN's step times 50 / (79 / 255)
    flip_auroc: bool = False  # an AUROC below 0.5 becomes 1 - AUROC
    hard_svdd: bool = False  # SVDD's ROC from its +-1 decisions
    best_f1: bool = False  # F1 at the threshold that is best on the test set

    @property
    def defects(self) -> tuple[str, ...]:
        """The published defects that are switched on."""
        return tuple(name for name in DEFECTS if getattr(self, name))

    @property
    def protocol(self) -> Protocol:
        """`paper_compat` with any defect on; `oracle` for the published per-scenario choices; else `clean`."""
        if self.defects:
            return "paper_compat"
        return "oracle" if self.profile == "paper" else "clean"


_SMOKE: dict[str, Any] = dict(
    ae_epochs=1,
    dec_epochs=1,
    clf_epochs=1,
    min_steps=4,
    kmeans_inits=2,
    max_train=256,
    max_test=256,
    deep_pretraining=2,
    deep_training=2,
    deep_min_steps=4,
    ocnn_epochs=2,
    occnn_steps=10,
    fold_epochs=1,
)
_PAPER: dict[str, Any] = dict(
    ae_batch=512,
    dec_batch=512,
    min_steps=0,
    stem="published",
    clf_schedule="constant",
    ocnn_epochs=100,
    deep_pretraining=350,
    deep_training=250,
    deep_min_steps=0,
)


def make_config(
    dataset: str = "digits", scenario: str = "CUR", *, profile: str = "fast", seed: int = 0, **overrides: Any
) -> Config:
    """A Config for one scenario: the profile's values, then `overrides`.

    `smoke` runs in seconds and proves only that the parts fit. `fast` is one setting for all scenarios of a data set,
    fixed before any result was seen. `paper` takes the published per-scenario values.

    Raises ValueError for an unknown profile or field, TypeError for a value of the wrong type; both name the cure.
    """
    if dataset not in DATASETS and Path(dataset).is_dir():
        dataset = str(Path(dataset).resolve())  # kernels work in other folders
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}: expected one of {', '.join(PROFILES)}")
    config = Config(dataset, scenario, profile, seed, latent=10 if dataset in ("digits", "mnist") else 32)
    if dataset == "digits":
        config = replace(config, ae_batch=64, dec_batch=64, clf_batch=64)
    if profile == "smoke":
        config = replace(config, **_SMOKE)
    elif profile == "paper":
        config = replace(config, **_PAPER, **published(dataset, scenario)._asdict())
    check_fields({"seed": seed})
    return replace(config, **check_fields(overrides))


def check_fields(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with each one checked against its Config field's type (an int may stand for a float)."""
    hints = typing.get_type_hints(Config)
    for name, value in values.items():
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"unknown parameter {name!r}{hint} Known: {', '.join(hints)}")
        _check_value(name, value, hints[name])
    return {name: float(v) if hints[name] is float else v for name, v in values.items()}


def _check_value(name: str, value: Any, hint: Any) -> None:
    if typing.get_origin(hint) is Literal:
        allowed = typing.get_args(hint)
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}: expected one of {', '.join(map(repr, allowed))}")
        return
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if float in options:
        options = (*options, int)
    if not isinstance(value, options) or (isinstance(value, bool) and bool not in options):
        wanted = " or ".join(getattr(option, "__name__", str(option)) for option in options)
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}): expected {wanted}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_range(name, value)


def _check_range(name: str, value: float) -> None:
    least = {
        "seed": 0,
        "epsilon": 0,
        "min_steps": 0,
        "dec_tolerance": 0,
        "dec_epochs": 0,
        "calibration": 0,
        "deep_min_steps": 0,
    }.get(name)
    if name == "calibration" and not 0 < value < 1:
        raise ValueError(f"calibration is {value!r}: expected a share between 0 and 1, such as 0.1")
    if name == "clusters" and value < 2:
        raise ValueError(f"clusters is {value!r}: expected at least 2, one cluster leaves nothing to classify")
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"{name} is {value!r}: expected a finite number")
    if value < least if least is not None else value <= 0:
        raise ValueError(f"{name} is {value!r}: expected a number {'of at least 0' if least == 0 else 'above 0'}")


def as_dict(config: Config) -> dict[str, Any]:
    """The config and its protocol as plain JSON values."""
    return asdict(config) | {"protocol": config.protocol}


def overrides_of(config: Config) -> dict[str, Any]:
    """What differs from the config's profile: field -> value."""
    plain = make_config(config.dataset, config.scenario, profile=config.profile, seed=config.seed)
    return {name: pair[0] for name, pair in differing_fields(config, plain).items()}


def differing_fields(one: Config, other: Config) -> dict[str, tuple[Any, Any]]:
    """Field -> (value in one, value in other), for the fields in which two configs differ."""
    pairs = {field.name: (getattr(one, field.name), getattr(other, field.name)) for field in fields(Config)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
