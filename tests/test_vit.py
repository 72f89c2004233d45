"""Which models are understood: those whose heads are the A V of their own Q, K and V; others are refused by name."""

import pytest
import timm
import torch
from conftest import TINY, make_vit
from safetensors.torch import save_file
from timm.models.vision_transformer import ParallelScalingBlock, ParallelThingsBlock

from mae_helpers.encoder.vit import CheckpointError, architecture, check_heads
from mae_helpers.encoder.weights import load_model
from mae_helpers.profile.settings import Model, load_profile

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "num_heads": 4, "depth": 2, "num_classes": 0}


class Gated(timm.layers.Attention):
    def __init__(self, dim, **arguments):
        super().__init__(dim, gated=True, **arguments)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"qk_norm": True},
        {"init_values": 1e-5},
        {"qkv_bias": False, "proj_bias": False},
        {"pre_norm": True, "attn_drop_rate": 0.5, "drop_path_rate": 0.5},
        {"img_size": 64, "num_heads": 1},
    ],
    ids=str,
)
def test_blocks_of_plain_softmax_attention_pass(arguments, fused):
    vit = make_vit(0, **arguments)
    for block in vit.blocks:
        block.attn.fused_attn = fused
    before = torch.get_rng_state()
    check_heads(vit, "tiny")
    assert torch.equal(torch.get_rng_state(), before), "chance elsewhere is left alone"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in vit.modules())


@pytest.mark.parametrize(
    ("arguments", "model", "told"),
    [
        ({"attn_layer": "diff"}, None, "a Block with DiffAttention: "),
        ({"attn_layer": Gated}, None, "a Block with Gated: "),
        ({"block_fn": ParallelThingsBlock}, None, "a ParallelThingsBlock with NoneType: it cannot be read (Attr"),
        ({"block_fn": ParallelScalingBlock}, None, "a ParallelScalingBlock with NoneType: it cannot be read (Attr"),
        ({}, "vit_small_patch16_18x2_224", "a ParallelThingsBlock with NoneType: it cannot be read"),
    ],
    ids=["differential", "gated", "parallel", "parallel and scaled", "timm's own parallel"],
)
def test_heads_that_are_not_a_v_are_refused_by_name(arguments, model, told):
    vit = architecture(Model(checkpoint="mine", model=model, arguments=SMALL | arguments)).eval()
    with pytest.raises(CheckpointError) as caught:
        check_heads(vit, "own.yaml: models.mine")
    message = str(caught.value)
    assert message.startswith(f"own.yaml: models.mine: block 1, {told}")
    assert "not A V of its own Q, K and V" in message or "cannot be read" in message
    assert message.endswith(("use a model with plain softmax attention", "use one of timm's usual blocks"))
    assert "\n" not in message


def test_the_one_block_that_differs_is_named():
    vit = make_vit(0)
    vit.blocks[2].attn = make_vit(0, attn_layer="diff").blocks[2].attn
    with pytest.raises(CheckpointError, match=r"tiny: block 3, a Block with DiffAttention: "):
        check_heads(vit, "tiny")


def test_heads_that_are_not_finite_are_told():
    vit = make_vit(0)
    vit.blocks[1].attn.qkv.bias.data[:] = 3e38
    with pytest.raises(CheckpointError, match="block 2, a Block with Attention: its head outputs are not finite"):
        check_heads(vit, "tiny")


def test_a_profiles_model_is_checked_when_it_is_loaded(tiny_profile, tmp_path):
    arguments = TINY | {"num_classes": 0, "attn_layer": "diff"}
    save_file(make_vit(0, **arguments).state_dict(), tmp_path / "diff.safetensors")
    path = tiny_profile(models={"mae_pretrained": {"checkpoint": "diff.safetensors", "arguments": arguments}})
    with pytest.raises(CheckpointError) as caught:
        load_model(load_profile(path), "mae_pretrained")
    assert str(caught.value).startswith(f"{path}: models.mae_pretrained, VisionTransformer: block 1, a Block with Diff")


@pytest.mark.parametrize(
    ("model", "arguments", "told"),
    [
        (None, TINY | {"depht": 3}, "VisionTransformer with .*depht.*; correct `model` or `arguments`"),
        (None, TINY | {"num_heads": 5}, "VisionTransformer with .*num_heads.*; correct `model` or `arguments`"),
        (
            "resnet10t",
            {},
            "resnet10t: it is a ResNet; of timm's classes, VisionTransformer, VisionTransformerDistilled, Eva, Beit",
        ),
        ("vit_huge_patch99", {}, "vit_huge_patch99 with"),
    ],
)
def test_what_is_no_model_of_this_kind_is_named(model, arguments, told):
    with pytest.raises(CheckpointError, match=told):
        architecture(Model(checkpoint="mine", model=model, arguments=arguments))
