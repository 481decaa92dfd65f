"""Pack the code and one or two data sets for a GPU machine that has torch and no network.

    CLAD_DATA=... python tools/pack_for_gpu.py mnist cifar10:THG

writes dist/gpu-mnist-cifar10.zip. On the other machine:

    python -m zipfile -e gpu-mnist-cifar10.zip gpu
    cd gpu && PYTHONPATH=. python benchmarks/gpu.py

A pack holds the training images that one of the scenarios calls normal, and all test images: either
compressed pixels or the pictures as they came, whichever is smaller. `--rehearse` packs the
embedded digits, unpacks them into a new virtual environment with nothing but PACKAGES, and runs
every step there on the CPU with budgets of seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from clad_lib.config import datasets
from clad_lib.data.downloads import read_parquet
from clad_lib.data.reading import PARTS, load_dataset
from clad_lib.study.store import stamp

HOME = Path(__file__).resolve().parents[1]
PACKAGES = "torch torchvision numpy pandas pyarrow pillow scipy scikit-learn safetensors tqdm"
CODE = ("clad_lib", "benchmarks", "LICENSE")
MOST = 50e6  # bytes of a pack
KINDS = {"machine", "data", "ceiling", "parity", "speed", "scenario"}  # of rows, in a rehearsal


def packed(dataset: str, scenarios: list[str]) -> bytes:
    """A data set as an npz file, for `unpacked` in benchmarks/gpu.py."""
    table = datasets()[dataset]["scenarios"]
    normal = sorted({label for name in scenarios for label in table[name]["normal"]})
    arrays = {"scenarios": np.array(scenarios)}
    for part, data in zip(PARTS, load_dataset(dataset), strict=True):
        rows = np.flatnonzero(np.isin(data.labels, normal) | (part == "test"))
        images, source = data.images[rows], Path(os.environ.get("CLAD_DATA", ""))
        source = source / f"{dataset}-{part}.parquet"
        few, pictures = lzma.compress(images[:300].tobytes()), []
        if os.environ.get("CLAD_DATA") and source.is_file():
            pictures, *_ = read_parquet(source, datasets()[dataset]["classes"])
            pictures = [pictures[row] for row in rows]
        if not pictures or len(few) < sum(map(len, pictures[:300])):
            pictures = [lzma.compress(images.tobytes())]
        arrays |= {
            f"{part}_blob": np.frombuffer(b"".join(pictures), np.uint8),
            f"{part}_lengths": np.array([len(picture) for picture in pictures]),
            f"{part}_shape": np.array(images.shape),
            f"{part}_labels": data.labels[rows],
            f"{part}_tracks": data.tracks[rows],
            f"{part}_sum": np.array(hashlib.sha256(images.tobytes()).hexdigest()),
            "class_names": np.array(data.class_names),
        }
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def pack(wanted: list[str], folder: Path) -> Path:
    """Write a pack of data sets, each as `name` or `name:CUR,MIX`; ValueError where it is large."""
    files, names = {"pack.json": json.dumps({"commit": stamp()["commit"]}).encode()}, []
    for each in wanted:
        name, _, scenarios = each.partition(":")
        if name not in datasets():
            raise ValueError(f"unknown data set {name!r}: expected one of {', '.join(datasets())}")
        table = datasets()[name]["scenarios"]
        chosen = scenarios.split(",") if scenarios else list(table)
        if missing := set(chosen) - set(table):
            raise ValueError(f"{name} has no scenario {missing}: expected some of {list(table)}")
        files[f"data/{name}.npz"] = packed(name, chosen)
        names.append(name)
    listed = subprocess.check_output(["git", "-C", str(HOME), "ls-files", *CODE], text=True)
    files |= {name: (HOME / name).read_bytes() for name in listed.splitlines()}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    if len(content.getvalue()) > MOST:
        size, most = len(content.getvalue()) / 1e6, MOST / 1e6
        raise ValueError(f"the pack has {size:.0f} MB, at most {most:.0f}: name fewer scenarios")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"gpu-{'-'.join(names)}.zip"
    path.write_bytes(content.getvalue())
    return path


def rehearse() -> list[dict]:
    """Everything on the CPU in a clean environment; RuntimeError where a step failed."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(HOME / ".tools" / "bin"))
    if uv is None:
        raise RuntimeError("uv is not here, which makes the clean environment: run make setup")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = folder / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        install = [uv, "pip", "install", "--quiet", "--python", str(python)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("CLAD", "PYTHON"))}
        environment |= {"PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}  # threads wait on a busy machine
        for line in (
            [uv, "venv", "--quiet", "--python", sys.executable, "env"],
            [*install, "--constraint", str(HOME / "constraints.txt"), *PACKAGES.split()],
            [sys.executable, "-m", "zipfile", "-e", str(pack(["digits:MIX"], folder)), "there"],
        ):
            subprocess.run(line, cwd=folder, check=True)
        line = [str(python), "benchmarks/gpu.py", "--device", "cpu", "--tiny", "--minutes", "20"]
        subprocess.run(line, cwd=folder / "there", check=True, env=environment)
        text = (folder / "there" / "gpu-results" / "rows.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    failed = [row for row in rows if row["kind"] in ("error", "stopped")]
    if failed or KINDS - {row["kind"] for row in rows}:
        missing = KINDS - {row["kind"] for row in rows}
        raise RuntimeError(
            f"the rehearsal lacks rows of kind {missing or 'none'}; failed: {failed}"
        )
    return rows


def main() -> None:
    """Write a pack, or rehearse."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="*", metavar="DATASET[:SCENARIO,...]")
    parser.add_argument("--folder", type=Path, default=HOME / "dist")
    parser.add_argument("--rehearse", action="store_true")
    asked = parser.parse_args()
    if bool(asked.datasets) == asked.rehearse:
        parser.error("expected data sets to pack, or --rehearse")
    if asked.rehearse:
        print(f"rehearsed: {len(rehearse())} rows")
        return
    path = pack(asked.datasets, asked.folder)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
