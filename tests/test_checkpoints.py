"""Checkpoints: the layouts that load, and each thing that can be wrong in one, named with its file."""

import hashlib
import os
import re
from pathlib import Path

import pytest
import torch
from conftest import HEADS
from safetensors.torch import load_file, save_file

from mae_helpers.encoder.weights import (
    CheckpointError,
    checkpoint_hashes,
    file_hash,
    load_decoder,
    load_model,
    random_model,
    verify,
)
from mae_helpers.profile.settings import load_profile


@pytest.fixture
def tiny(tiny_profile):
    return load_profile(tiny_profile())


def pointing_at(profile, path, **changes):
    """The profile with its pre-trained model read from `path`."""
    model = profile.models["mae_pretrained"].model_copy(update={"checkpoint": str(path)} | changes)
    return profile.model_copy(update={"models": profile.models | {"mae_pretrained": model}})


def error_of(profile):
    with pytest.raises(CheckpointError) as caught:
        load_model(profile, "mae_pretrained")
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


# What is refused


def test_many_wrong_tensors_are_counted(tiny, tmp_path):
    path, model = tmp_path / "other.safetensors", tiny.models["mae_pretrained"]
    others = len(load_file(model.checkpoint)) - 3
    save_file({"weight": torch.zeros(2)}, path)
    assert "no patch embedding" in error_of(pointing_at(tiny, path))
    save_file({"patch_embed.proj.weight": torch.zeros(24, 3, 8, 8)}, path)
    assert f'" and {others - 1} more; correct' in error_of(pointing_at(tiny, path))
    told = error_of(pointing_at(tiny, model.checkpoint, arguments=model.arguments | {"embed_dim": 48}))
    assert told.count("size mismatch") == 3
    assert f" and {others} more; correct" in told


@pytest.mark.parametrize(
    ("beside", "told"),
    [
        ({"out": Path("runs")}, r"\(UnpicklingError: it holds a pathlib\.\w+\); save its tensors alone"),
        ({"net": torch.nn.Linear(1, 1)}, r"it holds a torch\.nn\.modules\.linear\.Linear\); save its tensors alone"),
        (b"<!DOCTYPE html>", r"\(UnpicklingError: Unsupported operand 60\); fetch it again"),
    ],
)
def test_what_cannot_be_read_says_why_in_whole_words(tiny, tmp_path, beside, told):
    path, weights = tmp_path / "checkpoint.pth", load_file(tiny.models["mae_pretrained"].checkpoint)
    path.write_bytes(beside) if isinstance(beside, bytes) else torch.save({"model": weights} | beside, path)
    message = error_of(pointing_at(tiny, path))
    assert re.search(told, message)
    assert message.isprintable(), "no terminal codes"
    save_file(weights, path)  # of a name that is another kind's
    assert has_weights(load_model(pointing_at(tiny, path), "mae_pretrained"), weights)


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


def test_file_hash_follows_a_changed_file_and_is_not_taken_twice_of_the_same(tmp_path):
    path = tmp_path / "a.pth"
    for number, content in enumerate([b"one", b"three", b"seven"]):
        path.write_bytes(content)
        os.utime(path, ns=(number, number))
        for kind in ("sha256", "md5", "sha256"):
            assert file_hash(path, kind) == hashlib.new(kind, content).hexdigest()
    path.write_bytes(b"other")  # of the same size
    os.utime(path, ns=(number, number))
    assert file_hash(path) == hashlib.sha256(b"seven").hexdigest(), "the file was read again"


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
