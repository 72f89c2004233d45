"""Accuracy and its intervals: by hand, against SciPy, and the binomial distribution."""

import numpy as np
import pytest
from conftest import seen
from scipy.stats import binom, bootstrap

from mae_helpers.measures.accuracy import accuracy_table, beside_clean, mean_and_interval, top1_percent


@pytest.mark.parametrize(("correct", "percent"), [(True, 100), (False, 0)])
def test_top1_by_hand_and_of_all_or_none_without_width(correct, percent):
    assert top1_percent(np.array([True, True, False, True]))["top1_percent"] == 75
    assert top1_percent([1, 0, 0, 0, 0])["top1_percent"] == pytest.approx(20)
    found = top1_percent(np.full(7, correct))
    assert found == {"top1_percent": percent, "top1_low": percent, "top1_high": percent}


def test_top1_interval_agrees_with_scipy():
    correct = np.random.default_rng(3).random(997) < 0.7
    found = top1_percent(correct, seed=5)
    settings = {"n_resamples": 2000, "method": "percentile", "confidence_level": 0.95}
    expected = bootstrap((correct.astype(float),), np.mean, rng=5, **settings).confidence_interval
    assert [found["top1_low"], found["top1_high"]] == pytest.approx([100 * expected.low, 100 * expected.high])
    assert found != top1_percent(correct, seed=6)


@pytest.mark.parametrize(("count", "hits"), [(50, 5), (200, 140), (500, 480)])
def test_top1_interval_agrees_with_the_binomial_distribution(count, hits):
    found = top1_percent(np.arange(count) < hits)
    low, high = 100 * binom.ppf([0.025, 0.975], count, hits / count) / count
    assert found["top1_low"] < found["top1_percent"] < found["top1_high"]
    step = 100 / count
    assert found["top1_low"] == pytest.approx(low, abs=1.5 * step)
    assert found["top1_high"] == pytest.approx(high, abs=1.5 * step)


def test_accuracy_table_by_hand():
    predictions = {
        "mae": {"clean": np.float32([0, 1, 2, 2]), ("fog", 1): np.float32([0, 0, 0, 2])},
        "sup": {"clean": np.float32([0, 1, 1, 2]), ("fog", 1): np.float32([1, 0, 0, 1])},
    }
    table = accuracy_table(predictions, seen(predictions, [0, 1, 1, 2]))
    columns = "model level images top1_percent top1_low top1_high"
    assert list(table.columns) == columns.split()
    assert table["model"].tolist() == ["mae", "mae", "sup", "sup"]
    assert table["level"].tolist() == ["clean", ("fog", 1)] * 2
    assert table["images"].tolist() == [4] * 4
    assert table["top1_percent"].tolist() == [75, 50, 100, 0]
    assert (table["top1_low"] <= table["top1_percent"]).all()
    assert (table["top1_percent"] <= table["top1_high"]).all()
    assert table["top1_low"].tolist()[2:] == table["top1_high"].tolist()[2:] == [100, 0]


@pytest.mark.parametrize("values", [[0.25], [0.7] * 9])
def test_one_value_and_equal_values_are_their_own_interval(values):
    assert mean_and_interval(values) == pytest.approx((values[0],) * 3)


def test_mean_and_interval_agree_with_the_standard_error():
    values = np.random.default_rng(8).normal(3, 2, 900)
    mean, low, high = mean_and_interval(values, seed=1)
    error = 1.96 * values.std() / 30
    assert mean == pytest.approx(values.mean())
    assert [low, high] == pytest.approx([mean - error, mean + error], abs=0.1 * error)
    assert mean_and_interval(values, seed=1) == (mean, low, high)
    assert mean_and_interval(values, seed=2) != (mean, low, high)


def test_the_clean_accuracy_and_chance_stand_beside_by_model():
    predictions = {"a": {"fog": np.array([0, 1])}, "b": {"fog": np.array([1, 1])}}
    sets = seen(predictions, [0, 1])
    clean = accuracy_table({"b": {"clean": np.array([0, 0])}, "a": {"clean": np.array([0, 1])}}, sets)
    both = beside_clean(accuracy_table(predictions, sets), clean, {"a": 4, "b": 10})
    assert both["model"].tolist() == ["a", "b"]
    assert both["clean_percent"].tolist() == [100, 50]
    assert both["clean_low"].tolist() == [100, 0]
    assert both["chance_percent"].tolist() == [25, 10]
    assert both["top1_percent"].tolist() == [100, 50]
