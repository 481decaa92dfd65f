"""The scenario builder, driven by its controls: what it counts, what it writes, what it refuses."""

import html
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from clad_lib.config import make_config
from clad_lib.data.pictures import DataError
from clad_lib.data.reading import load_dataset
from clad_lib.data.scenarios import get_scenario, load_split, make_split, scenarios_of
from clad_lib.look.scenario_builder import ScenarioBuilder, command_of, counts_of, spell


def said(builder):
    return html.unescape(re.sub(r"<[^>]+>", " ", builder.message.value)).strip()


def shown(builder):
    """The counts as they stand in the widget: rows train, calibration, test; normal, anomalous."""
    cells = re.findall(r"<td>([\d,]+)</td>", builder.counts.value)
    return np.array([int(cell.replace(",", "")) for cell in cells]).reshape(-1, 2).tolist()


def ticked(builder):
    return tuple(label for label, box in enumerate(builder.boxes) if box.value)


def options_of(builder):
    """The options of the command, read as a shell reads them."""
    words = shlex.split(builder.command.value)
    assert words[:2] == ["clad", "study"]
    return dict(zip((word.removeprefix("--") for word in words[2::2]), words[3::2], strict=True))


def by_hand(builder):
    """The split of the command that is printed, and its counts."""
    options = options_of(builder)
    options["seed"] = int(options.get("seed", 0))
    config = make_config(options.pop("dataset"), options.pop("scenario"), **options)
    split = load_split(config)
    odd = int(split.answers.test_anomaly.sum())
    return split, [[len(split.train), 0], [len(split.calibration), 0], [len(split.test) - odd, odd]]


def make_folder(root, sizes, *, pixels=8):
    """PNGs of noise: class folder -> how many. A class without any is a folder without images."""
    random = np.random.default_rng(len(sizes))
    for name, many in sizes.items():
        (root / name).mkdir(parents=True)
        for i in range(many):
            pixel = random.integers(0, 256, (pixels, pixels), dtype=np.uint8)
            Image.fromarray(pixel).save(root / name / f"{i}.png")
    return str(root)


@pytest.fixture
def builder():
    return ScenarioBuilder()


def test_the_first_view_is_the_default_study(builder):
    assert builder.command.value == "clad study --dataset digits --scenario MIX"
    assert builder.config == make_config("digits", "MIX")
    assert builder.scenario.value == "MIX"
    assert ticked(builder) == (2, 5, 6, 9)
    assert shown(builder) == by_hand(builder)[1]
    assert said(builder) == "Normal: mixed digits."


@pytest.mark.parametrize("name", scenarios_of("digits"))
def test_a_scenario_of_the_paper_from_its_name_and_from_its_ticks(builder, name):
    builder.scenario.value = name
    labels = scenarios_of("digits")[name].normal
    assert ticked(builder) == labels
    first = builder.command.value, shown(builder)
    builder.clear.click()
    assert (builder.command.value, builder.config, builder.scenario.value) == (
        "",
        None,
        "own choice",
    )
    for label in labels:
        builder.boxes[label].value = True
    assert (builder.command.value, shown(builder)) == first
    assert builder.scenario.value == options_of(builder)["scenario"] == name
    assert by_hand(builder)[1] == shown(builder)


@pytest.mark.parametrize("labels", [(0,), (0, 6), (1, 2, 3, 4, 5, 6, 7, 8, 9)])
def test_counts_are_those_of_the_raw_labels_and_of_the_command(builder, labels):
    builder.tick(labels)
    train, test = load_dataset("digits")
    found = shown(builder)
    assert found[0][0] + found[1][0] == np.isin(train.labels, labels).sum()
    assert found[2] == [np.isin(test.labels, labels).sum(), (~np.isin(test.labels, labels)).sum()]
    split, counts = by_hand(builder)
    assert split.scenario.normal == labels
    assert counts == found


def test_profile_seed_and_settings_stand_in_the_command_and_in_the_counts():
    builder = ScenarioBuilder("digits", "0+1+2", profile="smoke", seed=3, overrides={"clusters": 4})
    options = dict(dataset="digits", scenario="0+1+2", profile="smoke", seed="3", set="clusters=4")
    assert options_of(builder) == options
    assert builder.config == make_config("digits", "0+1+2", profile="smoke", seed=3, clusters=4)
    assert sum(shown(builder)[2]) == 256  # as many as the profile tests on


def test_the_split_of_the_digits_by_writer_is_counted():
    builder = ScenarioBuilder("digits", "STR", overrides={"split": "by_writer"})
    split = load_split(builder.config)
    assert shown(builder)[0][0] == len(split.train)


