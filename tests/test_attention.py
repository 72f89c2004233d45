"""Mean attention distance: grids small enough to work by hand, uniform and identity attention, and a plain loop."""

from math import hypot
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mae_helpers.attention import attention_distance, distance_table, patch_distances, uniform_distance
from mae_helpers.encoder import LayerState, visible_patches, walk
from mae_helpers.results import COLUMNS


def state_with(attention, visible=None):
    """What `attention_distance` needs of a layer: its attention map, and which patches it is about."""
    return SimpleNamespace(attention=lambda: attention, visible=visible)


def test_distances_on_a_two_by_two_grid_by_hand():
    diagonal = 10 * 2**0.5
    expected = [[0, 10, 10, diagonal], [10, 0, diagonal, 10], [10, diagonal, 0, 10], [diagonal, 10, 10, 0]]
    torch.testing.assert_close(patch_distances(2, 10), torch.tensor(expected))
    assert uniform_distance(patch_distances(2, 10)) == pytest.approx((20 + diagonal) / 4)


def test_city_block_distances_on_a_two_by_two_grid_by_hand():
    expected = [[0, 10, 10, 20], [10, 0, 20, 10], [10, 20, 0, 10], [20, 10, 10, 0]]
    torch.testing.assert_close(patch_distances(2, 10, "cityblock"), torch.tensor(expected, dtype=torch.float32))


def test_patches_are_counted_row_by_row():
    distances = patch_distances(3, 1)
    assert distances[0, 2] == 2
    assert distances[0, 3] == 1
    assert distances[1, 6] == pytest.approx(5**0.5)


def test_unknown_metric_is_an_error():
    with pytest.raises(ValueError, match="'manhattan': use euclidean or cityblock"):
        patch_distances(2, 10, "manhattan")


def test_uniform_distance_of_vit_b_agrees_with_a_loop_over_all_pairs():
    cells = [(16 * row, 16 * column) for row in range(14) for column in range(14)]
    loop = sum(hypot(a - c, b - d) for a, b in cells for c, d in cells) / len(cells) ** 2
    found = uniform_distance(patch_distances(14, 16))
    assert found == pytest.approx(loop, rel=1e-6)
    assert found == pytest.approx(116.49, abs=0.01)


def test_attention_without_preference_spans_the_uniform_distance(tiny_vit):
    tokens, qkv = torch.zeros(2, 17, 24), torch.zeros(2, 17, 72)
    state = LayerState(layer=1, tokens=tokens, visible=None, block=tiny_vit.blocks[0], qkv=qkv, merged_heads=tokens)
    distances = patch_distances(4, 8)
    expected = torch.full((2, 4), uniform_distance(distances))
    torch.testing.assert_close(attention_distance(state, distances), expected)


def test_attention_to_oneself_spans_nothing():
    attention = torch.eye(17).expand(2, 4, 17, 17)
    assert torch.equal(attention_distance(state_with(attention), patch_distances(4, 8)), torch.zeros(2, 4))


def test_attention_to_the_next_patch_in_the_row_spans_one_patch():
    swap = torch.block_diag(torch.ones(1, 1), *[torch.tensor([[0.0, 1.0], [1.0, 0.0]])] * 8)
    assert attention_distance(state_with(swap[None, None]), patch_distances(4, 8)).item() == pytest.approx(8)


def test_attention_from_and_to_cls_does_not_count():
    attention = torch.rand(2, 4, 17, 17, generator=torch.Generator().manual_seed(0))
    with_cls = attention.clone()
    with_cls[..., 0, :], with_cls[..., 0] = 0.5, 7.0
    with_cls /= with_cls.sum(-1, keepdim=True)
    distances = patch_distances(4, 8)
    expected = attention_distance(state_with(attention), distances)
    torch.testing.assert_close(attention_distance(state_with(with_cls), distances), expected)


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_agrees_with_a_plain_loop(tiny_vit, tiny_images, ratio):
    distances = patch_distances(4, 8)
    visible = visible_patches(["a", "b"], 16, ratio, seed=0)
    patches = [range(16)] * 2 if visible is None else visible.tolist()
    for state in walk(tiny_vit, tiny_images.tensor([0, 1]), visible):
        attention, found = state.attention().double().numpy(), attention_distance(state, distances).numpy()
        for image in range(2):
            for head in range(4):
                queries = []
                for query, place in enumerate(patches[image]):
                    weights = attention[image, head, 1 + query, 1:]
                    weights = weights / weights.sum()
                    away = [float(distances[place, other]) for other in patches[image]]
                    queries.append(sum(weight * length for weight, length in zip(weights, away, strict=True)))
                assert found[image, head] == pytest.approx(np.mean(queries), rel=1e-5)


def test_distances_among_visible_patches_by_hand():
    swap = torch.block_diag(torch.ones(1, 1), torch.tensor([[0.0, 1.0], [1.0, 0.0]])).expand(3, 1, 3, 3)
    visible = torch.tensor([[0, 1], [3, 0], [1, 13]])
    found = attention_distance(state_with(swap, visible), patch_distances(4, 8))
    torch.testing.assert_close(found, torch.tensor([[8.0], [24.0], [24.0]]), msg="one across, three across, three down")


def test_distance_table_counts_from_one_and_averages_images():
    per_image = np.arange(12, dtype=float).reshape(2, 3, 2)
    table = distance_table(per_image, model="mae_pretrained", images="demo", uniform_px=5.0)
    assert set(table.columns) == set(COLUMNS["fig3_attention_distance"])
    assert table["layer"].tolist() == [1, 1, 2, 2, 3, 3]
    assert table["head"].tolist() == [1, 2, 1, 2, 1, 2]
    assert table["distance_px"].tolist() == [3, 4, 5, 6, 7, 8]
    assert set(table["model"]) == {"mae_pretrained"}
