"""Cosines and norms under perturbations: by hand, and as means of their parts."""

import numpy as np
import pandas as pd
import pytest
from conftest import seen

from mae_helpers.measures.accuracy import mean_and_interval
from mae_helpers.measures.alignment import alignment, alignment_table, cosine
from mae_helpers.run.tables import COLUMNS


def test_cosine_by_hand():
    first = [[1, 0], [1, 0], [1, 0], [3, 4], [2, 2]]
    second = [[5, 0], [0, 7], [-2, 0], [4, 3], [1, 0]]
    np.testing.assert_allclose(cosine(first, second), [1, 0, -1, 24 / 25, 0.5**0.5])


def test_cosine_does_not_depend_on_length_and_is_taken_along_the_last_axis():
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 4, 3, 6))
    assert cosine(first, second).shape == (4, 3)
    np.testing.assert_allclose(cosine(first, second), cosine(1e-3 * first, 1e5 * second))


def test_cosine_with_a_zero_vector_is_an_error():
    with pytest.raises(ValueError, match="zero vector"):
        cosine(np.ones((2, 3)), np.array([[1.0, 0, 0], [0, 0, 0]]))
    with pytest.raises(ValueError, match="zero vector"):
        alignment({"mae": {"clean": np.ones((2, 3)), 10: np.zeros((2, 3))}}, PREDICTIONS, seen(["mae"], LABELS))


EMBEDDINGS = {
    "mae": {"clean": np.array([[1.0, 0], [3, 4]]), 10: np.array([[0.0, 2], [6, 8]])},
    "sup": {"clean": np.array([[0.0, 1], [2, 0]]), 10: np.array([[3.0, 4], [1, 1]])},
}
PREDICTIONS = {
    "mae": {"clean": np.array([0, 1]), 10: np.array([1, 1])},
    "sup": {"clean": np.array([2, 2]), 10: np.array([0, 1])},
}
LABELS = np.array([0, 1])


def test_alignment_by_hand():
    table = alignment(EMBEDDINGS, PREDICTIONS, seen(EMBEDDINGS, LABELS))
    assert {"model", "level", "image", "cosine", "norm_difference", "correct"} <= set(table.columns)
    assert table["model"].tolist() == ["mae"] * 4 + ["sup"] * 4
    assert table["level"].tolist() == ["clean", "clean", 10, 10] * 2
    assert table["image"].tolist() == ["0", "1"] * 4
    assert table["cosine"].tolist() == pytest.approx([1, 1, 0, 1, 1, 1, 0.8, 0.5**0.5])
    assert table["norm_difference"].tolist() == pytest.approx([0, 0, 1, 5, 0, 0, 4, 2 - 2**0.5])
    assert table["relative_norm_difference"].tolist() == pytest.approx([0, 0, 1, 1, 0, 0, 4, 1 - 0.5**0.5])
    assert table["correct"].tolist() == [True, True, False, True, False, False, True, True]
    assert table["others"].tolist() == pytest.approx([0.6] * 4 + [0] * 4)  # of (1, 0) and (3, 4); of (0, 1) and (2, 0)
    assert table["norm_deviation"].tolist() == pytest.approx([2 / 3] * 4 + [1 / 3] * 4)  # of 1 and 5; of 1 and 2
    turned = alignment(EMBEDDINGS, PREDICTIONS, seen(EMBEDDINGS, LABELS), clean=10)
    assert turned["cosine"].tolist() == pytest.approx([0, 1, 1, 1, 0.8, 0.5**0.5, 1, 1])


def test_alignment_table_by_hand():
    table = alignment_table(alignment(EMBEDDINGS, PREDICTIONS, seen(EMBEDDINGS, LABELS)))
    assert set(COLUMNS["table3_cosine"]) <= set(table.columns) | {"perturbation"}
    assert table["model"].tolist() == ["mae", "mae", "sup", "sup"]
    assert table["level"].tolist() == ["clean", 10, "clean", 10]
    assert table["images"].tolist() == [2] * 4
    mixed = (0.8 + 0.5**0.5) / 2
    assert table["mean_cosine"].tolist() == pytest.approx([1, 0.5, 1, mixed])
    assert table["cosine_correct"].tolist() == pytest.approx([1, 1, np.nan, mixed], nan_ok=True)
    assert table["cosine_wrong"].tolist() == pytest.approx([np.nan, 0, 1, np.nan], nan_ok=True)
    assert table["norm_difference"].tolist() == pytest.approx([0, 3, 0, 3 - 0.5**0.5])
    assert table["relative_norm_difference"].tolist() == pytest.approx([0, 1, 0, 2.5 - 0.5**1.5])


def test_alignment_is_the_weighted_mean_of_correct_and_wrong():
    generator = np.random.default_rng(4)
    embeddings = {"mae": {level: generator.normal(size=(30, 5)) for level in ("clean", "I")}}
    predictions = {"mae": {level: generator.integers(0, 2, 30) for level in ("clean", "I")}}
    labels = generator.integers(0, 2, 30)
    row = alignment_table(alignment(embeddings, predictions, seen(embeddings, labels))).iloc[1]
    share = np.mean(predictions["mae"]["I"] == labels)
    assert row["mean_cosine"] == pytest.approx(share * row["cosine_correct"] + (1 - share) * row["cosine_wrong"])


def test_the_interval_of_the_mean_cosine_is_over_the_images_of_its_row():
    per_image = alignment(EMBEDDINGS, PREDICTIONS, seen(EMBEDDINGS, LABELS))
    generator = np.random.default_rng(5)
    moved = [  # rows of the models in turn, so that groups are not blocks
        pd.DataFrame({"model": name, "level": level, "cosine": generator.uniform(low, 1, 40)})
        for level in ("I", 10)
        for name, low in (("sup", 0), ("mae", 0.8))
    ]
    several = pd.concat([per_image, *(part.assign(image="x", correct=True) for part in moved)]).fillna(0)
    table = alignment_table(several, seed=7).set_index(["model", "level"])
    assert (table["cosine_low"] <= table["mean_cosine"] + 1e-12).all()
    assert (table["mean_cosine"] <= table["cosine_high"] + 1e-12).all()
    for (model, level), rows in several.groupby(["model", "level"]):
        expected = mean_and_interval(rows["cosine"], 7)
        found = table.loc[(model, level), ["mean_cosine", "cosine_low", "cosine_high"]]
        assert found.tolist() == pytest.approx(expected)
    assert table.loc[("sup", "clean"), ["cosine_low", "cosine_high"]].tolist() == [1, 1]


def test_a_row_of_one_image_is_its_own_interval():
    one = {name: {level: values[:1] for level, values in levels.items()} for name, levels in EMBEDDINGS.items()}
    right = {name: {level: values[:1] for level, values in levels.items()} for name, levels in PREDICTIONS.items()}
    table = alignment_table(alignment(one, right, seen(one, LABELS[:1])))
    assert table["mean_cosine"].tolist() == pytest.approx([1, 0, 1, 0.8])
    assert table["cosine_low"].tolist() == table["cosine_high"].tolist() == table["mean_cosine"].tolist()
