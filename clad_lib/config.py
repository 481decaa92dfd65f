"""Every setting of a run in one frozen record, its profiles, and the view a stage gets of it."""

import difflib
import math
import os
import sys
import tomllib
from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

Encoder = Literal["small", "large"]
Stem = Literal["small", "full", "published"]
Schedule = Literal["onecycle", "constant"]
Optimiser = Literal["adam", "sgd"]
Unit = Literal["pixel", "published"]
Protocol = Literal["clean", "oracle", "paper_compat", "pretrained"]

MAY_BE_ZERO = ("seed", "epsilon", "min_steps", "dec_tolerance", "dec_epochs", "deep_min_steps")
ABOVE_ZERO = (sys.float_info.min, math.inf, "above 0")  # at least, below, in words
RANGES: dict[str, Any] = dict.fromkeys(MAY_BE_ZERO, (0, math.inf, "of at least 0")) | {
    "calibration": (sys.float_info.min, 1, "above 0 and below 1"),
    "nu": (sys.float_info.min, math.nextafter(1, 2), "above 0, at most 1"),
    "clusters": (2, math.inf, "of at least 2"),  # one leaves nothing to classify
}
IN_WORDS = {str: "text in quotes", list: "a list", dict: "a table in brackets"}
# in place of the defaults, where images may be mirrored
PHOTOGRAPHS: Any = dict(patch_features=2048, patch_layers=2, rotation_labels="none") | dict(
    rotation_views=128_000, rotation_weight=8.0, trust_power=2
)


@dataclass(frozen=True)
class Config:
    """All settings of one run. `make_config` makes one; `dataclasses.replace` changes one."""

    dataset: str = "digits"
    scenario: str = "MIX"
    profile: str = "fast"
    seed: int = 0

    # split
    split: Literal["shuffled", "by_writer"] = "shuffled"  # digits; by_writer: by others in the test
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
    deep_objective: Literal["soft", "hard"] = "hard"

    # choosing without anomalies: pseudo-classes withheld as simulated anomalies
    folds: int = 2
    withheld: float = 0.3  # share of the pseudo-classes in each fold
    fold_epochs: int = 2  # of the classifier of a fold

    # beyond the paper
    patch_features: int = 1024  # numbers that describe an image, for each size of patch
    patch_layers: Literal[1, 2] = 1  # 2: more dictionaries read maps of images
    patch_images: int = 20_000  # training images remembered, at most
    rotation_views: int = 32_000  # turned images that the rotation network is trained on
    rotation_weight: float = 0.25  # of Rotation in Fused, where Patches weighs 1
    trust_power: float = 1.0  # that weight is rotation_weight x trust ^ trust_power
    trust_views: int = 32_000  # turned images after which trust is measured, at most
    contrastive_views: int = 96_000  # crops that the contrastive network is trained on
    rotation_labels: Literal["patches", "none"] = "patches"  # clusters named with the turn, or not

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
        """The published defects that are switched on: they are the settings that are bool."""
        return tuple(name for name, value in asdict(self).items() if value is True)

    @property
    def protocol(self) -> Protocol:
        """`paper_compat` with a defect on; `oracle` for the published choices; else `clean`."""
        usual: Protocol = "oracle" if self.profile == "paper" else "clean"
        return "paper_compat" if self.defects else usual


def make_config(
    dataset: str = "digits",
    scenario: str = "MIX",
    *,
    profile: str = "fast",
    seed: int = 0,
    mirror: bool = False,
    **overrides: Any,
) -> Config:
    """A Config for one scenario: the data set's values, the profile's, then `overrides`.

    `fast` is one setting for all scenarios of a data set; `paper` takes the published values of
    each. Images that may be mirrored take PHOTOGRAPHS; `mirror` says so of an unknown data set.
    Raises ValueError for an unknown profile or setting, or a value of the wrong type.
    """
    if dataset not in datasets() and Path(dataset).is_dir():
        dataset = str(Path(dataset).resolve())  # kernels work in other folders
    if profile not in profiles():
        raise ValueError(unknown("profile", profile, profiles()))
    facts = datasets().get(dataset, {"mirror": mirror})
    values = (PHOTOGRAPHS if facts.get("mirror") else {}) | facts.get("settings", {})
    values |= profiles()[profile] | (published(dataset, scenario) if profile == "paper" else {})
    return Config(dataset, scenario, profile, **check_fields({"seed": seed} | values | overrides))


