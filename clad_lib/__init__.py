"""One-class anomaly detection, and why it fails when normal hides several classes.

    from clad_lib import make_config, open_study
    study = open_study(make_config("digits", "MIX"))
    study["ODIN"].metrics["auroc"]

What a user may call is imported when it is first used.
"""

import importlib
from typing import Any

_HOMES = {
    "Detector": "clad_lib.detector",
    "collect": "clad_lib.study.results",
    "load_dataset": "clad_lib.data.reading",
    "make_config": "clad_lib.config",
    "open_study": "clad_lib.study.engine",
    "query": "clad_lib.study.results",
    "summary": "clad_lib.study.tables",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"clad_lib has no {name!r}: it has {', '.join(_HOMES)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
