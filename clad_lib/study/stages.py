"""The table of stages and methods: what each needs and reads, and where its artefact lies.

To add a score or a method is one function and one row here, or a row of another package under the
entry point group `clad.methods` (a dict, name -> row). Nothing else lists them by hand.
"""

import json
import pkgutil
from collections.abc import Callable, Iterable
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

from clad_lib.config import Config, Protocol, unknown
from clad_lib.study.store import RECORD, folder_name, short_hash

MEASURED = ("flip_auroc", "best_f1", "hard_svdd")  # settings that change what is measured of scores
_CLASSIFIER = (
    "stem",
    "clf_epochs",
    "clf_lr",
    "clf_batch",
    "clf_schedule",
    "min_steps",
    "hidden_statistics",
)
ONE_PASS = ("MSP", "MaxLogit", "Energy", "KNN", "Mahalanobis", "RelativeMahalanobis", "ViM")
BLOCKS = ("one boundary", "latent classes", "controls", "beyond the paper")  # of the tables
ONE, LATENT, CONTROL, BEYOND = BLOCKS


class Row(NamedTuple):
    """A stage or a method: the function that makes it, and all that its artefact depends on.

    The function takes (split, settings, *needs). A stage returns a NamedTuple; a method, which is a
    row with a `block`, returns a Scorer or Scored. A method that needs others is given their
    Scores, or, where its Scorer can `join` the scores of others, their Scorers. The function is
    named as "module:function", so that the table can be read without importing torch, or given
    itself. `reads` are the settings it may read. `shown_in` is the notebook that shows it.
    `version` grows when its code gives other results. `protocol` is that of its result where it is
    not the configuration's. `paper` is its name in the paper's tables where that is another,
    `block` the part of our tables in which it stands. Rows that are not `in_all` run only when they
    are named.
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


_stage = partial(Row, shown_in="05_odin_scoring")
_score = partial(Row, shown_in="05_odin_scoring", block=LATENT)
_LONG: dict[str, Any] = dict(block=BEYOND, in_all=False)  # minutes, or another package: when named
_TURNS = ("rotation_views", "rotation_labels", "clusters")
_WEIGHT, _OUTPUTS = ("rotation_weight", "trust_power"), ("clusters", "classifier", "outputs")
_PATCHES = ("patch_features", "patch_layers", "patch_images", "clusters")
_FOLDS = ("folds", "withheld", "fold_epochs", *_CLASSIFIER, "odin_factor")
_DEEP = ("nu", "deep_pretraining", "deep_training", "deep_min_steps", "deep_objective")
_TRUST, _ODIN = (*_TURNS, "trust_views"), ("temperature", "epsilon", "epsilon_unit", "odin_factor")
_AE = ("encoder", "latent", "ae_epochs", "ae_lr", "ae_schedule", "ae_batch", "min_steps")
_DEC = ("dec_epochs", "dec_lr", "dec_optimizer", "dec_batch", "dec_tolerance", "batch_target")
_OWN: dict[str, Row] = {
    "copies": Row("clad_lib.data.copies:copies_in_split", shown_in="01_scenarios"),
    "autoencoder": Row(
        "clad_lib.clad.training:autoencoder",
        reads=(*_AE, "noisy_latents", "hidden_statistics"),
        shown_in="02_latent_space",
    ),
    "latent_map": Row(
        "clad_lib.clad.latent_map:latent_map", ("autoencoder",), shown_in="02_latent_space"
    ),
    "clusters": Row(
        "clad_lib.clad.dec:clusters",
        ("autoencoder",),
        ("clusters", "kmeans_inits", *_DEC, "min_steps"),
        shown_in="03_self_labelling",
    ),
    "classifier": Row(
        "clad_lib.clad.training:classifier", ("clusters",), _CLASSIFIER, "04_classifier", 3
    ),
    "outputs": _stage("clad_lib.clad.scores:part_outputs", ("classifier",)),
    "odin_grid": _stage("clad_lib.clad.scores:odin_grid_of", ("classifier",), ("odin_factor",)),
    "simulations": _stage(
        "clad_lib.methods.selected:simulations", ("clusters",), _FOLDS, version=3
    ),
    "ODIN": _score("clad_lib.clad.scores:odin_scores", ("classifier",), _ODIN, paper="CLAD"),
    "MSP": _score("clad_lib.clad.scores:msp_scores", _OUTPUTS),
    "MaxLogit": _score("clad_lib.clad.scores:max_logit_scores", _OUTPUTS),
    "Energy": _score("clad_lib.clad.scores:energy_scores", _OUTPUTS),
    "KNN": _score("clad_lib.clad.scores:knn_scores", _OUTPUTS),
    "Mahalanobis": _score("clad_lib.clad.scores:mahalanobis_scores", _OUTPUTS),
    "RelativeMahalanobis": _score("clad_lib.clad.scores:relative_mahalanobis_scores", _OUTPUTS),
    "ViM": _score("clad_lib.clad.scores:vim_scores", _OUTPUTS),
    "RankAverage": _score("clad_lib.clad.scores:rank_average_scores", ONE_PASS),
    "Selected": _score(
        "clad_lib.methods.selected:selected", ("simulations", "classifier", *ONE_PASS), _ODIN
    ),
    "Oracle": _score(
        "clad_lib.methods.selected:oracle",
        ("classifier", "odin_grid", *ONE_PASS),
        ("odin_factor",),
        protocol="oracle",
    ),
    "OCSVM": Row("clad_lib.methods.kernel:ocsvm", (), ("nu",), block=ONE),
    "OCNN": Row("clad_lib.methods.neural:ocnn", ("autoencoder",), ("nu", "ocnn_epochs"), block=ONE),
    "OCCNN": Row("clad_lib.methods.neural:occnn", ("autoencoder",), ("occnn_steps",), block=ONE),
    "SVDD": Row("clad_lib.methods.kernel:svdd", (), ("nu",), block=ONE),
    "DeepSVDD": Row("clad_lib.methods.deep_svdd:deep_svdd", (), _DEEP, block=ONE),
    "NearestImage": Row("clad_lib.methods.nearest:nearest_image", block=CONTROL),
    "PixelLOF": Row("clad_lib.methods.nearest:pixel_lof", block=CONTROL),
    "PNGBytes": Row("clad_lib.methods.nearest:image_bytes", block=CONTROL),
    "FeatureNorm": Row("clad_lib.methods.nearest:feature_norm", ("autoencoder",), block=CONTROL),
    "Patches": Row("clad_lib.methods.patches:patches", reads=_PATCHES, version=2, block=BEYOND),
    "rotation_network": Row(
        "clad_lib.methods.rotation:rotation_network", reads=_TURNS, version=2, in_all=False
    ),
    "Rotation": Row(
        "clad_lib.methods.rotation:rotation", ("rotation_network",), _TRUST, version=2, **_LONG
    ),
    "Fused": Row(
        "clad_lib.methods.fused:fused", ("Patches", "Rotation"), _WEIGHT, version=2, **_LONG
    ),
    "contrastive_network": Row(
        "clad_lib.methods.contrastive:contrastive_network",
        reads=("contrastive_views",),
        in_all=False,
    ),
    "Contrastive": Row(
        "clad_lib.methods.contrastive:contrastive", ("contrastive_network",), ("clusters",), **_LONG
    ),
    "FusedPhotographs": Row(
        "clad_lib.methods.fused:fused_photographs",
        ("Patches", "Rotation", "Contrastive"),
        _WEIGHT,
        **_LONG,
    ),
    "Pretrained": Row("clad_lib.methods.pretrained:pretrained", protocol="pretrained", **_LONG),
}


@cache
def rows() -> dict[str, Row]:
    """All rows: this package's, then those of other packages' `clad.methods` entry points.

    Raises ValueError, naming the package, for rows that cannot be loaded or taken.
    """
    found = dict(_OWN)
    for point in entry_points(group="clad.methods"):
        whose = f"the rows {point.value!r} of another package"
        try:
            more = dict(point.load())
        except Exception as error:  # whatever its own code raises
            why = f"({type(error).__name__}: {error})"
            raise ValueError(f"{whose} cannot be loaded {why}: mend or uninstall it") from error
        for name, each in more.items():
            if name in found or each.block not in ("", *BLOCKS):
                wanted = f"another name, and a block of {BLOCKS} or none for a stage"
                raise ValueError(f"{whose}: {name} in the block {each.block!r}: expected {wanted}")
        found |= more
    return found


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
    return pkgutil.resolve_name(function) if isinstance(function, str) else function


def before(name: str) -> tuple[str, ...]:
    """What a row needs and, of a method, the copies among the images, which its metrics read."""
    return (*row(name).needs, *(("copies",) if row(name).block else ()))


def needed(names: Iterable[str]) -> list[str]:
    """The rows and all that they need, each once and after what it needs."""
    found: dict[str, None] = {}
    for name in names:
        found |= dict.fromkeys([*needed(before(name)), name])
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
        config = self.config
        return Path(self.root, folder_name(config.dataset), folder_name(config.scenario))

    def has(self, name: str) -> bool:
        """Whether the artefact was finished with these settings on these images."""
        return (self.path(name) / RECORD).is_file()
