"""Checkpoints as people have them: each layout loads to the outputs of the model that it was saved from."""

import json

import numpy as np
import pytest
import timm
import torch
import transformers
from conftest import TINY, make_vit
from safetensors.torch import save_file

from mae_helpers.encoder.vit import CheckpointError
from mae_helpers.encoder.weights import input_of, load_model
from mae_helpers.profile.settings import load_profile
from mae_helpers.run.tables import data_fingerprint
from mae_helpers.sweep.subjects import Subject

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
    "id2label": {number: str(number) for number in range(5)},
}
DECODER = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
DECODER |= {"decoder_intermediate_size": 32, "mask_ratio": 0.0}


def all_patches(model):
    return model(IMAGES, noise=torch.arange(16.0).repeat(3, 1)).last_hidden_state  # sorted, so that none is shuffled


HUGGING_FACE = {  # what saves it, its configuration, its output, and what of it the book leaves aside
    "ViTModel": ({}, lambda model: model(IMAGES).last_hidden_state, "pooler (2)"),
    "ViTForImageClassification": ({}, lambda model: model(IMAGES).logits, None),
    "ViTMAEModel": (DECODER, all_patches, None),
    "ViTMAEForPreTraining": (DECODER, lambda model: all_patches(model.vit), "decoder (24)"),
    "Dinov2Model": ({}, lambda model: model(IMAGES).last_hidden_state, None),
    "Dinov2WithRegistersModel": ({}, lambda model: model(IMAGES).last_hidden_state, None),
}


@pytest.fixture
def loaded(tiny_profile):
    """A function that loads the only model of a profile, from a checkpoint."""

    def load(checkpoint, **arguments):
        model = {"checkpoint": str(checkpoint)} | ({"arguments": TINY | arguments} if arguments else {})
        return load_model(load_profile(tiny_profile(models={"mine": model})), "mine")

    return load


