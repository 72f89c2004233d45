"""Every family of Vision Transformers that is understood, against timm's own forward pass."""

from functools import partial

import pytest
import torch
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from mae_helpers.encoder.vit import check_heads
from mae_helpers.encoder.walk import classify, cls_token, mean_patch, patch_tokens, walk

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "num_classes": 5}
PATCHES = 16
vit, eva, beit = (partial(kind, **SMALL) for kind in (VisionTransformer, Eva, Beit))
FAMILIES = {  # as timm builds them, and how many tokens stand before the patches
    "plain": (vit, 1),
    "mean-pooled": (partial(vit, global_pool="avg"), 1),
    "registers": (partial(vit, reg_tokens=4), 5),
    "DINOv2": (partial(vit, reg_tokens=4, no_embed_class=True, init_values=0.1), 5),
    "CLIP": (partial(vit, pre_norm=True), 1),
    "SigLIP": (partial(vit, class_token=False, global_pool="map"), 0),
    "DeiT-III": (partial(vit, no_embed_class=True, init_values=0.1), 1),
    "norms of Q, K and O": (partial(vit, qk_norm=True, scale_attn_norm=True), 1),
    "DeiT, distilled": (partial(VisionTransformerDistilled, **SMALL), 2),
    "EVA-02": (
        partial(eva, use_rot_pos_emb=True, qkv_fused=False, swiglu_mlp=True, scale_mlp=True, scale_attn_inner=True),
        1,
    ),
    "rotary": (partial(eva, use_rot_pos_emb=True, ref_feat_shape=(4, 4), global_pool="token"), 1),
    "rotary, a layer each": (partial(eva, use_rot_pos_emb=True, rope_type="mixed"), 1),
    "DINOv3": (
        partial(
            eva,
            use_rot_pos_emb=True,
            rope_type="dinov3",
            use_abs_pos_emb=False,
            num_reg_tokens=4,
            init_values=0.1,
            qkv_bias=False,
            rope_rotate_half=True,
            no_embed_class=True,
        ),
        5,
    ),
    "BEiT": (partial(beit, use_abs_pos_emb=False, use_rel_pos_bias=True, init_values=0.1), 1),
    "BEiT, one bias": (partial(beit, use_shared_rel_pos_bias=True), 1),
}


@pytest.fixture(params=FAMILIES)
def family(request):
    """A model with weights large enough for attention to be far from uniform, and its number of prefix tokens."""
    build, prefix = FAMILIES[request.param]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build()
        for parameter in model.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval(), prefix


def pictures(count):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("batch", [1, 5])
@torch.no_grad()
def test_tokens_and_logits_are_those_of_timms_own_pass(family, batch):
    model, prefix = family
    states = list(walk(model, pictures(batch)))
    layers = model.forward_intermediates(pictures(batch), norm=False, output_fmt="NLC", intermediates_only=True)
    for state, tokens in zip(states, layers, strict=True):
        torch.testing.assert_close(patch_tokens(state), tokens, rtol=1e-5, atol=1e-5)
    assert states[-1].tokens.shape[1] == prefix + PATCHES
    torch.testing.assert_close(mean_patch(states[-1]), states[-1].tokens[:, prefix:].mean(1))
    logits = model(pictures(batch))
    torch.testing.assert_close(model.forward_head(model.norm(states[-1].tokens)), logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(classify(model, states[-1]), logits.argmax(1))


@pytest.mark.parametrize("visible", [None, 5])
def test_rows_of_attention_sum_to_one_and_its_product_with_v_is_the_head_output(family, visible):
    model, prefix = family
    chosen = visible and torch.stack([torch.randperm(PATCHES)[:visible] for _ in range(3)])
    for state in walk(model, pictures(3), chosen):
        attention = state.attention()
        assert attention.shape == (3, 4, *[prefix + (visible or PATCHES)] * 2)
        torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:3]))
        values = state.by_head(state.computed_again(torch.eye(attention.shape[-1]))[1])
        torch.testing.assert_close(attention @ values, state.head_outputs(), rtol=1e-5, atol=1e-5)
    check_heads(model, "tiny")


def test_masking_keeps_all_prefix_tokens_and_the_places_of_the_patches(family):
    model, prefix = family
    order = torch.stack([torch.randperm(PATCHES, generator=torch.Generator().manual_seed(n)) for n in range(2)])
    whole, shuffled = (list(walk(model, pictures(2), chosen))[-1] for chosen in (None, order))
    torch.testing.assert_close(shuffled.tokens[:, :prefix], whole.tokens[:, :prefix], rtol=1e-5, atol=1e-5)
    expected = patch_tokens(whole).take_along_dim(order[..., None], 1)
    torch.testing.assert_close(patch_tokens(shuffled), expected, rtol=1e-5, atol=1e-5)


def test_a_masked_patch_changes_nothing(family):
    model, _ = family
    visible = torch.arange(8).expand(2, -1)  # the upper half
    changed = pictures(2)
    changed[:, :, 16:] += 1
    before, after = (list(walk(model, images, visible))[-1].tokens for images in (pictures(2), changed))
    assert torch.equal(before, after)


def test_a_model_without_cls_has_no_cls_token():
    model = FAMILIES["SigLIP"][0]().eval()
    with pytest.raises(ValueError, match="no CLS token"):
        cls_token(next(walk(model, pictures(1))))
