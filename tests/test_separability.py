"""How far classes come apart: by hand, against scikit-learn, and on data that is and is not separable."""

from contextlib import suppress

import numpy as np
import pytest
from sklearn.metrics import pairwise_distances, silhouette_score

from mae_helpers.measures.separability import (
    by_layer,
    check_perplexity,
    embed_layers,
    knn_percent,
    probe_correct,
    separability,
    tsne,
)
from mae_helpers.run.tables import COLUMNS


def clusters(classes=3, each=20, width=8, apart=20.0, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.repeat([f"class {number}" for number in range(classes)], each)
    centres = apart * np.eye(classes, width)
    return np.repeat(centres, each, axis=0) + generator.normal(size=(len(labels), width)), labels


def on_a_line(*places):
    return np.abs(np.subtract.outer(places, places)).astype(float)


def test_separated_classes_score_high():
    points, labels = clusters()
    found = separability(points, labels, np.arange(len(points)))
    assert found["silhouette"] > 0.7
    assert found["knn_percent"] == 100
    assert found["probe_percent"] > 98
    assert found["chance_percent"] == pytest.approx(100 / 3)


@pytest.mark.parametrize(
    ("each", "patches", "voting"), [(12, 1, 10), (5, 1, 4), (2, 1, 1), (2, 3, 3), (1, 1, 0), (1, 3, 0)]
)
def test_no_more_neighbours_vote_than_the_smallest_class_has_in_other_images(each, patches, voting):
    points, labels = clusters(each=each * patches, classes=10, width=10, apart=50)
    found = separability(points, labels, np.arange(len(points)) // patches)
    assert found["neighbours"] == voting
    assert found["knn_percent"] == 100 if voting else np.isnan(found["knn_percent"])


def test_a_single_class_cannot_be_told_apart_from_anything():
    found = separability(np.random.default_rng(0).normal(size=(12, 4)), np.array(["a"] * 12), np.arange(12))
    assert all(np.isnan(found[name]) for name in ("silhouette", "knn_percent", "probe_percent"))
    assert (found["neighbours"], found["chance_percent"]) == (0, 100)


def test_chance_is_the_share_of_the_largest_class():
    labels = np.array(["a"] * 30 + ["b"] * 10)
    assert separability(clusters(classes=2)[0], labels, np.arange(40))["chance_percent"] == 75


def test_silhouette_by_hand_and_as_scikit_learns_on_coordinates():
    # a to its own class 1, to the other 9.5 or 8.5; b likewise
    expected = np.mean([(9.5 - 1) / 9.5, (8.5 - 1) / 8.5, (8.5 - 1) / 8.5, (9.5 - 1) / 9.5])
    places = np.array([[0.0], [1], [9], [10]])
    assert separability(places, np.array(list("aabb")), np.arange(4))["silhouette"] == pytest.approx(expected)
    points, labels = clusters(apart=2)
    expected = silhouette_score(points, labels)
    assert separability(points, labels, np.arange(60))["silhouette"] == pytest.approx(expected, abs=1e-10)


def test_shuffled_labels_score_near_chance():
    points, labels = clusters(each=40)
    labels = np.random.default_rng(1).permutation(labels)
    found = separability(points, labels, np.arange(len(points)))
    assert abs(found["silhouette"]) < 0.1
    assert abs(found["knn_percent"] - 33.3) < 16
    assert abs(found["probe_percent"] - 33.3) < 16


def test_nearest_neighbour_by_hand():
    distances, labels = on_a_line(0, 1, 2.5, 10, 11), np.array(list("aabbb"))
    assert knn_percent(distances, labels, np.arange(5), neighbours=1) == pytest.approx(80), "2.5 is nearest to an a"


@pytest.mark.parametrize("names", ["abb", "baa", "zyy"])
def test_a_tied_vote_goes_to_the_class_of_the_nearest_neighbour_whatever_the_names(names):
    """At 0, 1 and 3 of classes p, q, q: the votes of 0 are both q; 1 has p nearer than q, which is its own; 3 has 1 nearer."""
    distances = on_a_line(0, 1, 3)
    assert knn_percent(distances, np.array(list(names)), np.arange(3), neighbours=2) == pytest.approx(100 / 3)


def test_renamed_classes_change_nothing():
    generator = np.random.default_rng(5)
    points, labels = generator.normal(size=(60, 4)), np.repeat(list("abc"), 20)
    renamed = np.array([{"a": "z", "b": "m", "c": "a"}[name] for name in labels])
    assert separability(points, labels, np.arange(60)) == separability(points, renamed, np.arange(60))


def test_neighbours_from_the_same_image_do_not_vote():
    distances = on_a_line(0, 0.1, 1, 1.1, 5, 5.1, 6, 6.1)
    labels, images = np.array(list("aabbaabb")), np.repeat(range(4), 2)
    assert knn_percent(distances, labels, np.arange(8), neighbours=1) == 100, "the other patch of the image is nearest"
    assert knn_percent(distances, labels, images, neighbours=1) == 0, "the nearest other image is of the other class"


def test_a_point_never_votes_for_itself_however_few_the_others():
    with suppress(ValueError):  # refusing is as good
        assert knn_percent(on_a_line(0, 1, 2, 3), np.array(list("abcd")), np.arange(4), neighbours=4) == 0


def test_the_probe_cannot_learn_an_image_from_its_other_patches():
    generator = np.random.default_rng(2)
    images = np.repeat(np.arange(30), 10)
    labels = generator.permutation(np.repeat(["a", "b"], 15))[images]  # of the image, and of nothing else in the points
    points = 10 * generator.normal(size=(30, 40))[images] + generator.normal(size=(300, 40))
    leaking = 100 * probe_correct(points, labels, np.arange(300)).mean()
    assert leaking > 95
    assert 100 * probe_correct(points, labels, images).mean() < 75


@pytest.mark.parametrize(("perplexity", "points"), [(10, 30), (0.5, 30), (50, 90)])
def test_perplexity_too_large_for_the_sample_is_an_error(perplexity, points):
    with pytest.raises(ValueError, match=f"perplexity {perplexity} does not fit {points} points"):
        check_perplexity(perplexity, points)
    with pytest.raises(ValueError, match=f"{points} points"):
        tsne(np.zeros((points, 3)), perplexity, standardise=False)
    for fitting in ((10, 31), (1, 4), (30, 91)):  # at the bound
        check_perplexity(*fitting)


def test_tsne_is_seeded_and_keeps_far_clusters_apart():
    points, labels = clusters(classes=2, each=16)
    plane = tsne(points, perplexity=5, standardise=False)
    assert plane.shape == (32, 2)
    np.testing.assert_array_equal(plane, tsne(points, perplexity=5, standardise=False))
    assert silhouette_score(plane, labels) > 0.5
    assert knn_percent(pairwise_distances(plane), labels, np.arange(32), neighbours=5) == 100


def test_standardising_keeps_one_loud_feature_from_deciding_the_map():
    points, labels = clusters(classes=2, each=16, apart=8)
    points[:, -1] = np.random.default_rng(3).normal(scale=1e4, size=len(points))

    def apart(standardise):
        return silhouette_score(tsne(points, perplexity=5, standardise=standardise), labels)

    assert apart(True) > 0.3
    assert apart(False) < 0.15


def layered_features(patches=None):
    """Two layers: noise, then clusters; (images, layers, D) or (images, layers, patches, D)."""
    points, labels = clusters(each=10)
    noise = np.random.default_rng(4).normal(size=points.shape)
    features = np.stack([noise, points], axis=1)
    if patches:
        jitter = np.random.default_rng(5).normal(size=(30, 2, patches, points.shape[1]))
        features = features[:, :, None] + 0.1 * jitter
    return features.astype(np.float32), labels


@pytest.mark.parametrize("patches", [None, 3])
def test_by_layer_has_a_row_a_layer_and_tells_noise_from_clusters(patches):
    features, labels = layered_features(patches)
    table = by_layer(features, labels)
    assert set(table.columns) | {"model", "token"} == set(COLUMNS["fig1_fig2_separability"])
    assert table["layer"].tolist() == [1, 2]
    assert table["knn_percent"][0] < 70
    assert table["knn_percent"][1] == 100
    assert table["silhouette"][1] > 0.5 > table["silhouette"][0]
    if patches:
        images = np.repeat(np.arange(30), 3)
        expected = separability(features[:, 1].reshape(90, -1), labels[images], images)
        assert table.iloc[1].drop("layer").to_dict() == pytest.approx(expected)


@pytest.mark.parametrize("patches", [None, 2])
def test_embed_layers_has_a_row_a_point(patches):
    features, labels = layered_features(patches)
    table = embed_layers(features, labels, perplexity=5, standardise=True)
    assert set(table.columns) | {"model", "token"} == set(COLUMNS["fig1_fig2_tsne"])
    assert len(table) == 2 * 30 * (patches or 1)
    assert table["layer"].value_counts().to_dict() == {1: len(table) // 2, 2: len(table) // 2}
    assert (table["class"].to_numpy() == labels[table["image"]]).all()
    assert np.isfinite(table[["x", "y"]].to_numpy()).all()
