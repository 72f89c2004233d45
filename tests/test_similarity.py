"""Debiased linear CKA by hand, against sums over images' features, and its invariances."""

from itertools import permutations

import numpy as np
import pytest

from mae_helpers.encoder.passes import PerImage, one_pass
from mae_helpers.encoder.walk import mean_patch
from mae_helpers.measures.similarity import cka, cka_table, grams, hsic
from mae_helpers.profile.machine import Compute


def by_features(x, y):
    """HSIC_1 of x and y, (n, D) each, from sums of products of features: no n x n matrix is formed."""
    n = len(x)
    x, y = x - x.mean(0), y - y.mean(0)
    norm_x, norm_y = (x**2).sum(1), (y**2).sum(1)  # the diagonals of K and L, which do not count
    trace = ((x.T @ y) ** 2).sum() - norm_x @ norm_y
    total = norm_x.sum() * norm_y.sum()  # sums of K and L are 0 - their diagonals', as the features are centred
    rows = norm_x @ norm_y  # so is each row's
    return (trace + total / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)) / (n * (n - 3))


def similarity(x, y):
    kernels = [grams(each) for each in (x, y)]
    return cka(hsic(*kernels), *(np.diag(hsic(each, each)) for each in kernels))


@pytest.fixture
def tokens():
    """Two encoders' tokens of 23 images: 3 layers of 7 features, 2 layers of 5, which depend on the first."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(23, 3, 7)) + 2
    return x, np.stack([x[:, 0, :5] ** 2, generator.normal(size=(23, 5))], 1)


def test_four_images_by_hand():
    """One feature, 0 and 1: in pairs alike, and in pairs that have nothing to do with each other."""
    kernels = [grams(np.array(each, float).reshape(4, 1, 1)) for each in ([0, 0, 1, 1], [0, 1, 0, 1])]
    (same, cross), (_, other) = [[hsic(a, b)[0, 0] for b in kernels] for a in kernels]
    assert kernels[0][0, 2, 3] == kernels[1][0, 1, 3] == 1
    assert kernels[0].sum() == kernels[1].sum() == 2
    assert same == other == pytest.approx((2 + 4 / 6 - 2) / 4)  # tr(KK) = 2, 1^T K 1 = 2, 1^T KK 1 = 2
    assert cross == pytest.approx((0 + 4 / 6 - 1) / 4)  # tr(KL) = 0; image 4 alone is in both kernels
    assert cka(np.array([[cross]]), np.array([same]), np.array([other]))[0, 0] == pytest.approx(-0.5)


def test_it_is_the_mean_over_all_choices_of_four_images():
    """HSIC_1 is a U-statistic: of four images k_12 (l_12 + l_34 - 2 l_13) on average over all of them (Song et al., Eq. 8)."""
    x, y = np.random.default_rng(0).normal(size=(2, 6, 1, 3))
    k, l = (grams(each)[0] for each in (x, y))  # noqa: E741
    each = [k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in permutations(range(6), 4)]
    assert hsic(k[None], l[None])[0, 0] == pytest.approx(np.mean(each))


def test_each_pair_of_layers_is_the_sum_over_features(tokens):
    x, y = tokens
    expected = [[by_features(x[:, a], y[:, b]) for b in range(2)] for a in range(3)]
    np.testing.assert_allclose(hsic(*map(grams, tokens)), expected, rtol=1e-9)


def test_a_representation_is_wholly_like_itself_rotated_moved_and_scaled(tokens):
    x, _ = tokens
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(7, 7)))[0]
    np.testing.assert_allclose(np.diag(similarity(x, 3 * x @ rotation + 5)), 1, rtol=1e-6)


def test_independent_tokens_are_unlike_on_average_though_there_are_more_features_than_images():
    generator = np.random.default_rng(0)
    draws = [similarity(*generator.normal(size=(2, 20, 1, 50)))[0, 0] for _ in range(200)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / np.sqrt(200)
    assert np.std(draws) < 0.1


def test_fewer_than_four_images_are_refused():
    with pytest.raises(ValueError, match="3 images: debiased CKA needs four or more"):
        similarity(np.ones((3, 1, 2)), np.ones((3, 1, 2)))


def test_a_layer_that_is_the_same_for_all_images_is_like_nothing(tokens):
    x, y = tokens
    assert np.isnan(similarity(np.full_like(x, 0.1), y)).all()


def test_the_table_has_every_pair_once_and_leaves_out_a_token_that_a_model_lacks(tokens):
    x, y = tokens
    table = cka_table([{"a": {"cls": x, "mean_patch": x[:, :1]}, "b": {"mean_patch": y}}])
    same = table[table["control"] == "same_images"].set_index(["model_a", "model_b", "token"])["cka"]
    sizes = {
        ("a", "a", "cls"): 9,
        ("a", "a", "mean_patch"): 1,
        ("a", "b", "mean_patch"): 2,
        ("b", "b", "mean_patch"): 4,
    }
    assert same.groupby(level=[0, 1, 2]).size().to_dict() == sizes
    np.testing.assert_allclose(same["a", "b", "mean_patch"], similarity(x[:, :1], y).ravel())
    np.testing.assert_allclose(same["a", "a", "cls"].to_numpy().reshape(3, 3), similarity(x, x))


def test_the_mean_over_parts_agrees_with_all_images_at_once():
    """On average, as HSIC_1 is unbiased in each part; and the control is near 0 in both."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(800, 1, 6))
    y = x + generator.normal(size=x.shape)
    tables = [
        cka_table([{"a": {"t": x[rows]}, "b": {"t": y[rows]}} for rows in np.array_split(np.arange(800), parts)])
        for parts in (1, 8)
    ]
    for table in tables:
        value = table[table["model_a"] != table["model_b"]].set_index("control")["cka"]
        assert value["same_images"] == pytest.approx(0.5, abs=0.04)  # of y's variance x is one half: CKA -> 1 / 2
        assert abs(value["shuffled_images"]) < 0.04


def test_the_batch_size_of_the_pass_changes_nothing(tiny_vit, tiny_images):
    found = []
    for size in (5, 12):
        features = one_pass(tiny_vit, tiny_images, {"t": PerImage(mean_patch)}, compute=Compute(batch_size=size))
        found.append(cka_table([{"vit": features}])["cka"])
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-6)
