"""The scenario builder, driven by its traits: what it counts, what it writes, and what it says where a scenario is none."""

from __future__ import annotations

import re
import shlex
import time

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from clad_lib import __main__ as command_line
from clad_lib import data, pipeline, preflight, sources
from clad_lib.config import make_config
from clad_lib.data import load_dataset
from clad_lib.scenarios import SCENARIOS, get_scenario, load_split, make_split
from clad_lib.sources import DataError
from clad_lib.widgets.builder import FOLDER, ScenarioBuilder
from clad_lib.widgets.ticks import count, spell


def text(widget):
    return re.sub(r"<[^>]+>", " ", widget.value).replace("&#x27;", "'").strip()


def shown(builder):
    """The four counts as they stand in the widget: train, calibration, test normal, test anomalous."""
    return [int(number) for number in re.findall(r"<td[^>]*>(\d+)</td>", builder.counts.value)]


def options_of(builder):
    """The options of the printed command, read as a shell reads them."""
    words = shlex.split(builder.command)
    assert words[:4] == ["python", "-m", "clad_lib", "study"]
    return dict(zip((word.removeprefix("--") for word in words[4::2]), words[5::2], strict=True))


def by_hand(builder):
    """The split of the printed command, and its counts."""
    options = options_of(builder)
    config = make_config(options.pop("dataset"), options.pop("scenario"), profile=options.pop("profile", "fast"),
                         seed=int(options.pop("seed", 0)))  # fmt: skip
    assert not options
    parts = load_dataset(config.dataset)
    scenario = get_scenario(config.dataset, config.scenario, class_names=parts[0].class_names)
    split = make_split(*parts, scenario, seed=config.seed, calibration=config.calibration, max_train=config.max_train,
                       max_test=config.max_test)  # fmt: skip
    anomalies = int(split.answers.test_anomaly.sum())
    return split, [len(split.train), len(split.calibration), len(split.test) - anomalies, anomalies]


def tick(builder, *labels):
    for label, box in builder.classes.items():
        box.value = label in labels


def make_folder(root, sizes, *, pixels=8):
    """PNGs of noise: {class folder: how many}."""
    random = np.random.default_rng(len(sizes))
    for name, many in sizes.items():
        (root / name).mkdir(parents=True)
        for i in range(many):
            Image.fromarray(random.integers(0, 256, (pixels, pixels), dtype=np.uint8)).save(root / name / f"{i}.png")
    return str(root)


@pytest.fixture
def builder():
    return ScenarioBuilder()


def test_the_first_view_is_the_default_study(builder):
    assert builder.command == builder.command_line.value == "python -m clad_lib study --dataset digits --scenario CUR"
    assert builder.scenario.value == "CUR"
    assert [label for label, box in builder.classes.items() if box.value] == [0, 3, 8]
    assert builder.dataset.options[0] == ("digits", "digits")
    assert builder.grid.value.count("<img") == 2
    assert 'alt="normal: 0, 3, 8"' in builder.grid.value
    assert 'alt="anomalous: 1, 2, 4, 5, 6, 7, 9"' in builder.grid.value


@pytest.mark.parametrize("name", SCENARIOS["digits"])
def test_every_scenario_of_the_paper_from_its_quick_choice_and_from_its_ticks(builder, name):
    builder.scenario.value = name
    labels = SCENARIOS["digits"][name]
    assert tuple(label for label, box in builder.classes.items() if box.value) == labels
    first = builder.command, shown(builder)
    tick(builder)
    assert (builder.command, builder.scenario.value) == ("", "")
    tick(builder, *labels)
    assert (builder.command, shown(builder)) == first
    assert builder.scenario.value == name
    assert options_of(builder)["scenario"] == name
    assert by_hand(builder)[1] == shown(builder)


@pytest.mark.parametrize("labels", [(0,), (0, 6), (1, 2, 3, 4, 5, 6, 7, 8, 9)])
def test_counts_are_those_of_the_raw_labels_and_of_the_command(builder, labels):
    tick(builder, *labels)
    train, test = load_dataset("digits")
    found = shown(builder)
    assert found[0] + found[1] == np.isin(train.labels, labels).sum()
    assert found[2:] == [np.isin(test.labels, labels).sum(), (~np.isin(test.labels, labels)).sum()]
    split, counts = by_hand(builder)
    assert split.scenario.normal == labels
    assert counts == found


def test_profile_and_seed_stand_in_the_command_and_in_the_counts():
    builder = ScenarioBuilder("digits", "0+1+2+3+4", profile="smoke", seed=3)
    assert options_of(builder) == {"dataset": "digits", "scenario": "0+1+2+3+4", "profile": "smoke", "seed": "3"}
    assert by_hand(builder)[1] == shown(builder)
    assert sum(shown(builder)[2:]) == 256


