"""What stands on the terminal: thresholds of normal images alone, and a warning beside numbers that say nothing."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from clad_lib import __main__ as command_line
from clad_lib import reports
from clad_lib.calibration import threshold_for


def metrics(count):
    found = threshold_for(np.arange(float(count)), alpha=0.1, delta=0.1)
    finite = {name: value for name, value in found._asdict().items() if value != float("inf")}
    return found, {"threshold": finite, "images": {"test": 40}, "alarm_rate": 0.05}


def test_a_threshold_and_its_promise():
    found, measured = metrics(200)
    told = reports.threshold_of(measured)
    assert told.startswith(f"alarm above {found.value:.6g}. With probability 0.9, at most {found.bound_per_1000:.0f}")
    assert "5.0 % of the 40 test images alarm" in told


def test_too_few_images_are_no_success():
    told = reports.threshold_of(metrics(12)[1])
    assert "No threshold" in told
    assert "0.1 needs 22" in told
    assert "alarm above" not in told


def test_a_folder_of_normal_images_prints_what_is_promised(tmp_path):
    folder = tmp_path / "good"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(330):
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{number}.png")
    line = [
        "run",
        "--dataset",
        str(folder),
        "--scenario",
        "ALL",
        "--methods",
        "OCSVM",
        "--profile",
        "smoke",
        "--runs",
        str(tmp_path),
    ]
    done = CliRunner().invoke(command_line.app, [*line, "--set", "max_train=300"])
    assert done.exit_code == 0, done.output
    assert "its numbers say nothing" in done.output
    assert "AUROC" not in done.output
    assert "OCSVM                alarm above" in done.output
    assert str(tmp_path / "good-")[:-1] in done.output


@pytest.mark.parametrize("profile", ["smoke", "fast"])
def test_only_smoke_warns_of_its_numbers(profile, tmp_path):
    line = ["run", "--methods", "OCSVM", "--profile", profile, "--runs", str(tmp_path)]
    done = CliRunner().invoke(command_line.app, line)
    assert ("its numbers say nothing" in done.output) == (profile == "smoke")
    assert "AUROC" in done.output
