"""Hidden classes and test labels reach no score: with them shuffled, every method gives the same."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from clad_lib import make_config, open_study
from clad_lib.methods.scorers import NotApplicable
from clad_lib.study.stages import methods, row

PHOTOGRAPHS = {"Contrastive", "FusedPhotographs"}  # tests/methods/test_contrastive.py
CLEAN = [name for name in methods() if row(name).protocol != "oracle"]


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """One study, and the same with every answer shuffled, each with runs of its own."""
    config = make_config("digits", "STR", profile="smoke", max_train=120, max_test=80)
    true, wrong = (
        open_study(config, runs=tmp_path_factory.mktemp("runs"), device="cpu", progress=False)
        for _ in range(2)
    )
    random, answers = np.random.default_rng(0), wrong.split.answers
    shuffled = {
        each.name: random.permutation(getattr(answers, each.name)) for each in fields(answers)
    }
    assert not np.array_equal(shuffled["test_anomaly"], answers.test_anomaly)
    answers = replace(answers, **shuffled)
    return true, replace(wrong, split=replace(wrong.split, answers=answers))


@pytest.mark.parametrize("name", CLEAN)
def test_shuffled_answers_change_no_bit_of_a_score(name, studies):
    try:
        one, other = (study[name] for study in studies)
    except NotApplicable as error:
        assert name in {*PHOTOGRAPHS, "Pretrained"}
        pytest.skip(str(error))
    np.testing.assert_array_equal(one.calibration, other.calibration)
    np.testing.assert_array_equal(one.test, other.test)
    assert one.metrics["auroc"] != other.metrics["auroc"]  # it was measured with other answers


def test_oracle_reads_them(studies):
    one, other = (study["Oracle"] for study in studies)
    assert one.metrics["choice"] != other.metrics["choice"]