@cache
def _tables(path: Path, wanted: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    for name, facts in tables.items() if wanted else ():
        groups = {f"{name}.scenarios.{key}": row for key, row in facts.get("scenarios", {}).items()}
        for title, table in {name: facts, **groups}.items():
            if missing := set(("title", "normal") if title in groups else wanted) - set(table):
                raise ValueError(f"{path}: [{title}] lacks {', '.join(sorted(missing))}")
    return tables


def profiles() -> dict[str, dict[str, Any]]:
    """What each profile changes in the defaults of Config: the tables of profiles.toml."""
    return _tables(Path(__file__).with_name("profiles.toml"))


def datasets() -> dict[str, dict[str, Any]]:
    """What is known of each data set: the tables of data/datasets.toml, name -> facts.

    A file datasets.toml in the folder CLAD_DATA names adds tables; ValueError says what it lacks.
    """
    more = Path(os.environ.get("CLAD_DATA") or os.devnull, "datasets.toml")
    own = _tables(more, ("title", "channels", "size", "classes")) if more.is_file() else {}
    return _tables(Path(__file__).parent / "data" / "datasets.toml") | own


def published(dataset: str, scenario: str) -> dict[str, Any]:
    """The settings of the published run scripts; other groupings take the data set's own."""
    facts = datasets()["cifar10"] | datasets().get(dataset, {})
    single = facts.get("one_class", {}) if scenario.isdigit() else {}
    row = facts.get("scenarios", {}).get(scenario, single)
    return facts["published"] | row.get("published", {})


TYPES = get_type_hints(Config)  # setting -> type


def check_fields(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with each one checked against its field of Config; an int may stand for a float."""
    for name, value in values.items():
        if name not in TYPES:
            raise ValueError(unknown("setting", name, TYPES))
        check_type(name, value, TYPES[name])
        least, below, words = RANGES.get(name, ABOVE_ZERO)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and not least <= value < below:
            raise ValueError(f"{name} is {value!r}: expected a finite number {words}")
    return {name: float(v) if TYPES[name] is float else v for name, v in values.items()}


def check_type(name: str, value: Any, hint: Any) -> None:
    """Raise ValueError, with what was expected, for a value that its type hint does not allow."""
    inner = get_args(hint) or (hint,)
    if get_origin(hint) is Literal:
        fits, wanted = value in inner, [repr(each) for each in inner]
    else:
        kinds = (*inner, int) if float in inner else inner
        truth = isinstance(value, bool) and not {bool, object} & {*kinds}  # to Python it is an int
        fits = isinstance(value, kinds) and not truth
        wanted = [IN_WORDS.get(kind, kind.__name__) for kind in kinds]
    if not fits:
        got = f"{value!r} ({type(value).__name__})"
        raise ValueError(f"{name} is {got}: expected {' or '.join(wanted)}")


def unknown(kind: str, name: str, known: Collection[str]) -> str:
    """The message for a name that is not known, with the nearest known one."""
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {kind} {name!r}: {hint}Expected one of {', '.join(known)}"


def as_dict(config: Config) -> dict[str, Any]:
    """The config and its protocol as plain JSON values."""
    return asdict(config) | {"protocol": config.protocol}


class Settings:
    """A view of a Config that shows a stage only the settings its row declares, and the seed.

    What a stage reads is part of its artefact's hash, which an undeclared setting would escape.
    """

    def __init__(
        self, config: Config, reads: Collection[str], *, device: Any = None, progress: bool = True
    ):
        shown = {name: getattr(config, name) for name in ("seed", *reads)}
        vars(self).update(shown, device=device, progress=progress)

    @classmethod
    def everything(cls, config: Config, *, device: Any = None) -> Self:
        """A view of all settings, for a stage function called outside the table of stages."""
        return cls(config, TYPES, device=device, progress=False)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name!r} is read but not declared: add it to `reads` of its row")
