"""Checkpoints: the layouts that load, and each thing that can be wrong in one, named with its file."""

import argparse
import hashlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

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
    return str(caught.value)


def has_weights(model, weights):
    state = model.state_dict()
    return set(state) == set(weights) and all(torch.equal(state[key], value) for key, value in weights.items())


@pytest.mark.parametrize("name", ["mae_pretrained", "mae_finetuned", "vit_supervised"])
def test_a_checkpoint_arrives_in_the_model(tiny, name):
    model = load_model(tiny, name)
    assert has_weights(model, load_file(tiny.models[name].checkpoint))
    assert not model.training


@pytest.mark.parametrize("name", ["mae_pretrained", "mae_finetuned", "vit_supervised"])
def test_bundled_models_load_strictly(name):
    model = load_model(load_profile("demo"), name)
    assert len(model.blocks) == 12
    assert {block.attn.num_heads for block in model.blocks} == {12}
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_bundled_decoder_loads_and_a_profile_without_one_gives_none(tiny):
    assert load_decoder(load_profile("demo")).pos_embed.shape == (1, 197, 96)
    assert load_decoder(tiny) is None


def test_official_layout_loads_without_its_decoder(tiny, weights, tmp_path):
    path = tmp_path / "official.pth"
    torch.save({"model": weights | DECODER, "args": argparse.Namespace(model="mae_vit_base_patch16")}, path)
    assert has_weights(load_model(pointing_at(tiny, path), "mae_pretrained"), weights)


def test_bare_tensors_in_a_pickle_load(tiny, weights, tmp_path):
    path = tmp_path / "bare.pth"
    torch.save(weights, path)
    assert has_weights(load_model(pointing_at(tiny, path), "mae_pretrained"), weights)


def test_a_pickle_with_another_class_is_refused(tiny, weights, tmp_path):
    path = tmp_path / "strange.pth"
    torch.save({"model": weights, "args": SimpleNamespace(model="x")}, path)
    assert str(path) in error_of(pointing_at(tiny, path))


def test_allowing_the_one_class_does_not_outlast_the_reading(weights, tmp_path):
    path = tmp_path / "official.pth"
    torch.save({"model": weights, "args": argparse.Namespace()}, path)
    read_weights(path)
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_missing_surplus_and_wrongly_shaped_tensors_are_each_named(tiny, weights, tmp_path):
    path = tmp_path / "odd.safetensors"
    odd = dict(weights)
    del odd["blocks.2.attn.qkv.bias"]
    odd["head.weight"] = torch.zeros(5, 24)
    odd["cls_token"] = torch.zeros(1, 1, 25)
    save_file(odd, path)
    message = error_of(pointing_at(tiny, path))
    assert str(path) in message
    assert "missing blocks.2.attn.qkv.bias (72,)" in message
    assert "surplus head.weight (5, 24)" in message
    assert "cls_token has shape (1, 1, 25), expected (1, 1, 24)" in message