def test_the_command_line_takes_the_command(builder, monkeypatch):
    opened = []

    def stop(config, **_):
        opened.append(config)
        raise ValueError("far enough")

    monkeypatch.setattr(pipeline, "open_study", stop)
    tick(builder, 0, 6)
    CliRunner().invoke(command_line.app, shlex.split(builder.command)[3:])
    assert opened == [make_config("digits", "0+6")]


def test_the_verdict_is_the_notebooks(builder):
    split = load_split(make_config("digits", "CUR"))
    near = preflight.neighbours(split)
    assert preflight.verdict(near, split.answers.test_anomaly[near.rows]).text in text(builder.verdict)
    assert text(builder.verdict).startswith("analysis")


def test_a_scenario_that_is_the_wrong_way_round_is_loud(tmp_path):
    """The normal class is noise, the anomaly the plain grey in its middle."""
    folder = make_folder(tmp_path / "f", {"noise": 100, "plain": 0})
    for i in range(60):
        Image.fromarray(np.full((8, 8), 120 + i % 10, np.uint8)).save(tmp_path / "f" / "plain" / f"{i}.png")
    builder = ScenarioBuilder(folder, "noise")
    assert text(builder.verdict).startswith("WARNING")
    assert "#B34700" in builder.verdict.value


def test_a_long_check_waits_for_the_button(builder, monkeypatch):
    monkeypatch.setattr("clad_lib.widgets.builder.AT_ONCE", 0)
    tick(builder, 0, 1)
    assert "press Pre-flight" in text(builder.verdict)
    seen = []
    real = preflight.neighbours
    monkeypatch.setattr(preflight, "neighbours", lambda split: seen.append(text(builder.verdict)) or real(split))
    builder.preflight.click()
    assert seen == ["computing distances ..."]
    assert "AUROC" in text(builder.verdict)


def test_none_and_all_are_messages(builder):
    builder.clear.click()
    assert "no class is ticked" in text(builder.message)
    assert (builder.command, shown(builder), builder.grid.value, text(builder.verdict)) == ("", [], "", "")
    builder.preflight.click()
    tick(builder, *range(10))
    assert "nothing is left to be an anomaly" in text(builder.message)
    assert builder.command == ""
    builder.classes[4].value = False
    assert by_hand(builder)[1] == shown(builder)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(scenario="CURLY"), "unknown scenario 'CURLY'"),
        (dict(profile="quick"), "smoke, fast, paper"),
        (dict(seed=-1), "at least 0"),
        (dict(dataset="minst"), "there is no folder"),
    ],
)
def test_bad_arguments_are_messages(arguments, said):
    builder = ScenarioBuilder(**arguments)
    assert said in text(builder.message)
    builder.dataset.value, builder.seed, builder.profile = "mnist", 0, "fast"
    builder.dataset.value = "digits"
    assert shown(builder)


def test_nothing_is_downloaded_without_the_button(builder, monkeypatch):
    fetched = []

    def download(name, root, train):
        fetched.append((name, train))
        labels = np.repeat(np.arange(10), 8)
        return sources.Decoded(np.zeros((80, 1, 28, 28), np.uint8), labels, np.arange(80), tuple(map(str, range(10))))

    monkeypatch.setattr(sources, "download", download)
    assert builder.download.layout.display == "none"
    builder.dataset.value = "mnist"
    assert fetched == []
    assert "mnist is not on this machine" in text(builder.message)
    assert builder.download.layout.display is None
    assert (builder.command, builder.classes) == ("", {})
    builder.download.click()
    assert fetched == [("mnist", True), ("mnist", False)]
    assert builder.command.endswith("--dataset mnist --scenario CUR")
    assert builder.download.layout.display == "none"
    builder.dataset.value = "digits"
    builder.dataset.value = "mnist"  # now from the cache
    assert len(fetched) == 2
    assert shown(builder)


def test_a_download_that_fails_is_a_message_and_can_be_tried_again(builder, monkeypatch):
    def download(name, root, train):
        raise DataError(f"{name} could not be downloaded")

    monkeypatch.setattr(sources, "download", download)
    builder.dataset.value = "cifar10"
    builder.download.click()
    assert "could not be downloaded" in text(builder.message)
    assert builder.download.layout.display is None
    assert not builder.download.disabled


def test_a_missing_file_in_the_data_folder_is_a_message(builder, monkeypatch, tmp_path):
    monkeypatch.setenv("CLAD_DATA", str(tmp_path))
    builder.dataset.value = "gtsrb"
    assert "gtsrb-train.parquet is not there" in text(builder.message)
    assert builder.download.layout.display == "none"


