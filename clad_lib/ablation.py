"""What single settings and the published defects are worth: the same scenario again, with one thing changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pandas as pd
from tqdm import tqdm

from clad_lib import methods
from clad_lib.config import check_fields
from clad_lib.pipeline import Study

# name -> the settings that switch it on, in the order in which the pipeline meets them
DEFECTS: dict[str, dict[str, Any]] = {
    "hidden-class statistics": {"hidden_statistics": True},
    "noisy latents": {"noisy_latents": True},
    "target per batch": {"batch_target": True},
    "7x7 stem": {"stem": "published"},
    "ODIN step x 161": {"odin_factor": True},
    "AUROC flipped": {"flip_auroc": True},
}


def with_settings(study: Study, settings: Mapping[str, Any]) -> Study:
    """The same split and run folder with other settings; ValueError or TypeError for a wrong one."""
    config = replace(study.config, **check_fields(dict(settings)))
    return replace(study, config=config, run=replace(study.run, config=config), progress=False)


def measure(study: Study, settings: Sequence[Mapping[str, Any]], *, method: str = "ODIN") -> pd.DataFrame:
    """A method under each of several settings, trained where need be: one row each, with auroc, low, high and protocol.

    A stage that a setting does not touch is found again. The bar counts settings.
    """
    rows = []
    for each in tqdm(settings, desc="settings", unit="setting", disable=not study.progress):
        changed = with_settings(study, each)
        methods.prepare(changed, method)
        found = methods.scores(changed, method).metrics
        rows.append({**each, "auroc": found["auroc"], "low": found["auroc_low"], "high": found["auroc_high"],
                     "protocol": changed.config.protocol})  # fmt: skip
    return pd.DataFrame(rows)


def waterfall_steps(study: Study, *, method: str = "ODIN") -> tuple[tuple[str, float], dict[str, float]]:
    """The AUROC of `study`, and the change as the DEFECTS are switched on one after the other, each on top of the last."""
    settings: list[dict[str, Any]] = [{}]
    for defect in DEFECTS.values():
        settings.append(settings[-1] | defect)
    values = measure(study, settings, method=method).auroc.tolist()
    changes = [after - before for before, after in pairwise(values)]
    return (study.config.protocol, values[0]), dict(zip(DEFECTS, changes, strict=True))


def sweep(study: Study, field: str, values: Sequence[Any], *, method: str = "ODIN") -> pd.DataFrame:
    """`measure` for several values of one setting, such as clusters or latent: columns field, auroc, low, high, protocol."""
    return measure(study, [{field: value} for value in values], method=method)


def published_metrics(study: Study) -> pd.DataFrame:
    """SVDD's AUROC and F1 as they are, and as the published code takes them: one row a way of measuring."""
    ways: dict[str, dict[str, Any]] = {
        "as they are": {}, "ROC of +-1 decisions": {"hard_svdd": True},
        "and flipped": {"hard_svdd": True, "flip_auroc": True}, "F1 at the best test threshold": {"best_f1": True},
    }  # fmt: skip
    rows = []
    for name, settings in ways.items():
        changed = with_settings(study, settings)
        found = methods.scores(changed, "SVDD").metrics
        rows.append({"SVDD": name, "AUROC": found["auroc"], "F1": found["f1"], "protocol": changed.config.protocol})
    return pd.DataFrame(rows)
