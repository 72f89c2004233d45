"""Accuracy and its intervals: by hand, against SciPy, and the binomial distribution."""

import numpy as np
import pytest
from conftest import seen
from scipy.stats import binom

from mae_helpers.measures.accuracy import accuracy_table, beside_clean, mean_and_interval, top1_percent


@pytest.mark.parametrize(("correct", "percent"), [(True, 100), (False, 0)])
def test_top1_by_hand_and_of_all_or_none_with_a_width(correct, percent):
    """Of 7 right ones, Wilson's lower end is n / (n + z^2) = 7 / (7 + 1.96^2) = 64.6 %."""
    assert top1_percent(np.array([True, True, False, True]))["top1_percent"] == 75
    assert top1_percent([1, 0, 0, 0, 0])["top1_percent"] == pytest.approx(20)
    found = top1_percent(np.full(7, correct))
    ends = [100 - 64.57, 0] if not correct else [64.57, 100]
    assert found["top1_percent"] == percent
    assert sorted([found["top1_low"], found["top1_high"]]) == pytest.approx(sorted(ends), abs=0.01)


@pytest.mark.parametrize(("count", "hits"), [(50, 5), (200, 140), (500, 480)])
def test_top1_interval_agrees_with_wilsons_formula_and_the_binomial_distribution(count, hits):
    found = top1_percent(np.arange(count) < hits)
    share, z = hits / count, 1.959964
    middle, width = share + z**2 / (2 * count), z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    ends = [100 * (middle + sign * width) / (1 + z**2 / count) for sign in (-1, 1)]
    assert [found["top1_low"], found["top1_high"]] == pytest.approx(ends, abs=1e-4)
    low, high = 100 * binom.ppf([0.025, 0.975], count, share) / count
    assert [found["top1_low"], found["top1_high"]] == pytest.approx([low, high], abs=200 / count)


def test_accuracy_table_by_hand():
    predictions = {
        "mae": {"clean": np.float32([0, 1, 2, 2]), ("fog", 1): np.float32([0, 0, 0, 2])},
        "sup": {"clean": np.float32([0, 1, 1, 2]), ("fog", 1): np.float32([1, 0, 0, 1])},
    }
    table = accuracy_table(predictions, seen(predictions, [0, 1, 1, 2]))
    columns = "model level images top1_percent top1_low top1_high right"
    assert list(table.columns) == columns.split()
    assert table["model"].tolist() == ["mae", "mae", "sup", "sup"]
    assert table["level"].tolist() == ["clean", ("fog", 1)] * 2
    assert table["images"].tolist() == [4] * 4
    assert table["top1_percent"].tolist() == [75, 50, 100, 0]
    assert (table["top1_low"] <= table["top1_percent"]).all()
    assert (table["top1_percent"] <= table["top1_high"]).all()
    assert table["right"].tolist() == ["RRWR", "RWWR", "RRRR", "WWWW"]


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
    assert both["clean_low"].tolist() == pytest.approx([34.24, 9.45], abs=0.01)
    assert both["clean_right"].tolist() == ["RR", "RW"]
    assert both["chance_percent"].tolist() == [25, 10]
    assert both["top1_percent"].tolist() == [100, 50]
