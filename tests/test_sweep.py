"""Cells: equal to a direct forward pass, computed once in any order, and computed again where a file is damaged."""

import errno
import re
import shutil
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_vit
from PIL import Image
from safetensors.torch import save_file

from mae_helpers.encoder.weights import CheckpointError, load_model
from mae_helpers.images.sets import open_images
from mae_helpers.measures.accuracy import accuracy_table
from mae_helpers.measures.alignment import cosine
from mae_helpers.perturbations import blur as perturbations
from mae_helpers.perturbations.blur import GaussianBlur, blur_levels
from mae_helpers.perturbations.corruptions import Corruption
from mae_helpers.perturbations.levels import Clean, Unchanged
from mae_helpers.perturbations.occlusion import Occlusion, occlusion_levels
from mae_helpers.profile import files
from mae_helpers.profile.machine import Compute
from mae_helpers.profile.settings import load_profile
from mae_helpers.run.chapter import Chapter
from mae_helpers.sweep import cells as module
from mae_helpers.sweep import recorded as measures
from mae_helpers.sweep import subjects, sweep
from mae_helpers.sweep.subjects import Subject

BLUR = GaussianBlur(5, 1.0)
MEASURES = ("prediction", "embedding", "heads")
ROLLOUTS = measures.ROLLOUTS


def subject(name, seed, images, **arguments):
    vit = make_vit(seed, **arguments)
    return sweep.Subject(name, lambda: vit, images, f"{name} {seed}")


@pytest.fixture
def mae(tiny_images):
    return subject("mae", 1, tiny_images, global_pool="avg")


@pytest.fixture
def pair(mae, tiny_images):
    """Two models, the second with a normalisation of its own."""
    return [mae, subject("sup", 2, tiny_images.normalised_as([0.5] * 3, [0.5] * 3), global_pool="token")]


def normalised(images, pixels):
    """Pixels (B, H, W, 3) as a model takes them."""
    scaled = (pixels - np.float32(images.input.mean)) / np.float32(images.input.std)
    return torch.from_numpy(scaled.transpose(0, 3, 1, 2).copy())


def pixels_of(images):
    return np.stack([images.pixels(row) for row in range(len(images))])


@torch.no_grad()
def by_hand(vit, batch):
    """All measures of a batch, written out: attention from Q and K, head outputs from V, rollout as a whole matrix."""
    tokens = vit._pos_embed(vit.patch_embed(batch))
    heads, joint = [], torch.eye(tokens.shape[1])
    for block in vit.blocks:
        qkv = block.attn.qkv(block.norm1(tokens)).unflatten(-1, (3, block.attn.num_heads, -1))
        query, key, value = (part.transpose(1, 2) for part in qkv.unbind(2))
        attention = torch.softmax(query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5, dim=-1)
        heads.append((attention @ value)[:, :, 1:].mean(2))
        joint = (attention.mean(1) + torch.eye(tokens.shape[1])) / 2 @ joint
        tokens = block(tokens)
    return {
        "prediction": vit(batch).argmax(1).numpy(),
        "embedding": tokens[:, 1:].mean(1).numpy(),
        "heads": torch.stack(heads, 1).numpy(),
        "cls_rollout": joint[:, 0, 1:].numpy(),
        "patch_rollout": joint[:, 1:, 1:].mean(1).numpy(),
    }


def same(first, second):
    """Whether two nested mappings hold the same arrays, to the bit."""
    assert set(first) == set(second)
    return all(
        same(first[key], second[key]) if isinstance(first[key], dict) else np.array_equal(first[key], second[key])
        for key in first
    )


def cells(subjects, perturbation, measures, folder):
    """Several measures of one perturbation: {model: {measure: array}}."""
    found = sweep.cells(subjects, {"level": perturbation}, measures, folder)
    return {name: levels["level"] for name, levels in found.items()}


def forbid_computing(monkeypatch):
    monkeypatch.setattr(measures, "one_pass", lambda *_, **__: pytest.fail("a cell was computed again"))


