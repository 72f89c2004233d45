"""Checkpoints: the layouts that load, and each thing that can be wrong in one, named with its file."""

import argparse
import hashlib
import os
from pathlib import Path

import pytest
import torch
from conftest import HEADS
from safetensors.torch import load_file, save_file

from mae_helpers.encoder.weights import (
    CheckpointError,
    checkpoint_hashes,
    checkpoint_path,
    file_hash,
    load_decoder,
    load_model,
    random_model,
    read_weights,
    settings_of,
    verify,
)
from mae_helpers.profile.settings import load_profile

DECODER = {
    "mask_token": torch.zeros(1, 1, 8),
    "decoder_pos_embed": torch.zeros(1, 17, 8),
    "decoder_embed.weight": torch.zeros(8, 24),
    "decoder_blocks.0.norm1.weight": torch.ones(8),
}


@pytest.fixture
def tiny(tiny_profile):
    return load_profile(tiny_profile())


@pytest.fixture
def weights(tiny):
    return load_file(tiny.models["mae_pretrained"].checkpoint)


def pointing_at(profile, path, **changes):
    """The profile with its pre-trained model read from `path`."""
    model = profile.models["mae_pretrained"].model_copy(update={"checkpoint": str(path)} | changes)
    return profile.model_copy(update={"models": profile.models | {"mae_pretrained": model}})