def test_the_command_line_takes_the_command(builder, monkeypatch):
    from typer.testing import CliRunner

    from clad_lib.__main__ import application
    from clad_lib.study import engine

    opened = []

    def stop(config, **_):
        opened.append(config)
        raise ValueError("far enough")

    monkeypatch.setattr(engine, "open_study", stop)
    builder.tick((0, 6))
    CliRunner().invoke(application(), shlex.split(builder.command.value)[1:])
    assert opened[:1] == [make_config("digits", "0+6")]


def test_none_and_all_are_refused_with_what_to_do(builder):
    builder.clear.click()
    assert "0 of 10 classes are ticked" in said(builder)
    assert (builder.command.value, shown(builder)) == ("", [])
    builder.tick(range(10))
    assert "leave at least one" in said(builder)
    assert builder.config is None
    builder.boxes[4].value = False
    assert by_hand(builder)[1] == shown(builder)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(scenario="CURLY"), "unknown scenario 'CURLY'"),
        (dict(profile="quick"), "smoke, fast, best, paper"),
        (dict(seed=-1), "at least 0"),
        (dict(dataset="minst"), "did you mean 'mnist'"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        ScenarioBuilder(**arguments)


def test_a_folder_with_names_that_a_shell_and_a_scenario_read_otherwise(tmp_path):
    names = {"black cat": 20, "it's": 20, "a+b": 20, "ALL": 20, "3": 20}
    folder = make_folder(tmp_path / "my photos; ls", names)
    builder = ScenarioBuilder(folder, "black cat")
    known = load_dataset(folder)[0].class_names
    assert len(builder.boxes) == 5
    for label in range(5):
        builder.tick((label,))
        assert by_hand(builder)[0].scenario.normal == (label,), known[label]
        assert by_hand(builder)[1] == shown(builder)
    builder.tick([known.index(name) for name in ("black cat", "it's")])
    assert options_of(builder) == {"dataset": folder, "scenario": "black cat+it's"}


def test_a_path_from_here_becomes_absolute(tmp_path, monkeypatch):
    make_folder(tmp_path / "f", {"a": 12, "b": 12})
    monkeypatch.chdir(tmp_path)
    builder = ScenarioBuilder("f", "a")
    assert options_of(builder) == {"dataset": str((tmp_path / "f").resolve()), "scenario": "a"}


def test_classes_without_training_or_test_images(tmp_path):
    make_folder(tmp_path / "f" / "train", {"good": 20, "rare": 20})
    make_folder(tmp_path / "f" / "test", {"good": 10, "bad": 10})
    builder = ScenarioBuilder(str(tmp_path / "f"), "good+rare")
    assert [box.description for box in builder.boxes if box.value] == ["0 good", "1 rare"]
    assert shown(builder) == [[36, 0], [4, 0], [10, 10]]
    builder.tick((0, 2))
    assert "'bad' has no training images" in said(builder)
    assert builder.command.value == ""
    builder.tick((1,))
    assert "only anomalies" in said(builder)


def test_images_that_were_left_out_are_told(tmp_path):
    folder = make_folder(tmp_path / "half", {"a": 12, "b": 12})
    (tmp_path / "half" / "b" / "3.png").write_bytes(b"not a picture")
    with pytest.warns(UserWarning, match="not a readable image"):
        builder = ScenarioBuilder(folder, "a")
    assert "left out" in said(builder)  # what is counted is not all that lies there


def test_a_scenario_is_spelt_by_its_shortest_name_that_says_it():
    assert spell("digits", tuple("0123456789"), (1, 4, 7)).name == "STR"
    assert spell("digits", tuple("0123456789"), (7, 2)).name == "7+2"
    assert spell("photos", ("a+b", "1", "c"), (0,)).normal == (0,)
    assert spell("photos", ("1", "a+b", "c"), (1,)).normal == (1,)
    assert spell("photos", ("a", "b", "a+b"), (2,)).name == "label=2"  # a+b could be both
    with pytest.raises(DataError, match="also the name of a class"):
        spell("photos", ("label=1", "label=0", "c", "label=1+c"), (1,))


def test_a_command_names_only_what_differs():
    assert command_of(make_config("digits", "3")) == "clad study --dataset digits --scenario 3"
    line = command_of(make_config("digits", "3", profile="smoke", seed=2, latent=4))
    assert line.endswith("--profile smoke --seed 2 --set latent=4")


def test_counts_of_a_folder_without_anomalies(make_data):
    images = make_data(np.repeat([0, 1], 20))
    everything = get_scenario("folder", "ALL", class_names=("a", "b"))
    split = make_split(images, images, everything, seed=0)
    assert counts_of(split).to_numpy().tolist() == [[36, 0], [4, 0], [40, 0]]


def test_every_control_has_a_name_and_every_picture_a_text(builder):
    for control in (builder.scenario, builder.clear, *builder.boxes):
        assert control.description
    assert builder.command.label
    pictures = [builder._pictures(label).value for label in range(10)]
    assert all('alt="images of' in picture for picture in pictures)
