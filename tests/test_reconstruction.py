"""Masked images and reconstructions: patches by hand, there and back, and what may never change."""

import numpy as np
import pytest
import torch

from mae_helpers.demo.model import demo_vit
from mae_helpers.encoder.decoder import Decoder, patchify, unpatchify
from mae_helpers.encoder.walk import visible_patches
from mae_helpers.images.sets import first_images
from mae_helpers.measures.reconstruction import hide_patches, pixels, reconstruct
from mae_helpers.profile.settings import load_profile


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def two_images():
    return first_images(load_profile("demo")).take([0, 123])


def test_hide_patches_by_hand():
    shown = hide_patches(torch.ones(2, 3, 4, 4), torch.tensor([[1], [2]]), patch_size=2)
    upper_right = [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    lower_left = [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]
    for image, expected in zip(shown, (upper_right, lower_left), strict=True):
        for channel in image:
            assert channel.tolist() == expected
    assert (hide_patches(noise(1, 3, 4, 4), torch.tensor([[0, 3]]), 2) == 0).sum() == 3 * 8, (
        "the mean colour by default"
    )


def test_patches_are_cut_row_by_row_with_pixels_in_row_column_channel_order_and_put_back():
    rows, columns = torch.meshgrid(torch.arange(56), torch.arange(56), indexing="ij")
    image = torch.stack([rows, columns, torch.full_like(rows, 7)]).unsqueeze(0)
    patches = patchify(image)
    assert patches.shape == (1, 196, 48)
    assert patches[0, 1 * 14 + 2, :3].tolist() == [4, 8, 7], "second row of patches, third column"
    assert patches[0, 1 * 14 + 2, 3:6].tolist() == [4, 9, 7], "the next pixel of that row"
    assert patches[0, 1 * 14 + 2, 12:15].tolist() == [5, 8, 7], "the first pixel of the next row"
    images = noise(2, 3, 56, 56)
    assert torch.equal(unpatchify(patchify(images)), images)


def test_pixels_undo_the_normalisation(two_images):
    settings = two_images.input
    found = pixels(two_images.tensor([0, 1]), settings.mean, settings.std)
    expected = np.stack([np.asarray(two_images.image(row)) for row in range(2)]) / 255
    np.testing.assert_allclose(found, expected, atol=1e-6)


def hidden_pixels(images, ratio):
    visible = visible_patches(images.ids, 196, ratio, seed=0)
    return hide_patches(torch.ones(len(images), 3, 56, 56), visible, 4).permute(0, 2, 3, 1).numpy() == 0


@pytest.mark.usefixtures("shallow_demo")
def test_reconstruction_leaves_visible_patches_as_they_were(two_images):
    torch.manual_seed(0)
    original, masked, reconstructed = reconstruct(demo_vit("pretrain").eval(), Decoder().eval(), two_images, 0.75)
    hidden = hidden_pixels(two_images, 0.75)
    assert hidden.mean() == 0.75
    for shown in (masked, reconstructed):
        np.testing.assert_allclose(shown[~hidden], original[~hidden], atol=1e-6)
    np.testing.assert_allclose(masked[hidden], two_images.input.mean[0], atol=1e-6)
    assert np.abs(reconstructed - original)[hidden].max() > 0.05, "a random decoder cannot know the image"


@pytest.mark.usefixtures("shallow_demo")
def test_a_perfect_decoder_gives_the_image_back(two_images):
    target = patchify(two_images.tensor([0, 1]))
    perfect = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    original, _, reconstructed = reconstruct(demo_vit("pretrain"), lambda *_: perfect, two_images, 0.75)
    np.testing.assert_allclose(reconstructed, original, atol=1e-5)


@pytest.mark.usefixtures("shallow_demo")
def test_without_a_decoder_there_are_the_images_and_their_visible_patches(two_images):
    rows = reconstruct(demo_vit("pretrain"), None, two_images, 0.75)
    assert [row.shape for row in rows] == [(2, 56, 56, 3)] * 2
