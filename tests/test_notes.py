"""The reproduction notes: by hand, invariants, and what the published tables hold."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mae_helpers.images.sets import ImageError
from mae_helpers.perturbations.blur import blur
from mae_helpers.verdicts import notes
from mae_helpers.verdicts.published import published

CLASSES = np.repeat(["a", "b", "c"], 5)


@pytest.fixture
def embeddings():
    """Fifteen random embeddings, and the same turned half way to a common direction."""
    clean = np.random.default_rng(0).normal(size=(15, 8))
    return {0: clean, 50: clean + 2.0}


class TestOrders:
    @pytest.mark.parametrize("groups", [CLASSES, np.array(["x", "y", "x", "y"] * 4)])  # also where they are interleaved
    def test_every_row_stays_in_its_group_and_comes_once(self, groups):
        order = notes.shuffled(groups, np.random.default_rng(3))
        assert sorted(order) == list(range(len(groups)))
        assert (groups[order] == groups).all()
        assert (order != np.arange(len(groups))).any()

    @pytest.mark.parametrize(("groups", "expected"), [(np.zeros(40, int), 1), (np.repeat(range(10), 4), 10)])
    def test_one_row_a_group_keeps_its_place_on_average(self, groups, expected):
        generator = np.random.default_rng(0)
        kept = [(notes.shuffled(groups, generator) == np.arange(40)).sum() for _ in range(4000)]
        assert np.mean(kept) == pytest.approx(expected, rel=0.06)  # one draw: a standard deviation of sqrt(expected)


class TestPairing:
    def test_by_name_an_image_equals_itself_where_nothing_is_masked(self, embeddings):
        table = notes.pairing_table(embeddings, CLASSES).set_index(["pairing", "level"])
        assert table.loc[("by_name", 0), "mean_cosine"] == pytest.approx(1)
        assert table.loc[("by_name", 0), "above_099"] == 15
        assert table.loc[("by_name", 50), "in_place"] == 15
        assert (table.loc[["within_classes", "all"], "mean_cosine"].xs(0, level="level") < 0.6).all()

    def test_a_level_is_compared_with_the_clean_one(self):
        turned = np.array([[0, 3.0], [0, 2.0]])
        table = notes.pairing_table({0: np.eye(2), 10: turned}, np.array(["a", "b"])).set_index(["pairing", "level"])
        assert table.loc[("by_name", 10), "mean_cosine"] == pytest.approx(0.5)

    def test_classes_of_one_image_cannot_be_paired_wrongly_within(self, embeddings):
        table = notes.pairing_table(embeddings, np.arange(15).astype(str)).set_index(["pairing", "level"])
        assert table.loc[("within_classes", 0), "mean_cosine"] == pytest.approx(1)
        assert table.loc[("within_classes", 0), "in_place"] == 15
        assert table.loc[("all", 0), "in_place"] < 5

    def test_same_seed_same_orders(self, embeddings):
        first, again = (notes.pairing_table(embeddings, CLASSES, draws=3, seed=5) for _ in range(2))
        pd.testing.assert_frame_equal(first, again)
        other = notes.pairing_table(embeddings, CLASSES, draws=3, seed=6)
        assert not np.allclose(first["mean_cosine"], other["mean_cosine"])

    def test_no_order_is_refused(self, embeddings):
        with pytest.raises(ValueError, match="0 random orders: use 1 or more"):
            notes.pairing_table(embeddings, CLASSES, draws=0)


class TestNeighbours:
    def test_classes_apart_in_the_second_layer_only(self):
        layers = np.random.default_rng(1).normal(size=(15, 2, 4))
        layers[:, 1, 0] += 100 * np.repeat(range(3), 5)
        table = notes.knn_by_layer(layers, CLASSES)
        assert table["layer"].tolist() == [1, 2]
        assert table["knn_percent"][1] == 100
        assert table["knn_percent"][0] < 80
        assert table["chance_percent"].tolist() == pytest.approx([100 / 3] * 2)

    def test_no_more_neighbours_than_a_class_can_have_and_no_answer_without_any(self):
        places = np.array([0.0, 1, 10, 11]).reshape(4, 1, 1)  # three neighbours would outvote the one of the same class
        assert notes.knn_by_layer(places, np.array(["a", "a", "b", "b"]))["knn_percent"].tolist() == [100]
        assert notes.knn_by_layer(places, np.array(["a", "b", "c", "d"]))["knn_percent"].isna().all()


class TestQuality:
    def test_kernel_width_by_hand(self):
        assert notes.kernel_spread(1, 3.0) == 0
        assert notes.kernel_spread(3, 1e6) == pytest.approx(np.sqrt(2 / 3))  # a box of three
        assert notes.kernel_spread(41, 2.0) == pytest.approx(2, rel=1e-4)  # nothing is cut off

    def test_kernel_width_is_that_of_a_blurred_point(self):
        point = np.zeros((33, 33, 3))
        point[16, 16] = 1
        weights = blur(point, 7, 4.0)[:, :, 0].sum(axis=0)
        assert notes.kernel_spread(7, 4.0) == pytest.approx(np.sqrt(weights @ (np.arange(33) - 16.0) ** 2))

    def test_level_nine_is_narrower_than_seven_and_eight_and_ten_the_widest(self):
        spread = notes.kernel_table().set_index("level")["spread_px"]
        assert spread["VI"] < spread["IX"] < spread["VII"] < spread["VIII"] < spread["X"]
        assert list(notes.rises(spread.index, -spread)) == ["IX"]

    def test_photographs_that_come_with_libraries(self):
        images = notes.photographs(size=32)
        pixels = np.stack([images.pixels(row) for row in range(len(images))])
        assert pixels.shape == (6, 32, 32, 3)
        assert (pixels.std(axis=(1, 2, 3)) > 0.1).all()
        assert images.input.size == 32

    def test_a_folder_flat_or_by_class(self, tmp_path):
        (tmp_path / "nested" / "cat").mkdir(parents=True)
        (tmp_path / "flat").mkdir()
        for path in ("flat/b.png", "flat/a.png", "nested/cat/c.png"):
            Image.new("RGB", (40, 30), (200, 10, 10)).save(tmp_path / path)
        for folder, names in (("flat", ["a.png", "b.png"]), ("nested", ["c.png"])):
            images = notes.photographs(str(tmp_path / folder))
            assert [name.rpartition("/")[2] for name in images.ids] == names
            assert images.pixels(0).shape == (224, 224, 3)
        with pytest.raises(ImageError, match="nowhere"):
            notes.photographs(str(tmp_path / "nowhere"))


class TestPublishedTables:
    def test_rises_by_hand(self):
        assert notes.rises(["I", "II", "III", "IV"], [3.0, 2, 2, 2.5]) == {"IV": 0.5}
        assert notes.rises(["I"], [3.0]) == {}

    def test_shares_by_hand(self):
        table = notes.share_table(pd.DataFrame({"top1_percent": [50.0, 56.7, 0.2, 33.3]}), 500)
        assert table["nearest_count"].tolist() == [250, 284, 1, 166]
        assert table["deviation"].to_numpy() == pytest.approx([0, 0.1, 0, 0.1])
        assert table["fits"].tolist() == [True, False, True, False]
        assert notes.share_table(pd.DataFrame({"top1_percent": [33.3]}), 3)["fits"].all()  # 1 of 3, rounded
        every = notes.share_table(pd.DataFrame({"top1_percent": np.arange(501) / 5}), 500)
        assert every["nearest_count"].tolist() == list(range(501))
        assert every["fits"].all()
        assert every["deviation"].max() < 1e-9

    def test_what_is_odd_in_table_two(self):
        table = published("table2_imagenet_c")
        odd = notes.share_table(table, 500).query("not fits")
        assert odd[["corruption", "severity"]].to_numpy().tolist() == [["gaussian_noise", 4]]
        rising = notes.rise_table(table.iloc[::-1], 500).set_index("corruption")  # severities are put in order first
        assert set(rising.index) == {"motion_blur", "brightness"}
        assert rising.loc["motion_blur", ["from", "to", "images"]].tolist() == [4, 5, 44]
        assert rising.loc["motion_blur", "rise"] == pytest.approx(8.8)

    def test_released_means_follow_from_the_released_counts(self):
        drop = published("released_feature_drop").set_index(["perturbation", "level"])["mean_drop"]
        found = notes.mean_drops(published("released_head_features"))
        assert (found - drop).abs().max() <= 0.0005 + 1e-9  # three decimals

    def test_steps_add_up_within_each_perturbation(self):
        table = pd.DataFrame({"perturbation": ["blur", "blur", "mask", "mask"], "mean_drop": [2.0, 1.5, 1, 4]})
        assert notes.step_table(table)["step"].tolist() == [2, -0.5, 1, 3]


class TestRollouts:
    def test_agreement_of_same_and_opposite_order_and_by_hand(self):
        scores = np.random.default_rng(0).random((3, 8))
        for other, correlation, share in ((scores**3, 1, 1), (-scores, -1, 0)):
            assert notes.rank_correlation(scores, other) == pytest.approx(correlation)
            assert notes.shared_patches(scores, other, 50) == share
        first, second = np.array([[4.0, 3, 2, 1]]), np.array([[4.0, 1, 3, 2]])
        assert notes.shared_patches(first, second, 50) == 0.5
        assert notes.shared_patches(first, second, 25) == 1


class TestSpread:
    @pytest.fixture
    def heads(self):
        """Two classes of two images, one layer, one head, four features: class b loses its common feature."""
        clean = np.array([[0.0, 5, 1, 2], [1, -5, 0, 2], [5, 0, 1, 2], [5, 1, 2, 0]])
        moved = clean.copy()
        moved[2:] = moved[2:, [1, 0, 3, 2]]
        return {level: values[:, None, None] for level, values in (("clean", clean), ("I", moved))}

    def test_counts_and_drops_by_hand(self, heads):
        table = notes.class_spread(heads, np.array(["a", "a", "b", "b"]), 1, 0.6, [1, 2])
        table = table.set_index(["by", "images", "class"])
        assert table.loc[("magnitude", 2, "a"), ["clean_count", "mean_drop"]].tolist() == [1, 0]
        assert table.loc[("magnitude", 2, "b"), ["clean_count", "mean_drop"]].tolist() == [1, 1]
        assert table.loc[("value", 2, "a"), "clean_count"] == 0  # the signed values disagree on the second image
        assert table.loc[("value", 1, "a"), "clean_count"] == 1  # the first image alone

    def test_ranges_over_classes(self, heads):
        table = notes.class_spread(heads, np.array(["a", "a", "b", "b"]), 1, 0.6, [2])
        found = notes.spread_summary(table, "mean_drop").loc[("magnitude", 2)]
        assert found[["mean", "min", "max"]].tolist() == [0.5, 0, 1]
        texts = notes.spread_ranges(table, "I").set_index("by")
        assert texts.loc["magnitude", "drop"] == "0.50 (0.00 to 1.00)"
        assert texts.loc["value", "clean_count"] == "0.50 (0.00 to 1.00)"