def shaken(model):
    """A model with weights large enough for every one of them to matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("name", HUGGING_FACE)
@torch.no_grad()
def test_a_folder_of_hugging_faces_gives_the_outputs_of_its_own_class(loaded, tmp_path, name, file):
    settings, output, aside = HUGGING_FACE[name]
    kind = getattr(transformers, name)
    model = shaken(kind(kind.config_class(**SIZES | settings)))
    model.save_pretrained(tmp_path / "saved")
    if file.endswith(".bin"):
        (tmp_path / "saved" / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "saved" / file)
    vit, expected = loaded(tmp_path / "saved"), output(model)
    found = vit(IMAGES) if vit.num_classes else vit.forward_features(IMAGES)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert "Hugging Face's names" in vit.loaded
    assert [told for told in vit.loaded if told.startswith("not used: ")] == ([f"not used: {aside}"] if aside else [])


def test_another_configuration_of_the_same_weights_is_another_model_to_a_sweep(tiny_profile, tmp_path):
    transformers.ViTModel(transformers.ViTConfig(**SIZES)).save_pretrained(tmp_path / "saved")
    profile = load_profile(tiny_profile(models={"mine": {"checkpoint": str(tmp_path / "saved")}}))
    config, digests = tmp_path / "saved" / "config.json", []
    for changed in ({}, {"layer_norm_eps": 1e-3}, {}):
        digests.append((Subject(profile, "mine", profile.images, (0, 1)).digest, data_fingerprint(profile)))
        config.write_text(json.dumps(json.loads(config.read_text()) | changed))
    assert digests[0][0] == digests[1][0]
    assert all(first != second for first, second in zip(*digests[1:], strict=True)), "and to the tables of a run"


def test_a_folder_has_the_size_and_normalisation_of_its_own(tiny_profile, tmp_path):
    transformers.ViTModel(transformers.ViTConfig(**SIZES)).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.2] * 3}))
    own = {"checkpoint": str(tmp_path)}
    profile = load_profile(tiny_profile(input={"size": 99}, models={"mine": own, "other": own | {"mean": [0.1] * 3}}))
    for name, mean in (("mine", 0.5), ("other", 0.1)):
        found = input_of(profile, name)
        assert (found.size, found.mean, found.std) == (SIZES["image_size"], [mean] * 3, [0.2] * 3)


def test_a_folder_of_timms_own_has_its_normalisation_too(tiny_profile, tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5)
    model.pretrained_cfg = dict(model.pretrained_cfg) | {"mean": [0.5] * 3, "std": [0.25] * 3}
    timm.models.save_for_hf(model, str(tmp_path / "saved"), model_args={"img_size": 32, "depth": 2})
    profile = load_profile(tiny_profile(models={"mine": {"checkpoint": str(tmp_path / "saved")}}))
    found = input_of(profile, "mine")
    assert (found.size, found.mean, found.std) == (32, [0.5] * 3, [0.25] * 3)
    with torch.no_grad():
        torch.testing.assert_close(load_model(profile, "mine")(IMAGES), model.eval()(IMAGES))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "swin"}, "describes a 'swin'; vit, vit_mae, dinov2 and dinov2_with_registers are understood"),
        ({"model_type": "dinov2", "use_swiglu_ffn": True}, "only GELU in a plain MLP is understood"),
        ({"model_type": "vit"}, "KeyError: 'hidden_size'"),
        (None, "a folder without config.json; name the file of the weights"),
    ],
)
def test_a_folder_that_describes_no_vit_of_this_kind_is_refused(loaded, tmp_path, config, told):
    (tmp_path / "saved").mkdir()
    if config is not None:
        (tmp_path / "saved" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=told) as caught:
        loaded(tmp_path / "saved")
    assert str(caught.value).startswith(str(tmp_path / "saved"))


def test_weights_cut_in_several_files_are_refused_not_half_read(loaded, tmp_path):
    model = transformers.ViTModel(transformers.ViTConfig(**SIZES))
    model.save_pretrained(tmp_path / "saved", max_shard_size="20KB")
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) > 1
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json: lists weights in several files; save"):
        loaded(tmp_path / "saved")


# What training code saves


def under(prefix, weights):
    return {prefix + key: value for key, value in weights.items()}


NOISE = {"weight": torch.zeros(2), "bias": torch.zeros(2)}
ENCODER = {  # of an encoder's own tensors
    "timm's average": lambda own: {"state_dict": under("x.", NOISE), "state_dict_ema": own, "epoch": 3},
    "DINO": lambda own: {
        "student": under("module.backbone.", own) | {"module.head.last_layer.weight_g": torch.ones(3)},
        "teacher": under("backbone.", own) | under("head.mlp.0.", NOISE),
        "args": {"lr": 0.1},
    },
    "an average beside the last step": lambda own: {
        "model": {key: value + 1 for key, value in own.items()},
        "ema": own,
    },
    "an average's shadow": lambda own: {"net": own | NOISE, "ema": {"decay": 0.999, "shadow": own}},
    "the best accuracy as NumPy's": lambda own: {"model": own, "best": np.float64(81.2), "epoch": np.int64(3)},
    "iBOT's mask": lambda own: {"state_dict": own | {"masked_embed": torch.zeros(1, 24)}},
    "MoCo-v3": lambda own: {
        "state_dict": under("module.base_encoder.", own) | under("module.momentum_encoder.", own | NOISE)
    },
    "Lightning": lambda own: {"state_dict": under("model.encoder.", own) | under("loss.", NOISE), "callbacks": {}},
    "DistributedDataParallel": lambda own: under("module.", own),
    "MAE with optimizer and scaler": lambda own: {
        "model": own | {"mask_token": torch.zeros(1, 1, 16), "decoder_embed.weight": torch.zeros(16, 24)},
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}},
        "scaler": {"scale": 1.0},
        "epoch": 2,
    },
    "a linear probe's head": lambda own: {
        "model": own | {"head.0.running_mean": torch.zeros(24), "head.1.weight": torch.zeros(5, 24)}
    },
    "a head of a thousand classes": lambda own: {"model": own | {"head.weight": torch.zeros(1000, 24)}},
}


@pytest.mark.parametrize("layout", ENCODER)
@torch.no_grad()
def test_an_encoder_is_found_in_whatever_training_code_saves(loaded, tmp_path, layout):
    encoder = make_vit(0, num_classes=0)
    torch.save(ENCODER[layout](encoder.state_dict()), tmp_path / "saved.pth")
    found = loaded(tmp_path / "saved.pth", num_classes=0)
    assert torch.equal(found.forward_features(IMAGES), encoder.forward_features(IMAGES))
    assert all(
        token in "; ".join(found.loaded) for token in {"DINO": ["head (2)"], "Lightning": ["loss (2)"]}.get(layout, [])
    )


@torch.no_grad()
def test_dinov2s_own_names_for_registers_are_translated(loaded, tmp_path):
    vit = make_vit(0, num_classes=0, reg_tokens=2, no_embed_class=True, init_values=0.1)
    weights = vit.state_dict()
    cls, position = weights.pop("cls_token"), torch.full((1, 1, 24), 0.25)
    weights["register_tokens"] = weights.pop("reg_token")
    weights |= {"cls_token": cls - position, "pos_embed": torch.cat([position, weights["pos_embed"]], 1)}
    torch.save(weights | {"mask_token": torch.zeros(1, 24)}, tmp_path / "saved.pth")
    found = loaded(tmp_path / "saved.pth", num_classes=0, reg_tokens=2, no_embed_class=True, init_values=0.1)
    torch.testing.assert_close(found.forward_features(IMAGES), vit.forward_features(IMAGES), rtol=1e-5, atol=1e-5)


# JAX's files


def as_jax(vit, prefix=""):
    """A ViT's tensors as Google's JAX code names and shapes them: (in, out) kernels, heads apart, patches (H, W, in, out)."""
    own, width = {key: value.numpy() for key, value in vit.state_dict().items()}, vit.embed_dim
    heads = vit.blocks[0].attn.num_heads

    def pair(ours, theirs, kind="kernel"):
        return {f"{theirs}/{kind}": own[f"{ours}.weight"].T, f"{theirs}/bias": own[f"{ours}.bias"]}

    patches = own["patch_embed.proj.weight"].transpose(2, 3, 1, 0)
    found = {"embedding/kernel": patches, "embedding/bias": own["patch_embed.proj.bias"], "cls": own["cls_token"]}
    found |= {"Transformer/posembed_input/pos_embedding": own["pos_embed"]}
    found |= pair("norm", "Transformer/encoder_norm", "scale")
    found |= pair("head", "head") if vit.num_classes else {}
    for number in range(len(vit.blocks)):
        block, there = f"blocks.{number}", f"Transformer/encoderblock_{number}"
        attention = f"{there}/MultiHeadDotProductAttention_1"
        found |= pair(f"{block}.norm1", f"{there}/LayerNorm_0", "scale")
        found |= pair(f"{block}.norm2", f"{there}/LayerNorm_2", "scale")
        found |= pair(f"{block}.mlp.fc1", f"{there}/MlpBlock_3/Dense_0")
        found |= pair(f"{block}.mlp.fc2", f"{there}/MlpBlock_3/Dense_1")
        for name, weight, bias in zip(
            ("query", "key", "value"),
            np.split(own[f"{block}.attn.qkv.weight"], 3),
            np.split(own[f"{block}.attn.qkv.bias"], 3),
            strict=True,
        ):
            found[f"{attention}/{name}/kernel"] = weight.T.reshape(width, heads, -1)
            found[f"{attention}/{name}/bias"] = bias.reshape(heads, -1)
        found[f"{attention}/out/kernel"] = own[f"{block}.attn.proj.weight"].T.reshape(heads, -1, width)
        found[f"{attention}/out/bias"] = own[f"{block}.attn.proj.bias"]
    return {prefix + key: value for key, value in found.items()}


@pytest.mark.parametrize("prefix", ["", "opt/target/"])
@pytest.mark.parametrize("classes", [0, 5])
@torch.no_grad()
def test_a_file_of_jax_gives_the_outputs_of_the_model_that_it_was_saved_from(loaded, tmp_path, prefix, classes):
    vit = make_vit(0)
    np.savez(tmp_path / "a.npz", **as_jax(vit, prefix), **({"opt/state/step": np.int32(7)} if prefix else {}))
    found = loaded(tmp_path / "a.npz", num_classes=classes)
    assert torch.equal(found.forward_features(IMAGES), vit.forward_features(IMAGES))
    assert classes == 0 or torch.equal(found(IMAGES), vit(IMAGES))
    told = "; ".join(found.loaded)
    assert "JAX's names" in told
    assert [part in told for part in ("head (2)", "opt (1)")] == [classes == 0, bool(prefix)]


def without(name):
    return lambda own: {key: value for key, value in own.items() if not key.startswith(name)}


@pytest.mark.parametrize(
    ("changed", "arguments", "told"),
    [
        (dict, {"num_classes": 7}, 'Missing key.*"head.weight", "head.bias"'),  # timm passes such a head over
        (dict, {"init_values": 0.1}, 'Missing key.*"blocks.0.ls1.gamma"'),
        (dict, {"depth": 3}, r"of its \d+ numbers the model takes \d+: .*Transformer \(\d+\)"),
        (dict, {"depth": 5}, "encoderblock_4"),
        (dict, {"patch_size": 16}, r"of its \d+ numbers the model takes \d+"),  # timm would resample them
        (dict, {"embed_dim": 32}, "timm cannot read it into this model"),
        (without("cls"), {}, "cls"),
        (without("head"), {}, 'Missing key.*"head.weight", "head.bias"'),
        (without("embedding"), {}, "timm cannot read it into this model .* did not find a supported JAX/Flax"),
        (lambda own: own | {"pre_logits/kernel": np.ones((24, 24))}, {}, r"of its .* pre_logits \(1\)"),
        (lambda own: own | {"cls": np.full((1, 1, 1), 2.0, np.float32)}, {}, "numbers the model"),
        (
            lambda own: own | {"cls": np.full((1, 1, 24), np.inf)},
            {},
            "cls_token has 24 numbers that are NaN or infinite",
        ),
        (
            lambda own: own | {"cls": np.array([[[print]]])},
            {},
            "Object arrays cannot be loaded when allow_pickle=False",
        ),
    ],
)
def test_a_file_of_jax_that_does_not_fit_is_refused(loaded, tmp_path, changed, arguments, told):
    """Neither the file nor the model has anything over, whatever timm passes over."""
    np.savez(tmp_path / "a.npz", **changed(as_jax(make_vit(0))))
    with pytest.raises(CheckpointError, match=told) as caught:
        loaded(tmp_path / "a.npz", **{"num_classes": 5} | arguments)
    assert str(caught.value).startswith(f"{tmp_path / 'a.npz'}: ")
    assert "\n" not in str(caught.value)


def test_positions_of_another_grid_are_resampled_from_a_file_of_jax_too(loaded, tmp_path):
    np.savez(tmp_path / "a.npz", **as_jax(make_vit(0, img_size=64)))
    assert loaded(tmp_path / "a.npz", num_classes=5).pos_embed.shape == (1, 17, 24)


# What is refused


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (lambda own: own | {"blocks.0.attn.strange": torch.zeros(2)}, 'Unexpected key.*"blocks.0.attn.strange"'),
        (lambda own: {key: own[key] for key in own if key != "norm.bias"}, 'Missing key.*"norm.bias"'),
        (lambda own: under("a.", own) | under("b.", own), "it holds 2 encoders, a., b.; save one of them alone"),
        (lambda own: {"layer1.0.conv1.weight": torch.zeros(2)}, r"no patch embedding .* 1 tensors: layer1 \(1\)"),
    ],
)
def test_what_is_missing_surplus_or_twice_there_is_named(loaded, tmp_path, changed, told):
    save_file(
        {k: v.clone() for k, v in changed(make_vit(0, num_classes=0).state_dict()).items()}, tmp_path / "a.safetensors"
    )
    with pytest.raises(CheckpointError, match=told) as caught:
        loaded(tmp_path / "a.safetensors", num_classes=0)
    assert str(caught.value).startswith(f"{tmp_path / 'a.safetensors'}: ")
    assert "\n" not in str(caught.value)
