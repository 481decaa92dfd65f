"""Config: profiles, overrides, published values, and the view that refuses undeclared settings."""

import pytest

from clad_lib.config import (
    Config,
    Settings,
    _tables,
    check_fields,
    datasets,
    make_config,
    profiles,
    published,
)
from clad_lib.study.notebooks import overrides_of

DEFECTS = ("noisy_latents", "batch_target", "hidden_statistics", "odin_factor", "flip_auroc")
DEFECTS += ("hard_svdd", "best_f1")


def test_the_published_rows_are_those_of_the_paper_s_scripts():
    # /paper: encoder, K, latent, AE epochs, DEC epochs, T, epsilon, classifier epochs, lr
    expected = {
        ("mnist", "CUR"): ("small", 10, 10, 100, 100, 1000, 1e-4, 100, 1e-4),
        ("mnist", "7"): ("small", 10, 3, 100, 100, 1000, 1e-3, 100, 1e-5),
        ("cifar10", "THG"): ("large", 10, 200, 100, 100, 1000, 1e-2, 100, 1e-4),
        ("cifar10", "LIV"): ("large", 10, 100, 100, 100, 1000, 1e-2, 100, 1e-4),
        ("gtsrb", "SPDL"): ("large", 20, 50, 100, 100, 10, 1e-2, 200, 1e-5),
        ("gtsrb", "INST"): ("large", 20, 100, 200, 200, 1000, 1e-4, 20, 1e-5),
        ("gtsrb", "WARN"): ("large", 10, 100, 200, 200, 1000, 1e-4, 200, 1e-3),
        ("gtsrb", "DIRC"): ("large", 10, 300, 200, 200, 1000, 1e-4, 200, 5e-6),
        ("gtsrb", "SPEC"): ("large", 7, 100, 200, 200, 1000, 1e-4, 50, 1e-4),
        ("gtsrb", "REGN"): ("large", 10, 300, 200, 200, 1, 1e-4, 200, 5e-6),
        ("tiny_imagenet", "ANML"): ("large", 10, 200, 100, 100, 1000, 1e-5, 100, 1e-7),
        ("tiny_imagenet", "ISTM"): ("large", 30, 200, 300, 300, 1000, 1e-4, 100, 5e-7),
        ("tiny_imagenet", "STRT"): ("large", 10, 200, 100, 100, 1000, 1e-5, 100, 1e-6),
        ("tiny_imagenet", "VHCL"): ("large", 15, 200, 100, 100, 1000, 1e-5, 100, 1e-7),
    }
    names = ("encoder", "clusters", "latent", "ae_epochs", "dec_epochs", "temperature", "epsilon")
    names += ("clf_epochs", "clf_lr")
    for (dataset, scenario), values in expected.items():
        row = published(dataset, scenario)
        assert tuple(row[name] for name in names) == values, (dataset, scenario)
        config = make_config(dataset, scenario, profile="paper")
        assert tuple(getattr(config, name) for name in names) == values
        assert config.epsilon_unit == "published"
        assert config.protocol == "oracle"


def test_single_classes_of_cifar_take_the_row_of_things():
    assert published("cifar10", "3") == published("cifar10", "THG")


def test_a_profile_and_an_override_are_found_again_by_their_difference():
    config = make_config("mnist", "CUR", profile="smoke", seed=3, clusters=4, temperature=1)
    assert (config.latent, config.max_train, config.seed) == (10, 256, 3)
    assert overrides_of(config) == {"clusters": 4, "temperature": 1.0}
    assert isinstance(config.temperature, float)


@pytest.mark.parametrize("defect", DEFECTS)
def test_any_defect_makes_the_protocol_paper_compat(defect):
    assert make_config(**{defect: True}).protocol == "paper_compat"
    assert make_config(profile="paper", **{defect: True}).protocol == "paper_compat"
    assert make_config().protocol == "clean"
    assert make_config(**{defect: True}).defects == (defect,)


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("clusterz", 3, "clusters"),
        ("clusters", 1, "at least 2"),
        ("clusters", 2.5, "expected int"),
        ("clusters", True, "expected int"),
        ("epsilon", -0.1, "at least 0"),
        ("epsilon", float("nan"), "finite"),
        ("temperature", float("inf"), "finite"),
        ("temperature", 0, "above 0"),
        ("calibration", 1.0, "above 0 and below 1"),
        ("nu", 1.01, "above 0, at most 1"),
        ("nu", 0, "above 0, at most 1"),
        ("stem", "tiny", "'small'"),
        ("seed", -1, "at least 0"),
        ("split", "other", "by_writer"),
        ("noisy_latents", 1, "expected bool"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_was_expected(name, value, word):
    with pytest.raises(ValueError, match=word):
        check_fields({name: value})


def test_a_wrong_profile_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'fast'"):
        make_config(profile="fats")


def test_every_profile_and_data_set_holds_known_settings():
    for name in profiles():
        for dataset in datasets():
            assert isinstance(make_config(dataset, profile=name), Config)


def test_a_view_shows_only_what_is_declared():
    view = Settings(make_config(seed=5), ("latent",), device="here")
    assert (view.latent, view.seed, view.device, view.progress) == (10, 5, "here", True)
    with pytest.raises(AttributeError, match="'nu' is read but not declared"):
        _ = view.nu
    assert Settings.everything(make_config()).nu == 0.1


def test_data_sets_whose_images_may_be_mirrored_take_the_settings_of_photographs(
    tmp_path, monkeypatch
):
    cifar = make_config("cifar10", "LIV")
    assert (cifar.patch_features, cifar.patch_layers, cifar.rotation_weight) == (2048, 2, 8.0)
    assert (cifar.rotation_labels, cifar.trust_power) == ("none", 2.0)
    kind = [name for name in vars(cifar) if getattr(cifar, name) != getattr(Config(), name)]
    table = '[toys]\ntitle = "Toys"\nchannels = 3\nsize = 32\nclasses = ["a"]\nmirror = true\n'
    (tmp_path / "datasets.toml").write_text(table + "settings.latent = 7\n", encoding="utf-8")
    monkeypatch.setenv("CLAD_DATA", str(tmp_path))
    for config in (make_config("toys", "a"), make_config("own images", "ALL", mirror=True)):
        assert {name: getattr(config, name) for name in kind[2:]} == {
            name: getattr(cifar, name) for name in kind[2:]
        }
    assert make_config("toys", "a").latent == 7
    assert make_config("toys", "a", profile="smoke").patch_features == 64
    assert make_config("mnist", "MIX", mirror=True).patch_layers == 1  # the table says it is not


def test_a_data_folder_may_describe_further_data_sets(tmp_path, monkeypatch):
    assert "toys" not in datasets()
    text = '[toys]\ntitle = "Toys"\nchannels = 1\nsize = 8\nclasses = ["a", "b"]\n'
    (tmp_path / "datasets.toml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("CLAD_DATA", str(tmp_path))
    assert datasets()["toys"]["classes"] == ["a", "b"]
    assert "mnist" in datasets()
    _tables.cache_clear()
