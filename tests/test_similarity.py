"""Debiased linear CKA against a dense computation from the definition, and its invariances."""

import numpy as np
import pytest
import torch

from mae_helpers.measures.similarity import CrossHSIC, cka


def gathered(x, y, size=None):
    found = CrossHSIC()
    for rows in torch.arange(len(x)).split(size or len(x)):
        found.add(x[rows], y[rows])
    return found.result()


def dense(x, y):
    """HSIC_1 of x and y, (n, D) each, from n x n Gram matrices as Song et al. write it."""
    n = len(x)
    gram_x, gram_y = (np.asarray(each) @ np.asarray(each).T for each in (x, y))
    np.fill_diagonal(gram_x, 0)
    np.fill_diagonal(gram_y, 0)
    one = np.ones(n)
    between = 2 / (n - 2) * one @ gram_x @ gram_y @ one
    return (np.trace(gram_x @ gram_y) + one @ gram_x @ one * (one @ gram_y @ one) / ((n - 1) * (n - 2)) - between) / (
        n * (n - 3)
    )


def similarity(x, y):
    own = [np.diag(gathered(each, each)) for each in (x, y)]
    return cka(gathered(x, y), *own)


@pytest.fixture
def tokens():
    """Two encoders' tokens of 23 images: 3 layers of 7 features, 2 layers of 5, which depend on the first."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(23, 3, 7, generator=generator, dtype=torch.float64) + 2
    return x, torch.stack([x[:, 0, :5] ** 2, torch.randn(23, 5, generator=generator, dtype=torch.float64)], 1)


def test_each_pair_of_layers_is_the_dense_computation(tokens):
    x, y = tokens
    expected = [[dense(x[:, a], y[:, b]) for b in range(2)] for a in range(3)]
    np.testing.assert_allclose(gathered(x, y), expected, rtol=1e-9)


def test_the_batch_size_changes_nothing(tokens):
    np.testing.assert_allclose(gathered(*tokens, 4), gathered(*tokens), rtol=1e-10)


def test_a_representation_is_wholly_like_itself_rotated_moved_and_scaled(tokens):
    x, _ = tokens
    rotation = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    np.testing.assert_allclose(np.diag(similarity(x, 3 * x @ rotation + 5)), 1, rtol=1e-6)


def test_independent_tokens_are_unlike_on_average_though_there_are_more_features_than_images():
    generator = torch.Generator().manual_seed(0)
    draws = [similarity(*torch.randn(2, 20, 1, 50, generator=generator, dtype=torch.float64))[0, 0] for _ in range(200)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / np.sqrt(200)
    assert np.std(draws) < 0.1


def test_fewer_than_four_images_are_refused():
    with pytest.raises(ValueError, match="3 images: debiased CKA needs four or more"):
        gathered(torch.ones(3, 1, 2), torch.ones(3, 1, 2))


def test_a_layer_that_is_the_same_for_all_images_is_like_nothing(tokens):
    x, y = tokens
    assert np.isnan(similarity(torch.ones_like(x), y)).all()
