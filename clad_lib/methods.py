"""Every method of the tables on one split: CLAD's scores, scores chosen with and without anomalies, and the baselines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clad_lib import pipeline, runs, scoring, selection
from clad_lib.baselines import BASELINES
from clad_lib.config import CHOSEN, CLAD, METHODS, ONE_PASS, Config
from clad_lib.measure import Scores, load_scores, metrics, scores_table
from clad_lib.training import Scorer, epochs_for, infer, seeded


class Parts(NamedTuple):
    """What a method makes: both scores, the calibration images used up on the way, and what else to keep with them."""

    calibration: np.ndarray  # (n,)
    test: np.ndarray  # (m,)
    used: np.ndarray | None = None  # (n,) bool
    extra: dict[str, Any] = {}  # noqa: RUF012


def scores(study: pipeline.Study, method: str = "ODIN", *, make: bool = True) -> Scores:
    """Anomaly scores of calibration and test images by one of METHODS, and the test metrics; trained where need be.

    RunError names the notebook to run first; ValueError lists the methods.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: expected one of {', '.join(METHODS)}")
    if make and not study.run.has(method):
        _make_what_it_needs(study, method)
        with study.run.writing(method) as folder, seeded(study.config.seed):
            parts = _parts(study, method)
            free = np.ones(len(parts.calibration), dtype=bool) if parts.used is None else ~parts.used
            table = scores_table(study.split, parts.calibration, parts.test)
            kept = np.concatenate([free, np.ones(len(parts.test), dtype=bool)])
            measured = metrics(study.config, study.split, method, parts.calibration[free], parts.test, free=free)
            runs.save_scores(folder, table[kept], measured | parts.extra)
    return load_scores(study.run.find(method))


def prepare(study: pipeline.Study, method: str) -> None:
    """Train the stages that a method stands on, where they are not there yet: none for OCSVM, SVDD and DeepSVDD."""
    if method in (*CLAD, *CHOSEN, "OCNN", "OCCNN"):
        pipeline.autoencoder(study)
    if method in (*CLAD, *CHOSEN):
        pipeline.clusters(study)
        pipeline.classifier(study)


def _make_what_it_needs(study: pipeline.Study, method: str) -> None:
    """The artefacts that scores are computed from, each in its own folder."""
    if method in (*ONE_PASS, "RankAverage", *CHOSEN):
        one_pass(study)
    if method == "Selected":
        simulations(study)
    if method == "Oracle":
        odin_grid(study)


def _parts(study: pipeline.Study, method: str) -> Parts:
    if method == "ODIN":
        return _odin(study, study.config.temperature, study.config.epsilon)
    if method in BASELINES:
        return _baseline(study, method)
    if method == "RankAverage":
        return _rank_average(study)
    if method in CHOSEN:
        return _chosen(study, method)
    plain = one_pass(study, make=False)
    return Parts(plain["calibration"][method], plain["test"][method])


def cached_outputs(study: pipeline.Study, *, make: bool = True) -> dict[str, scoring.Outputs]:
    """Logits and features of all images, train, calibration and test, by one pass; features kept as float16."""
    if make and not study.run.has("outputs"):
        model, _ = pipeline.classifier(study, make=False)
        with study.run.writing("outputs") as folder:
            arrays: dict[str, np.ndarray] = {}
            for part in ("train", "calibration", "test"):
                found = scoring.outputs(model, getattr(study.split, part))
                arrays |= {f"{part}_logits": found.logits.numpy(), f"{part}_features": found.features.half().numpy()}
            runs.save_arrays(folder, **arrays)
    arrays = runs.load_arrays(study.run.find("outputs"))
    tensors = {name: torch.from_numpy(array).float() for name, array in arrays.items()}
    return {part: scoring.Outputs(tensors[f"{part}_logits"], tensors[f"{part}_features"])
            for part in ("train", "calibration", "test")}  # fmt: skip


def simulations(study: pipeline.Study, *, make: bool = True) -> pd.DataFrame:
    """What `selection.simulate` measured, kept with the run."""
    if make and not study.run.has("simulations"):
        with study.run.writing("simulations") as folder:
            selection.simulate(study).to_parquet(folder / "simulations.parquet", index=False)
    return pd.read_parquet(study.run.find("simulations") / "simulations.parquet")


def odin_grid(study: pipeline.Study, *, make: bool = True) -> selection.OdinGrid:
    """What `selection.sampled_grid` computed, kept with the run: for the oracle and for the threshold explorer."""
    if make and not study.run.has("odin_grid"):
        with study.run.writing("odin_grid") as folder:
            made = selection.sampled_grid(study)
            runs.save_arrays(folder, **{name: np.asarray(value) for name, value in made._asdict().items()})
    arrays: dict[str, Any] = runs.load_arrays(study.run.find("odin_grid"))
    arrays |= {name: tuple(arrays[name].tolist()) for name in ("temperatures", "epsilons")}
    return selection.OdinGrid(**arrays)


