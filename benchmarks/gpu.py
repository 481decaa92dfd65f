"""One sitting on a GPU machine: what the device gives, how fast we are, and the paper's scenarios.

`PYTHONPATH=. python benchmarks/gpu.py`, in an unpacked pack of tools/pack_for_gpu.py; several packs
may be unpacked into one folder. Each row is written to gpu-results/rows.jsonl as it is measured;
the run stops itself after `--minutes`. The order is that of worth: ceilings, parity of the devices,
speed beside the ceilings, then scenarios, of which `--workers` processes take one each. `--steps`
names some of these four; later ones find the rows of earlier ones. What does not fit into the time
stands there as `extrapolated` from the measured seconds an epoch; `--minutes 0` only
extrapolates, from the rows of an earlier sitting. The metrics and scores of
finished methods lie in gpu-results/runs, for `tools/publish.py keep`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import multiprocessing
import queue
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from scipy.stats import spearmanr
from sides import one_by_one
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from clad_lib.clad import steps, training
from clad_lib.config import datasets, make_config, profiles
from clad_lib.data.cache import ImageData
from clad_lib.data.pictures import decode
from clad_lib.data.reading import PARTS
from clad_lib.data.scenarios import get_scenario, make_split, split_key
from clad_lib.methods.contrastive import CROPS
from clad_lib.methods.rotation import BATCHES
from clad_lib.methods.scorers import TURNS, held_out
from clad_lib.study import bundle
from clad_lib.study.engine import Study
from clad_lib.study.stages import Places, needed
from clad_lib.study.store import stamp

TOLERANCE = {"float32": 0.02, "as computed": 0.2}  # of the scores' standard deviation, by 99 %
PLAIN = ("Patches", "NearestImage")  # always in float32
# What eight processes do on an H200, one alone doing 1: W of them take W / 1.4 times as long.
TOGETHER = 1.4
# Stage or method -> the setting that counts its epochs.
EPOCHS = {"autoencoder": "ae_epochs", "clusters": "dec_epochs", "classifier": "clf_epochs"}
EPOCHS |= {"DeepSVDD": "deep_training", "rotation_network": "rotation_views"}
EPOCHS |= {"contrastive_network": "contrastive_views"}
VIEWS = {"rotation_network": TURNS, "contrastive_network": TURNS * CROPS}  # of an image, an epoch
STEPS = "ceilings", "parity", "speed", "scenarios"
CLAD, OTHERS = ("ODIN", "MSP", "KNN"), ("Patches", "Rotation", "Fused")
PHOTOGRAPHS = (*OTHERS, "Contrastive", "FusedPhotographs")
TINY = dict(rotation_views=128, max_train=96, max_test=96)  # beside the profile smoke
Rows = Iterator[dict[str, Any]]


class OutOfTime(BaseException):
    """The deadline; nothing that catches errors may catch it."""


class Sitting:
    """The data of packs, the device, the deadline by `time.time`, and what was measured so far."""

    def __init__(
        self,
        data: dict[str, Any],
        device: torch.device,
        *,
        deadline: float,
        tiny: bool,
        workers: int = 1,
    ):
        self.data, self.device, self.deadline, self.tiny = data, device, deadline, tiny
        self.workers = workers  # processes that share the device
        self.runs = Path(tempfile.mkdtemp(prefix="clad-gpu-"))
        self.rows: list[dict[str, Any]] = []

    def close(self) -> None:
        """Remove what was made on the way."""
        shutil.rmtree(self.runs, ignore_errors=True)

    @property
    def ceiling(self) -> float:
        """FLOP a second of a matrix product in bfloat16, as measured last."""
        found = [row["flop_a_second"] for row in self.rows if "flop_a_second" in row]
        return found[-1] if found else float("nan")

    def cost(self, dataset: str, stage: str) -> tuple[float, float]:
        """Seconds before the first epoch and for an image in one; for a method, those to fit it and
        for an image that it scores. They are those of another data set, by pixels, if need be;
        PlainNet halves images above 32 pixels.
        """
        found = [row for row in self.rows if row.get("stage") == stage]
        if not found:
            return 0.0, 0.0
        nearest = max(reversed(found), key=lambda row: row["dataset"] == dataset)
        sides = [datasets()[name]["size"] for name in (dataset, nearest["dataset"])]
        here, there = (min(side, 32) if stage in VIEWS else side for side in sides)
        return nearest["seconds_before"], nearest["seconds_an_image"] * (here / there) ** 2

    def study(self, dataset: str, scenario: str, *, device: Any = None, **more: Any) -> Study:
        """A Study of a scenario, as `open_study` makes it; with --tiny in the profile smoke."""
        config = make_config(
            dataset, scenario, **((profiles()["smoke"] | TINY if self.tiny else {}) | more)
        )
        split = self.split(dataset, scenario, config.seed, config.max_train, config.max_test)
        places, threads = Places(self.runs, config, split_key(split)), torch.get_num_threads()
        return Study(config, split, places, device or self.device, threads, progress=False)

    @cache  # noqa: B019  there is one sitting
    def split(self, dataset: str, name: str, seed: int, train: int | None, test: int | None):
        """The split of a scenario, as `load_split` makes it."""
        parts, caps = self.data[dataset][0], dict(max_train=train, max_test=test)
        scenario = get_scenario(dataset, name, class_names=parts[0].class_names)
        split = make_split(*parts, scenario, seed=seed, **caps)
        return replace(split, source="a pack for GPU machines")

    def seconds(self, call: Callable[[], Any], *, repeats: int = 1) -> float:
        """The least wall-clock seconds of a call whose work on the device is done."""
        spent = []
        for _ in range(repeats):
            start = time.perf_counter()
            call()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            spent.append(time.perf_counter() - start)
        return min(spent)

    def speed(self, what: str, images: int, seconds: float, flop: float, **more: Any) -> dict:
        """A row: images a second, and as a share of the ceiling."""
        share = images / seconds * flop / self.ceiling
        found = dict(kind="speed", what=what, images=images, images_a_second=images / seconds)
        found |= dict(seconds_an_image=seconds / images, flop_an_image=flop)
        return found | dict(share_of_ceiling=share) | more


def unpacked(file: Path) -> tuple[tuple[ImageData, ImageData], list[str], list[bool]]:
    """Training and test images of a pack, its scenarios, and whether the images are those packed.

    Another decoder may give other pixels for JPEG pictures.
    """
    parts, same = [], []
    with np.load(file, allow_pickle=False) as stored:
        names = tuple(stored["class_names"].tolist())
        for part in PARTS:
            blob, lengths = stored[f"{part}_blob"].tobytes(), stored[f"{part}_lengths"]
            shape = tuple(stored[f"{part}_shape"].tolist())
            if len(lengths) == 1 < shape[0]:
                images = np.frombuffer(lzma.decompress(blob), np.uint8).reshape(shape)
            else:
                ends = np.cumsum(lengths)
                pieces = [blob[end - size : end] for end, size in zip(ends, lengths, strict=True)]
                images = np.stack([decode(piece, channels=shape[1])[0] for piece in pieces])
            data = ImageData(images, stored[f"{part}_labels"], stored[f"{part}_tracks"], names)
            parts.append(data)
            found = hashlib.sha256(images.tobytes()).hexdigest()
            same.append(found == str(stored[f"{part}_sum"]))
        return (parts[0], parts[1]), stored["scenarios"].tolist(), same


def ceilings(sitting: Sitting) -> Rows:
    """What the device gives: FLOP a second of a matrix product, bytes a second of a copy."""
    side, device = 256 if sitting.tiny else 8192, sitting.device
    for dtype in (torch.float32, torch.bfloat16):
        one = torch.randn(side, side, device=device).to(dtype)
        sitting.seconds(lambda one=one: one @ one, repeats=3)  # what is loaded first
        spent = sitting.seconds(lambda one=one: [one @ one for _ in range(10)], repeats=3)
        what = f"matrix product, {str(dtype).removeprefix('torch.')}"
        yield dict(kind="ceiling", what=what, side=side, flop_a_second=20 * side**3 / spent)
    source = torch.zeros(2**20 if sitting.tiny else 2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    spent = sitting.seconds(lambda: [target.copy_(source) for _ in range(10)], repeats=3)
    yield dict(kind="ceiling", what="copy", bytes_a_second=20 * len(source) / spent)


def gaps(study: Study, method: str, images: Tensor, tolerance: float) -> dict[str, Any]:
    """How far a method's scores of images lie apart on the CPU and on the device it was fitted on,
    in standard deviations of the scores.
    """
    _ = [study[need] for need in needed([method])[:-1]]
    there, tensors = study.fit(method), dict[str, Tensor]()
    here = bundle.put_together(bundle.taken_apart(there, tensors), tensors, "cpu")
    cpu, other = (np.asarray(scorer(images)) for scorer in (here, there))
    found = np.abs(cpu - other) / max(cpu.std(), 1e-12)
    return dict(
        what=method,
        images=len(images),
        largest=found.max(),
        by_99_percent=np.quantile(found, 0.99),
        rank_correlation=spearmanr(cpu, other).statistic,
        tolerance=tolerance,
        within=bool(np.quantile(found, 0.99) <= tolerance),
    )


def parity(sitting: Sitting, dataset: str, scenario: str) -> Rows:
    """Scores of what was fitted on the device, there and on the CPU: in float32, and in bfloat16
    where the two take it.
    """
    views = dict(rotation_views=8192, contrastive_views=8192)
    few: dict[str, Any] = {} if sitting.tiny else dict(max_train=512, **views)
    study = sitting.study(dataset, scenario, **few)
    images = study.split.test[: 32 if sitting.tiny else 500]
    networks = ("ODIN", "Rotation", *["Contrastive"] * study.split.scenario.mirror)
    try:
        for mode, tolerance in TOLERANCE.items():
            exact = mode == "float32"
            torch.backends.cudnn.allow_tf32 = not exact
            plain = patch.object(training, "gains_from_bf16", lambda device: False)
            with plain if exact else nullcontext():
                for method in networks + (PLAIN if exact else ()):
                    yield dict(kind="parity", mode=mode) | gaps(study, method, images, tolerance)
    finally:
        torch.backends.cudnn.allow_tf32 = True


def speeds(sitting: Sitting, dataset: str, scenario: str) -> Rows:
    """Images a second of each training, of ODIN and of Patches, as shares of the product."""
    short = dict(ae_epochs=1, dec_epochs=1, clf_epochs=1, deep_training=1, deep_pretraining=1)
    short |= dict(min_steps=0, deep_min_steps=0, dec_tolerance=0.0, kmeans_inits=1)
    sizes = (64, 128) if sitting.tiny else (512, None)
    small, whole = (
        sitting.study(dataset, scenario, profile="paper", max_train=most).with_settings(**short)
        for most in sizes
    )
    for stage, setting in EPOCHS.items():
        if stage == "contrastive_network" and not whole.split.scenario.mirror:
            continue

        def trained(study: Study, epochs: int, stage: str = stage, setting: str = setting) -> Any:
            views = VIEWS[stage] * shown(study, stage) if stage in VIEWS else 1
            with patch.dict(BATCHES, {0: max(BATCHES.values())}):  # the steps of `best`
                return study.with_settings(**{setting: epochs * views}).fit(stage)

        def flop(epochs: int, trained: Callable[..., Any] = trained) -> int:
            with FlopCounterMode(display=False) as counter:
                trained(small, epochs)
            return counter.get_total_flops()

        _ = [study[need] for study in (small, whole) for need in needed([stage])[:-1]]
        each, count = (flop(3) - flop(1)) / 2 / shown(small, stage), shown(whole, stage)
        with patch.object(steps, "LEAST", 0):  # as in long trainings
            # DeepSVDD splits its epochs in two trainings: of one there would be one capture alone
            least, most = (3, 9) if stage == "DeepSVDD" else (1, 3)
            few, many = (sitting.seconds(partial(trained, whole, n)) for n in (least, most))
        epoch = max((many - few) / (most - least), 1e-9)
        before = max(0.0, few - least * epoch)
        told = dict(dataset=dataset, stage=stage, seconds_an_epoch=epoch, seconds_before=before)
        yield sitting.speed(f"an epoch of {stage}", count, epoch, each, **told)
    images = whole.split.test[: 64 if sitting.tiny else 8192]
    for method in ("ODIN", "Patches"):
        _ = [whole[need] for need in needed([method])[:-1]]
        fitted = sitting.seconds(lambda m=method: whole.fit(m))
        scorer = whole.fit(method)
        passes = 3 if method == "ODIN" else 1  # forward, its gradient, forward
        with FlopCounterMode(display=False) as counter:
            (partial(training.infer, scorer.args[0]) if passes == 3 else scorer)(images[:64])
        each = passes * counter.get_total_flops() / 64
        spent = sitting.seconds(partial(scorer, images), repeats=3)
        told = dict(dataset=dataset, stage=method, seconds_before=fitted)
        yield sitting.speed(f"scores of {method}", len(images), spent, each, **told)
        if method == "ODIN":
            looped = images[: 4 if sitting.tiny else 100]
            plain = deepcopy(scorer.args[0]).to(memory_format=torch.contiguous_format)  # torch's
            alone = sitting.seconds(partial(one_by_one, plain, looped), repeats=3)
            gain = len(images) / spent / (len(looped) / alone)
            told = dict(dataset=dataset, times_as_fast_in_batches=gain)
            yield sitting.speed("ODIN image by image", len(looped), alone, each * 4 / 3, **told)


def shown(study: Study, stage: str) -> int:
    """How many images a stage trains on: Rotation and Contrastive hold some out."""
    held = held_out(study.split.train_tracks, seed=study.config.seed) if stage in VIEWS else [0]
    return len(study.split.train) - int(sum(held))


def expected(sitting: Sitting, study: Study, method: str) -> float:
    """Seconds that a method will take, from the measured seconds an image and epoch."""
    total, count = 0.0, len(study.split.train)
    for stage in needed([method]):
        if not study.has(stage):
            before, each = sitting.cost(study.config.dataset, stage)
            epochs = getattr(study.config, EPOCHS[stage]) if stage in EPOCHS else 1
            epochs = epochs / VIEWS[stage] / count if stage in VIEWS else epochs
            epochs += study.config.deep_pretraining if stage == "DeepSVDD" else 0
            scored = len(study.split.calibration) + len(study.split.test)
            total += before + epochs * (count if stage in EPOCHS else scored) * each
    return total


def jobs_of(data: dict[str, Any], seeds: int) -> list[tuple[Any, ...]]:
    """Scenarios with the methods and the profile to run there, in order of worth."""
    found = []
    for seed in range(seeds):
        for profile in ("best", "paper"):
            for dataset, (_, names, _) in data.items():
                best = PHOTOGRAPHS if datasets()[dataset]["mirror"] else OTHERS
                methods = CLAD if profile == "paper" else best
                found += [(dataset, name, seed, methods, profile) for name in names]
        for dataset, (_, names, _) in data.items():
            found += [(dataset, name, seed, ("DeepSVDD",), "paper") for name in names]
    return found


def measured(sitting: Sitting, out: Path, job: tuple[Any, ...]) -> Rows:
    """One scenario: a row for each of its methods, as far as the time reaches."""
    dataset, scenario, seed, methods, profile = job
    told = dict(dataset=dataset, scenario=scenario, seed=seed, profile=profile)
    start, method = time.time(), methods[-1]
    try:
        study = sitting.study(dataset, scenario, seed=seed, profile=profile)
        needs, left = expected(sitting, study, method), sitting.deadline - start
        if needs * max(1.0, sitting.workers / TOGETHER) >= left:
            crowd = dict(left=left, workers=sitting.workers)
            yield dict(kind="extrapolated", method=method, seconds=needs) | crowd | told
            return
        alarm(left)
        for method in methods:
            metrics = study[method].metrics
            folder = study.path(method)
            there = out / "runs" / folder.relative_to(sitting.runs)
            shutil.copytree(folder, there, dirs_exist_ok=True)
            spent = time.time() - start  # with all before it in the plan
            found = dict(kind="scenario", seconds=spent, method=method, expected_seconds=needs)
            found |= {name: metrics.get(name) for name in ("auroc", "auroc_low", "auroc_high")}
            yield found | told | dict(commit=stamp()["commit"])
    except OutOfTime:
        yield dict(kind="stopped", method=method, seconds=time.time() - start) | told
    except Exception as error:
        yield failure(f"{method} on {dataset} {scenario}", error)
    finally:
        alarm(0)


def work(jobs: Any, rows: Any, made: tuple[Any, ...], out: Path, commit: str) -> None:
    """Measure jobs in a process of its own, until there is None or the device is broken.

    A None ends what it gives.
    """
    *told, deadline, tiny, known, workers = made
    threads = max(1, torch.get_num_threads() // workers)
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    stamp()["commit"] = commit
    sitting = Sitting(*told, deadline=deadline, tiny=tiny, workers=workers)
    sitting.rows = known
    try:
        while (job := jobs.get()) is not None:
            for row in measured(sitting, out, job):
                rows.put(row)
                if row["kind"] == "error":  # a broken context breaks all jobs after it: end here
                    torch.rand(1, device=sitting.device).cpu()
    finally:
        sitting.close()
        rows.put(None)


def scenarios(sitting: Sitting, out: Path, seeds: int, workers: int) -> Rows:
    """The methods on the scenarios, `workers` at a time: a network alone leaves a GPU idle.

    What earlier rows have is left out.
    """
    names = ("dataset", "scenario", "seed", "method", "profile")
    done = {tuple(map(row.get, names)) for row in sitting.rows if row["kind"] == "scenario"}
    todo = [
        (*place, methods, profile)
        for *place, methods, profile in jobs_of(sitting.data, seeds)
        if (*place, methods[-1], profile) not in done
    ]
    context = multiprocessing.get_context("spawn")
    jobs, rows = context.Queue(), context.Queue()
    for job in [*todo, *[None] * workers]:
        jobs.put(job)
    made = sitting.data, sitting.device, sitting.deadline, sitting.tiny, sitting.rows, workers
    told = jobs, rows, made, out, stamp()["commit"]
    crew = [context.Process(target=work, args=told, daemon=True) for _ in range(workers)]
    with ThreadPoolExecutor(workers) as pool:  # each waits until its process takes the data
        list(pool.map(lambda each: each.start(), crew))
    while workers:
        try:
            row = rows.get(timeout=5)
        except queue.Empty:
            if not any(each.is_alive() for each in crew):
                raise RuntimeError("workers ended before their jobs did") from None
            continue
        if row is None:
            workers -= 1
        else:
            yield row


def alarm(seconds: float) -> None:
    """Raise OutOfTime in so many seconds; 0 takes that back."""

    def stop(*_: Any) -> None:
        raise OutOfTime

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def failure(what: str, error: Exception) -> dict[str, Any]:
    """A row for a step that failed; the steps after it go on."""
    return dict(kind="error", what=what, error=f"{type(error).__name__}: {error}")


def all_rows(sitting: Sitting, out: Path, asked: argparse.Namespace) -> Rows:
    """Everything, in order of worth."""
    gpu = dict(stamp()["machine"]) | {"torch": torch.__version__, "device": str(sitting.device)}
    yield dict(kind="machine", commit=stamp()["commit"], workers=asked.workers, **gpu)
    for dataset, ((train, test), names, same) in sitting.data.items():
        counts = dict(train=len(train.labels), test=len(test.labels), scenarios=names)
        yield dict(kind="data", dataset=dataset, same_pixels=all(same), **counts)
    first = {name: names[0] for name, (_, names, _) in sitting.data.items()}
    made = {
        "ceilings": [ceilings(sitting)],
        "parity": [parity(sitting, *next(iter(first.items())))],
        "speed": [speeds(sitting, *each) for each in first.items()],
        "scenarios": [scenarios(sitting, out, asked.seeds, asked.workers)],
    }
    for what in asked.steps:
        try:
            for rows in made[what]:
                yield from rows
        except Exception as error:
            yield failure(what, error)


def main() -> None:
    """Measure until all is done or the time is over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--minutes", type=float, default=9.0, help="0: extrapolate alone")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=4, help="processes that train at a time")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--tiny", action="store_true", help="budgets of seconds: read no number")
    asked = parser.parse_args()
    if asked.tiny:
        asked.seeds, asked.workers = 1, 2
    if not asked.minutes:
        asked.steps = ["scenarios"]
    start, deadline = time.time(), time.time() + 60 * asked.minutes - 10
    if (note := Path("pack.json")).is_file():  # no repository lies around an unpacked pack
        stamp()["commit"] = json.loads(note.read_text(encoding="utf-8"))["commit"]
    files = sorted(asked.data.glob("*.npz"), key=lambda f: not datasets()[f.stem]["mirror"])
    with ThreadPoolExecutor() as pool:  # photographs first: there most is to be gained
        data = dict(zip([file.stem for file in files], pool.map(unpacked, files), strict=True))
    device = training.pick_device(asked.device)
    sitting = Sitting(data, device, deadline=deadline, tiny=asked.tiny)
    asked.out.mkdir(parents=True, exist_ok=True)
    table = asked.out / "rows.jsonl"
    if table.exists():
        sitting.rows += map(json.loads, table.read_text(encoding="utf-8").splitlines())
    with table.open("a", encoding="utf-8") as file:

        def write(row: dict[str, Any]) -> None:
            sitting.rows.append(row)
            line = json.dumps(row | {"at": round(time.time() - start, 2)}, default=float)
            print(line, file=file, flush=True)
            print(line, flush=True)

        try:
            if asked.minutes:
                alarm(deadline + 10 - time.time())  # workers stop themselves before
            for row in all_rows(sitting, asked.out, asked):
                write(row)
        except OutOfTime:
            write(dict(kind="stopped", what="before all was measured"))
        finally:
            alarm(0)
            sitting.close()


if __name__ == "__main__":
    main()
