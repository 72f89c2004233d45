"""The walk through the encoder against timm's own forward pass; seeded masking; the one pass over the images."""

import weakref

import numpy as np
import pytest
import torch
from conftest import make_vit

from mae_helpers.encoder.passes import Gathered, PerImage, one_pass
from mae_helpers.encoder.walk import classify, cls_token, embed, mean_patch, patch_tokens, visible_patches, walk

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


def values_of(qkv, heads):
    batch, length, _ = qkv.shape
    return qkv.reshape(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)[2]


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


def test_attention_agrees_with_timms_own_map(tiny_vit, tiny_images):
    maps = []
    set_fused(tiny_vit, False)
    for block in tiny_vit.blocks:  # unfused attention hands its softmax to this dropout
        block.attn.attn_drop.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
    for state in walk(tiny_vit, tiny_images.tensor([0, 1])):
        close(state.attention(), maps[-1])
    assert len(maps) == 4


@both_kinds_of_attention
@pytest.mark.parametrize("ratio", [0.0, 0.75])
def test_attention_and_head_outputs_fit_together(tiny_vit, tiny_images, fused, ratio):
    set_fused(tiny_vit, fused)
    module_outputs = []
    for block in tiny_vit.blocks:
        block.attn.register_forward_hook(lambda _, __, output: module_outputs.append(output))
    visible = visible_patches(tiny_images.ids[:3], PATCHES, ratio, seed=0)
    for state in walk(tiny_vit, tiny_images.tensor(range(3)), visible):
        attention, heads = state.attention(), state.head_outputs()
        length = 1 + (PATCHES if visible is None else visible.shape[1])
        assert attention.shape == (3, 4, length, length)
        assert heads.shape == (3, 4, length, 6)
        close(attention.sum(-1), torch.ones(3, 4, length))
        close(attention @ values_of(state.qkv, 4), heads)
        close(state.block.attn.proj(heads.transpose(1, 2).flatten(2)).detach(), module_outputs[-1])


def test_walk_needs_no_gradients_and_leaves_the_callers_switch_alone(tiny_vit, tiny_images):
    for state in walk(tiny_vit, tiny_images.tensor([0])):
        assert not state.tokens.requires_grad
        assert torch.is_grad_enabled()


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


def test_a_mask_depends_on_id_seed_and_draw_alone():
    together = visible_patches(IDS, PATCHES, 0.75, seed=3, draw=2)
    backwards = visible_patches(IDS[::-1], PATCHES, 0.75, seed=3, draw=2)
    alone = [visible_patches([name], PATCHES, 0.75, seed=3, draw=2)[0] for name in IDS]
    assert torch.equal(together, torch.stack(alone))
    assert torch.equal(together, backwards.flip(0))


def test_other_ids_seeds_and_draws_give_other_masks():
    first = visible_patches(IDS, 196, 0.75, seed=0)
    assert not torch.equal(first, visible_patches(IDS, 196, 0.75, seed=1))
    assert not torch.equal(first, visible_patches(IDS, 196, 0.75, seed=0, draw=1))
    assert not torch.equal(visible_patches(IDS, 196, 0.75, 1, 0), visible_patches(IDS, 196, 0.75, 0, 1))
    assert len({tuple(row) for row in first.tolist()}) == len(IDS)


def test_ratio_zero_masks_nothing():
    assert visible_patches(IDS, PATCHES, 0, seed=0) is None


@pytest.mark.parametrize("ratio", [-0.1, 1, 1.5, 75])
def test_ratio_outside_its_range_is_an_error(ratio):
    with pytest.raises(ValueError, match=f"ratio {ratio}"):
        visible_patches(IDS, PATCHES, ratio, seed=0)


def test_masked_embedding_is_the_full_embedding_with_patches_picked(tiny_vit, tiny_images):
    batch = tiny_images.tensor(range(3))
    visible = visible_patches(tiny_images.ids[:3], PATCHES, 0.75, seed=0)
    with torch.no_grad():
        full, masked = embed(tiny_vit, batch), embed(tiny_vit, batch, visible)
    picked = torch.stack([tokens[[0, *(1 + kept).tolist()]] for tokens, kept in zip(full, visible, strict=True)])
    close(masked, picked)


def test_cls_is_never_masked(tiny_vit, tiny_images):
    with torch.no_grad():
        full = embed(tiny_vit, tiny_images.tensor([0]))
        for draw in range(20):
            masked = embed(tiny_vit, tiny_images.tensor([0]), visible_patches(["x"], PATCHES, 0.9, 0, draw))
            close(masked[:, 0], full[:, 0])


def per_image():
    return {"mean": PerImage(mean_patch), "attention": PerImage(lambda state: state.attention()[:, :, 0].max(-1)[0])}


@pytest.mark.parametrize("ratio", [0.0, 0.75])
def test_one_pass_does_not_depend_on_the_batch_size(tiny_vit, tiny_images, ratio):
    expected = one_pass(tiny_vit, tiny_images, per_image(), ratio=ratio, batch_size=1)
    for size in (7, 64):
        found = one_pass(tiny_vit, tiny_images, per_image(), ratio=ratio, batch_size=size)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5)


def test_one_pass_gathers_images_by_layers_in_order(tiny_vit, tiny_images):
    found = one_pass(tiny_vit, tiny_images, per_image(), batch_size=5)
    assert found["mean"].shape == (12, 4, 24)
    assert found["attention"].shape == (12, 4, 4)
    assert found["mean"].dtype == np.float32
    for row in (0, 4, 5, 11):
        alone = [mean_patch(state)[0].numpy() for state in walk(tiny_vit, tiny_images.tensor([row]))]
        np.testing.assert_allclose(found["mean"][row], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [1, 3, 4])