def _odin(study: pipeline.Study, temperature: float, epsilon: float) -> Parts:
    model, _ = pipeline.classifier(study, make=False)
    options: dict[str, Any] = dict(temperature=temperature, epsilon=epsilon, published_factor=study.config.odin_factor)
    return _both(study, lambda images: scoring.odin(model, images, **options))


def one_pass(study: pipeline.Study, *, make: bool = True) -> dict[str, dict[str, np.ndarray]]:
    """The scores ONE_PASS of calibration and test images, part -> name -> (N,), from the cached outputs."""
    if make and not study.run.has("one_pass"):
        found, (model, _) = cached_outputs(study), pipeline.classifier(study, make=False)
        labels = torch.from_numpy(pipeline.clusters(study, make=False).labels)
        with study.run.writing("one_pass") as folder:
            scored = {part: scoring.one_pass(found[part], found["train"], labels, model.head) for part in ("calibration", "test")}
            arrays = {f"{part}_{name}": values for part, each in scored.items() for name, values in each.items()}
            runs.save_arrays(folder, **arrays)
    arrays = runs.load_arrays(study.run.find("one_pass"))
    return {part: {name: arrays[f"{part}_{name}"] for name in ONE_PASS} for part in ("calibration", "test")}


def _rank_average(study: pipeline.Study) -> Parts:
    """Ranks among one half of the calibration images, by whole tracks; the other half stays for thresholds."""
    parts = one_pass(study, make=False)
    names, track = np.unique(study.split.calibration_tracks, return_inverse=True)
    used = (np.random.default_rng(study.config.seed).permutation(len(names)) < len(names) // 2)[track]
    if not used.any():
        raise ValueError(
            f"RankAverage got {len(names)} calibration image(s) or track(s): expected 2 or more; raise the setting `calibration`"
        )
    reference = {name: values[used] for name, values in parts["calibration"].items()}
    calibrated, tested = (scoring.rank_average(parts[part], reference) for part in ("calibration", "test"))
    return Parts(calibrated, tested, used)


def _chosen(study: pipeline.Study, method: str) -> Parts:
    plain = one_pass(study, make=False)
    if method == "Selected":
        table = simulations(study, make=False)
    else:
        table = selection.oracle_table(odin_grid(study, make=False), plain["test"], study.split.answers.test_anomaly)
    choice = selection.choose(table)
    extra: dict[str, Any] = {"choice": {name: value if value == value else None for name, value in choice._asdict().items()}}
    if choice.score == "ODIN":
        return _odin(study, choice.temperature, choice.epsilon)._replace(extra=extra)
    return Parts(plain["calibration"][choice.score], plain["test"][choice.score], extra=extra)


def _both(study: pipeline.Study, scorer: Callable[[Tensor], Tensor]) -> Parts:
    calibrated, tested = (np.asarray(scorer(part), np.float64) for part in (study.split.calibration, study.split.test))
    return Parts(calibrated, tested)


def fit_baseline(study: pipeline.Study, method: str) -> Scorer:
    """One of BASELINES fitted to the training images with the configuration's settings."""
    config, count = study.config, len(study.split.train)
    autoencoder = pipeline.autoencoder(study, make=False)[0] if method in ("OCNN", "OCCNN") else None
    known: dict[str, dict[str, Any]] = {
        "OCNN": dict(nu=config.nu, epochs=config.ocnn_epochs), "OCCNN": dict(steps=config.occnn_steps),
        "DeepSVDD": dict(nu=config.nu, objective=config.deep_objective, **_deep_epochs(config, count)),
    }  # fmt: skip
    shared: dict[str, Any] = dict(seed=config.seed, device=study.device, autoencoder=autoencoder, progress=study.progress)
    return BASELINES[method](study.split.train, **shared, **known.get(method, dict(nu=config.nu)))


def _deep_epochs(config: Config, count: int, batch_size: int = 200) -> dict[str, tuple[int, int]]:
    found = {}
    for name, epochs in (("pretraining", config.deep_pretraining), ("training", config.deep_training)):
        total = epochs_for(count, epochs=epochs, batch_size=batch_size, min_steps=config.deep_min_steps)
        found[name] = (total - total // 3, total // 3)
    return found


def _baseline(study: pipeline.Study, method: str) -> Parts:
    scorer = fit_baseline(study, method)
    return _both(study, scorer)._replace(extra={"method": str(getattr(scorer, "method", method))})


def predicted_clusters(study: pipeline.Study, part: str = "test") -> np.ndarray:
    """The pseudo-class that the classifier gives each image of a part of the split, (N,): for per-cluster thresholds."""
    return infer(pipeline.classifier(study, make=False)[0], getattr(study.split, part), bf16=True).argmax(1).numpy()
