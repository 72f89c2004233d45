"""The 15 corruptions: those of Table II, seeded by image alone, in bytes; the mean error by hand."""

from dataclasses import replace

import imagecorruptions
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mae_helpers.images.pixels import ImageError
from mae_helpers.perturbations.blur import blur
from mae_helpers.perturbations.corruptions import (
    GROUP_OF,
    GROUPS,
    SEVERITIES,
    Corruption,
    corrupt,
    mean_corruption_error,
)
from mae_helpers.perturbations.imagenet_c import corruption_levels
from mae_helpers.profile.settings import load_profile
from mae_helpers.verdicts.published import published

DEMO = load_profile("demo")
TABLE = published("table2_imagenet_c")
DETERMINISTIC = ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
every = pytest.mark.parametrize("corruption", list(GROUP_OF))


def picture():
    """A 56-px image of coloured blobs, in 256 steps."""
    noise = np.random.default_rng(0).random((56, 56, 3), dtype=np.float32)
    blobs = blur(noise, 11, 3)
    blobs = (blobs - blobs.min()) / (blobs.max() - blobs.min())
    return np.round(blobs * 255) / np.float32(255)


def same_state(first, second):
    return all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def test_corruptions_and_groups_are_those_of_table_2():
    assert TABLE.groupby("group", sort=False)["corruption"].unique().map(tuple).to_dict() == GROUPS
    assert len(GROUP_OF) == 15
    assert set(DETERMINISTIC) < set(GROUP_OF)
    cells = list(zip(TABLE["corruption"], TABLE["severity"], strict=True))
    assert corruption_levels(DEMO) == ({cell: Corruption(*cell) for cell in cells}, "generated")
    assert SEVERITIES == (1, 2, 3, 4, 5)
    assert list(GROUP_OF) == imagecorruptions.get_corruption_names()
    for group, names in GROUPS.items():
        assert list(names) == imagecorruptions.get_corruption_names(group)
    assert corruption_levels(DEMO, (5,), seed=2)[0]["fog", 5] == Corruption("fog", 5, 2)
    assert len({Corruption(*cell).name for cell in cells}) == 75


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Corruption("rain", 1), "corruption 'rain' is unknown; use one of gaussian_noise, shot_noise"),
        *((lambda n=n: Corruption("fog", n), f"fog: severity {n} is unknown; use 1 to 5") for n in (0, 6, -1, 2.0)),
        (lambda: corruption_levels(DEMO, ()), r"severities \[\]: use some of 1 to 5"),
    ],
)
def test_what_is_no_corruption_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_too_small_an_image_is_an_error_that_says_what_to_do(tiny_images):
    small = replace(tiny_images, input=tiny_images.input.model_copy(update={"size": 31}))
    with pytest.raises(ImageError, match=r"input\.size is 31: .* at least 32 px; leave this chapter out"):
        Corruption("fog", 1).change(small, {})
    before = np.random.get_state()  # noqa: NPY002
    with pytest.raises(AttributeError, match="at least 32 pixels"):
        corrupt(picture()[:16, :16], "a", "fog", 1, seed=0)
    assert same_state(before, np.random.get_state()), "put back after an error"  # noqa: NPY002


@every
def test_a_corruption_is_seeded_and_stays_an_image_in_bytes(corruption):
    pixels = picture()
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()  # noqa: NPY002
    found = corrupt(pixels, "a", corruption, 3, seed=0)
    assert same_state(before, np.random.get_state()), "numpy's global state stays"  # noqa: NPY002
    np.random.seed(6)  # noqa: NPY002
    assert found.dtype == np.float32
    assert found.shape == (56, 56, 3)
    assert found.min() >= 0
    assert found.max() <= 1
    assert np.array_equal(np.round(found * 255) / np.float32(255), found)
    assert np.array_equal(pixels, picture()), "the clean image stays as it was"
    assert not np.array_equal(found, pixels)
    assert np.array_equal(found, corrupt(pixels, "a", corruption, 3, seed=0)), "and does not matter"
    assert np.array_equal(found, corrupt(pixels, "a", corruption, 3, seed=1)) == (corruption in DETERMINISTIC)
    assert np.array_equal(found, corrupt(pixels, "b", corruption, 3, seed=0)) == (corruption in DETERMINISTIC)
    if corruption in DETERMINISTIC:
        expected = imagecorruptions.corrupt(np.round(pixels * 255).astype(np.uint8), 3, corruption)
        assert np.array_equal(np.round(found * 255), expected), "the package's own result"


def test_contrast_by_hand():
    pixels = picture()
    mean = pixels.mean(axis=(0, 1), dtype=np.float64)
    expected = (pixels - mean) * 0.4 + mean
    np.testing.assert_allclose(corrupt(pixels, "a", "contrast", 1, seed=0), expected, atol=1.001 / 255)


def test_gaussian_noise_has_the_published_width_and_is_drawn_anew_at_each_severity():
    grey = np.full((56, 56, 3), 128 / 255, np.float32)
    noises = [corrupt(grey, "a", "gaussian_noise", severity, 0) - grey for severity in SEVERITIES[:3]]
    assert [noise.std() for noise in noises] == pytest.approx([0.08, 0.12, 0.18], rel=0.05)
    assert abs(np.corrcoef(noises[0].ravel(), noises[1].ravel())[0, 1]) < 0.1


@pytest.mark.parametrize("corruption", ["gaussian_noise", "defocus_blur", "brightness", "contrast", "jpeg_compression"])
def test_severity_grows(corruption):
    away = [np.abs(corrupt(picture(), "a", corruption, severity, 0) - picture()).mean() for severity in SEVERITIES]
    assert away == sorted(away)
    assert away[0] < away[-1]


@pytest.mark.parametrize("size", [32, 56, 224])
def test_zoom_blur_reaches_the_border(size):
    white = np.asarray(Image.new("RGB", (size, size), "white"), np.float32) / 255
    for severity in SEVERITIES:
        assert corrupt(white, "a", "zoom_blur", severity, 0).min() > 0.98


def test_mean_corruption_error_by_hand():
    rows = [
        ("mae", "fog", 1, 90.0),
        ("mae", "fog", 2, 70.0),
        ("mae", "snow", 1, 50.0),  # one severity counts as much as the two of fog
        ("vit", "fog", 1, 100.0),
        ("vit", "snow", 1, 0.0),
        ("vit", "snow", 2, 50.0),
    ]
    table = pd.DataFrame(rows, columns=["model", "corruption", "severity", "top1_percent"])
    assert mean_corruption_error(table).to_dict() == {"mae": (20 + 50) / 2, "vit": (0 + 75) / 2}
    whole = mean_corruption_error(TABLE.assign(model="mae_finetuned"))
    assert whole["mae_finetuned"] == pytest.approx(100 - TABLE["top1_percent"].mean())
