"""The walk through the encoder against timm's own forward pass, and seeded masking."""

import numpy as np
import pytest
import torch
from conftest import make_vit

from mae_helpers.encoder.walk import classify, cls_token, mean_patch, patch_tokens, visible_patches, walk

PATCHES = 16
IDS = [f"image-{number}" for number in range(6)]
both_kinds_of_attention = pytest.mark.parametrize("fused", [True, False])


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def set_fused(model, fused):
    for block in model.blocks:
        block.attn.fused_attn = fused


def hooks_on(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@both_kinds_of_attention
def test_unmasked_walk_agrees_with_timm(tiny_vit, tiny_images, fused):
    set_fused(tiny_vit, fused)
    batch = tiny_images.tensor(range(3))
    states = list(walk(tiny_vit, batch))
    with torch.no_grad():
        layers = tiny_vit.forward_intermediates(
            batch, return_prefix_tokens=True, norm=False, output_fmt="NLC", intermediates_only=True
        )
        features = tiny_vit.forward_features(batch)
        normed = tiny_vit.norm(states[-1].tokens)
    assert [state.layer for state in states] == [1, 2, 3, 4]
    for state, (patches, prefix) in zip(states, layers, strict=True):
        close(patch_tokens(state), patches)
        close(cls_token(state), prefix[:, 0])
        close(mean_patch(state), patches.mean(1))
    close(normed, features)
    assert not torch.allclose(states[-1].tokens, features, atol=0.1), "the last layer must come before the norm"


def test_attention_is_formed_once(tiny_vit, tiny_images):
    for state in walk(tiny_vit, tiny_images.tensor([0, 1])):
        assert state.attention() is state.attention()
        assert state.mean_attention() is state.mean_attention()
        assert torch.equal(state.mean_attention(), state.attention().mean(1))


@both_kinds_of_attention
@pytest.mark.parametrize("ratio", [0.0, 0.75])
def test_attention_and_head_outputs_fit_together(tiny_vit, tiny_images, fused, ratio):
    set_fused(tiny_vit, fused)
    module_outputs = []
    for block in tiny_vit.blocks:
        block.attn.register_forward_hook(lambda _, __, output: module_outputs.append(output))
    visible = visible_patches(tiny_images.ids[:3], PATCHES, ratio, seed=0)
    for state in walk(tiny_vit, tiny_images.tensor(range(3)), visible):
        output, attention, heads = module_outputs[-1], state.attention(), state.head_outputs()
        length = 1 + (PATCHES if visible is None else visible.shape[1])
        assert attention.shape == (3, 4, length, length)
        assert heads.shape == (3, 4, length, 6)
        close(attention.sum(-1), torch.ones(3, 4, length))
        assert len(state.fused) == fused, "a map that is formed from the queries and keys of the pass itself"
        torch.testing.assert_close(attention, state.computed_again()[0], rtol=0, atol=1e-6)
        values = state.by_head(state.computed_again(torch.eye(length))[1])
        close(attention @ values, heads)
        close(state.attn.proj(heads.transpose(1, 2).flatten(2)).detach(), output)


def test_walk_needs_no_gradients_and_leaves_the_callers_switch_and_model_alone(tiny_vit, tiny_images):
    for model in (tiny_vit, make_vit(0, qk_norm=True)):  # norms of Q and K have weights of their own
        for state in walk(model, tiny_images.tensor([0])):
            assert not any(each.requires_grad for each in (state.tokens, state.attention(), state.head_outputs()))
            assert torch.is_grad_enabled()
        assert hooks_on(model) == 0

    tiny_vit.blocks[1].mlp = torch.nn.Linear(3, 3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        list(walk(tiny_vit, tiny_images.tensor([0])))
    assert hooks_on(tiny_vit) == 0


@pytest.mark.parametrize(("ratio", "count"), [(0.25, 12), (0.5, 8), (0.75, 4), (0.9, 2), (0.99, 1)])
def test_masking_keeps_the_right_number_without_repeats(ratio, count):
    visible = visible_patches(IDS, PATCHES, ratio, seed=0)
    assert visible.shape == (len(IDS), count)
    assert all(len(set(row)) == count for row in visible.tolist())
    assert visible.min() >= 0
    assert visible.max() < PATCHES


def test_masking_is_uniform_over_patches():
    visible = visible_patches([str(number) for number in range(4000)], PATCHES, 0.75, seed=0)
    counts = np.bincount(visible.flatten(), minlength=PATCHES)
    assert np.all(np.abs(counts - 1000) < 140), "5 standard deviations of a binomial count"


def test_a_mask_depends_on_id_seed_and_draw_and_on_nothing_else():
    first = visible_patches(IDS, 196, 0.75, seed=3, draw=2)
    alone = [visible_patches([name], 196, 0.75, seed=3, draw=2)[0] for name in IDS]
    assert torch.equal(first, torch.stack(alone))
    assert torch.equal(first, visible_patches(IDS[::-1], 196, 0.75, seed=3, draw=2).flip(0))
    others = [visible_patches(IDS, 196, 0.75, *chance) for chance in [(3, 0), (2, 2), (2, 3), (0, 2)]]
    assert len({tuple(row) for masks in (first, *others) for row in masks.tolist()}) == 5 * len(IDS)


def test_ratio_zero_masks_nothing_and_one_outside_its_range_is_an_error():
    assert visible_patches(IDS, PATCHES, 0, seed=0) is None
    for ratio in (-0.1, 1, 1.5, 75):
        with pytest.raises(ValueError, match=f"ratio {ratio}"):
            visible_patches(IDS, PATCHES, ratio, seed=0)


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_classes_are_those_of_the_models_own_forward_pass(tiny_images, pool):
    model = make_vit(1, global_pool=pool)
    batch = tiny_images.tensor(range(12))
    with torch.no_grad():
        model.head.bias -= model(batch).mean(0)  # or one class would win every image
        expected = model(batch).argmax(1)
    *_, last = walk(model, batch)
    assert torch.equal(classify(model, last), expected)
    assert len(set(expected.tolist())) > 1, "the images are not all taken for the same"


def test_a_model_without_a_classifier_gives_no_class(tiny_images):
    model = make_vit(0, num_classes=0)
    *_, last = walk(model, tiny_images.tensor([0]))
    with pytest.raises(ValueError, match="this model has no classifier: use one with `num_classes` above 0"):
        classify(model, last)
