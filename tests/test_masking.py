"""Mean patch embeddings under masks: by hand, against SciPy, and one mask at a time."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import pdist

from mae_helpers.encoder.walk import mean_patch, visible_patches, walk
from mae_helpers.measures.masking import (
    cosine_table,
    masked_embeddings,
    masking_table,
    pairwise_cosines,
    within_and_between,
)
from mae_helpers.profile.machine import Compute
from mae_helpers.run.tables import COLUMNS


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
    assert found.shape == (2, 3, 24)
    for row in range(2):
        for draw in range(3):
            visible = visible_patches([images.ids[row]], 16, 0.75, seed=4, draw=draw)
            states = list(walk(tiny_vit, images.tensor([row]), visible))
            np.testing.assert_allclose(found[row, draw], mean_patch(states[-1])[0], rtol=1e-5, atol=1e-5)
        assert torch.pdist(torch.from_numpy(found[row])).min() > 1e-3, "masks differ"


def test_masked_embeddings_keep_to_the_batch_size_and_halve_it_where_memory_runs_out(tiny_vit, tiny_images):
    expected, sizes = masked_embeddings(tiny_vit, tiny_images, masks=2, ratio=0.75), []

    def little_memory(_, inputs):
        sizes.append(len(inputs[0]))
        if sizes[-1] > 3:
            raise torch.OutOfMemoryError("made up")

    tiny_vit.blocks[2].register_forward_pre_hook(little_memory)
    compute = Compute(batch_size=8)
    found = masked_embeddings(tiny_vit, tiny_images, masks=2, ratio=0.75, compute=compute)
    assert sizes == [8, 4, *[2] * 12], "each of twelve images once a mask"
    assert compute.batch_size == 2
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("how", "told"), [({"ratio": 0, "masks": 3}, "nothing is masked"), ({"masks": 1}, "2 or more")]
)
def test_masks_that_cannot_be_compared_are_refused(tiny_vit, tiny_images, how, told):
    with pytest.raises(ValueError, match=told):
        masked_embeddings(tiny_vit, tiny_images, **{"ratio": 0.5} | how)