@pytest.mark.parametrize("measure", MEASURES + ROLLOUTS)
def test_clean_cells_equal_a_direct_forward_pass(pair, tmp_path, measure):
    found = sweep.sweep(pair, {"clean": Clean()}, measure, tmp_path)
    for one in pair:
        expected = by_hand(one.open(), normalised(one.images, pixels_of(one.images)))[measure]
        assert found[one.name]["clean"].shape == expected.shape
        np.testing.assert_allclose(found[one.name]["clean"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("measure", MEASURES)
def test_blurred_cells_equal_a_direct_forward_pass_of_blurred_pixels(pair, tmp_path, measure):
    found = sweep.sweep(pair, blur_levels(["I"]), measure, tmp_path)
    blurred = np.stack([perturbations.blur(image, 5, 1.0) for image in pixels_of(pair[0].images)])
    for one in pair:
        expected = by_hand(one.open(), normalised(one.images, blurred))[measure]
        np.testing.assert_allclose(found[one.name]["I"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ranking", ROLLOUTS)
def test_occlusion_masks_each_models_own_highest_patches(pair, tmp_path, ranking):
    found = sweep.sweep(pair, {25: Occlusion(25, ranking)}, "embedding", tmp_path)
    masks = []
    for one in pair:
        batch = normalised(one.images, pixels_of(one.images))
        scores = by_hand(one.open(), batch)[ranking]
        masks.append([set(np.argsort(-image)[:4]) for image in scores])
        for image, mask in zip(batch, masks[-1], strict=True):
            for row, column in (divmod(patch, 4) for patch in mask):
                image[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 0
        expected = by_hand(one.open(), batch)["embedding"]
        np.testing.assert_allclose(found[one.name][25], expected, rtol=1e-5, atol=1e-5)
    assert all(first != second for first, second in zip(*masks, strict=True))


@pytest.mark.parametrize("nothing", [Clean(), Occlusion(0), Occlusion(0, "patch_rollout"), Occlusion(0, "random")])
def test_cosine_with_the_clean_embedding_is_one_where_nothing_is_done(pair, tmp_path, nothing):
    clean = sweep.sweep(pair, {"clean": Clean()}, "embedding", tmp_path / "a")
    found = sweep.sweep(pair, {0: nothing}, "embedding", tmp_path / "b")
    for one in pair:
        np.testing.assert_allclose(cosine(clean[one.name]["clean"], found[one.name][0]), 1, atol=1e-6)


def test_no_occlusion_is_the_clean_cell(mae, tmp_path):
    levels = occlusion_levels("cls_rollout", [0, 50])
    found = sweep.sweep([mae], levels, "embedding", tmp_path)["mae"]
    assert list(found) == [0, 50]
    assert np.array_equal(found[0], cells([mae], Clean(), ["embedding"], tmp_path)["mae"]["embedding"])
    assert not np.allclose(found[0], found[50])


def test_models_and_levels_come_back_in_the_order_asked_for(pair, tmp_path):
    levels = blur_levels(["I", "X"])
    sweep.sweep(pair[1:], levels, "prediction", tmp_path)
    found = sweep.sweep(pair, dict(reversed(levels.items())), "prediction", tmp_path)
    assert list(found) == ["mae", "sup"]
    assert [list(cells) for cells in found.values()] == [["X", "I", "clean"]] * 2


def test_results_do_not_depend_on_the_order_of_asking(pair, tmp_path):
    levels = blur_levels(["I", "X"]) | {"half": Occlusion(50)}
    together = {measure: sweep.sweep(pair, levels, measure, tmp_path / "together") for measure in MEASURES}
    backwards = dict(reversed(levels.items()))
    for measure in reversed(MEASURES):
        for one in reversed(pair):
            alone = sweep.sweep([one], backwards, measure, tmp_path / "alone")
            assert same(alone, {one.name: together[measure][one.name]})


def test_reading_again_gives_the_same_bits_and_computes_nothing(pair, tmp_path, monkeypatch):
    levels = blur_levels(["I"]) | {"half": Occlusion(50)}
    first = {measure: sweep.sweep(pair, levels, measure, tmp_path) for measure in MEASURES}
    forbid_computing(monkeypatch)
    again = {measure: sweep.sweep(pair, levels, measure, tmp_path) for measure in MEASURES}
    assert same(first, again)


def test_a_further_model_is_computed_without_the_first(pair, tmp_path, monkeypatch):
    cells(pair[:1], BLUR, MEASURES, tmp_path)
    first = replace(pair[0], open=lambda: pytest.fail("a model was opened for nothing"))
    assert set(cells([first, pair[1]], BLUR, MEASURES, tmp_path)) == {"mae", "sup"}


def test_chunks_change_nothing(pair, tmp_path, monkeypatch):
    levels = blur_levels(["I"]) | {"half": Occlusion(50)}
    whole = {measure: sweep.sweep(pair, levels, measure, tmp_path / "whole") for measure in MEASURES}
    monkeypatch.setattr(measures, "CHUNK", 5)
    parts = {measure: sweep.sweep(pair, levels, measure, tmp_path / "parts") for measure in MEASURES}
    for measure in MEASURES:
        for one in pair:
            for level in levels:
                expected = whole[measure][one.name][level]
                np.testing.assert_allclose(parts[measure][one.name][level], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("chunk", [256, 5])
def test_models_share_the_perturbed_pixels(pair, tmp_path, monkeypatch, chunk):
    calls = []

    def counting(pixels, *_):
        calls.append(pixels)
        return pixels

    monkeypatch.setattr(perturbations, "blur", counting)
    monkeypatch.setattr(measures, "CHUNK", chunk)
    cells(pair, BLUR, ["prediction"], tmp_path)
    assert len(calls) == len(pair[0].images)


def shortened(path, _):
    path.write_bytes(path.read_bytes()[:-100])


def halved(path, _):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path, _):
    path.write_bytes(b"")


def foreign(path, other):
    path.write_bytes(other.read_bytes())


def random_bytes(path, _):
    path.write_bytes(np.random.default_rng(3).bytes(5000))


def one_byte_off(path, _):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def without_a_measure(path, _):
    with np.load(path) as file:
        np.savez(path, key=file["key"], prediction=file["prediction"])


@pytest.mark.parametrize("damage", [shortened, halved, emptied, foreign, random_bytes, one_byte_off, without_a_measure])
def test_a_damaged_cell_is_named_and_computed_again(pair, tmp_path, monkeypatch, damage):
    before = cells(pair, BLUR, MEASURES, tmp_path)
    broken, whole = (sweep.cell_path(tmp_path, one, BLUR) for one in pair)
    damage(broken, whole)
    with pytest.warns(UserWarning, match=f"{re.escape(str(broken))}: not a whole cell") as caught:
        after = cells(pair, BLUR, MEASURES, tmp_path)
    assert [warning.category for warning in caught].count(UserWarning) == 1
    assert same(before, after)
    forbid_computing(monkeypatch)
    with warnings.catch_warnings(action="error"):
        assert same(before, cells(pair, BLUR, MEASURES, tmp_path))


def test_a_cell_of_another_perturbation_is_refused(mae, tmp_path):
    before = cells([mae], BLUR, MEASURES, tmp_path)
    cells([mae], Clean(), MEASURES, tmp_path)
    foreign(sweep.cell_path(tmp_path, mae, BLUR), sweep.cell_path(tmp_path, mae, Clean()))
    with pytest.warns(UserWarning, match="belongs to another cell"):
        assert same(before, cells([mae], BLUR, MEASURES, tmp_path))


class Trap:
    """Something whose unpickling leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickled_array_is_refused_and_not_executed(mae, tmp_path):
    before = cells([mae], BLUR, MEASURES, tmp_path)
    path, sprung = sweep.cell_path(tmp_path, mae, BLUR), tmp_path / "sprung"
    trap = np.array([Trap(sprung)], dtype=object)
    np.savez(path, key=np.array(sweep.cell_key(mae, BLUR)), **before["mae"] | {"heads": trap})
    with pytest.warns(UserWarning, match=re.escape(str(path))):
        after = cells([mae], BLUR, MEASURES, tmp_path)
    assert not sprung.exists()
    assert same(before, after)


def test_nothing_but_cells_is_left_behind(pair, tmp_path):
    sweep.sweep(pair, occlusion_levels("cls_rollout", [50]), "prediction", tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != ".locks"]
    assert sorted(path.parent.name for path in files) == ["mae", "mae", "sup", "sup"]
    assert {path.suffix for path in files} == {".npz"}


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_failed_write_leaves_nothing_and_the_next_call_succeeds(mae, tmp_path, monkeypatch, step):
    def fails(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*{"replace": (Path, "replace"), "fsync": (files.os, "fsync")}[step], fails)
        with pytest.raises(files.StorageError, match=r"no room for gaussian_blur_5_1.*MB are free"):
            cells([mae], BLUR, MEASURES, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != ".locks"]
    assert set(cells([mae], BLUR, MEASURES, tmp_path)["mae"]) == set(MEASURES)


def test_every_model_image_and_setting_has_a_key_of_its_own(mae):
    images = mae.images
    settings = [Clean(), BLUR, GaussianBlur(5, 2.0), GaussianBlur(7, 1.0)]
    settings += [Occlusion(10), Occlusion(20), Occlusion(10, seed=1), Occlusion(10, fill="black")]
    settings += [Occlusion(10, ranking) for ranking in ("patch_rollout", "random")]
    settings += [Corruption("fog", 1), Corruption("fog", 2), Corruption("snow", 1), Corruption("fog", 1, seed=1)]
    subjects = [
        mae,
        replace(mae, identity="another checkpoint"),
        replace(mae, images=images.take(range(11))),
        replace(mae, images=images.take(reversed(range(12)))),
        replace(mae, images=replace(images, ids=[f"{name}x" for name in images.ids])),
        replace(mae, images=images.normalised_as([0.5, 0.4, 0.3], [0.3, 0.25, 0.25])),
        replace(mae, images=images.normalised_as([0.5, 0.4, 0.4], [0.3, 0.25, 0.2])),
        replace(mae, images=replace(images, input=images.input.model_copy(update={"resize": "crop"}))),
    ]
    keys = [sweep.cell_key(one, setting) for one in subjects for setting in settings]
    assert len(set(keys)) == len(subjects) * len(settings)


def test_equal_settings_have_the_same_key_and_path(mae, tmp_path):
    twin = replace(mae, images=mae.images.take(range(12)))
    assert sweep.cell_path(tmp_path, mae, Occlusion(10)) == sweep.cell_path(tmp_path, twin, Occlusion(10))
    assert sweep.cell_key(mae, Corruption("fog", 3)) == sweep.cell_key(twin, Corruption("fog", 3, 0))


def test_other_code_is_computed_anew(mae, tmp_path, monkeypatch):
    before = cells([mae], BLUR, MEASURES, tmp_path)
    path, key = sweep.cell_path(tmp_path, mae, BLUR), sweep.cell_key(mae, BLUR)
    real = module.code_behind(BLUR)
    edited = replace(real, code=real.code | {"mae_helpers.encoder": "edited"})
    monkeypatch.setattr(module, "code_behind", lambda _: edited)
    assert sweep.cell_key(mae, BLUR) != key
    assert same(before, cells([mae], BLUR, MEASURES, tmp_path))
    assert len(list(path.parent.iterdir())) == 2


@pytest.mark.parametrize(
    ("perturbation", "measure"),
    [
        (Corruption("fog", 1), "heads"),
        (BLUR, "cls_rollout"),
        (Occlusion(10, "random"), "heads"),
        (Clean(), "colour"),
    ],
)
def test_a_measure_that_is_not_recorded_is_named(mae, tmp_path, perturbation, measure):
    with pytest.raises(ValueError, match=rf"{perturbation.name}: \['{measure}'\] are not recorded; there are"):
        sweep.sweep([mae], {1: perturbation}, measure, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("perturbation", [Clean(), Occlusion(10)])
def test_a_label_beyond_the_models_classes_is_named(mae, tmp_path, perturbation):
    labels = mae.images.labels.copy()
    labels[3] = 5
    beyond = replace(mae, images=replace(mae.images, labels=labels))
    with pytest.raises(ValueError, match="mae: an image has the label 5, but the model knows 5 classes"):
        sweep.sweep([beyond], {1: perturbation}, "prediction", tmp_path)
    assert not list(tmp_path.rglob("*.npz"))


def test_the_last_class_is_within_the_models_classes(mae, tmp_path):
    last = replace(mae, images=replace(mae.images, labels=np.full(12, 4)))
    assert sweep.sweep([last], {1: Clean()}, "prediction", tmp_path)["mae"][1].max() <= 4


@pytest.fixture
def chapter(tiny_profile, tmp_path):
    return Chapter(load_profile(tiny_profile()), torch.device("cpu"), 0, tmp_path / "results" / "tiny")


def afresh(chapter, **models):
    """The chapter opened anew, with some entries of its models changed."""
    known = chapter.profile.models
    changed = {name: known[name].model_copy(update=entries) for name, entries in models.items()}
    return replace(chapter, profile=chapter.profile.model_copy(update={"models": known | changed}), opened={})


TWO = ["mae_finetuned", "vit_supervised"]


def test_a_chapters_sweep_gives_each_model_its_own_normalisation(chapter):
    half = {"mean": [0.5] * 3, "std": [0.25] * 3}
    chapter = afresh(chapter, vit_supervised=half)
    found = chapter.sweep(dict.fromkeys(TWO, chapter.images()), blur_levels(["X"]), "prediction")
    assert {name: list(levels) for name, levels in found.items()} == {name: ["clean", "X"] for name in TWO}
    pixels = pixels_of(chapter.images())
    assert not np.array_equal(found[TWO[0]]["clean"], found[TWO[1]]["clean"])
    for name, own in zip(TWO, (chapter.images(), chapter.images().normalised_as(**half)), strict=True):
        with torch.no_grad():
            expected = load_model(chapter.profile, name)(normalised(own, pixels)).argmax(1)
        assert np.array_equal(found[name]["clean"], expected)


def test_chapters_share_their_cells(chapter, monkeypatch):
    levels = blur_levels(["I"]) | {"half": Occlusion(50)}
    first = chapter.sweep(dict.fromkeys(TWO, chapter.images()), levels, "embedding")
    assert {path.parent.name for path in (chapter.tables / "cells").rglob("*.npz")} == set(TWO)
    forbid_computing(monkeypatch)
    assert same(first, afresh(chapter).sweep(dict.fromkeys(TWO, chapter.images()), levels, "embedding"))


@pytest.mark.parametrize("file", ["weights/mae_finetuned.safetensors", "images/cat/001.png"])
def test_another_checkpoint_or_image_is_computed_anew(chapter, tmp_path, file):
    before = chapter.sweep(dict.fromkeys(["mae_finetuned"], chapter.images()), {"clean": Clean()}, "embedding")
    if file.startswith("weights"):
        save_file(make_vit(7, global_pool="avg").state_dict(), tmp_path / file)
    else:
        shutil.copy(tmp_path / "images" / "dog" / "002.png", tmp_path / file)
    later = afresh(chapter)
    after = later.sweep(dict.fromkeys(["mae_finetuned"], later.images()), {"clean": Clean()}, "embedding")
    assert not np.allclose(before["mae_finetuned"]["clean"], after["mae_finetuned"]["clean"])


def test_a_missing_checkpoint_is_named(chapter, tmp_path):
    path = tmp_path / "weights" / "vit_supervised.safetensors"
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{re.escape(str(path))}: no such checkpoint"):
        chapter.sweep(dict.fromkeys(TWO, chapter.images()), {"clean": Clean()}, "prediction")


def test_an_unknown_model_is_named_with_the_known_ones(chapter):
    with pytest.raises(CheckpointError, match="no model 'mae_huge' among mae_pretrained, mae_finetuned"):
        chapter.sweep(dict.fromkeys(["mae_huge"], chapter.images()), {"clean": Clean()}, "prediction")


def test_a_checkpoint_with_another_hash_is_refused_though_its_cells_are_there(chapter):
    chapter.sweep(dict.fromkeys(TWO, chapter.images()), {"clean": Clean()}, "prediction")
    wrong = afresh(chapter, vit_supervised={"hash": "sha256:000000"})
    with pytest.raises(CheckpointError, match=r"vit_supervised\.safetensors: sha256 is .* expected 000000"):
        wrong.sweep(dict.fromkeys(TWO, chapter.images()), {"clean": Clean()}, "prediction")


def test_other_settings_of_the_same_weights_are_computed_anew(chapter):
    images, levels = chapter.images(), {"clean": Clean()}
    first = chapter.sweep(dict.fromkeys(["mae_finetuned"], images), levels, "embedding")
    fewer = {"arguments": chapter.profile.models["mae_finetuned"].arguments | {"num_heads": 2}}
    other = afresh(chapter, mae_finetuned=fewer).sweep(dict.fromkeys(["mae_finetuned"], images), levels, "embedding")
    assert not np.allclose(first["mae_finetuned"]["clean"], other["mae_finetuned"]["clean"], atol=1e-3)


def test_another_image_set_with_the_same_names_has_cells_of_its_own(chapter, tmp_path):
    images, levels = chapter.images(), {"clean": Clean()}
    shutil.copytree(images.source.folder, tmp_path / "others")
    for path in (tmp_path / "others").rglob("*.png"):
        Image.open(path).rotate(90).save(path)
    others = open_images(
        chapter.profile.images.model_copy(update={"folder": str(tmp_path / "others")}), chapter.profile.input
    )
    assert list(others.ids) == list(images.ids)
    first, second = (
        chapter.sweep(dict.fromkeys(["mae_finetuned"], one), levels, "embedding") for one in (images, others)
    )
    assert not np.allclose(first["mae_finetuned"]["clean"], second["mae_finetuned"]["clean"], atol=1e-3)


@pytest.mark.parametrize("name", ["mae_pretrained", "random"])
def test_a_model_without_a_classifier_is_named(chapter, name):
    with pytest.raises(ValueError, match=f"{name} has no classifier"):
        chapter.sweep(dict.fromkeys([name], chapter.images()), {"clean": Clean()}, "embedding")


def test_an_array_in_a_cells_place_is_named_and_computed_again(mae, tmp_path):
    before = sweep.sweep([mae], {"clean": Clean()}, "embedding", tmp_path)
    path = sweep.cell_path(tmp_path, mae, Clean())
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.warns(UserWarning, match=re.escape(str(path))):
        after = sweep.sweep([mae], {"clean": Clean()}, "embedding", tmp_path)
    np.testing.assert_array_equal(before[mae.name]["clean"], after[mae.name]["clean"])


def test_images_without_labels_are_refused(tiny_images, tmp_path):
    unlabelled = subject("mae", 1, replace(tiny_images, labels=np.full(12, -1)))
    with pytest.raises(ValueError, match="accuracy needs labels"):
        sweep.sweep([unlabelled], {"clean": Clean()}, "prediction", tmp_path)


def test_a_damaged_measure_under_a_good_key_is_computed_again(mae, tmp_path):
    sweep.sweep([mae], {"clean": Clean()}, "prediction", tmp_path)
    path, key = sweep.cell_path(tmp_path, mae, Clean()), sweep.cell_key(mae, Clean())
    embedding = module.read_cell(path, key, ("embedding",))["embedding"].tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(embedding) + 5] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=re.escape(str(path))):
        found = sweep.sweep([mae], {"clean": Clean()}, "embedding", tmp_path)
    assert found["mae"]["clean"].tobytes() == embedding


def test_a_cell_that_another_run_finishes_meanwhile_is_read(mae, tmp_path, monkeypatch):
    """Whoever gets the claim looks again at what is on disk."""
    whole = sweep.sweep([mae], {"clean": Clean()}, "embedding", tmp_path)["mae"]["clean"]
    path = sweep.cell_path(tmp_path, mae, Clean())
    hidden, claim = path.with_name("hidden"), files.claim
    path.rename(hidden)
    monkeypatch.setattr(files, "claim", lambda *given: (hidden.rename(path), claim(*given))[1])
    forbid_computing(monkeypatch)
    np.testing.assert_array_equal(sweep.sweep([mae], {"clean": Clean()}, "embedding", tmp_path)["mae"]["clean"], whole)


def test_a_guided_cell_that_another_run_finishes_while_the_clean_ones_are_computed(pair, tmp_path, monkeypatch):
    """One of two models is done when its turn comes: the other's own rollouts are still at hand."""
    half = {50: Occlusion(50)}
    expected = sweep.sweep(pair, half, "embedding", tmp_path / "expected")
    real = sweep.gather

    def gather(tasks, measures, *rest):
        found = real(tasks, measures, *rest)
        if measures == ROLLOUTS:
            monkeypatch.setattr(sweep, "gather", real)
            sweep.sweep(pair[:1], half, "embedding", tmp_path)
        return found

    monkeypatch.setattr(sweep, "gather", gather)
    assert same(sweep.sweep(pair, half, "embedding", tmp_path), expected)


@pytest.fixture
def claimed(mae, tmp_path):
    """The claim of a cell, held by somebody else."""
    with files.claim([module.lock_path(sweep.cell_path(tmp_path, mae, BLUR))]) as held:
        yield held


def test_what_another_run_is_computing_is_left_to_it_until_the_rest_is_done(mae, tmp_path, monkeypatch, claimed):
    """The other run ends without a result: then the cell is computed here, after all others."""
    order, real = [], sweep.measured
    monkeypatch.setattr(sweep, "measured", lambda *given: (order.append(given[1].name), real(*given))[1])
    monkeypatch.setattr(sweep.time, "sleep", lambda _: claimed.close())
    found = sweep.sweep([mae], {"blur": BLUR, "clean": Clean()}, "embedding", tmp_path)["mae"]
    assert order == ["clean", BLUR.name]
    assert list(found) == ["blur", "clean"]


@pytest.mark.usefixtures("claimed")
def test_a_run_that_hangs_is_not_waited_for_for_ever(mae, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "WAIT", 0)
    with pytest.warns(UserWarning, match="another run holds 1 cells for too long"):
        found = sweep.sweep([mae], {"blur": BLUR}, "embedding", tmp_path)["mae"]["blur"]
    np.testing.assert_array_equal(found, sweep.sweep([mae], {"": BLUR}, "embedding", tmp_path / "other")["mae"][""])


def test_a_large_set_is_cut_into_parts_with_the_same_results(pair, tmp_path, monkeypatch):
    """Twelve images in parts of five: three files a model and level; `own_prediction` still knows all classes."""
    levels = {"blur": BLUR, "half": Occlusion(50)}
    whole = sweep.cells(pair, levels, ("prediction", "embedding"), tmp_path / "whole")
    own = cells(pair, Unchanged(), ("own_prediction",), tmp_path / "whole")
    assert Subject.parts.__defaults__ == (subjects.PART,)
    monkeypatch.setattr(Subject.parts, "__defaults__", (5,))
    parts = sweep.cells(pair, levels, ("prediction", "embedding"), tmp_path / "parts")
    assert len(list((tmp_path / "parts" / "mae").glob(f"{BLUR.name}-*.npz"))) == 3
    for one in pair:
        for level in levels:
            np.testing.assert_array_equal(parts[one.name][level]["prediction"], whole[one.name][level]["prediction"])
            np.testing.assert_allclose(
                parts[one.name][level]["embedding"], whole[one.name][level]["embedding"], rtol=1e-6, atol=1e-6
            )
    assert same(own, cells(pair, Unchanged(), ("own_prediction",), tmp_path / "parts"))
    forbid_computing(monkeypatch)
    assert same(parts, sweep.cells(pair, levels, ("prediction", "embedding"), tmp_path / "parts"))


@dataclass(frozen=True)
class Tint(Clean):
    """A perturbation with an array, a path and a name of its own."""

    colours: object = None
    name: str = "tint"


def test_arrays_of_a_perturbation_are_told_apart_by_their_content(mae):
    """NumPy's own text of a large array leaves its middle out."""
    first, second = np.zeros(5000), np.zeros(5000)
    second[2500] = 1
    kinds = [first, second, first.astype(np.float32), first.reshape(50, 100), Path("a"), np.float64(1), [1, 2], None]
    keys = [sweep.cell_key(mae, Tint(kind)) for kind in kinds]
    assert len(set(keys)) == len(kinds)
    assert sweep.cell_key(mae, Tint(np.zeros(5000))) == keys[0]
    with pytest.raises(TypeError, match="a perturbation's fields must be numbers, text, arrays"):
        sweep.cell_key(mae, Tint(lambda: 1))


def test_labels_state_and_model_have_keys_of_their_own(mae):
    others = [
        replace(mae, images=replace(mae.images, labels=mae.images.labels[::-1].copy())),
        replace(mae, images=replace(mae.images, state="other files")),
        replace(mae, name="sup"),
        replace(mae, among=(0, 1)),
    ]
    assert len({sweep.cell_key(one, BLUR) for one in (mae, *others)}) == 5


def test_random_weights_of_another_seed_are_another_cell(chapter, tmp_path):
    """Where mae_pretrained has a classifier, its random control can be swept as well."""
    head = {"arguments": chapter.profile.models["mae_finetuned"].arguments, "checkpoint": None}
    head["checkpoint"] = chapter.profile.models["mae_finetuned"].checkpoint
    chapter = afresh(chapter, mae_pretrained=head)
    found = [
        replace(chapter, seed=seed, opened={}).sweep({"random": chapter.images()}, {"clean": Clean()}, "embedding")
        for seed in (0, 1)
    ]
    assert not np.allclose(found[0]["random"]["clean"], found[1]["random"]["clean"], atol=1e-3)


@pytest.mark.parametrize("name", ["../../up", "..", "/root", "a/b", ".hidden"])
def test_names_do_not_lead_out_of_the_folder_of_cells(mae, tmp_path, name):
    path = sweep.cell_path(tmp_path / "cells", replace(mae, name=name), Tint(name=name))
    assert path.resolve().parent.parent == tmp_path / "cells"
    assert not path.name.startswith(".")
    assert not path.parent.name.startswith(".")


def test_a_perturbation_of_a_notebook_is_refused(mae, tmp_path):
    """A class without a file: an edit of it would go unnoticed."""
    kind = type("Mine", (Clean,), {"__module__": "nowhere"})
    with pytest.raises(ValueError, match=r"module 'nowhere' has no file here, .* put what it defines into a module"):
        sweep.sweep([mae], {"": kind()}, "prediction", tmp_path)


# One seed, the same tables: batch size and threads


@pytest.mark.parametrize("size", [1, 5, 7, 32])
def test_the_batch_size_changes_no_prediction_no_ranking_and_no_accuracy(pair, tmp_path, size):
    """On the CPU. Embeddings, head features and rollouts move by rounding alone, at most 1e-6 of the largest."""
    levels = {"clean": Clean(), "blur": BLUR, 50: Occlusion(50)}
    sets, tables, found = {one.name: one.images for one in pair}, [], []
    for batch in (12, size):
        how = (tmp_path / str(batch), Compute(batch_size=batch))
        found.append(sweep.cells(pair, levels, MEASURES, *how))
        rollouts = sweep.cells(pair, {"clean": Clean()}, ROLLOUTS, *how)
        for name, cell in found[-1].items():
            cell["clean"] |= rollouts[name]["clean"]
        predictions = {name: {level: v["prediction"] for level, v in cell.items()} for name, cell in found[-1].items()}
        tables.append(accuracy_table(predictions, sets).to_csv())
    assert tables[0] == tables[1]
    for name in sets:
        for level in levels:
            for measure, first in found[0][name][level].items():
                second = found[1][name][level][measure]
                np.testing.assert_allclose(second, first, rtol=0, atol=1e-6 * np.abs(first).max())
                if measure in ROLLOUTS:
                    assert np.array_equal(np.argsort(-first, kind="stable"), np.argsort(-second, kind="stable"))


def test_threads_change_no_prediction_and_no_more_than_the_batch_size(pair, tmp_path):
    """Reading threads and PyTorch's own, on the CPU: matrix products are cut up by them."""
    levels, before, found = {"clean": Clean(), "blur": BLUR, 50: Occlusion(50)}, torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(sweep.cells(pair, levels, MEASURES, tmp_path / str(threads), Compute(workers=threads)))
    finally:
        torch.set_num_threads(before)
    for name in found[0]:
        for level in levels:
            first, second = (one[name][level] for one in found)
            assert np.array_equal(first["prediction"], second["prediction"])
            for measure, values in first.items():
                np.testing.assert_allclose(second[measure], values, rtol=0, atol=1e-6 * np.abs(values).max())


# Time on many GPUs


def test_seconds_on_gpus_worked_by_hand():
    part = subjects.PART
    assert sweep.seconds_on(1, 1, 1000, 100) == 10
    assert sweep.seconds_on(1, 75, 50_000, 1000) == pytest.approx(3750)  # 3.75 million images
    assert sweep.seconds_on(8, 8, part, part) == 1  # a part each
    assert sweep.seconds_on(8, 9, part, part) == 2  # one of them has two
    assert sweep.seconds_on(2, 1, part + 1, 1) == part  # a part and a single image
    assert sweep.seconds_on(1000, 1, part, part) == 1  # no more than there is work for
    most = 75 * -(-50_000 // part) // 64 + 1
    assert 3750 / 64 <= sweep.seconds_on(64, 75, 50_000, 1000) <= most * part / 1000
    for wrong in ((0, 1, 1, 1.0), (1, 0, 1, 1.0), (1, 1, 0, 1.0), (1, 1, 1, 0.0), (1, 1, 1, float("nan"))):
        with pytest.raises(ValueError, match="all must be above 0"):
            sweep.seconds_on(*wrong)
