"""Cosines and norms across masks: by hand, against SciPy, and one mask at a time."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from mae_helpers.encoder import mean_patch, visible_patches, walk
from mae_helpers.results import COLUMNS
from mae_helpers.robustness import cosine, masked_embeddings, masking_table, pairwise_cosines, within_and_between


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