def test_many_wrong_tensors_are_counted(tiny, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    expected = len(load_model(tiny, "mae_pretrained").state_dict()) + 1 - 5
    assert f"and {expected} more" in error_of(pointing_at(tiny, path))


def test_hash_is_checked_in_whole_or_by_its_beginning(tiny):
    path = Path(tiny.models["mae_pretrained"].checkpoint)
    for kind in ("md5", "sha256"):
        digest = hashlib.new(kind, path.read_bytes()).hexdigest()
        verify(path, f"{kind}:{digest}")
        verify(path, f"{kind}:{digest[:6]}")
    verify(path, None)


def test_file_hash_follows_a_changed_file(tmp_path):
    path = tmp_path / "a.pth"
    for number, content in enumerate([b"one", b"three", b"seven"]):
        path.write_bytes(content)
        os.utime(path, ns=(number, number))
        for kind in ("sha256", "md5", "sha256"):
            assert file_hash(path, kind) == hashlib.new(kind, content).hexdigest()


def test_file_hash_is_not_taken_twice_of_the_same_file(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    path.write_bytes(b"one")
    first = file_hash(path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *_: pytest.fail("the file was read again"))
        assert file_hash(path) == first


def test_a_checkpoint_that_was_replaced_no_longer_passes(tiny):
    path = Path(tiny.models["mae_pretrained"].checkpoint)
    expected = f"sha256:{file_hash(path)}"
    verify(path, expected)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(CheckpointError, match="sha256 is"):
        verify(path, expected)


def test_hashes_of_a_profiles_checkpoints_by_model(tiny):
    found = checkpoint_hashes(tiny)
    assert set(found) == set(tiny.models)
    for name, model in tiny.models.items():
        assert found[name] == hashlib.sha256(Path(model.checkpoint).read_bytes()).hexdigest()


@pytest.mark.parametrize("wrong", ["md5:000000", "sha256:ffffffff", "md5:"])
def test_wrong_hash_is_an_error_before_anything_is_read(tiny, wrong):
    path = tiny.models["mae_pretrained"].checkpoint
    message = error_of(pointing_at(tiny, path, hash=wrong))
    assert path in message
    assert wrong.partition(":")[2] in message


@pytest.mark.parametrize("wrong", ["1b25e9", "crc:1b25e9", ""])
def test_hash_of_an_unknown_form_is_named_with_its_file(tiny, wrong):
    path = tiny.models["mae_pretrained"].checkpoint
    assert f"{path}: hash '{wrong}' in the profile is not of the form" in error_of(pointing_at(tiny, path, hash=wrong))


def test_model_with_other_tokens_beside_cls_is_refused(tiny, tmp_path):
    path, arguments = tmp_path / "registers.safetensors", tiny.models["mae_pretrained"].arguments | {"reg_tokens": 4}
    save_file(VisionTransformer(**arguments).state_dict(), path)
    assert "5 tokens beside the patches" in error_of(pointing_at(tiny, path, arguments=arguments))


def test_missing_file_is_named(tiny, tmp_path):
    path = tmp_path / "gone.pth"
    assert f"{path}: no such checkpoint" in error_of(pointing_at(tiny, path))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("kept", [0, 0.01, 0.5, 0.99])
def test_half_written_file_is_named(tiny, weights, tmp_path, suffix, kept):
    path = tmp_path / f"half{suffix}"
    if suffix == ".pth":
        torch.save({"model": weights}, path)
    else:
        save_file(weights, path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    assert f"{path}: not a readable checkpoint" in error_of(pointing_at(tiny, path))


def test_half_precision_comes_back_as_single(tiny, weights, tmp_path):
    path = tmp_path / "half.safetensors"
    save_file({key: value.half() for key, value in weights.items()}, path)
    model = load_model(pointing_at(tiny, path), "mae_pretrained")
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert has_weights(model, {key: value.half().float() for key, value in weights.items()})


def test_whole_numbers_keep_their_type(tmp_path):
    path = tmp_path / "mixed.safetensors"
    save_file({"count": torch.tensor([3]), "mean": torch.tensor([0.5], dtype=torch.float64)}, path)
    found = read_weights(path)
    assert found["count"].dtype == torch.int64
    assert found["mean"].dtype == torch.float32


def test_unknown_model_is_named_with_the_known_ones(tiny):
    message = error_of(tiny, "mae_huge")
    assert "'mae_huge'" in message
    assert "mae_pretrained, mae_finetuned, vit_supervised" in message
    assert str(tiny.path) in message


def test_settings_of_a_model(tiny):
    assert settings_of(tiny, "vit_supervised") is tiny.models["vit_supervised"]
    with pytest.raises(CheckpointError, match="no model 'mae_huge' among mae_pretrained"):
        settings_of(tiny, "mae_huge")


def test_bundled_names_point_into_the_package_and_others_are_files(tiny):
    bundled = load_profile("demo").models["mae_pretrained"]
    assert checkpoint_path(bundled).name == "mae_pretrained.safetensors"
    assert checkpoint_path(bundled).is_file()
    assert str(checkpoint_path(tiny.models["mae_pretrained"])) == tiny.models["mae_pretrained"].checkpoint


def test_random_model_is_seeded(tiny):
    first, same, other = (random_model(tiny, "mae_pretrained", seed=seed) for seed in (1, 1, 2))
    assert has_weights(first, same.state_dict())
    assert not torch.equal(first.blocks[0].attn.qkv.weight, other.blocks[0].attn.qkv.weight)


def test_random_model_shares_nothing_but_positions_with_the_trained_one(tiny):
    trained, random = load_model(tiny, "mae_pretrained"), random_model(tiny, "mae_pretrained")
    assert torch.equal(random.pos_embed, trained.pos_embed)
    for key, value in trained.state_dict().items():
        if key.endswith("weight") and value.ndim > 1:
            assert not torch.allclose(random.state_dict()[key], value, atol=0.01)
    assert not random.training


def test_random_model_does_not_depend_on_the_global_generator(tiny):
    torch.manual_seed(5)
    first = random_model(tiny, "mae_pretrained", seed=9)
    torch.manual_seed(6)
    assert has_weights(first, random_model(tiny, "mae_pretrained", seed=9).state_dict())


def test_random_model_leaves_the_global_generator_alone(tiny):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    random_model(tiny, "mae_pretrained", seed=9)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "content", [{"model": "vit", "state": {}}, {"model": None}, [torch.ones(1)], {3: torch.ones(1)}]
)
def test_a_pickle_of_another_layout_is_refused(tmp_path, content):
    path = tmp_path / "strange.pth"
    torch.save(content, path)
    with pytest.raises(
        CheckpointError, match=r"strange\.pth: \w+ found; expected tensors by name, flat or under 'model'"
    ):
        read_weights(path)
