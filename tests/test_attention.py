"""Attention distance and rollout: worked by hand, uniform and identity attention, and plain loops."""

from math import hypot
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mae_helpers.encoder.passes import one_pass
from mae_helpers.encoder.walk import visible_patches, walk
from mae_helpers.measures.attention import (
    Rollout,
    attention_distance,
    distance_table,
    patch_distances,
    rollout,
    uniform_distance,
)
from mae_helpers.profile.machine import Compute
from mae_helpers.run.tables import COLUMNS


def state_with(attention, visible=None):
    """What `attention_distance` needs of a layer: its attention map, and which patches it is about."""
    return SimpleNamespace(attention=lambda: attention, visible=visible, prefix=1)


def test_distances_on_a_two_by_two_grid_by_hand():
    diagonal = 10 * 2**0.5
    expected = [[0, 10, 10, diagonal], [10, 0, diagonal, 10], [10, diagonal, 0, 10], [diagonal, 10, 10, 0]]
    torch.testing.assert_close(patch_distances(2, 10), torch.tensor(expected))
    assert uniform_distance(patch_distances(2, 10)) == pytest.approx((20 + diagonal) / 4)
    assert uniform_distance(patch_distances(2, 10), 1) == 0, "one visible patch has itself alone"
    expected = [[0, 10, 10, 20], [10, 0, 20, 10], [10, 20, 0, 10], [20, 10, 10, 0]]
    torch.testing.assert_close(patch_distances(2, 10, "cityblock"), torch.tensor(expected, dtype=torch.float32))
    with pytest.raises(ValueError, match="'manhattan': use euclidean or cityblock"):
        patch_distances(2, 10, "manhattan")


def test_patches_are_counted_row_by_row():
    distances = patch_distances(3, 1)
    assert distances[0, 2] == 2
    assert distances[0, 3] == 1
    assert distances[1, 6] == pytest.approx(5**0.5)


def test_uniform_distance_of_vit_b_agrees_with_a_loop_over_all_pairs():
    cells = [(16 * row, 16 * column) for row in range(14) for column in range(14)]
    loop = sum(hypot(a - c, b - d) for a, b in cells for c, d in cells) / len(cells) ** 2
    found = uniform_distance(patch_distances(14, 16))
    assert found == pytest.approx(loop, rel=1e-6)
    assert found == pytest.approx(116.49, abs=0.01)


def test_attention_without_preference_spans_the_uniform_distance(tiny_vit, tiny_images):
    tiny_vit.blocks[0].attn.qkv.weight.data.zero_()
    state = next(walk(tiny_vit, tiny_images.tensor([0, 1])))
    distances = patch_distances(4, 8)
    expected = torch.full((2, 4), uniform_distance(distances))
    torch.testing.assert_close(attention_distance(state, distances), expected)


def test_a_grid_may_have_other_sides_than_its_patches():
    distances = patch_distances((2, 3), (10, 4))
    assert distances.shape == (6, 6)
    assert distances[0].tolist() == pytest.approx([0, 4, 8, 10, hypot(10, 4), hypot(10, 8)])


def test_attention_to_oneself_spans_nothing_and_to_the_next_patch_in_the_row_one_patch():
    attention = torch.eye(17).expand(2, 4, 17, 17)
    assert torch.equal(attention_distance(state_with(attention), patch_distances(4, 8)), torch.zeros(2, 4))
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


def test_the_mean_of_all_patches_of_vit_b_keeps_its_digits():
    attention = torch.softmax(3 * torch.randn(1, 2, 197, 197, generator=torch.Generator().manual_seed(0)), -1)
    distances, exact = patch_distances(14, 16), attention[:, :, 1:, 1:].double()
    expected = ((exact * distances).sum(-1) / exact.sum(-1)).mean(-1)
    torch.testing.assert_close(
        attention_distance(state_with(attention), distances).double(), expected, rtol=5e-7, atol=0
    )