def error_of(profile, name="mae_pretrained"):
    with pytest.raises(CheckpointError) as caught:
        load_model(profile, name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def has_weights(model, weights):
    state = model.state_dict()
    return set(state) == set(weights) and all(torch.equal(state[key], value) for key, value in weights.items())


# What loads


@pytest.mark.parametrize("name", HEADS)
def test_a_checkpoint_arrives_in_the_model_and_the_bundled_ones_load(tiny, name):
    model, bundled = load_model(tiny, name), load_model(load_profile("demo"), name)
    assert has_weights(model, load_file(tiny.models[name].checkpoint))
    assert not model.training
    assert len(bundled.blocks) == 12
    assert {block.attn.num_heads for block in bundled.blocks} == {12}
    assert all(parameter.dtype == torch.float32 for parameter in bundled.parameters())


def test_bundled_decoder_loads_and_a_profile_without_one_gives_none(tiny):
    assert load_decoder(load_profile("demo")).pos_embed.shape == (1, 197, 96)
    assert load_decoder(tiny) is None


@pytest.mark.parametrize(
    "content",
    [
        lambda weights: {"model": weights | DECODER, "args": argparse.Namespace(model="mae_vit_base_patch16")},
        lambda weights: weights,
    ],
    ids=["official layout without its decoder", "bare tensors"],
)
def test_pickles_load_and_the_one_class_allowed_in_them_is_not_allowed_afterwards(tiny, weights, tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content(weights), path)
    assert has_weights(load_model(pointing_at(tiny, path), "mae_pretrained"), weights)
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_whole_numbers_keep_their_type_and_others_become_float32(tmp_path):
    path, kinds = tmp_path / "mixed.safetensors", (torch.int64, torch.float64, torch.float16)
    save_file({str(number): torch.ones(1, dtype=kind) for number, kind in enumerate(kinds)}, path)
    assert [value.dtype for _, value in sorted(read_weights(path).items())] == [torch.int64, *[torch.float32] * 2]


def test_bundled_names_point_into_the_package_and_others_are_files(tiny):
    bundled = checkpoint_path(load_profile("demo").models["mae_pretrained"])
    assert bundled.name == "mae_pretrained.safetensors"
    assert bundled.is_file()
    assert str(checkpoint_path(tiny.models["mae_pretrained"])) == tiny.models["mae_pretrained"].checkpoint


# What is refused


def test_missing_surplus_and_wrongly_shaped_tensors_are_each_named(tiny, weights, tmp_path):
    path = tmp_path / "odd.safetensors"
    odd = {key: value for key, value in weights.items() if key != "blocks.2.attn.qkv.bias"}
    save_file(odd | {"head.weight": torch.zeros(5, 24), "cls_token": torch.zeros(1, 1, 25)}, path)
    message = error_of(pointing_at(tiny, path))
    assert message.startswith(f"{path}: does not fit the model: ")
    assert 'Missing key(s) in state_dict: "blocks.2.attn.qkv.bias";' in message
    assert 'Unexpected key(s) in state_dict: "head.weight";' in message
    assert "size mismatch for cls_token" in message
    assert "[1, 1, 25]" in message
    assert "[1, 1, 24]" in message
    assert message.endswith("; correct `arguments` in the profile")


def test_many_wrong_tensors_are_counted(tiny, weights, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    assert f'" and {len(weights) - 3} more; Unexpected' in error_of(pointing_at(tiny, path))
    wide = pointing_at(tiny, tiny.models["mae_pretrained"].checkpoint)
    arguments = wide.models["mae_pretrained"].arguments | {"embed_dim": 48}
    told = error_of(pointing_at(tiny, wide.models["mae_pretrained"].checkpoint, arguments=arguments))
    assert told.count("size mismatch") == 3
    assert f" and {len(weights) - 3} more; correct" in told


def test_missing_file_is_named(tiny, tmp_path):
    assert f"{tmp_path / 'gone.pth'}: no such checkpoint" in error_of(pointing_at(tiny, tmp_path / "gone.pth"))


def test_unknown_model_is_named_with_the_known_ones(tiny):
    assert settings_of(tiny, "vit_supervised") is tiny.models["vit_supervised"]
    message = error_of(tiny, "mae_huge")
    assert message.startswith(f"{tiny.path}: no model 'mae_huge' among mae_pretrained, mae_finetuned, vit_supervised")


# Hashes


def test_hash_is_checked_in_whole_or_by_its_beginning_also_of_a_file_that_was_replaced(tiny):
    path = Path(tiny.models["mae_pretrained"].checkpoint)
    for kind in ("md5", "sha256"):
        digest = hashlib.new(kind, path.read_bytes()).hexdigest()
        verify(path, f"{kind}:{digest}")
        verify(path, f"{kind}:{digest[:6]}")
    verify(path, None)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(CheckpointError, match="sha256 is"):
        verify(path, f"sha256:{digest}")


def test_file_hash_follows_a_changed_file_and_is_not_taken_twice_of_the_same(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    for number, content in enumerate([b"one", b"three", b"seven"]):
        path.write_bytes(content)
        os.utime(path, ns=(number, number))
        for kind in ("sha256", "md5", "sha256"):
            assert file_hash(path, kind) == hashlib.new(kind, content).hexdigest()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *_: pytest.fail("the file was read again"))
        assert file_hash(path) == hashlib.sha256(b"seven").hexdigest()


def test_hashes_of_a_profiles_checkpoints_by_model(tiny):
    files = {name: Path(model.checkpoint).read_bytes() for name, model in tiny.models.items()}
    assert checkpoint_hashes(tiny) == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("md5:000000", "expected 000000"),
        ("sha256:ffffffff", "expected ffffffff"),
        *((wrong, f"hash '{wrong}' in the profile is not of the form") for wrong in ("md5:", "1b25e9", "crc:1b", "")),
    ],
)
def test_a_wrong_hash_or_one_of_no_known_form_is_named_with_its_file_before_that_is_read(tiny, wrong, told):
    path = Path(tiny.models["mae_pretrained"].checkpoint)
    path.write_bytes(b"no tensors")
    message = error_of(pointing_at(tiny, path, hash=wrong))
    assert message.startswith(f"{path}: ")
    assert told in message


# The control


def test_random_model_is_seeded_and_has_nothing_but_positions_of_the_trained_one(tiny):
    trained = load_model(tiny, "mae_pretrained")
    first, same, other = (random_model(tiny, "mae_pretrained", seed=seed) for seed in (1, 1, 2))
    assert has_weights(first, same.state_dict())
    assert not torch.equal(first.blocks[0].attn.qkv.weight, other.blocks[0].attn.qkv.weight)
    assert torch.equal(first.pos_embed, trained.pos_embed)
    for key, value in trained.state_dict().items():
        if key.endswith("weight") and value.ndim > 1:
            assert not torch.allclose(first.state_dict()[key], value, atol=0.01)
    assert not first.training


def test_random_model_neither_depends_on_the_global_generator_nor_moves_it(tiny):
    found = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        expected = torch.rand(3)
        torch.manual_seed(seed)
        found.append(random_model(tiny, "mae_pretrained", seed=9))
        assert torch.equal(torch.rand(3), expected)
    assert has_weights(found[0], found[1].state_dict())
