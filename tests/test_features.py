"""Active, common and retained features by hand and against plain loops; the mean drop against its own table."""

import numpy as np
import pytest
import torch

from mae_helpers.encoder.passes import PerImage, one_pass
from mae_helpers.encoder.walk import embed, walk
from mae_helpers.measures.features import active, common, feature_table, head_features, mean_drop, retained
from mae_helpers.profile.machine import Compute
from mae_helpers.run.tables import COLUMNS

LAYERS, HEADS, WIDTH = 3, 2, 7
CLASSES = np.array(["dog", "cat", "dog", "ant", "cat", "cat", "ant", "dog", "ant", "dog", "cat", "ant", "dog"])


def features(seed=0, images=13):
    return np.random.default_rng(seed).normal(size=(images, LAYERS, HEADS, WIDTH))


def clean_and_perturbed(seed=0, strength=0.7):
    """Active features before and after noise, random as a whole but alike within an image."""
    shared = 1.5 * features(seed + 100, images=1)
    before = shared + features(seed)
    return active(before, 3), active(before + strength * features(seed + 1), 3)


def is_common(images, rows, place, share):
    return sum(bool(images[row][place]) for row in rows) / len(rows) >= share - 1e-9


def loop(clean, perturbed, share):
    """{(class, layer, head): (clean_count, retained_count)}, feature by feature."""
    counts = {}
    for name in ("dog", "cat", "ant"):
        rows = [row for row, other in enumerate(CLASSES) if other == name]
        for layer in range(LAYERS):
            for head in range(HEADS):
                before = after = 0
                for feature in range(WIDTH):
                    place = (layer, head, feature)
                    if is_common(clean, rows, place, share):
                        before += 1
                        after += is_common(perturbed, rows, place, share)
                counts[name, layer + 1, head + 1] = before, after
    return counts


def test_head_features_are_the_models_own_values_weighted_by_its_own_attention(tiny_vit, tiny_images):
    batch = tiny_images.tensor(range(3))
    with torch.no_grad():
        before, _ = embed(tiny_vit, batch)
        for state in walk(tiny_vit, batch):
            block = tiny_vit.blocks[state.layer - 1]
            qkv = block.norm1(before) @ block.attn.qkv.weight.T + block.attn.qkv.bias
            for head in range(4):
                query, key, value = (qkv[..., 24 * part + 6 * head :][..., :6] for part in range(3))
                attention = torch.softmax(query @ key.transpose(1, 2) / 6**0.5, dim=-1)
                expected = (attention @ value)[:, 1:].mean(1)
                torch.testing.assert_close(head_features(state)[:, head], expected, rtol=1e-4, atol=1e-5)
            before = state.tokens
    told = {"heads": PerImage(head_features)}
    found = one_pass(tiny_vit, tiny_images, told, compute=Compute(batch_size=5))["heads"]
    assert found.shape == (12, 4, 4, 6)
    alone = [head_features(state)[0].numpy() for state in walk(tiny_vit, tiny_images.tensor([7]))]
    np.testing.assert_allclose(found[7], alone, rtol=1e-4, atol=1e-5)


def test_active_features_by_hand():
    head = np.array([0.5, -3.0, 2.0, -0.1, 1.0])
    assert np.flatnonzero(active(head, 2)).tolist() == [1, 2]
    assert np.flatnonzero(active(head, 3)).tolist() == [1, 2, 4]
    assert np.flatnonzero(active(head, 2, "value")).tolist() == [2, 4]
    assert np.flatnonzero(active(head, 4, "value")).tolist() == [0, 2, 3, 4]
    tied = np.array([1.0, -2.0, 2.0, 1.0, -1.0])  # ties go to the lower index
    assert np.flatnonzero(active(tied, 3)).tolist() == [0, 1, 2]
    assert np.flatnonzero(active(tied, 2, "value")).tolist() == [0, 2]
    assert np.flatnonzero(active(np.zeros(300), 5)).tolist() == [0, 1, 2, 3, 4]
    assert active(features(), WIDTH).all()