def test_distance_table_counts_from_one_and_averages_images():
    per_image = np.arange(12, dtype=float).reshape(2, 3, 2)
    table = distance_table(per_image, model="mae_pretrained", images="demo", uniform_px=5.0)
    assert set(table.columns) == set(COLUMNS["fig3_attention_distance"])
    assert table["layer"].tolist() == [1, 1, 2, 2, 3, 3]
    assert table["head"].tolist() == [1, 2, 1, 2, 1, 2]
    assert table["distance_px"].tolist() == [3, 4, 5, 6, 7, 8]
    assert set(table["model"]) == {"mae_pretrained"}


def random_attention(layers, patches, images=3):
    generator = torch.Generator().manual_seed(layers)
    logits = torch.randn(images, layers, 1 + patches, 1 + patches, generator=generator)
    return torch.softmax(3 * logits, dim=-1)


def start_of(rows, patches):
    """The weights of the rows that are asked for: the CLS row, or all patch rows alike."""
    return torch.tensor([1.0] + [0.0] * patches if rows == "cls" else [0.0] + [1 / patches] * patches)


def plain_rollout(head_means, rows):
    """One image's rollout from the whole product A_L ... A_1 of (A + I) / 2, (layers, 1 + N, 1 + N) -> (N,)."""
    product = np.eye(head_means.shape[-1])
    for attention in np.asarray(head_means, np.float64):
        product = (attention + np.eye(len(attention))) / 2 @ product
    return product[0, 1:] if rows == "cls" else product[1:, 1:].mean(0)


both_rows = pytest.mark.parametrize("rows", ["cls", "patches"])


@both_rows
@pytest.mark.parametrize("layers", [1, 2, 12])
def test_rollout_agrees_with_the_product_of_matrices(rows, layers):
    head_means = random_attention(layers, 16)
    found = rollout(head_means.unbind(1), start_of(rows, 16))
    assert found.shape == (3, 16)
    assert found.dtype == torch.float32
    for image in range(3):
        np.testing.assert_allclose(found[image], plain_rollout(head_means[image], rows), rtol=0, atol=1e-6)
    assert found.min() >= 0
    assert found.sum(-1).max() < 1, "the rest stays with CLS"
    if layers == 2:
        assert found.sum(-1).min() > 0.3
        backwards = rollout(head_means.flip(1).unbind(1), start_of(rows, 16))
        assert (found - backwards).abs().max() > 0.01, "the order of the layers counts"


@pytest.mark.parametrize(("layers", "rows", "score"), [(1, "cls", 0.1), (1, "patches", 0.225), (2, "cls", 0.15)])
def test_rollout_of_uniform_attention_by_hand(layers, rows, score):
    uniform = [torch.full((1, 5, 5), 1 / 5)] * layers
    torch.testing.assert_close(rollout(uniform, start_of(rows, 4)), torch.full((1, 4), score))


def test_rollout_of_two_layers_by_hand():
    first = torch.tensor([[[1.0, 0, 0], [0, 0, 1], [0, 0, 1]]])  # patch 1 looks at patch 2
    second = torch.tensor([[[0.0, 1, 0], [0, 1, 0], [0, 0, 1]]])  # CLS looks at patch 1
    torch.testing.assert_close(rollout([first, second], start_of("cls", 2)), torch.tensor([[0.25, 0.25]]))


@both_rows
def test_rollout_of_a_pass_agrees_with_each_image_alone(tiny_vit, tiny_images, rows):
    expected = []
    for row in range(len(tiny_images)):
        layers = [state.attention()[0].double().mean(0) for state in walk(tiny_vit, tiny_images.tensor([row]))]
        expected.append(plain_rollout(torch.stack(layers), rows))
    for size in (1, 5, 64):
        told = {"rollout": Rollout(rows, 4)}
        found = one_pass(tiny_vit, tiny_images, told, compute=Compute(batch_size=size))["rollout"]
        assert found.shape == (12, 16)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert np.ptp(expected, axis=0).min() > 1e-4, "images differ"
