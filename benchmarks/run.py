"""All benchmarks that compare with a rival, as one table: benchmarks.md and benchmarks.json.

`python benchmarks/run.py [--small] [--only odin,tsne] [--out FOLDER]`. Each runs in a process of
its own. Rivals that are not installed are named and left out; `make bench` installs them. Every
figure says how many times as fast, or as small, clad_lib is as the rival in the same run. `--only`
replaces those benchmarks of a table that is there, and keeps the others with their commits.
`explorers.py`, `browser.py` and `gpu.py` have no rival and are run by themselves.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from sides import COLUMNS, markdown

from clad_lib.study.store import stamp

HERE = Path(__file__).resolve().parent
ALL = ["odin", "training", "dec", "patches", "detectors", "ocsvm", "tsne", "bootstrap", "cost"]
ALL += ["stages"]


def main() -> None:
    """Run the benchmarks one after the other and write what they found after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a try of a few seconds, no evidence")
    parser.add_argument("--only", default=",".join(ALL), help="some of them, with commas")
    parser.add_argument("--out", type=Path, help="results/, or build/ for a small try")
    asked = parser.parse_args()
    out = asked.out or HERE.parent / ("build" if asked.small else "results")
    out.mkdir(parents=True, exist_ok=True)
    record, kept = out / "benchmarks.json", dict[str, dict]()
    if asked.only != parser.get_default("only") and record.is_file():
        known = json.loads(record.read_text(encoding="utf-8"))
        if known.get("small", False) == asked.small:
            kept = {each["name"]: each for each in known["benchmarks"]}
    found, failed = dict(kept), dict[str, str]()
    for name in asked.only.split(","):
        line = [sys.executable, str(HERE / f"{name}.py"), "--json", *["--small"] * asked.small]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            failed[name] = (done.stderr.strip().splitlines() or ["no message"])[-1]
            found.pop(name, None)
        else:
            made = stamp()
            where = "{cpu}, {cores} cores".format(**made["machine"])
            told = {"name": name, "commit": made["commit"], "machine": where}
            found[name] = told | json.loads(done.stdout.splitlines()[-1])
        ordered = sorted(found.values(), key=lambda each: ALL.index(each["name"]))
        write(out, ordered, failed, small=asked.small)
        print(f"{name}: {failed.get(name, 'measured')}", flush=True)
    print(f"{out / 'benchmarks.md'}")
    if any(not reason.startswith("left out") for reason in failed.values()):
        sys.exit(1)


def write(out: Path, found: list[dict], failed: dict[str, str], *, small: bool) -> None:
    """The table as it stands, in both formats."""
    rows = [
        (each["what"], *row.values(), each["agreement"]) for each in found for row in each["rows"]
    ]
    places = dict[str, list[str]]()
    for each in found:
        place = f"{each['machine']}, commit {each['commit']}"
        places.setdefault(place, []).append(each["name"])
    told = "; ".join(f"{place} ({', '.join(names)})" for place, names in places.items())
    lines = ["# Benchmarks", "", "A try: no evidence." if small else "", told, ""]
    lines += [markdown(("what", *COLUMNS, "agreement is"), rows), ""]
    lines += [f"- {name}: {reason}" for name, reason in failed.items()]
    (out / "benchmarks.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    record = dict(made=stamp(), small=small, benchmarks=found, failed=failed)
    (out / "benchmarks.json").write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