def test_a_folder_with_a_name_for_the_shell(builder, tmp_path):
    folder = make_folder(tmp_path / "my photos; ls", {"black cat": 20, "it's": 20, "a+b": 20, "ALL": 20, "3": 20})
    builder.path.value = folder
    assert builder.dataset.value == FOLDER
    names = load_dataset(folder)[0].class_names
    assert len(builder.classes) == 5
    for label in range(5):
        tick(builder, label)
        assert by_hand(builder)[0].scenario.normal == (label,), names[label]
        assert by_hand(builder)[1] == shown(builder)
    tick(builder, *(names.index(name) for name in ("black cat", "it's")))
    assert options_of(builder) == {"dataset": folder, "scenario": "black cat+it's"}
    assert "'" in builder.command


def test_a_path_from_here_becomes_absolute(tmp_path, monkeypatch):
    make_folder(tmp_path / "f", {"a": 12, "b": 12})
    monkeypatch.chdir(tmp_path)
    builder = ScenarioBuilder("f")
    assert options_of(builder) == {"dataset": str((tmp_path / "f").resolve()), "scenario": "a"}


def test_classes_without_training_or_test_images(builder, tmp_path):
    make_folder(tmp_path / "f" / "train", {"good": 20, "rare": 20})
    make_folder(tmp_path / "f" / "test", {"good": 10, "bad": 10})
    builder.path.value = str(tmp_path / "f")
    assert [box.description for box in builder.classes.values() if box.value] == ["good", "rare"]
    assert "no test images of rare" in text(builder.message)
    assert shown(builder) == [36, 4, 10, 10]
    tick(builder, 0, 2)
    assert "'bad' has no training images" in text(builder.message)
    assert builder.command == ""
    tick(builder, 1)
    assert "test split has only anomalies" in text(builder.message)


def test_bad_folders_are_messages(builder, tmp_path):
    def said(path):
        builder.path.value = str(path)
        assert (builder.command, shown(builder)) == ("", [])
        return text(builder.message)

    builder.dataset.value = FOLDER
    assert "type the path" in text(builder.message)
    assert "there is no folder" in said(tmp_path / "nowhere")
    assert "there is no folder" in said(__file__)
    assert "all classes (1) are normal" in said(make_folder(tmp_path / "one", {"a": 10}))
    assert "all classes (1) are normal" in said(tmp_path / "one" / "a")  # flat
    for part, many in (("train", 1), ("test", 5)):
        make_folder(tmp_path / "few" / part, {"a": many, "b": many})
    assert "too few" in said(tmp_path / "few")
    damaged = make_folder(tmp_path / "damaged", {"a": 5, "b": 5})
    (tmp_path / "damaged" / "b" / "3.png").write_bytes(b"not a picture")
    assert "3.png: not a readable image" in said(damaged)
    assert "holds no images" in said(make_folder(tmp_path / "empty", {"a": 5, "b": 0}))
    mixed = make_folder(tmp_path / "mixed", {"a": 5})
    make_folder(tmp_path / "mixed" / "b", {"c": 3}, pixels=12)
    assert "expected square images of one size" in said(mixed)
    builder.dataset.value = "digits"
    assert by_hand(builder)[1] == shown(builder)


def test_a_tick_reads_no_images_but_those_it_shows(builder, make_data, monkeypatch):
    """Counting goes by labels: a tick on a large data set answers as quickly as on a small one."""
    many = np.random.default_rng(0).integers(0, 10, 60_000)
    large = data.ImageData(np.zeros((60_000, 3, 32, 32), np.uint8), many, np.arange(60_000) // 30, tuple("abcdefghij"))
    monkeypatch.setattr("clad_lib.widgets.builder.load_dataset", lambda name: (large, large))
    monkeypatch.setattr("clad_lib.widgets.builder.to_download", lambda name: "")
    builder.dataset.value = "cifar10"
    start = time.perf_counter()
    builder.classes[3].value = True
    assert time.perf_counter() - start < 0.3
    assert sum(shown(builder)) == 60_000 + np.isin(many, (0, 1, 3, 8, 9)).sum()


def test_a_class_that_no_command_can_name():
    with pytest.raises(DataError, match="'a\\+b' cannot be named"):
        spell("folder", ("1", "a+b", "c"), (1,))
    assert spell("folder", ("a+b", "1", "c"), (0,)).normal == (0,)


def test_counts_of_all_classes_of_a_folder(make_data):
    images = make_data(np.repeat([0, 1], 20))
    everything = get_scenario("folder", "ALL", class_names=("a", "b"))
    assert tuple(count(images, images, everything, make_config())) == (36, 4, 40, 0)