def test_one_layer_alone_is_that_layer_of_all(tiny_vit, tiny_images, layer):
    statistics = {"all": PerImage(mean_patch), "one": PerImage(mean_patch, only=layer)}
    found = one_pass(tiny_vit, tiny_images, statistics, batch_size=5)
    assert found["one"].shape == (12, 24)
    assert np.array_equal(found["one"], found["all"][:, layer - 1])


def test_one_layer_alone_is_measured_once_a_batch(tiny_vit, tiny_images):
    measured = []

    def measure(state):
        measured.append(state.layer)
        return mean_patch(state)

    one_pass(tiny_vit, tiny_images, {"one": PerImage(measure, only=2)}, batch_size=5)
    assert measured == [2, 2, 2]


def test_one_pass_tells_every_statistic_every_layer_of_every_batch_once(tiny_vit, tiny_images):
    class Diary:
        def __init__(self):
            self.told = []

        def add(self, state, rows):
            self.told.append((state.layer, rows, len(state.tokens)))

        def result(self):
            return self.told

        def fresh(self):
            return Diary()

    found = one_pass(tiny_vit, tiny_images, {"diary": Diary()}, ratio=0.75, batch_size=8)["diary"]
    batches = [(range(0, 8), 8), (range(8, 12), 4)]
    assert found == [(layer, rows, size) for rows, size in batches for layer in (1, 2, 3, 4)]


def test_one_pass_seed_and_draw_choose_the_masks(tiny_vit, tiny_images):
    def run(**mask):
        return one_pass(tiny_vit, tiny_images, {"mean": PerImage(mean_patch)}, ratio=0.75, **mask)["mean"]

    assert np.array_equal(run(seed=1), run(seed=1))
    assert not np.allclose(run(seed=1), run(seed=2))
    assert not np.allclose(run(seed=1), run(seed=1, draw=1))


def test_no_hook_is_left_behind(tiny_vit, tiny_images):
    one_pass(tiny_vit, tiny_images, per_image())
    assert hooks_on(tiny_vit) == 0


def test_no_hook_is_left_behind_when_a_statistic_raises(tiny_vit, tiny_images):
    def fail(state):
        raise RuntimeError("statistic failed")

    with pytest.raises(RuntimeError, match="statistic failed"):
        one_pass(tiny_vit, tiny_images, {"failing": PerImage(fail)})
    assert hooks_on(tiny_vit) == 0


def test_no_hook_is_left_behind_when_a_block_raises(tiny_vit, tiny_images, monkeypatch):
    def fail(_):
        raise RuntimeError("block failed")

    monkeypatch.setattr(tiny_vit.blocks[1].mlp, "forward", fail)
    with pytest.raises(RuntimeError, match="block failed"):
        list(walk(tiny_vit, tiny_images.tensor([0])))
    assert hooks_on(tiny_vit) == 0


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_classes_are_those_of_the_models_own_forward_pass(tiny_images, pool):
    model = make_vit(1, global_pool=pool)
    batch = tiny_images.tensor(range(12))
    with torch.no_grad():
        model.head.bias -= model(batch).mean(0)  # or one class would win every image
        expected = model(batch).argmax(1)
    *_, last = walk(model, batch)
    assert torch.equal(classify(model, last), expected)
    found = one_pass(model, tiny_images, {"class": PerImage(lambda state: classify(model, state), only=4)})["class"]
    assert found.tolist() == expected.tolist()
    assert len(set(found.tolist())) > 1, "the images are not all taken for the same"


def test_a_model_without_a_classifier_gives_no_class(tiny_images):
    model = make_vit(0, num_classes=0)
    *_, last = walk(model, tiny_images.tensor([0]))
    with pytest.raises(ValueError, match="this model has no classifier: use mae_finetuned or vit_supervised"):
        classify(model, last)


def test_attention_is_formed_once_a_layer_for_all_who_ask(tiny_vit, tiny_images):
    for state in walk(tiny_vit, tiny_images.tensor([0, 1])):
        assert state.attention() is state.attention()
        assert state.mean_attention() is state.mean_attention()
        assert torch.equal(state.mean_attention(), state.attention().mean(1))


def test_what_is_gathered_does_not_keep_the_layers_in_memory(tiny_vit, tiny_images):
    gathered = PerImage(cls_token)
    for state in walk(tiny_vit, tiny_images.tensor([0])):  # of one image, the CLS token is a view of all tokens
        gathered.add(state, range(1))
        assert not any(np.shares_memory(block, state.tokens.numpy()) for block in gathered.layers[state.layer].blocks)


@pytest.mark.parametrize("sizes", [[1], [256], [257], [100, 156], [255, 2, 600, 1]])
def test_rows_are_gathered_in_order_whatever_the_batches(sizes):
    rows, gathered, start = np.random.default_rng(0).normal(size=(sum(sizes), 3, 2)).astype(np.float32), Gathered(), 0
    for size in sizes:
        gathered.add(rows[start : start + size])
        start += size
    assert np.array_equal(gathered.whole(), rows)
    assert gathered.whole().dtype == np.float32


def test_a_layer_is_let_go_before_the_next_is_computed(tiny_vit, tiny_images):
    alive, maps = [], []

    class Watch(PerImage):
        def add(self, state, rows):
            alive.append(sum(each() is not None for each in maps))
            maps.append(weakref.ref(state.attention()))

        def result(self):
            return np.array(alive)

        def fresh(self):
            return self

    assert one_pass(tiny_vit, tiny_images, {"watch": Watch(cls_token)}, batch_size=6)["watch"].tolist() == [0] * 8
