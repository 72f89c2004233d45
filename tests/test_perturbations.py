"""Blur against OpenCV, PSNR and SSIM against scikit-image and by hand; which patches are masked, and with what."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mae_helpers.images.pixels import patch_grid
from mae_helpers.images.sets import ImageSet
from mae_helpers.perturbations.blur import BLUR, GaussianBlur, blur, blur_levels
from mae_helpers.perturbations.levels import Clean, Unchanged, pictures
from mae_helpers.perturbations.occlusion import (
    FILLS,
    OCCLUSION_PERCENT,
    RANKINGS,
    Occlusion,
    occlude,
    occlusion_levels,
    ranked,
)
from mae_helpers.perturbations.quality import psnr, quality_table, ssim
from mae_helpers.profile.settings import Input
from mae_helpers.verdicts.published import published

COLOUR, NAN = np.float32([0.2, 0.4, 0.6]), float("nan")


def noise(size=56, seed=0):
    return np.random.default_rng(seed).random((size, size, 3), dtype=np.float32)


def scores(images=12, patches=16, seed=0):
    return np.random.default_rng(seed).random((images, patches), dtype=np.float32)


def rollouts(**arguments):
    return {"cls_rollout": scores(**arguments, seed=1), "patch_rollout": scores(**arguments, seed=2)}


def changed_patches(before, after, grid):
    """Which patches of a square grid differ at all, as a list of indices in row-major order."""
    side = len(before) // grid
    differs = (before != after).any(-1).reshape(grid, side, grid, side).any((1, 3))
    return np.flatnonzero(differs).tolist()


@pytest.mark.parametrize("level", list(BLUR))
def test_blur_is_opencvs_with_reflected_borders(level):
    size, sigma = BLUR[level]
    expected = cv2.GaussianBlur(noise(), (size, size), sigmaX=sigma, sigmaY=sigma, borderType=cv2.BORDER_REFLECT_101)
    found = GaussianBlur(size, sigma).change(None, {})(noise(), "any")
    assert np.array_equal(found, expected)
    assert found.dtype == np.float32


def test_blur_of_a_point_by_hand():
    point = np.zeros((9, 9, 3), np.float32)
    point[4, 4] = 1
    line = np.exp(-(np.arange(-1, 2) ** 2) / (2 * 2**2))
    line /= line.sum()
    expected = np.zeros((9, 9))
    expected[3:6, 3:6] = np.outer(line, line)
    np.testing.assert_allclose(blur(point, 3, 2)[..., 1], expected, atol=1e-7)
    np.testing.assert_allclose(blur(np.full((16, 16, 3), 0.3, np.float32), 11, 5), 0.3, rtol=1e-6)


def test_blur_levels_are_those_of_table_1():
    table = published("table1_blur").set_index("level")
    assert list(BLUR) == table.index.tolist()
    assert {level: (row.kernel_size, row.sigma) for level, row in table.iterrows()} == BLUR
    levels = blur_levels()
    assert list(levels) == ["clean", *table.index]
    assert levels.pop("clean") == Clean()
    assert {level: (found.kernel_size, found.sigma) for level, found in levels.items()} == BLUR
    assert blur_levels(["X", "I"]) == {"clean": Clean(), "X": GaussianBlur(11, 5.0), "I": GaussianBlur(5, 1.0)}


REFUSALS = [
    *((lambda size=size: GaussianBlur(size, 1.0), f"kernel size {size} must be odd") for size in (4, 0, -1)),
    *((lambda sigma=sigma: GaussianBlur(5, sigma), f"sigma {sigma} must be above 0") for sigma in (0, -2.5, NAN)),
    *((lambda percent=percent: Occlusion(percent), f"occlusion of {percent} %") for percent in (-0.1, 101, NAN)),
    (lambda: blur_levels(["I", "XI"]), r"\['XI'\] are unknown; use some of I, II"),
    (lambda: blur_levels([]), r"\[\] are unknown; use some of I, II"),
    (lambda: Occlusion(50, "rollout"), "ranking 'rollout' is unknown; use one of cls_rollout, patch_rollout, random"),
    (
        lambda: Occlusion(50, fill="white"),
        "fill 'white' is unknown; use one of mean_colour, black, image_mean, blurred",
    ),
]


@pytest.mark.parametrize(("make", "message"), REFUSALS)
def test_a_setting_that_no_perturbation_can_have_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("offset", "decibel"), [(0.1, 20), (0.01, 40), (1, 0)])
def test_psnr_of_a_constant_offset_by_hand_and_of_equal_images(offset, decibel, recwarn):
    assert psnr(np.zeros((8, 8, 3)), np.full((8, 8, 3), offset)) == pytest.approx(decibel)
    assert psnr(noise(), noise()) == float("inf")
    assert not recwarn.list


def test_psnr_and_ssim_agree_with_scikit_image():
    clean, perturbed = noise(), blur(noise(), 5, 2)
    assert psnr(clean, perturbed) == peak_signal_noise_ratio(clean, perturbed, data_range=1)
    expected = structural_similarity(clean, perturbed, win_size=7, data_range=1, channel_axis=2)
    assert ssim(clean, perturbed) == expected
    assert 0 < expected < 0.9


def test_ssim_of_constant_images_by_hand():
    low, high, c1 = 0.2, 0.6, 0.01**2
    images = (np.full((16, 16, 3), value) for value in (low, high))
    assert ssim(*images) == pytest.approx((2 * low * high + c1) / (low**2 + high**2 + c1))


def test_the_table_of_quality_has_means_over_images(tiny_images):
    levels = blur_levels(["X", "I"])
    found = quality_table(tiny_images, levels)
    assert found["level"].tolist() == ["clean", "X", "I"]
    pairs = [(image[0], image[1]) for image in pictures(tiny_images, {"clean": Clean(), "X": levels["X"]})]
    for name, measure in (("psnr_db", psnr), ("ssim", ssim)):
        assert found[name][1] == pytest.approx(np.mean([measure(*pair) for pair in pairs]))
    assert found["ssim"][0] == 1


def test_patches_rank_from_high_to_low_with_ties_by_index():
    assert ranked([0.1, 0.5, 0.5, 0.9, 0.1, 0.5]).tolist() == [3, 1, 2, 5, 0, 4]
    assert ranked(np.zeros(300)).tolist() == list(range(300))


@pytest.mark.parametrize("patches", [4, 16, 64, 196])
def test_the_right_number_of_patches_is_masked_at_every_percentage(patches):
    grid = int(patches**0.5)
    order = np.random.default_rng(0).permutation(patches)
    for percent in range(101):
        found = changed_patches(noise(), occlude(noise(), order, percent, "black", COLOUR), grid)
        count = (2 * percent * patches + 100) // 200  # rounded, in whole numbers; an even grid has no ties
        assert found == sorted(order[:count].tolist())


def test_occlusion_of_a_two_by_two_grid_by_hand():
    pixels = noise(4)
    expected = pixels.copy()
    expected[2:, :2] = 0  # patch 2
    assert np.array_equal(occlude(pixels, np.array([2, 1, 3, 0]), 25, "black", COLOUR), expected)
    expected[:2, 2:] = 0  # patch 1
    assert np.array_equal(occlude(pixels, np.array([2, 1, 3, 0]), 50, "black", COLOUR), expected)


@pytest.mark.parametrize("fill", FILLS)
def test_nothing_is_masked_at_zero_and_everything_at_a_hundred(fill):
    order = np.random.default_rng(0).permutation(16)
    assert np.array_equal(occlude(noise(), order, 0, fill, COLOUR), noise())
    for level in (Clean(), Unchanged()):
        assert np.array_equal(level.change(None, {})(noise(), "any"), noise())
    assert changed_patches(noise(), occlude(noise(), order, 100, fill, COLOUR), 56) == list(range(56**2))


@pytest.mark.parametrize("fill", FILLS)
def test_fills_do_what_they_say_and_leave_the_rest_alone(fill):
    pixels, before = noise(), noise()
    masked = np.zeros((56, 56), bool)
    masked[:14, 28:42] = masked[42:, :14] = True  # patches 2 and 12 of a 4 x 4 grid
    found = occlude(pixels, np.array([12, 2, *range(2), *range(3, 12), 13, 14, 15]), 12.5, fill, COLOUR)
    expected = {
        "mean_colour": np.broadcast_to(COLOUR, (56, 56, 3)),
        "black": np.zeros((56, 56, 3)),
        "image_mean": np.broadcast_to(before.mean(axis=(0, 1)), (56, 56, 3)),
        "blurred": cv2.GaussianBlur(before, (0, 0), 4, borderType=cv2.BORDER_REFLECT_101),
    }[fill]
    assert np.array_equal(found[~masked], before[~masked])
    assert np.array_equal(found[masked], expected[masked].astype(np.float32))
    assert found.dtype == np.float32
    assert np.array_equal(pixels, before), "the clean image stays as it was"
    if fill == "blurred":
        assert occlude(before, np.arange(16), 100, fill, COLOUR).std() < 0.1 * before.std(), "no detail is left"


@pytest.mark.parametrize("mean", [[0.485, 0.456, 0.406], [0.5] * 3, [0.2860] * 3, [0.5, 0.4, 0.3]])
def test_mean_colour_is_exactly_zero_after_the_normalisation(tiny_images, mean):
    tiny_images = tiny_images.normalised_as(mean, [0.229, 0.224, 0.225])
    change = Occlusion(50).change(tiny_images, rollouts())
    found, clean = tiny_images.changed(change).tensor(range(12)), tiny_images.tensor(range(12))
    masked = (found == 0).all(1)
    assert masked.sum(dim=(1, 2)).tolist() == [512] * 12
    assert torch.equal(found[~masked[:, None].expand_as(found)], clean[~masked[:, None].expand_as(found)])


@pytest.mark.parametrize("ranking", ["cls_rollout", "patch_rollout"])
def test_each_image_loses_the_patches_that_its_own_scores_rank_highest(tiny_images, ranking):
    clean = rollouts()
    change = Occlusion(25, ranking, "black").change(tiny_images, clean)
    for row, name in enumerate(tiny_images.ids):
        found = changed_patches(tiny_images.pixels(row), change(tiny_images.pixels(row), name), 4)
        assert found == sorted(np.argsort(clean[ranking][row])[-4:].tolist())


def test_masked_patches_are_the_models_patches(tiny_vit, tiny_images):
    whole = tiny_vit.patch_embed(tiny_images.tensor([0]))[0]
    for patch in range(16):
        wanted = np.eye(16)[[patch] * 12]
        change = Occlusion(100 / 16).change(tiny_images, {"cls_rollout": wanted, "patch_rollout": wanted})
        tokens = tiny_vit.patch_embed(tiny_images.changed(change).tensor([0]))[0]
        assert torch.nonzero((tokens - whole).abs().max(-1)[0] > 1e-4).flatten().tolist() == [patch]


def random_patches(images, row, seed=0, percent=50):
    change = Occlusion(percent, "random", "black", seed).change(images, rollouts(images=len(images)))
    return changed_patches(images.pixels(row), change(images.pixels(row), images.ids[row]), 4)


def test_random_masks_depend_on_id_and_seed_alone(tiny_images):
    backwards, alone = tiny_images.take(range(11, -1, -1)), tiny_images.take([3])
    assert random_patches(tiny_images, 3) == random_patches(backwards, 8) == random_patches(alone, 0)
    assert random_patches(tiny_images, 3) != random_patches(tiny_images, 3, seed=1)
    assert len({tuple(random_patches(tiny_images, row)) for row in range(12)}) > 9
    growing = [set(random_patches(tiny_images, 0, percent=percent)) for percent in (25, 50, 75, 100)]
    assert all(before < after for before, after in pairwise(growing)), "masks grow with the percentage"


def test_random_masks_are_uniform_over_patches():
    ids = [str(number) for number in range(2000)]
    images = ImageSet(ids, np.zeros(2000, int), np.full(2000, "x"), None, Input(size=4))
    change = Occlusion(25, "random", "black").change(images, rollouts(images=2000))
    white = np.ones((4, 4, 3), np.float32)
    masked = sum(1 - change(white, name)[..., 0] for name in ids)
    assert np.all(np.abs(masked - 500) < 100), "5 standard deviations of a binomial count"


def test_occlusion_levels_start_with_the_clean_image():
    levels = occlusion_levels("random", fill="black", seed=3)
    assert list(levels) == list(OCCLUSION_PERCENT) == list(range(0, 100, 10))
    assert levels[0] == Clean()
    assert levels[30] == Occlusion(30, "random", "black", 3)
    assert list(occlusion_levels("cls_rollout", [50, 25])) == [0, 50, 25]
    found = [*blur_levels().values(), *(Occlusion(p, ranking) for p in (10, 12.5, 90) for ranking in RANKINGS)]
    assert len({perturbation.name for perturbation in found}) == len(found), "each has a name of its own"


def test_head_features_are_recorded_for_the_papers_ranking_and_all_that_is_for_clean_images():
    assert RANKINGS == ("cls_rollout", "patch_rollout", "random")
    measures = [Occlusion(50, ranking).measures for ranking in RANKINGS]
    answers = ("prediction", "probability", "embedding")
    assert measures == [(*answers, "heads"), answers, answers]
    assert {*measures[0], *GaussianBlur(5, 1.0).measures, "cls_rollout", "patch_rollout"} <= set(Clean().measures)
    assert "own_prediction" in Unchanged().measures


def test_patches_of_an_upright_image_are_counted_by_row():
    pixels = np.ones((6, 4, 3), np.float32)
    masked = occlude(pixels, np.array([3, 0, 1, 2, 4, 5]), 100 / 6, "black", np.zeros(3))  # 3 x 2 patches of 2 px
    assert (masked[2:4, 2:] == 0).all()
    assert masked.sum() == pixels.sum() - 12
    assert [patch_grid(6, shape) for shape in ((6, 4), (4, 6), (12, 8))] == [(3, 2), (2, 3), (3, 2)]
    with pytest.raises(ValueError, match="7 patches do not tile 6 x 4 pixels"):
        patch_grid(7, (6, 4))
