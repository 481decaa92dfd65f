"""Config: profiles, the published table, and what is refused."""

import dataclasses

import pytest

from clad_lib.config import as_dict, differing_fields, make_config, overrides_of
from clad_lib.published import PUBLISHED


def test_paper_profile_takes_the_published_values_of_its_scenario():
    config = make_config("gtsrb", "REGN", profile="paper")
    row = (config.encoder, config.clusters, config.latent, config.ae_epochs, config.temperature, config.epsilon)
    assert row == ("large", 10, 300, 200, 1, 1e-4)
    assert (config.clf_epochs, config.clf_lr, config.stem, config.protocol) == (200, 5e-6, "published", "oracle")


def test_one_class_scenarios_share_one_published_row():
    assert make_config("mnist", "3", profile="paper").latent == PUBLISHED["mnist", "one_class"].latent == 3


def test_fast_is_clean_and_one_setting_for_all_scenarios_of_a_data_set():
    one, other = make_config("gtsrb", "SPDL"), make_config("gtsrb", "REGN")
    assert set(differing_fields(one, other)) == {"scenario"}
    assert one.protocol == "clean"


@pytest.mark.parametrize("defect", ["noisy_latents", "batch_target", "hidden_statistics", "odin_factor"])
def test_any_published_defect_changes_the_protocol(defect):
    assert make_config(**{defect: True}).protocol == "paper_compat"


def test_overrides_win_and_integers_become_floats():
    config = make_config(temperature=10, clusters=4)
    assert isinstance(config.temperature, float)
    assert as_dict(config)["clusters"] == 4


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_config().seed = 1


@pytest.mark.parametrize(
    ("field", "value", "kind", "said"),
    [
        ("temprature", 1, ValueError, "did you mean 'temperature'"),
        ("temperature", "hot", TypeError, "expected"),
        ("temperature", True, TypeError, "expected"),
        ("temperature", 0, ValueError, "above 0"),
        ("epsilon", -0.1, ValueError, "at least 0"),
        ("epsilon", float("nan"), ValueError, "finite"),
        ("clusters", 1, ValueError, "at least 2"),
        ("clusters", 2.5, TypeError, "expected int"),
        ("stem", "big", ValueError, "'small'"),
        ("calibration", 1.0, ValueError, "between 0 and 1"),
        ("max_train", "all", TypeError, "int or NoneType"),
    ],
)
def test_bad_values_are_refused_with_the_expected_one(field, value, kind, said):
    with pytest.raises(kind, match=said):
        make_config(**{field: value})


def test_unknown_profile_lists_the_known():
    with pytest.raises(ValueError, match="smoke, fast, paper"):
        make_config(profile="quick")


def test_a_folder_is_named_so_that_kernels_elsewhere_find_it(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    assert make_config("photos", "good").dataset == str((tmp_path / "photos").resolve())
    assert make_config("nowhere", "good").dataset == "nowhere"


def test_overrides_are_what_the_profile_would_not_have_set():
    assert overrides_of(make_config("mnist", "CUR", profile="smoke", seed=3)) == {}
    assert overrides_of(make_config("mnist", "CUR", clusters=4, epsilon=0)) == {"clusters": 4, "epsilon": 0.0}