@pytest.mark.parametrize("by", ["magnitude", "value"])
def test_active_agrees_with_a_plain_sort_of_every_head(by):
    values = features()
    found = active(values, 3, by)
    assert found.shape == values.shape
    for place in np.ndindex(values.shape[:-1]):
        size = [abs(value) if by == "magnitude" else value for value in values[place]]
        largest = sorted(range(WIDTH), key=size.__getitem__, reverse=True)[:3]
        assert np.flatnonzero(found[place]).tolist() == sorted(largest)


@pytest.mark.parametrize("k", [0, -1, 8])
def test_k_out_of_bounds_and_an_unknown_order_are_named(k):
    with pytest.raises(ValueError, match=f"k = {k} active features: a head has 7; use 1 to 7"):
        active(features(), k)
    with pytest.raises(ValueError, match="by 'size': use magnitude or value"):
        active(features(), 2, "size")


def test_common_features_by_hand():
    images = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]], bool)
    assert common(images, 0.5).tolist() == [True, True, False, False]
    assert common(images, 0.51).tolist() == [True, False, False, False]
    assert common(images, 0.25).tolist() == [True, True, True, False]
    assert common(images, 1).tolist() == [True, False, False, False]


@pytest.mark.parametrize("images", range(1, 101))
def test_an_exact_share_counts_whatever_the_last_bit_says(images):
    for tenths in range(1, 11):
        least = -(-tenths * images // 10)  # rounded up, in whole numbers
        column = np.zeros((images, 2), bool)
        column[:least, 0] = column[: least - 1, 1] = True
        assert common(column, tenths / 10).tolist() == [True, False]
        clean = column[:, None, None]
        nothing = np.zeros_like(clean)
        assert mean_drop(clean, nothing, np.zeros(images), tenths / 10, resamples=2)["mean_drop"] == 1


@pytest.mark.parametrize("share", [0, -0.5, 1.01, 60])
def test_share_out_of_bounds_is_named(share):
    clean, perturbed = clean_and_perturbed()
    with pytest.raises(ValueError, match=f"share {share} of a class's images"):
        common(clean, share)
    with pytest.raises(ValueError, match=f"share {share} of a class's images"):
        feature_table(clean, {"I": perturbed}, CLASSES, share)


def test_empty_class_is_an_error():
    empty = np.zeros((0, LAYERS, HEADS, WIDTH), bool)
    with pytest.raises(ValueError, match="common features of an empty class"):
        common(empty, 0.5)
    with pytest.raises(ValueError, match="common features of an empty class"):
        retained(empty, empty, 0.5)


def test_retained_features_by_hand():
    clean = np.array([[[[1, 1, 0, 1]]], [[[1, 1, 1, 0]]]], bool)
    perturbed = np.array([[[[1, 0, 1, 1]]], [[[1, 1, 1, 0]]]], bool)
    before, after = retained(clean, perturbed, 1)
    assert before.tolist() == [[2]], "features 0 and 1"
    assert after.tolist() == [[1]], "feature 0; feature 2 has become common, but was not"


@pytest.mark.parametrize("share", [0.25, 0.5, 0.6, 1])
def test_feature_table_agrees_with_a_plain_loop(share):
    clean, perturbed = clean_and_perturbed()
    table = feature_table(clean, {"I": perturbed, 2: clean}, CLASSES, share)
    assert len(table) == 2 * 3 * LAYERS * HEADS
    orders = table["level"].unique().tolist(), table["class"].unique().tolist()
    assert orders == (["I", 2], ["dog", "cat", "ant"]), "in order of appearance"
    assert table["layer"].tolist()[:6] == [1, 1, 2, 2, 3, 3]
    assert table["head"].tolist()[:6] == [1, 2, 1, 2, 1, 2]
    assert set(table.columns) == set(COLUMNS["fig6_fig7_features"]) - {"model", "perturbation"}
    for level, images in (("I", perturbed), (2, clean)):
        rows = table[table["level"] == level].set_index(["class", "layer", "head"])
        found = rows[["clean_count", "retained_count"]].apply(tuple, axis=1).to_dict()
        assert found == loop(clean, images, share)


def test_shared_features_by_hand():
    """Features 0, 1 are common to a, features 1, 2 to b, and 3 alone to c: a and b share one with one of two others."""
    clean = np.array([[[[1, 1, 0, 0]]], [[[0, 1, 1, 0]]], [[[0, 0, 0, 1]]]], bool)
    table = feature_table(clean, {"clean": clean}, np.array(["a", "b", "c"]), 1)
    assert table["shared_count"].tolist() == [0.5, 0.5, 0]
    alone = feature_table(clean[:1], {"clean": clean[:1]}, np.array(["a"]), 1)
    assert np.isnan(alone["shared_count"]).all()


def test_identical_features_are_all_retained():
    clean, _ = clean_and_perturbed()
    table = feature_table(clean, {"I": clean}, CLASSES, 0.5)
    assert table["retained_count"].tolist() == table["clean_count"].tolist()
    assert mean_drop(clean, clean, CLASSES, 0.5) == {"mean_drop": 0, "low": 0, "high": 0}


@pytest.mark.parametrize("share", [0.25, 0.5, 0.6])
@pytest.mark.parametrize("seed", range(3))
def test_mean_drop_is_the_mean_over_the_table_within_its_interval(seed, share):
    clean, perturbed = clean_and_perturbed(seed)
    table = feature_table(clean, {"I": perturbed}, CLASSES, share)
    assert (table["retained_count"] <= table["clean_count"]).all()
    assert 0 < table["retained_count"].sum() < table["clean_count"].sum(), "something is lost in this example"
    found, other = mean_drop(clean, perturbed, CLASSES, share), mean_drop(clean, perturbed, CLASSES, share, seed=1)
    assert mean_drop(clean, perturbed, CLASSES, share) == found
    assert found["mean_drop"] == other["mean_drop"]
    assert found["high"] != other["high"]
    alone = mean_drop(clean, perturbed, np.arange(len(CLASSES)), share)
    assert alone["low"] == alone["mean_drop"] == alone["high"] > 0, "one image a class has no interval"
    assert found["mean_drop"] == pytest.approx((table["clean_count"] - table["retained_count"]).mean())
    assert 0 <= found["low"] < found["mean_drop"] < found["high"]


def test_every_class_counts_alike_however_many_images_it_has():
    clean = np.ones((10, 1, 1, 1), bool)
    perturbed = clean.copy()
    perturbed[8:] = False
    classes = np.array(["many"] * 8 + ["few"] * 2)
    assert mean_drop(clean, perturbed, classes, 0.5)["mean_drop"] == 0.5


def test_a_feature_gained_does_not_make_up_for_one_lost():
    clean = np.zeros((4, 1, 1, 2), bool)
    clean[..., 0] = True
    found = mean_drop(clean, clean[..., ::-1], np.full(4, "x"), 0.5)
    assert found == {"mean_drop": 1, "low": 1, "high": 1}


def test_the_interval_agrees_with_a_plain_bootstrap():
    clean, perturbed = clean_and_perturbed(4)
    generator, drops = np.random.default_rng(0), []
    for _ in range(500):
        found = []
        for name in ("dog", "cat", "ant"):
            rows = generator.choice(np.flatnonzero(name == CLASSES), size=(name == CLASSES).sum())
            before, after = retained(clean[rows], perturbed[rows], 0.5)
            found.append((before - after).mean())
        drops.append(np.mean(found))
    found = mean_drop(clean, perturbed, CLASSES, 0.5, resamples=2000)
    assert found["high"] - found["mean_drop"] == pytest.approx(1.96 * np.std(drops), rel=0.15)
