"""Principal angles against SciPy, and by hand; singular vectors from moments against NumPy's SVD; the controls."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from mae_helpers.measures.subspaces import (
    Moments,
    angle_table,
    angles_and_values,
    control_groups,
    control_pairs,
    principal_angles,
    spectrum,
)
from mae_helpers.run.tables import COLUMNS

WIDTH, LAYERS, PATCHES = 12, 2, 5


def orthonormal(generator, width, k):
    return np.linalg.qr(generator.normal(size=(width, k)))[0]


def between(first, second):
    """The principal angles in radians of two bases."""
    return np.radians(principal_angles(np.stack([first, second]), [0], [1])[0])


def rotated_by(angles, width, generator):
    """Two bases with exactly these principal angles (radians), in a random coordinate system."""
    k, frame = len(angles), orthonormal(generator, width, width)
    return frame[:, :k], frame[:, :k] * np.cos(angles) + frame[:, k : 2 * k] * np.sin(angles)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_agrees_with_scipy_on_random_subspaces(k):
    generator = np.random.default_rng(k)
    for _ in range(10):
        first, second = orthonormal(generator, 30, k), orthonormal(generator, 30, k)
        found = between(first, second)
        np.testing.assert_allclose(found, subspace_angles(first, second)[::-1], rtol=0, atol=1e-10)


def test_agrees_with_scipy_on_nearly_equal_subspaces():
    generator = np.random.default_rng(0)
    first = orthonormal(generator, 30, 4)
    second = np.linalg.qr(first + 1e-7 * generator.normal(size=(30, 4)))[0]
    found = between(first, second)
    np.testing.assert_allclose(found, subspace_angles(first, second)[::-1], rtol=1e-6, atol=1e-14)
    assert np.all(found > 1e-8)


@pytest.mark.parametrize("angle", [1e-9, 1e-5, 0.0099, 0.0101, 0.1, np.pi / 4, 1.5])
def test_known_angles_come_back_in_ascending_order(angle):
    angles = np.array([angle, angle / 2, 1.55])
    first, second = rotated_by(angles, 20, np.random.default_rng(1))
    np.testing.assert_allclose(between(first, second), np.sort(angles), rtol=1e-5)


def test_small_and_large_angles_side_by_side_agree_with_scipy():
    generator = np.random.default_rng(7)
    sizes = np.array([[1e-8, 0.3, 1.2], [0.009, 0.011, 0.5], [0.02, 0.8, 1.5], [0.7, 0.8, 0.9]])
    pairs = [rotated_by(angles, 20, generator) for angles in sizes]
    found = np.radians(principal_angles(np.concatenate(pairs), [0, 2, 4, 6], [1, 3, 5, 7]))
    np.testing.assert_allclose(found, sizes, rtol=1e-7, atol=1e-13)
    theirs = [subspace_angles(*pair)[::-1] for pair in pairs]
    np.testing.assert_allclose(found, theirs, rtol=0, atol=2e-8)  # SciPy takes the first angle of all for 0


def test_identical_subspaces_have_angle_zero_whatever_their_bases_and_orthogonal_ones_ninety_degrees():
    generator = np.random.default_rng(2)
    first = orthonormal(generator, 20, 3)
    second = first @ orthonormal(generator, 3, 3)
    assert np.all(np.degrees(between(first, second)) < 1e-12)
    frame = orthonormal(np.random.default_rng(3), 20, 6)
    np.testing.assert_allclose(np.degrees(between(frame[:, :3], frame[:, 3:])), 90)


@pytest.mark.parametrize("degrees", [0, 30, 45, 60, 90])
def test_two_lines_in_the_plane_by_hand(degrees):
    turned = np.array([[np.cos(np.radians(degrees))], [np.sin(np.radians(degrees))]])
    assert np.degrees(between(np.array([[1.0], [0.0]]), turned)) == pytest.approx([degrees], abs=1e-10)


def test_order_of_the_two_and_stacking_do_not_matter():
    generator = np.random.default_rng(4)
    bases, first, second = np.stack([orthonormal(generator, 20, 3) for _ in range(10)]), range(5), range(5, 10)
    stacked = principal_angles(bases, first, second)
    assert stacked.shape == (5, 3)
    np.testing.assert_allclose(np.radians(stacked), [between(bases[n], bases[5 + n]) for n in first])
    np.testing.assert_allclose(stacked, principal_angles(bases, second, first))


def made_up_tokens(images=9, seed=5):
    """(layers, images, 1 + patches, width); the CLS token is huge, so that it would be noticed."""
    tokens = np.random.default_rng(seed).normal(3, 1, (LAYERS, images, 1 + PATCHES, WIDTH)).astype(np.float32)
    tokens *= np.linspace(1, 3, WIDTH, dtype=np.float32)  # singular values well apart
    tokens[:, :, 0] = 1e6
    return tokens


def gather(tokens, groups, batch_size):
    moments = Moments(groups)
    for start in range(0, tokens.shape[1], batch_size):
        rows = range(start, min(start + batch_size, tokens.shape[1]))
        for layer in range(LAYERS):
            state = SimpleNamespace(layer=layer + 1, tokens=torch.from_numpy(tokens[layer, rows]), prefix=1)
            moments.add(state, rows)
    return moments.result()


GROUPS = {"even": [0, 2, 4, 6, 8], "first": [0, 1, 2], "last": [8]}


@pytest.mark.parametrize("centred", [False, True])
def test_spectrum_agrees_with_numpy_svd_of_the_stacked_tokens(centred):
    tokens = made_up_tokens()
    found = gather(tokens, GROUPS, batch_size=4)
    assert set(found) == {(name, layer) for name in GROUPS for layer in (1, 2)}
    for name in ("even", "first"):  # these have more rows than columns
        for layer in (1, 2):
            stacked = tokens[layer - 1, GROUPS[name], 1:].reshape(-1, WIDTH).astype(np.float64)
            stacked = stacked - stacked.mean(0) if centred else stacked
            _, expected, rows = np.linalg.svd(stacked, full_matrices=False)
            values, vectors = spectrum(*found[name, layer], centred=centred)
            np.testing.assert_allclose(values, expected, rtol=1e-8)
            np.testing.assert_allclose(np.abs(np.sum(vectors * rows.T, axis=0)), 1, atol=1e-8)


def test_moments_count_rows_and_sum_columns():
    tokens = made_up_tokens()
    gram, total, rows = gather(tokens, GROUPS, batch_size=9)["first", 2]
    stacked = tokens[1, :3, 1:].reshape(-1, WIDTH).astype(np.float64)
    assert rows == 3 * PATCHES
    np.testing.assert_allclose(total, stacked.sum(0))
    np.testing.assert_allclose(gram, stacked.T @ stacked)


@pytest.mark.parametrize("batch_size", [2, 9])
def test_moments_do_not_depend_on_the_batch_size(batch_size):
    tokens = made_up_tokens()
    expected, found = gather(tokens, GROUPS, 1), gather(tokens, GROUPS, batch_size)
    assert set(found) == set(expected)
    for key, sums in expected.items():
        for a, b in zip(found[key], sums, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


def test_spectrum_of_a_rank_one_matrix_by_hand():
    row = np.array([3.0, 4.0])
    values, vectors = spectrum(2 * np.outer(row, row), 2 * row, 2, centred=False)
    np.testing.assert_allclose(values, [50**0.5, 0], atol=1e-7)
    np.testing.assert_allclose(np.abs(vectors[:, 0]), [0.6, 0.8])
    np.testing.assert_allclose(spectrum(2 * np.outer(row, row), 2 * row, 2, centred=True)[0], 0, atol=1e-7)


CLASSES = np.array(["cat"] * 7 + ["dog"] * 4 + ["cow"] * 5)


def test_control_groups_split_each_class_into_two_halves():
    groups = control_groups(CLASSES, seed=0)
    for name in ("cat", "dog", "cow"):
        one, two = (set(groups[f"{name} / half {number}"]) for number in (1, 2))
        assert groups[name] == np.flatnonzero(name == CLASSES).tolist()
        assert one | two == set(groups[name])
        assert not one & two
        assert abs(len(one) - len(two)) <= 1


def test_shuffled_groups_have_the_classes_sizes_and_partition_all_images():
    groups = control_groups(CLASSES, seed=0)
    shuffled = [groups[f"{name} / shuffled"] for name in ("cat", "dog", "cow")]
    assert [len(rows) for rows in shuffled] == [7, 4, 5]
    assert sorted(row for rows in shuffled for row in rows) == list(range(len(CLASSES)))
    assert shuffled[0] != groups["cat"]
    assert control_groups(CLASSES, seed=0) == groups != control_groups(CLASSES, seed=2)
    with pytest.raises(ValueError, match="there is only dress; take two or more"):
        control_groups(np.array(["dress", "dress"]), seed=0)


def test_control_pairs_name_groups_that_exist():
    names = ["cat", "dog", "cow"]
    pairs, groups = control_pairs(names), control_groups(CLASSES, seed=0)
    counts = {control: len(found) for control, found in pairs.items()}
    assert counts == {"between_classes": 3, "split_half": 3, "shuffled_labels": 3}
    assert all(side in groups for found in pairs.values() for pair in found for side in pair)


def test_angle_table_by_hand():
    along = {"x": np.eye(4), "y": np.eye(4)[:, [1, 0, 2, 3]]}
    bases = {("x", 1): along["x"], ("y", 1): along["y"], ("x", 2): along["x"], ("y", 2): along["x"]}
    table = angle_table(bases, [("x", "y")], k=1)
    assert set(table.columns) == {"layer", "class_a", "class_b", "theta1_deg"}
    assert table["layer"].tolist() == [1, 2]
    assert table["theta1_deg"].tolist() == pytest.approx([90, 0])
    assert table[["class_a", "class_b"]].iloc[0].tolist() == ["x", "y"]
    half = {("x", 1): np.eye(4), ("y", 1): np.eye(4)[:, [0, 2, 1, 3]]}
    assert angle_table(half, [("x", "y")], k=2)["theta1_deg"].tolist() == pytest.approx([0]), "of 0 and 90 degrees"


@pytest.mark.parametrize("k", [0, -1, 3])
def test_k_that_does_not_fit_the_width_is_an_error(k):
    with pytest.raises(ValueError, match=f"k = {k}: .* 4 dimensions .* 1 to 2"):
        angle_table({("x", 1): np.eye(4), ("y", 1): np.eye(4)}, [("x", "y")], k)


def tokens_of_classes():
    """Three classes, each of which lives in two directions of its own; images of a class are alike."""
    generator = np.random.default_rng(6)
    tokens = 0.05 * generator.normal(size=(LAYERS, 24, 1 + PATCHES, WIDTH))
    for number in range(3):
        rows, columns = slice(8 * number, 8 * number + 8), slice(2 * number, 2 * number + 2)
        tokens[:, rows, :, columns] += generator.normal(size=(LAYERS, 8, 1 + PATCHES, 2))
    return tokens.astype(np.float32), np.repeat(["a", "b", "c"], 8)


def test_all_of_figure_four_has_the_published_columns_and_rows():
    tokens, classes = tokens_of_classes()
    moments = gather(tokens, control_groups(classes, seed=0), batch_size=7)
    angles, values = angles_and_values(moments, ["a", "b", "c"], ks=[1, 2])
    assert set(angles.columns) | {"model"} == set(COLUMNS["fig4_principal_angles"])
    assert set(values.columns) | {"model"} == set(COLUMNS["fig4_singular_values"])
    assert len(angles) == 3 * 3 * 2 * 2 * LAYERS, "pairs x controls x ks x centrings x layers"
    assert len(values) == 3 * WIDTH * LAYERS
    assert set(values["index"]) == set(range(1, WIDTH + 1))
    first = values[(values["class"] == "b") & (values["layer"] == 2)].sort_values("index")["singular_value"].to_numpy()
    by_control = angles[angles["k"] == 2].groupby("control")["theta1_deg"]
    assert by_control.min()["between_classes"] > 80, "classes of their own directions diverge"
    assert by_control.max()["split_half"] < 10, "halves of a class do not"
    stacked = tokens[1, 8:16, 1:].reshape(-1, WIDTH)
    np.testing.assert_allclose(first, np.linalg.svd(stacked.astype(np.float64), compute_uv=False), rtol=1e-8)


@pytest.mark.parametrize(("images", "k"), [(1, 4), (2, 8)])
def test_directions_that_a_class_does_not_span_are_refused_and_not_made_up(images, k):
    tokens = np.random.default_rng(0).normal(size=(LAYERS, 3 * images, 1 + 4, 40)).astype(np.float32)
    classes = np.repeat(["a", "b", "c"], images)
    moments = gather(tokens, {name: np.flatnonzero(classes == name).tolist() for name in "abc"}, batch_size=2)
    told = rf"k = {k}: 'a' spans only {k - 1} directions in layer 1 \({k} tokens, less their mean\).*; lower k"
    with pytest.raises(ValueError, match=told):
        angles_and_values(moments, ["a", "b", "c"], ks=[1, k])
    assert len(angles_and_values(moments, ["a", "b", "c"], ks=[1, k - 1])[0]) == 3 * 2 * 2 * LAYERS
