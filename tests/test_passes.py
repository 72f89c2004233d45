"""The one pass over the images: whole, in order, in little memory, and leaving nothing behind."""

import weakref

import numpy as np
import pytest

from mae_helpers.encoder.passes import PerImage, one_pass
from mae_helpers.encoder.walk import cls_token, mean_patch, walk
from mae_helpers.profile.machine import Compute


def per_image():
    return {"mean": PerImage(mean_patch), "attention": PerImage(lambda state: state.attention()[:, :, 0].max(-1)[0])}


def passed(model, images, statistics, size=None, **mask):
    return one_pass(model, images, statistics, compute=Compute(batch_size=size), **mask)


@pytest.mark.parametrize("ratio", [0.0, 0.75])
def test_the_pass_does_not_depend_on_the_batch_size(tiny_vit, tiny_images, ratio):
    expected = passed(tiny_vit, tiny_images, per_image(), 1, ratio=ratio)
    for size in (7, 64):
        found = passed(tiny_vit, tiny_images, per_image(), size, ratio=ratio)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5)


def test_images_are_gathered_by_layers_in_order(tiny_vit, tiny_images):
    found = passed(tiny_vit, tiny_images, per_image(), 5)
    assert found["mean"].shape == (12, 4, 24)
    assert found["attention"].shape == (12, 4, 4)
    assert found["mean"].dtype == np.float32
    for row in (0, 4, 5, 11):
        alone = [mean_patch(state)[0].numpy() for state in walk(tiny_vit, tiny_images.tensor([row]))]
        np.testing.assert_allclose(found["mean"][row], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [1, 3, 4])
def test_one_layer_alone_is_that_layer_of_all_measured_once_a_batch(tiny_vit, tiny_images, layer):
    measured = []

    def measure(state):
        measured.append(state.layer)
        return mean_patch(state)

    statistics = {"all": PerImage(mean_patch), "one": PerImage(measure, only=layer)}
    found = passed(tiny_vit, tiny_images, statistics, 5)
    assert found["one"].shape == (12, 24)
    assert np.array_equal(found["one"], found["all"][:, layer - 1])
    assert measured == [layer] * 3


def test_every_statistic_is_told_every_layer_of_every_batch_once_and_a_layer_let_go_before_the_next(
    tiny_vit, tiny_images
):
    class Diary:
        def begin(self, images, layers):
            self.told, self.maps = [], []

        def add(self, state, rows):
            alive = sum(each() is not None for each in self.maps)
            self.told.append((state.layer, rows, len(state.tokens), alive))
            self.maps.append(weakref.ref(state.attention()))

        def result(self):
            return self.told

    found = passed(tiny_vit, tiny_images, {"diary": Diary()}, 8, ratio=0.75)["diary"]
    batches = [(range(0, 8), 8), (range(8, 12), 4)]
    assert found == [(layer, rows, size, 0) for rows, size in batches for layer in (1, 2, 3, 4)]


def test_seed_and_draw_choose_the_masks(tiny_vit, tiny_images):
    def run(**mask):
        return one_pass(tiny_vit, tiny_images, {"mean": PerImage(mean_patch)}, ratio=0.75, **mask)["mean"]

    assert np.array_equal(run(seed=1), run(seed=1))
    assert not np.allclose(run(seed=1), run(seed=2))
    assert not np.allclose(run(seed=1), run(seed=1, draw=1))


def test_a_statistic_that_raises_ends_the_pass_and_leaves_no_hook(tiny_vit, tiny_images):
    def fail(state):
        raise RuntimeError("statistic failed")

    with pytest.raises(RuntimeError, match="statistic failed"):
        one_pass(tiny_vit, tiny_images, {"failing": PerImage(fail)})
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny_vit.modules())


def test_what_is_gathered_does_not_keep_the_layers_in_memory(tiny_vit, tiny_images):
    gathered = PerImage(cls_token)
    gathered.begin(1, 4)
    for state in walk(tiny_vit, tiny_images.tensor([0])):  # of one image, the CLS token is a view of all tokens
        gathered.add(state, range(1))
        assert not np.shares_memory(gathered.result(), state.tokens.numpy())
