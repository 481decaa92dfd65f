"""The drift alarm: ranks counted by hand, capital by the published recursion, the bound, power."""

import numpy as np
import pytest

from clad_lib.judge.drift import drift, online_p_values


def test_p_values_are_ranks_among_all_that_came_before():
    calibration, stream = [3.0, 1.0, 2.0, 2.0], [2.0, 5.0, 2.0, 0.0]
    u = np.random.default_rng(7).random(4)
    by_hand = [(1 + 3 * u[0]) / 5, (0 + u[1]) / 6, (2 + 4 * u[2]) / 7, (7 + u[3]) / 8]
    np.testing.assert_allclose(online_p_values(calibration, stream, seed=7), by_hand)


def test_capital_is_that_of_the_published_recursion():
    random = np.random.default_rng(3)
    calibration, stream = random.normal(size=40), random.normal(0.5, size=60)
    total = []
    for rate in (1e-4, 1e-3, 1e-2, 1e-1, 1):
        capital, parts, path = 1.0, dict.fromkeys((-1, 0, 1), 1 / 3), []
        for p in online_p_values(calibration, stream, seed=0):
            parts = {e: (1 - rate) * c + rate / 3 * capital for e, c in parts.items()}
            parts = {e: c * (1 + e * (p - 0.5)) for e, c in parts.items()}
            capital = sum(parts.values())
            path.append(capital)
        total.append(path)
    expected = np.log10(np.mean(total, axis=0))
    np.testing.assert_allclose(drift(calibration, stream).capital, expected, atol=1e-9)


def test_false_alarms_stay_below_the_level_and_a_shift_is_noticed():
    random, level = np.random.default_rng(0), 0.1
    false = [
        drift(random.normal(size=50), random.normal(size=200), level=level, seed=seed).alarm
        for seed in range(200)
    ]
    rate = np.mean([each is not None for each in false])
    assert rate <= level + 2 * np.sqrt(level * (1 - level) / 200)
    places = []
    for seed in range(40):  # after 100 images the scores lie one standard deviation higher
        stream = np.concatenate([random.normal(size=100), random.normal(1, size=200)])
        places.append(drift(random.normal(size=100), stream, seed=seed).alarm)
    noticed = [each for each in places if each is not None and each >= 100]
    assert len(noticed) >= 36
    assert np.median(noticed) < 200


def test_it_says_at_which_image_and_survives_a_long_certain_stream():
    calibration = np.random.default_rng(0).normal(size=100)
    found = drift(calibration, np.linspace(10, 11, 3000))  # each is higher than all before it
    assert np.isfinite(found.capital).all()
    assert found.capital[found.alarm] >= 2 > found.capital[found.alarm - 1]
    assert f"at image {found.alarm + 1} of 3,000" in found.text
    assert "No drift" in drift(calibration, calibration[:5]).text


@pytest.mark.parametrize(
    ("calibration", "stream", "level", "words"),
    [
        ([], [1.0], 0.1, "calibration scores"),
        ([1.0], [], 0.1, "scores of the stream"),
        ([1.0], [np.nan], 0.1, "scores of the stream"),
        ([1.0], [1.0], 2, "level is 2"),
    ],
)
def test_what_cannot_be_ranked_is_refused(calibration, stream, level, words):
    with pytest.raises(ValueError, match=words):
        drift(calibration, stream, level=level)
