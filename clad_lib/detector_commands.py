"""Commands for one's own images: `clad fit`, `clad score`, and what a kept detector says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import clad_lib
from clad_lib.commands import Device, Seed, Size, app

Images = Annotated[Path, typer.Argument(help="a folder of pictures, with all below it")]
Kept = Annotated[Path, typer.Argument(help="a folder or .zip that `clad fit` has written")]
Strict = Annotated[bool, typer.Option("--strict", help="refuse a folder with unreadable files")]
ALARMS = 3  # exit status of --fail-on-alarm
GALLERY = 12  # images on the page


@app.command()
def fit(
    folder: Images,
    out: Annotated[Path, typer.Option(help="a new folder, or a .zip, for the detector")],
    size: Size = None,
    alpha: Annotated[
        float | None, typer.Option(help="share of normal images that may alarm, such as 0.01")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="Patches, Rotation, Contrastive, Fused, FusedPhotographs, Pretrained, CLAD, "
            "NearestImage, OCSVM or SVDD"
        ),
    ] = "Patches",
    mirror: Annotated[
        bool,
        typer.Option("--mirror", help="mirrored ones are as normal: of scenes, not letters"),
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    strict: Strict = False,
) -> None:
    """Learn from a folder of normal images, and keep the detector with its promised threshold."""
    from clad_lib.study import bundle

    detector = clad_lib.Detector(method, size, alpha, seed=seed, device=device, mirror=mirror)
    bundle.check(out, detector.method)
    typer.echo(detector.fit(folder, strict=strict, progress=True).report())
    typer.echo(f"kept in {detector.save(out)}: `clad score {out} FOLDER --csv scores.csv`")


@app.command()
def score(
    detector: Kept,
    folder: Images,
    csv: Annotated[Path, typer.Option(help="path, score, p_value, alarm, latent_class, skipped")],
    html: Annotated[Path | None, typer.Option(help="a page with the most anomalous images")] = None,
    normal: Annotated[
        bool, typer.Option("--normal", help="they are normal: does the promise still hold?")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="the summary as JSON")] = False,
    fail_on_alarm: Annotated[
        bool, typer.Option("--fail-on-alarm", help=f"exit status {ALARMS} if any image alarms")
    ] = False,
    device: Device = "auto",
    strict: Strict = False,
) -> None:
    """Score a folder of any length with a kept detector; one line of the CSV a file.

    With --normal two tests look for signs that the promise no longer holds: that scores are larger
    than those of the calibration images, and that they drift, in the order of the paths.
    """
    import pandas as pd

    from clad_lib.judge import guarantees
    from clad_lib.look.detector_page import write_page

    kept = clad_lib.Detector.load(detector, device=device)
    scores, top, skipped = _write_scores(kept.score_folder(folder, strict=strict), csv)
    alarms = int((scores > kept.threshold.value).sum())
    said: dict[str, Any] = {
        "images": len(scores),
        "alarms": alarms,
        "skipped or read in part": skipped,
        "threshold": kept.threshold.value,
        "promise": guarantees.in_words(kept.threshold),
    }
    drift = kept.drift(scores) if normal else None
    if drift is not None:
        said |= {
            "exchangeability": guarantees.exchangeability(kept.calibrated, scores).text,
            "drift": drift.text,
        }
        if drift.alarm is not None:
            said["drifted at"] = pd.read_csv(csv, skiprows=range(1, drift.alarm + 1), nrows=1).path[
                0
            ]
    if html is not None:
        write_page(html, kept, said, scores, top, drift)
    typer.echo(json.dumps(said) if as_json else "\n".join(f"{k}: {v}" for k, v in said.items()))
    if fail_on_alarm and alarms:
        raise typer.Exit(ALARMS)


def _write_scores(batches: Any, csv: Path) -> tuple[Any, list, dict[str, int]]:
    """Write the CSV, whole or not at all: scores (N,), the highest with images, what was skipped.

    Of the images only the GALLERY highest are kept.
    """
    from collections import Counter

    import numpy as np

    from clad_lib.study.store import draft_of

    scores, top, skipped = list[Any](), list[Any](), Counter[str]()
    with draft_of(csv, parents=False) as draft:
        for frame, images in batches:
            frame.to_csv(draft, mode="a", header=not scores, index=False)
            scores.append(frame.score.to_numpy()[: len(images)])
            named = zip(frame.score, frame.path, images, strict=False)
            top = sorted([*top, *named], key=lambda each: -each[0])[:GALLERY]
            skipped.update(reason.split(" (")[0] for reason in frame.skipped if reason)
        draft.replace(csv)
    return np.concatenate(scores), top, dict(skipped)


@app.command()
def inspect(detector: Kept) -> None:
    """What a kept detector was made from, its threshold, and what that promises."""
    typer.echo(clad_lib.Detector.load(detector, device="cpu").report())


@app.command()
def threshold(
    detector: Kept, alpha: Annotated[float, typer.Option(help="share that may alarm")]
) -> None:
    """The threshold of a kept detector for another share of false alarms; nothing is changed."""
    from clad_lib.judge.guarantees import in_words

    found = clad_lib.Detector.load(detector, device="cpu").threshold_at(alpha)
    typer.echo(f"{found.value:.9g}\n{in_words(found)}")
    raise typer.Exit(0 if found.rank else 1)


@app.command()
def update(
    detector: Kept,
    train: Annotated[
        Path | None, typer.Option(help="more normal images to learn from: fits anew")
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="a random sample of new normal images: a new threshold")
    ] = None,
    known: Annotated[
        list[str] | None, typer.Option(help="where the images of before lie now, if they moved")
    ] = None,
    device: Device = "auto",
    strict: Strict = False,
) -> None:
    """Let a kept detector learn from more normal images, or calibrate it anew.

    --train needs the images that it was fitted to, where they were or in --known; its calibration
    images stay. --calibrate replaces these. The promise then rests on a random sample of normal
    images: it is void if they were chosen because they alarmed.
    """
    from clad_lib.study.own_images import renew

    kept = clad_lib.Detector.load(detector, device=device)
    if train is None and calibrate is None:
        raise typer.BadParameter("expected --train FOLDER, --calibrate FOLDER, or both")
    for folder, learns in ((train, True), (calibrate, False)):
        if folder is not None:
            renew(kept, folder, train=learns, places=known or (), strict=strict, progress=True)
    typer.echo(
        f"{kept.report()}\nThe promise is void if calibration images were chosen because of their "
        f"scores, such as those that had alarmed.\nkept in {kept.save(detector, replace=True)}"
    )


@app.command()
def export(
    detector: Kept, onnx: Annotated[Path, typer.Option(help="the file to write, model.onnx")]
) -> None:
    """Write the detector Patches as an ONNX graph with its threshold, for use without clad."""
    from clad_lib.study.onnx_graph import NOT_CARRIED

    kept = clad_lib.Detector.load(detector, device="cpu")
    typer.echo(f"{kept.to_onnx(onnx)}: images to score and map. {NOT_CARRIED}")


@app.command()
def evaluate(
    detector: Kept,
    normal: Annotated[Path, typer.Option(help="a folder of normal images")],
    anomalous: Annotated[Path, typer.Option(help="a folder of anomalies")],
    device: Device = "auto",
) -> None:
    """How well a kept detector tells two folders apart, and whether its promise held there."""
    import pandas as pd

    from clad_lib.judge.metrics import bootstrap

    kept = clad_lib.Detector.load(detector, device=device)
    parts = {
        name: pd.concat(frame for frame, _ in kept.score_folder(folder)).dropna(subset="score")
        for name, folder in {"normal images": normal, "anomalies": anomalous}.items()
    }
    every = pd.concat(parts, names=["kind"]).reset_index("kind")
    found = bootstrap(every.score, every.kind == "anomalies", seed=0)
    typer.echo(f"AUROC {found.value:.3f} (95 % interval {found.low:.3f} to {found.high:.3f})")
    for name, part in parts.items():
        typer.echo(f"alarms: {part.alarm.sum()} of {len(part)} {name}, {part.alarm.mean():.1%}")
