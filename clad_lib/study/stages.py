"""The table of stages and methods: what each needs and reads, and where its artefact lies.

To add a score or a method is one function and one row here, or a row of another package under the
entry point group `clad.methods` (a dict, name -> row). Nothing else lists them by hand.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

from clad_lib.config import Config, Protocol, unknown
from clad_lib.study.store import RECORD, folder_name

MEASURED = ("flip_auroc", "best_f1", "hard_svdd")  # settings that change what is measured of scores
TRAINS_CLASSIFIER: tuple[str, ...] = ("stem", "clf_epochs", "clf_lr", "clf_batch", "clf_schedule")
TRAINS_CLASSIFIER += ("min_steps", "hidden_statistics")
ONE_PASS = ("MSP", "MaxLogit", "Energy", "KNN", "Mahalanobis", "RelativeMahalanobis", "ViM")
ONE, LATENT, CONTROL, BEYOND = "one boundary", "latent classes", "controls", "beyond the paper"


class Row(NamedTuple):
    """A stage or a method: the function that makes it, and all that its artefact depends on.

    The function takes (split, settings, *needs). A stage returns a NamedTuple; a method, which is a
    row with a `block`, returns a Scorer or Scored. It is named as "module:function", so that the
    table can be read without importing torch, or given itself. `reads` are the settings it may
    read. `shown_in` is the notebook that shows it. `version` grows when its code gives other
    results. `protocol` is that of its result where it is not the configuration's. `paper` is its
    name in the paper's tables, `block` the part of our tables in which it stands. Rows that are not
    `in_all` run only when they are named.
    """

    function: str | Callable[..., Any]
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    shown_in: str = "06_baselines"
    version: int = 1
    protocol: Protocol | None = None
    paper: str | None = None
    block: str = ""
    in_all: bool = True


def _classifier_score(function: str, *needs: str, **more: Any) -> Row:
    return Row(
        f"clad_lib.clad.scores:{function}", needs, shown_in="05_odin_scoring", block=LATENT, **more
    )


def _one_boundary(function: str, paper: str, *reads: str, needs: tuple[str, ...] = ()) -> Row:
    return Row(f"clad_lib.methods.{function}", needs, reads, paper=paper, block=ONE)


def _control(function: str, *needs: str, **more: Any) -> Row:
    return Row(f"clad_lib.methods.nearest:{function}", needs, block=CONTROL, **more)


def _when_named(function: str, *reads: str, **more: Any) -> Row:
    """A method that takes minutes, or needs an optional package."""
    return Row(f"clad_lib.methods.{function}", reads=reads, block=BEYOND, in_all=False, **more)


_TURNS = "clad_lib.methods.rotation:rotation_network"
_VIEWS = ("rotation_views", "rotation_labels", "clusters")
_PATCHES = ("patch_features", "patch_images", "clusters")
_FOLDS = ("folds", "withheld", "fold_epochs", *TRAINS_CLASSIFIER)
_OUTPUTS = ("clusters", "classifier", "outputs")
_ODIN = ("temperature", "epsilon", "epsilon_unit", "odin_factor")
_AUTOENCODER: tuple[str, ...] = ("encoder", "latent", "ae_epochs", "ae_lr", "ae_schedule")
_AUTOENCODER += ("ae_batch", "min_steps", "noisy_latents", "hidden_statistics")
_CLUSTERS: tuple[str, ...] = ("clusters", "kmeans_inits", "dec_epochs", "dec_lr")
_CLUSTERS += ("dec_optimizer", "dec_batch", "dec_tolerance", "batch_target", "min_steps")
_OWN: dict[str, Row] = {
    "copies": Row("clad_lib.data.copies:copies_in_split", shown_in="01_scenarios"),
    "autoencoder": Row(
        "clad_lib.clad.training:autoencoder",
        reads=_AUTOENCODER,
        shown_in="02_latent_space",
    ),
    "latent_map": Row(
        "clad_lib.clad.latent_map:latent_map", ("autoencoder",), shown_in="02_latent_space"
    ),
    "clusters": Row(
        "clad_lib.clad.dec:clusters",
        ("autoencoder",),
        _CLUSTERS,
        shown_in="03_self_labelling",
    ),
    "classifier": Row(
        "clad_lib.clad.training:classifier",
        ("clusters",),
        TRAINS_CLASSIFIER,
        shown_in="04_classifier",
    ),
    "outputs": Row(
        "clad_lib.clad.scores:part_outputs", ("classifier",), shown_in="05_odin_scoring"
    ),
    "odin_grid": Row(
        "clad_lib.clad.scores:odin_grid_of",
        ("classifier",),
        ("odin_factor",),
        shown_in="05_odin_scoring",
    ),
    "simulations": Row(
        "clad_lib.methods.selected:simulations",
        ("clusters",),
        (*_FOLDS, "odin_factor"),
        shown_in="05_odin_scoring",
    ),
    "ODIN": _classifier_score("odin_scores", "classifier", reads=_ODIN, paper="CLAD"),
    "MSP": _classifier_score("msp_scores", *_OUTPUTS),
    "MaxLogit": _classifier_score("max_logit_scores", *_OUTPUTS),
    "Energy": _classifier_score("energy_scores", *_OUTPUTS),
    "KNN": _classifier_score("knn_scores", *_OUTPUTS),
    "Mahalanobis": _classifier_score("mahalanobis_scores", *_OUTPUTS),
    "RelativeMahalanobis": _classifier_score("relative_mahalanobis_scores", *_OUTPUTS),
    "ViM": _classifier_score("vim_scores", *_OUTPUTS),
    "RankAverage": _classifier_score("rank_average_scores", *ONE_PASS),
    "Selected": Row(
        "clad_lib.methods.selected:selected",
        ("simulations", "classifier", *ONE_PASS),
        _ODIN,
        shown_in="05_odin_scoring",
        block=LATENT,
    ),
    "Oracle": Row(
        "clad_lib.methods.selected:oracle",
        ("classifier", *ONE_PASS),
        ("odin_factor",),
        shown_in="05_odin_scoring",
        protocol="oracle",
        block=LATENT,
    ),
    "OCSVM": _one_boundary("kernel:ocsvm", "OCSVM", "nu"),
    "OCNN": _one_boundary("neural:ocnn", "OCNN", "nu", "ocnn_epochs", needs=("autoencoder",)),
    "OCCNN": _one_boundary("neural:occnn", "OCCNN", "occnn_steps", needs=("autoencoder",)),
    "SVDD": _one_boundary("kernel:svdd", "SVDD", "nu"),
    "DeepSVDD": _one_boundary(
        "deep_svdd:deep_svdd",
        "DeepSVDD",
        *("nu", "deep_pretraining", "deep_training", "deep_min_steps", "deep_objective"),
    ),
    "NearestImage": _control("nearest_image"),
    "PixelLOF": _control("pixel_lof"),
    "PNGBytes": _control("image_bytes"),
    "FeatureNorm": _control("feature_norm", "autoencoder"),
    "Patches": Row("clad_lib.methods.patches:patches", reads=_PATCHES, block=BEYOND),
    "rotation_network": Row(_TURNS, reads=_VIEWS, version=2, in_all=False),
    "Rotation": _when_named("rotation:rotation", needs=("rotation_network",)),
    "Fused": _when_named("fused:fused", *_PATCHES, needs=("rotation_network",)),
    "Pretrained": _when_named("pretrained:pretrained", protocol="pretrained"),
}


@cache
def rows() -> dict[str, Row]:
    """All rows: this package's, then those of other packages' `clad.methods` entry points."""
    more: dict[str, Row] = {}
    for point in entry_points(group="clad.methods"):
        more |= point.load()
    return _OWN | more


def methods() -> tuple[str, ...]:
    """The names of all methods, in the order of the tables."""
    return tuple(name for name, row in rows().items() if row.block)


def choose_methods(names: str | Iterable[str]) -> tuple[str, ...]:
    """`all`, or the methods of a list (or of a text with commas); ValueError for an unknown one."""
    if names == "all":
        return tuple(name for name in methods() if rows()[name].in_all)
    listed = names.split(",") if isinstance(names, str) else names
    wanted = tuple(dict.fromkeys(name.strip() for name in listed if name.strip()))
    for name in wanted:
        if name not in methods():
            raise ValueError(unknown("method", name, ("all", *methods())))
    return wanted


def row(name: str) -> Row:
    """The row of that name; ValueError lists what there is."""
    if name not in rows():
        raise ValueError(unknown("stage or method", name, rows()))
    return rows()[name]


def function_of(name: str) -> Callable[..., Any]:
    """The function of a row, imported now."""
    function = row(name).function
    if isinstance(function, str):
        module, _, attribute = function.partition(":")
        return getattr(importlib.import_module(module), attribute)
    return function


def needed(names: Iterable[str]) -> list[str]:
    """The rows and all that they need, each once and after what it needs."""
    found: dict[str, None] = {}
    for name in names:
        found |= dict.fromkeys([*needed(row(name).needs), name])
    return list(found)


def settings_of(name: str, config: Config) -> dict[str, Any]:
    """All settings that a row's artefact and what it needs depend on, with their versions."""
    found: dict[str, Any] = {}
    for each in needed([name]):
        reads = (*row(each).reads, *(MEASURED if row(each).block else ()))
        found |= {setting: getattr(config, setting) for setting in reads}
        found[f"{each} version"] = row(each).version
    return found


class Places(NamedTuple):
    """Where the artefacts of one configuration lie on one split, whose content is `data`.

    runs/<data set>/<scenario>/<row>-<hash>/seed<k>/: the hash covers all that the artefact depends
    on, so that another temperature finds the same classifier.
    """

    root: Path
    config: Config
    data: str

    def path(self, name: str) -> Path:
        """The folder of a row's artefact, whether or not it is there."""
        text = json.dumps(settings_of(name, self.config) | {"data": self.data}, sort_keys=True)
        return self.scenario / f"{name}-{short_hash(text)}" / f"seed{self.config.seed}"

    @property
    def scenario(self) -> Path:
        """The folder of the scenario."""
        names = (self.config.dataset, self.config.scenario)
        return Path(self.root).joinpath(*map(folder_name, names))

    def has(self, name: str) -> bool:
        """Whether the artefact was finished with these settings on these images."""
        return (self.path(name) / RECORD).is_file()


def short_hash(text: str) -> str:
    """Ten hexadecimal digits that stand for a text."""
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()
