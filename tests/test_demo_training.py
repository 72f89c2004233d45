"""The demo's training on 24 images of noise with one layer: the data, the loss, and interruption without a trace."""

import gzip
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import auto_augment
from timm.utils import random_seed

from mae_helpers.demo import train as training
from mae_helpers.demo.data import enlarge, find_folder, load_split, random_crop_and_flip, read_idx, to_rgb
from mae_helpers.demo.model import demo_vit, masked_loss
from mae_helpers.demo.train import MODEL_NAMES, RECIPES, Recipe, Stage, random_patches, train
from mae_helpers.encoder.decoder import patchify
from mae_helpers.images.sets import DEMO_FILE, first_images
from mae_helpers.profile.settings import load_profile

RECIPE = Recipe(epochs=2, batch=12, learning_rate=1e-2, kept=0.25)
ONCE = Recipe(epochs=1, batch=24, learning_rate=1e-3, kept=0.25)
pytestmark = pytest.mark.usefixtures("shallow_demo")


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


@pytest.fixture
def data(tmp_path):
    """A folder of four gzipped IDX files: 24 training and 20 test images."""
    folder, generator = tmp_path / "data", np.random.default_rng(0)
    folder.mkdir()
    for split, count in (("train", 24), ("t10k", 20)):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(folder / f"{split}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{split}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8) % 10)
    return str(folder)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("shape", [(5,), (3, 28, 28)])
def test_idx_files_are_read_gzipped_or_plain(tmp_path, suffix, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    write_idx(tmp_path / f"some-idx{suffix}", array)
    assert np.array_equal(read_idx(tmp_path / "some-idx"), array)


def test_a_split_is_images_and_labels(data):
    images, labels = load_split("t10k", data)
    assert images.shape == (20, 28, 28)
    assert labels.tolist() == [*range(10), *range(10)]


def test_a_folder_without_the_data_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no Fashion-MNIST .* in {tmp_path}; install"):
        find_folder(str(tmp_path))


def test_training_sees_images_as_the_book_does():
    images = first_images(load_profile("demo")).take([0, 499])
    with np.load(DEMO_FILE) as file:
        small = file["images"][[0, 499]]
    assert np.array_equal(enlarge(small)[1], np.asarray(Image.fromarray(small[1]).resize((56, 56), Image.BICUBIC)))
    torch.testing.assert_close(to_rgb(torch.from_numpy(enlarge(small))), images.tensor([0, 1]))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    return torch.rand(8, 3, 56, 56, generator=seeded(9))


def test_crops_keep_the_shape_and_are_seeded(images):
    first, same, other = (random_crop_and_flip(images, seeded(seed)) for seed in (1, 1, 2))
    assert first.shape == (8, 3, 56, 56)
    assert torch.equal(first, same)
    assert not torch.allclose(first, other)


def test_a_crop_of_the_whole_is_the_image_or_its_mirror(images):
    generator = seeded(1)
    for found, image in zip(random_crop_and_flip(images, generator, smallest=1.0), images, strict=True):
        mirrored = image.flip(-1)
        nearest = mirrored if (found - mirrored).abs().max() < (found - image).abs().max() else image
        torch.testing.assert_close(found, nearest, atol=1e-4, rtol=0)


def test_half_of_the_crops_are_mirrored_and_all_stay_inside_the_image():
    ramp = torch.arange(56.0).expand(400, 1, 56, 56)
    rows = random_crop_and_flip(ramp, seeded(0))[:, 0, 28]
    assert 0.4 < (rows[:, 0] > rows[:, -1]).float().mean() < 0.6
    spans = rows.amax(1) - rows.amin(1)
    assert spans.min() > 0.8 * 55 - 1
    assert spans.max() < 56


def test_the_loss_is_that_of_masked_patches_against_their_own_normalised_pixels(images):
    target = patchify(images)
    target = (target - target.mean(-1, keepdim=True)) / target.std(-1, keepdim=True)
    visible = random_patches(8, 0.25, seeded(3))
    index = visible.unsqueeze(-1).expand(-1, -1, 48)
    assert masked_loss(target, images, visible) < 1e-8
    assert masked_loss(patchify(images), images, visible) > 0.1, "raw pixels are not what is to be predicted"
    assert masked_loss(target.scatter(1, index, 1e3), images, visible) < 1e-8, "visible patches do not count"
    assert masked_loss(target + 2, images, visible).item() == pytest.approx(4, rel=1e-4)
    hidden = next(patch for patch in range(196) if patch not in visible[0])
    target[0, hidden] += 3
    assert masked_loss(target, images, visible).item() == pytest.approx(9 / (8 * 147), rel=1e-4)


def test_random_patches_are_permutations_of_the_right_length():
    generator = seeded(0)
    kept = random_patches(5, 0.25, generator)
    assert kept.shape == (5, 49)
    assert all(len(set(row)) == 49 for row in kept.tolist())
    assert not torch.equal(kept, random_patches(5, 0.25, generator))
    assert random_patches(5, 1, generator) is None


def test_a_cycle_is_the_epochs_between_two_restarts():
    recipe = Recipe(15, batch=128, learning_rate=1e-3, kept=0.25, restarts=(4, 7, 11))
    assert [recipe.cycle(epoch) for epoch in (0, 3, 4, 6, 7, 11, 14)] == [
        (0, 4), (0, 4), (4, 3), (4, 3), (7, 4), (11, 4), (11, 4)
    ]  # fmt: skip


@pytest.mark.parametrize("device", RECIPES)
def test_the_four_classifiers_differ_in_their_start_and_augmentation_alone(device):
    recipes = RECIPES[device]
    for stage in ("finetune", "supervised"):
        assert recipes[stage] == replace(recipes[f"{stage}_plain"], official=True)
    seen = [(recipes[stage].epochs, recipes[stage].batch, recipes[stage].kept) for stage in MODEL_NAMES]
    assert len(set(seen[1:])) == 1, "the same budget of images"
    shapes = [{key: value.shape for key, value in demo_vit(stage).state_dict().items()} for stage in [*MODEL_NAMES][1:]]
    assert all(shape == shapes[0] for shape in shapes), "one architecture"


def test_posterizing_to_no_bits_at_all_gives_black_as_it_did_when_the_recipe_was_published():
    picture = Image.new("RGB", (8, 8), (200, 100, 50))
    strongest = auto_augment.AugmentOp("PosterizeIncreasing", prob=1, magnitude=10)
    assert strongest(picture).getextrema() == ((0, 0),) * 3
    assert auto_augment.AugmentOp("PosterizeIncreasing", prob=1, magnitude=8)(picture).getpixel((0, 0)) == (128, 0, 0)


def test_official_batches_are_erased_mixed_and_seeded():
    images, labels = torch.full((64, 56, 56), 200, dtype=torch.uint8), torch.arange(64) % 10
    made = []
    for seed in (1, 1, 2):
        random_seed(seed, 0)
        made.append(training.official_batch(images, labels, 0.1))
    (pixels, targets), (same, same_targets), (other, _) = made
    assert pixels.shape == (64, 3, 56, 56)
    assert torch.equal(pixels, same)
    assert torch.equal(targets, same_targets)
    assert not torch.equal(pixels, other)
    torch.testing.assert_close(targets.sum(1), torch.ones(64))
    assert ((targets > 0.02).sum(1) == 2).float().mean() > 0.5, "most images are mixed of two classes"
    noisy = (pixels[:, 0].diff(dim=-1).abs() > 1).float().mean((1, 2)) > 0.02  # of a plain grey square
    assert 0.05 < noisy.float().mean() < 0.95, "some are erased by noise, not all"


def test_plain_batches_are_crops_with_smoothed_labels():
    torch.manual_seed(0)
    images, labels = torch.full((4, 56, 56), 200, dtype=torch.uint8), torch.tensor([0, 1, 2, 9])
    pixels, targets = training.plain_batch(images, labels, 0.1)
    torch.testing.assert_close(pixels, to_rgb(images).contiguous())
    torch.testing.assert_close(targets[3], torch.tensor([0.01] * 9 + [0.91]))


class Killed(Exception):
    """The process ends here, as far as a test can have it."""


@pytest.mark.parametrize("stage", MODEL_NAMES)
@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_an_interrupted_run_ends_with_the_same_weights(tmp_path, data, monkeypatch, pretrained, stage, killed_after):
    """2 epochs of 2 steps: stopped within the first epoch, between the two, and within the second."""
    monkeypatch.setattr(training, "SAVED_EVERY", -1)  # after every step
    recipe = RECIPE if stage == "pretrain" else replace(RECIPE, whole=0.5, official=not stage.endswith("_plain"))
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    for folder in (whole, resumed):
        folder.mkdir()
        if stage != "pretrain":
            shutil.copy(pretrained, folder)
    train(stage, recipe, whole, data, "cpu", seed=0)
    interrupted = Stage(stage, recipe, resumed, data, "cpu", seed=0)

    def end(model, _):
        if interrupted.step == killed_after and model.training:
            raise Killed

    interrupted.model.register_forward_pre_hook(end)
    with pytest.raises(Killed):
        interrupted.run()
    assert not (resumed / f"{MODEL_NAMES[stage]}.safetensors").exists()
    train(stage, recipe, resumed, data, "cpu", seed=0)
    for name in (MODEL_NAMES[stage], *(["mae_decoder"] if stage == "pretrain" else [])):
        expected, there = (load_file(folder / f"{name}.safetensors") for folder in (whole, resumed))
        assert set(there) == set(expected)
        assert all(torch.equal(there[key], value) for key, value in expected.items())
    histories = [pd.read_csv(folder / f"{stage}.csv") for folder in (whole, resumed)]
    assert histories[1]["epoch"].iloc[-1] == 2
    assert histories[0]["loss"].tolist() == histories[1]["loss"].tolist()


def test_the_last_share_of_an_epoch_sees_all_patches(tmp_path, data):
    """2 epochs of 2 steps, the last half of an epoch whole: one step of four."""
    stage, seen = Stage("supervised", replace(RECIPE, whole=0.5), tmp_path, data, "cpu", seed=0), []
    stage.model.register_forward_pre_hook(lambda model, given: seen.append(given[1]) if model.training else None)
    stage.run()
    assert [None if kept is None else kept.shape[1] for kept in seen] == [49, 49, 49, None]


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    return tmp_path_factory.mktemp("pretrained")


@pytest.fixture
def pretrained(trained_once, data):
    """The weights of a pre-training of one step, made once."""
    if not (trained_once / "mae_pretrained.safetensors").exists():
        train("pretrain", ONCE, trained_once, data, "cpu", seed=0)
    return trained_once / "mae_pretrained.safetensors"


@pytest.mark.parametrize("stage", ["pretrain", "supervised"])
def test_a_stage_goes_on_behind_the_epochs_that_another_machine_kept(tmp_path, data, stage):
    train(stage, ONCE, tmp_path / "first", data, "cpu", seed=0)
    start = tmp_path / "first" / stage
    train(stage, replace(ONCE, epochs=2, restarts=(1,)), tmp_path / "more", data, "cpu", seed=0, start=start)
    before, after = pd.read_csv(start / "history.csv"), pd.read_csv(tmp_path / "more" / f"{stage}.csv")
    pd.testing.assert_frame_equal(after.iloc[: len(before)], before)
    assert after["epoch"].tolist()[-1] == 2
    kept, final = (
        load_file(path / f"{training.MODEL_NAMES[stage]}.safetensors") for path in (start, tmp_path / "more")
    )
    assert any(not torch.equal(kept[key], final[key]) for key in kept)


def test_a_finished_stage_is_not_touched_and_fine_tuning_starts_from_it(tmp_path, data, pretrained):
    final = tmp_path / "mae_pretrained.safetensors"
    shutil.copy(pretrained, final)
    before = final.read_bytes()
    with pytest.raises(FileExistsError, match=r"mae_pretrained\.safetensors is finished"):
        train("pretrain", ONCE, tmp_path, data, "cpu", seed=0)
    assert final.read_bytes() == before

    start, weights = training.build("finetune", ONCE, tmp_path).encoder.state_dict(), load_file(final)
    shared = set(start) & set(weights)
    assert set(start) - shared == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert all(torch.equal(start[key], weights[key].float()) for key in shared)
    train("finetune", ONCE, tmp_path, data, "cpu", seed=0)
    assert pd.read_csv(tmp_path / "finetune.csv")["top1_percent"].iloc[-1] >= 0
    tuned = load_file(tmp_path / "mae_finetuned.safetensors")
    demo_vit("finetune").load_state_dict({key: value.float() for key, value in tuned.items()})  # strictly
    assert all(value.dtype == torch.float16 for value in tuned.values())
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("changed", ["recipe", "seed"])
def test_resuming_with_another_recipe_or_seed_is_an_error(tmp_path, data, changed):
    train("pretrain", ONCE, tmp_path, data, "cpu", seed=0)
    (tmp_path / "mae_pretrained.safetensors").unlink()  # as if killed just before the end
    other = RECIPE if changed == "recipe" else ONCE
    with pytest.raises(ValueError, match=r"pretrain\.state\.pt holds another recipe or seed"):
        train("pretrain", other, tmp_path, data, "cpu", seed=1 if changed == "seed" else 0)


def test_fine_tuning_before_pre_training_names_the_missing_file(tmp_path, data):
    with pytest.raises(FileNotFoundError, match=r"mae_pretrained\.safetensors: run the stage `pretrain`"):
        train("finetune", RECIPE, tmp_path, data, "cpu", seed=0)
