"""Checkpoints in MAE's official layouts, loaded strictly and compared with a forward pass written from the equations.

The forward pass is NumPy in float64, and the names and shapes of the tensors are spelled out here, so that neither timm
nor PyTorch's modules have a part in what is expected. Equations 1 to 8 are those of Dosovitskiy et al. (2021).
"""

import os
import pickle
import re
import shlex
from argparse import Namespace
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from scipy.special import erf

from mae_helpers.encoder.walk import classify, visible_patches, walk
from mae_helpers.encoder.weights import CheckpointError, load_model
from mae_helpers.profile.settings import load_profile

TOLERANCE = 1e-5  # of the largest magnitude
CLASSES = 7


@dataclass(frozen=True)
class Geometry:
    """Sides of the image and of a patch in pixels, and the encoder's width, depth and heads."""

    image: int = 32
    patch: int = 8
    width: int = 48
    depth: int = 12
    heads: int = 4

    @property
    def patches(self):
        return (self.image // self.patch) ** 2

    @property
    def arguments(self):
        names = {"img_size": self.image, "patch_size": self.patch, "embed_dim": self.width}
        return names | {"depth": self.depth, "num_heads": self.heads}


SMALL = Geometry()
BASE = Geometry(image=224, patch=16, width=768, depth=12, heads=12)


# What the official files hold: names and shapes


def linear(name, outputs, inputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def block(name, width):
    return (
        norm(f"{name}.norm1", width)
        | linear(f"{name}.attn.qkv", 3 * width, width)
        | linear(f"{name}.attn.proj", width, width)
        | norm(f"{name}.norm2", width)
        | linear(f"{name}.mlp.fc1", 4 * width, width)
        | linear(f"{name}.mlp.fc2", width, 4 * width)
    )


def encoder(geometry):
    width, patch = geometry.width, geometry.patch
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, geometry.patches + 1, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    for number in range(geometry.depth):
        shapes |= block(f"blocks.{number}", width)
    return shapes


def pretraining(geometry):
    return encoder(geometry) | norm("norm", geometry.width)


def pretraining_with_decoder(geometry, width=16, depth=2):
    shapes = {"mask_token": (1, 1, width), "decoder_pos_embed": (1, geometry.patches + 1, width)}
    shapes |= linear("decoder_embed", width, geometry.width)
    for number in range(depth):
        shapes |= block(f"decoder_blocks.{number}", width)
    shapes |= norm("decoder_norm", width) | linear("decoder_pred", 3 * geometry.patch**2, width)
    return pretraining(geometry) | shapes


def fine_tuned(geometry, classes=CLASSES):
    return encoder(geometry) | norm("fc_norm", geometry.width) | linear("head", classes, geometry.width)


LAYOUTS = {"pretraining": pretraining, "with decoder": pretraining_with_decoder, "fine-tuned": fine_tuned}


def drawn(shapes, seed=0):
    """Random weights that let mistakes show: attention far from uniform, tokens so small that LayerNorm's eps counts."""
    generator, weights = np.random.default_rng(seed), {}
    for name, shape in shapes.items():
        noise = generator.standard_normal(shape, dtype=np.float32)
        matrix = name.endswith("weight") and len(shape) > 1
        if matrix:
            writes_tokens = name.endswith(("proj.weight", "fc2.weight"))
            weights[name] = noise * ((0.05 if writes_tokens else 1.5) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        elif name.endswith("weight"):
            weights[name] = 1 + np.float32(0.2) * noise
        else:
            weights[name] = np.float32(0.05) * noise
    return weights


def tensors(weights, dtype=torch.float32):
    return {name: torch.from_numpy(value).to(dtype) for name, value in weights.items()}


def save(weights, path, zipped=True, dtype=torch.float32):
    """The official training scripts' file: a module's state dict with its metadata, the arguments, and the epoch."""
    state = OrderedDict(tensors(weights, dtype))
    state._metadata = OrderedDict({"": {"version": 1}, "blocks": {"version": 1}})
    arguments = Namespace(batch_size=64, blr=1.5e-4, model="mae_vit_base_patch16", norm_pix_loss=True, resume="")
    file = {"model": state, "args": arguments, "epoch": 799}
    torch.save(file, path, _use_new_zipfile_serialization=zipped)
    return path


# The forward pass, from the equations


def layer_norm(x, weight, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * weight + bias


def gelu(x):
    return x / 2 * (1 + erf(x / np.sqrt(2)))


def softmax(x):
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def first_tokens(weights, geometry, images, visible=None):
    """Eq. 1: z_0 = [x_class; x_1 E; ...; x_N E] + E_pos, of which the visible patches and CLS stay."""
    side, patch = geometry.image // geometry.patch, geometry.patch
    kernel = weights["patch_embed.proj.weight"].reshape(geometry.width, -1)
    corners = [(row * patch, column * patch) for row in range(side) for column in range(side)]
    flat = [images[:, :, top : top + patch, left : left + patch].reshape(len(images), -1) for top, left in corners]
    patches = np.stack(flat, axis=1) @ kernel.T + weights["patch_embed.proj.bias"] + weights["pos_embed"][:, 1:]
    if visible is not None:
        patches = np.stack([image[kept] for image, kept in zip(patches, visible, strict=True)])
    cls = weights["cls_token"] + weights["pos_embed"][:, :1]
    return np.concatenate([np.repeat(cls, len(images), axis=0), patches], axis=1)


def attend(qkv, heads):
    """Eq. 5 to 7 head by head: the attention maps (B, heads, N, N) and the outputs (B, heads, N, d_h)."""
    width = qkv.shape[-1] // 3
    size, maps, outputs = width // heads, [], []
    for start in range(0, width, size):
        q, k, v = (qkv[..., part + start : part + start + size] for part in (0, width, 2 * width))
        maps.append(softmax(q @ k.transpose(0, 2, 1) / np.sqrt(size)))
        outputs.append(maps[-1] @ v)
    return np.stack(maps, axis=1), np.stack(outputs, axis=1)


def forward(weights, geometry, images, visible=None):
    """Eq. 2 and 3 in every block: its tokens, attention maps and head outputs."""
    z, layers = first_tokens(weights, geometry, images, visible), []
    for number in range(geometry.depth):
        start = f"blocks.{number}."
        w = {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
        w = {name: value.astype(np.float64) for name, value in w.items()}
        x = layer_norm(z, w["norm1.weight"], w["norm1.bias"])
        maps, outputs = attend(x @ w["attn.qkv.weight"].T + w["attn.qkv.bias"], geometry.heads)
        z = z + np.concatenate(list(outputs.transpose(1, 0, 2, 3)), axis=-1) @ w["attn.proj.weight"].T
        z = z + w["attn.proj.bias"]
        x = layer_norm(z, w["norm2.weight"], w["norm2.bias"])
        z = z + gelu(x @ w["mlp.fc1.weight"].T + w["mlp.fc1.bias"]) @ w["mlp.fc2.weight"].T + w["mlp.fc2.bias"]
        layers.append(SimpleNamespace(tokens=z, attention=maps, head_outputs=outputs))
    return layers


def logits_of(weights, tokens):
    """Fine-tuned MAE: the mean patch token, then LayerNorm, then the linear head."""
    y = layer_norm(tokens[:, 1:].mean(axis=1), weights["fc_norm.weight"], weights["fc_norm.bias"])
    return y @ weights["head.weight"].T + weights["head.bias"]


# The comparison


def agree(found, expected):
    assert found.shape == expected.shape
    assert np.abs(found.numpy() - expected).max() <= TOLERANCE * np.abs(expected).max()


def pictures(geometry, count):
    return np.random.default_rng(9).standard_normal((count, 3, geometry.image, geometry.image))


def masks(geometry, count, ratio):
    return visible_patches([f"image-{number}" for number in range(count)], geometry.patches, ratio, seed=3)


def walked(model, images, visible):
    return list(walk(model, torch.from_numpy(images).float(), visible))


def agree_in_every_layer(states, expected):
    for state, layer in zip(states, expected, strict=True):
        agree(state.tokens, layer.tokens)
        agree(state.attention(), layer.attention)
        agree(state.head_outputs(), layer.head_outputs)


@pytest.fixture
def profile(tmp_path):
    """A profile written as a user writes one, with `official.pth` as the file of both of its models."""
    heads = {"mae_pretrained": {"num_classes": 0}, "mae_finetuned": {"num_classes": CLASSES, "global_pool": "avg"}}
    models = {name: {"checkpoint": "official.pth", "arguments": SMALL.arguments | head} for name, head in heads.items()}
    images = {"source": "folders", "folder": "images"}
    values = {"name": "official", "images": images, "input": {"size": SMALL.image}, "models": models}
    path = tmp_path / "official.yaml"
    path.write_text(yaml.safe_dump(values))
    return load_profile(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "official.pth"


def model_for(layout):
    return "mae_finetuned" if layout == "fine-tuned" else "mae_pretrained"


@pytest.mark.parametrize("ratio", [0, 0.75])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_twelve_layers_compute_what_the_equations_say(profile, path, layout, ratio):
    weights, images, visible = drawn(LAYOUTS[layout](SMALL)), pictures(SMALL, 3), masks(SMALL, 3, ratio)
    save(weights, path, zipped=ratio == 0)  # and as files of older PyTorch versions
    states = walked(load_model(profile, model_for(layout)), images, visible)
    expected = forward(weights, SMALL, images, None if visible is None else visible.numpy())
    assert len(states) == 12
    assert states[-1].tokens.shape[1] == 1 + (4 if ratio else 16)
    agree_in_every_layer(states, expected)
    assert Namespace not in torch.serialization.get_safe_globals(), "allowed for this file alone"


def test_the_weights_drawn_let_mistakes_show():
    weights, images = drawn(fine_tuned(SMALL)), pictures(SMALL, 3)
    layers = forward(weights, SMALL, images)
    for layer in layers:
        assert layer.attention.max(-1).mean() > 2 / 17, "attention is too even"
        assert layer.tokens.var(-1).max() < 0.5, "tokens are too large for LayerNorm's eps to count"
    for before, after in pairwise(layers):
        assert np.abs(after.tokens - before.tokens).max() > 0.05 * np.abs(after.tokens).max(), "a block does nothing"


@pytest.mark.parametrize("ratio", [0, 0.75])
def test_logits_and_classes_of_the_fine_tuned_layout(profile, path, ratio):
    weights, images, visible = drawn(fine_tuned(SMALL)), pictures(SMALL, 12), masks(SMALL, 12, ratio)
    save(weights, path)
    model = load_model(profile, "mae_finetuned")
    tokens = forward(weights, SMALL, images, None if visible is None else visible.numpy())[-1].tokens
    expected = logits_of(weights, tokens)
    classes = expected.argmax(axis=1)
    assert len(set(classes)) > 1, "images of one class cannot show a difference"
    assert classify(model, walked(model, images, visible)[-1]).tolist() == classes.tolist()
    if visible is None:
        with torch.no_grad():
            agree(model(torch.from_numpy(images).float()), expected)


@pytest.mark.parametrize(
    ("name", "layout", "count", "ratio"),
    [("mae_pretrained", pretraining, 2, 0.75), ("mae_finetuned", partial(fine_tuned, classes=1000), 1, 0)],
)
def test_the_paper_profiles_own_models_at_their_real_size(tmp_path, name, layout, count, ratio):
    weights, images, visible = drawn(layout(BASE)), pictures(BASE, count), masks(BASE, count, ratio)
    paper, path = load_profile("paper"), save(weights, tmp_path / "base.pth")
    settings = paper.models[name].model_copy(update={"checkpoint": str(path), "hash": None})
    model = load_model(paper.model_copy(update={"models": {name: settings}}), name)
    path.unlink()  # hundreds of megabytes, which pytest would keep
    layers = forward(weights, BASE, images, visible.numpy() if ratio else None)
    agree_in_every_layer(walked(model, images, visible), layers)
    assert layers[-1].tokens.shape == (count, 50 if ratio else 197, 768)
    if not ratio:
        with torch.no_grad():
            agree(model(torch.from_numpy(images).float()), logits_of(weights, layers[-1].tokens))


# What is refused


def refusal(profile, name):
    with pytest.raises(CheckpointError) as caught:
        load_model(profile, name)
    return str(caught.value)


@pytest.mark.parametrize(
    ("layout", "change", "words"),
    [
        ("fine-tuned", {"blocks.11.attn.qkv.bias": None}, ["Missing", '"blocks.11.attn.qkv.bias"']),
        ("fine-tuned", {"fc_norm.bias": None}, ["Missing", '"fc_norm.bias"']),
        ("fine-tuned", {"norm.weight": (48,)}, ["Unexpected", '"norm.weight"']),
        ("fine-tuned", {"blocks.12.norm1.weight": (48,)}, ["Unexpected", '"blocks.12.norm1.weight"']),
        ("fine-tuned", {"head.weight": (9, 48)}, ["for head.weight:", "[9, 48]", "[7, 48]"]),
        ("pretraining", {"pos_embed": (1, 26, 48)}, ["for pos_embed:", "[1, 26, 48]", "[1, 17, 48]"]),
        ("pretraining", {"patch_embed.proj.weight": (48, 3, 4, 4)}, ["for patch_embed.proj.weight:", "[48, 3, 8, 8]"]),
        ("with decoder", {"cls_token": None}, ["Missing", '"cls_token"']),
        ("with decoder", {"norm.bias": None}, ["Missing", '"norm.bias"']),
    ],
)
def test_the_one_tensor_that_does_not_fit_is_named(profile, path, layout, change, words):
    shapes = LAYOUTS[layout](SMALL) | change
    save(drawn({name: shape for name, shape in shapes.items() if shape is not None}), path)
    message = refusal(profile, model_for(layout))
    assert message.startswith(f"{path}: does not fit the model: ")
    assert all(word in message for word in words)
    assert message.count(";") == 1, "no other tensor may be blamed"
    assert message.count('"') in (0, 2)
    assert message.endswith("; correct `arguments` in the profile")


@pytest.mark.parametrize(
    ("layout", "name", "missing", "surplus"),
    [("fine-tuned", "mae_pretrained", "norm", "head"), ("pretraining", "mae_finetuned", "fc_norm", "norm")],
)
def test_one_layout_is_not_taken_for_the_other(profile, path, layout, name, missing, surplus):
    save(drawn(LAYOUTS[layout](SMALL)), path)
    told = re.search("Missing key.*?: (.*); Unexpected key.*?: (.*); correct", refusal(profile, name))
    assert f'"{missing}.weight"' in told[1]
    assert f'"{surplus}.weight"' in told[2]


class Command:
    """An object whose pickle, where it is trusted, runs a command of the shell."""

    def __init__(self, marker):
        self.command = f"touch {shlex.quote(str(marker))}"

    def __reduce__(self):
        return os.system, (self.command,)


class Settings:
    """A class that is neither a tensor nor a Namespace; its pickle leaves a file where its state is restored."""

    def __init__(self, marker):
        self.marker = marker

    def __setstate__(self, state):
        state["marker"].touch()


PLACES = {
    "alone": lambda weights, strange: strange,
    "beside the weights": lambda weights, strange: {"model": weights, "args": strange},
    "within the arguments": lambda weights, strange: {"model": weights, "args": Namespace(lr=strange)},
    "among the weights": lambda weights, strange: {"model": weights | {"extra": strange}},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", [Command, Settings])
def test_a_pickle_with_anything_else_is_refused_and_nothing_in_it_runs(profile, path, tmp_path, kind, place, zipped):
    marker = tmp_path / "it ran"
    file = PLACES[place](tensors(drawn(pretraining(SMALL))), kind(marker))
    path.write_bytes(pickle.dumps(file))
    assert f"{path}: not a readable checkpoint" in refusal(profile, "mae_pretrained")
    torch.save(file, path, _use_new_zipfile_serialization=zipped)
    assert f"{path}: not a readable checkpoint" in refusal(profile, "mae_pretrained")
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "this file would not have run anything for any reader"


# Other ways to write the same weights


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_come_back_as_float32_and_compute_the_same(profile, path, dtype):
    weights, images = drawn(pretraining(SMALL)), pictures(SMALL, 2)
    save(weights, path, dtype=dtype)
    model = load_model(profile, "mae_pretrained")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    rounded = {name: value.double().numpy() for name, value in tensors(weights, dtype).items()}
    agree_in_every_layer(walked(model, images, None), forward(rounded, SMALL, images))


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.99])
def test_a_truncated_file_of_an_older_pytorch_version_is_refused(profile, path, kept):
    save(drawn(pretraining(SMALL)), path, zipped=False)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    assert f"{path}: not a readable checkpoint" in refusal(profile, "mae_pretrained")
