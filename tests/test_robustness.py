"""Cosines and norms across masks and perturbations, and accuracy: by hand, against SciPy, and one mask at a time."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import pdist
from scipy.stats import binom, bootstrap

from mae_helpers.encoder.walk import mean_patch, visible_patches, walk
from mae_helpers.images.sets import ImageSet
from mae_helpers.measures.robustness import (
    accuracy_table,
    alignment,
    alignment_table,
    cosine,
    cosine_table,
    masked_embeddings,
    masking_table,
    mean_and_interval,
    pairwise_cosines,
    top1_percent,
    within_and_between,
)
from mae_helpers.profile.settings import Input
from mae_helpers.run.tables import COLUMNS


def seen(models, labels):
    """The same images for every model: only labels and ids count here."""
    ids = [str(row) for row in range(len(labels))]
    images = ImageSet(ids, np.array(labels), np.array(ids), lambda row: None, Input(size=32))
    return dict.fromkeys(models, images)


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


def test_pairwise_cosines_agree_with_scipy():
    vectors = np.random.default_rng(1).normal(size=(7, 5)).astype(np.float32)
    np.testing.assert_allclose(pairwise_cosines(vectors), 1 - pdist(vectors.astype(np.float64), "cosine"), atol=1e-12)


def test_masking_table_by_hand():
    embeddings = np.array([[[3, 4], [3, 4]], [[1, 0], [0, 1]]], np.float32)
    table = masking_table(embeddings, ["a", "b"])
    assert set(table.columns) | {"model"} == set(COLUMNS["masking_invariance"])
    assert table["image"].tolist() == ["a", "a", "b", "b"]
    assert table["mask"].tolist() == [1, 2, 1, 2]
    assert table["norm"].tolist() == pytest.approx([5, 5, 1, 1])
    assert table["cosine_to_mean"].tolist() == pytest.approx([1, 1, 0.5**0.5, 0.5**0.5])


def test_within_and_between_count_their_pairs():
    table = within_and_between(np.random.default_rng(2).normal(size=(3, 4, 6)))
    assert table["pair"].value_counts().to_dict() == {"within": 3 * 6, "between": 4 * 3}


def test_within_compares_masks_and_between_compares_images():
    one_direction_an_image = np.repeat(np.eye(3, 6)[:, None], 4, axis=1)
    means = within_and_between(one_direction_an_image).groupby("pair")["cosine"].mean()
    assert means.to_dict() == pytest.approx({"within": 1, "between": 0})


def test_cosine_table_by_hand():
    within = np.linspace(0.8, 1, 21)
    pairs = pd.DataFrame({"pair": ["within"] * 21 + ["between"] * 3, "cosine": [*within, -0.5, 0.1, 0.3]})
    table = cosine_table(pairs).set_index("pair")
    assert set(table.reset_index().columns) | {"model"} == set(COLUMNS["masking_cosines"])
    assert table["pairs"].to_dict() == {"within": 21, "between": 3}
    assert table["cosine_median"].to_dict() == pytest.approx({"within": 0.9, "between": 0.1})
    assert table["cosine_p05"].to_dict() == pytest.approx({"within": 0.81, "between": -0.44})


def test_masked_embeddings_agree_with_one_mask_at_a_time(tiny_vit, tiny_images):
    images = tiny_images.take([0, 5])
    found = masked_embeddings(tiny_vit, images, masks=3, ratio=0.75, seed=4)
    first_layer = masked_embeddings(tiny_vit, images, masks=3, ratio=0.75, seed=4, layer=0)
    assert found.shape == (2, 3, 24)
    for row in range(2):
        for draw in range(3):
            visible = visible_patches([images.ids[row]], 16, 0.75, seed=4, draw=draw)
            states = list(walk(tiny_vit, images.tensor([row]), visible))
            np.testing.assert_allclose(found[row, draw], mean_patch(states[-1])[0], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(first_layer[row, draw], mean_patch(states[0])[0], rtol=1e-5, atol=1e-5)


def test_masked_embeddings_differ_between_masks(tiny_vit, tiny_images):
    found = torch.from_numpy(masked_embeddings(tiny_vit, tiny_images.take([0]), masks=3, ratio=0.75))
    assert torch.pdist(found[0]).min() > 1e-3


def test_top1_by_hand():
    assert top1_percent(np.array([True, True, False, True]))["top1_percent"] == 75
    assert top1_percent([1, 0, 0, 0, 0])["top1_percent"] == pytest.approx(20)


@pytest.mark.parametrize(("correct", "percent"), [(True, 100), (False, 0)])
def test_top1_of_all_or_none_has_no_width(correct, percent):
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
    assert list(table.columns) == [
        "model",
        "level",
        "images",
        "top1_percent",
        "top1_low",
        "top1_high",
        "paired_percent",
    ]
    assert (table["paired_percent"] == table["top1_percent"]).all()
    assert table["model"].tolist() == ["mae", "mae", "sup", "sup"]
    assert table["level"].tolist() == ["clean", ("fog", 1)] * 2
    assert table["images"].tolist() == [4] * 4
    assert table["top1_percent"].tolist() == [75, 50, 100, 0]
    assert (table["top1_low"] <= table["top1_percent"]).all()
    assert (table["top1_percent"] <= table["top1_high"]).all()
    assert table["top1_low"].tolist()[2:] == table["top1_high"].tolist()[2:] == [100, 0]


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


def test_alignment_compares_with_the_level_that_is_named():
    turned = alignment(EMBEDDINGS, PREDICTIONS, seen(EMBEDDINGS, LABELS), clean=10)
    assert turned["cosine"].tolist() == pytest.approx([0, 1, 1, 1, 0.8, 0.5**0.5, 1, 1])


def test_alignment_is_the_weighted_mean_of_correct_and_wrong():
    generator = np.random.default_rng(4)
    embeddings = {"mae": {level: generator.normal(size=(30, 5)) for level in ("clean", "I")}}
    predictions = {"mae": {level: generator.integers(0, 2, 30) for level in ("clean", "I")}}
    labels = generator.integers(0, 2, 30)
    row = alignment_table(alignment(embeddings, predictions, seen(embeddings, labels))).iloc[1]
    share = np.mean(predictions["mae"]["I"] == labels)
    assert row["mean_cosine"] == pytest.approx(share * row["cosine_correct"] + (1 - share) * row["cosine_wrong"])


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


def test_alignment_with_an_embedding_of_zeros_is_an_error():
    with pytest.raises(ValueError, match="zero vector"):
        alignment({"mae": {"clean": np.ones((2, 3)), 10: np.zeros((2, 3))}}, PREDICTIONS, seen(["mae"], LABELS))


def test_accuracy_on_the_images_that_all_models_saw():
    few = seen(["sup"], [0, 1])
    predictions = {"mae": {"clean": np.array([0, 0, 1, 2])}, "sup": {"clean": np.array([0, 1])}}
    table = accuracy_table(predictions, seen(["mae"], [0, 1, 1, 2]) | few)
    assert table["top1_percent"].tolist() == [75, 100]
    assert table["paired_percent"].tolist() == [50, 100]
    assert table["images"].tolist() == [4, 2]
