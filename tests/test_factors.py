"""Effects of two choices of training: by hand, against plain loops, and as chapter 13 writes them from its cells."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import TINY, make_vit
from safetensors.torch import save_file

from mae_helpers.figures.accuracy import effect_points
from mae_helpers.measures.factors import effects, two_by_two
from mae_helpers.perturbations.blur import blur_levels
from mae_helpers.perturbations.imagenet_c import corruption_levels
from mae_helpers.perturbations.levels import Clean
from mae_helpers.perturbations.occlusion import Occlusion
from mae_helpers.profile.settings import load_profile
from mae_helpers.run import chapter
from mae_helpers.run.command import Run

FOUR = {"a": ("mae", "official"), "b": ("mae", "plain"), "c": ("scratch", "official"), "d": ("scratch", "plain")}


def test_four_classifiers_stand_by_start_and_augmentation_in_their_order():
    turned = dict(reversed(FOUR.items()))
    assert two_by_two(FOUR).to_numpy().tolist() == [["a", "b"], ["c", "d"]]
    grid = two_by_two(turned)
    assert grid.to_numpy().tolist() == [["d", "c"], ["b", "a"]]
    assert (grid.index.tolist(), grid.columns.tolist()) == (["scratch", "mae"], ["plain", "official"])


@pytest.mark.parametrize(
    "trainings",
    [
        {},
        {name: FOUR[name] for name in "abc"},
        FOUR | {"d": ("scratch", "official")},  # one twice, one missing
        FOUR | {"e": ("mae", "plain")},  # two for one
        FOUR | {"e": ("dino", "plain")},  # a third start
    ],
)
def test_there_is_no_two_by_two_unless_each_of_four_is_there_once(trainings):
    assert two_by_two(trainings) is None


def test_effects_of_the_chapters_example():
    """Right on 60, 40, 50 and 20 % of ten images: 15 points of the start, 25 of the augmentation, interaction -10."""
    values = {name: 100.0 * (np.arange(10) < count) for name, count in zip("abcd", (6, 4, 5, 2), strict=True)}
    table = effects(values, two_by_two(FOUR)).set_index("effect")
    assert table["points"].to_dict() == pytest.approx({"start": 15, "augmentation": 25, "interaction": -10})
    assert (table["low"] < table["points"]).all()
    assert (table["points"] < table["high"]).all()


def test_an_effect_is_the_mean_of_two_differences_and_changes_sign_with_the_order():
    rng = np.random.default_rng(0)
    values = {name: rng.integers(0, 2, 50) for name in "abcd"}
    mean = {name: sum(map(float, found)) / 50 for name, found in values.items()}
    table = effects(values, two_by_two(FOUR)).set_index("effect")["points"]
    assert table["start"] == pytest.approx(((mean["a"] - mean["c"]) + (mean["b"] - mean["d"])) / 2)
    assert table["augmentation"] == pytest.approx(((mean["a"] - mean["b"]) + (mean["c"] - mean["d"])) / 2)
    assert table["interaction"] == pytest.approx((mean["a"] - mean["b"]) - (mean["c"] - mean["d"]))
    other = effects(values, two_by_two(dict(reversed(FOUR.items())))).set_index("effect")["points"]
    assert other.to_dict() == pytest.approx(
        {"start": -table["start"], "augmentation": -table["augmentation"], "interaction": table["interaction"]}
    )


def test_what_all_four_are_right_on_has_no_effect_and_no_width():
    same = effects(dict.fromkeys("abcd", np.full(20, 100.0)), two_by_two(FOUR))
    assert (same[["points", "low", "high"]] == 0).all(axis=None)


def test_images_that_are_easy_for_all_widen_no_interval():
    """Intervals are paired: what all four share cancels image by image."""
    rng = np.random.default_rng(0)
    easy, helped = 100.0 * rng.integers(0, 2, 400), 5.0
    values = {"a": easy + helped, "b": easy + helped, "c": easy, "d": easy}
    start = effects(values, two_by_two(FOUR)).iloc[0]
    assert (start["low"], start["points"], start["high"]) == pytest.approx((5, 5, 5))


def test_points_stand_beside_their_condition_whatever_the_others_have():
    """The change from clean has no row of the clean images."""
    rows = [("clean", "accuracy", 1.0), ("blur", "accuracy", 2.0), ("blur", "change", 3.0)]
    table = pd.DataFrame(rows, columns=["condition", "of", "points"]).assign(low=0.0, high=4.0)
    figure, ax = plt.subplots()
    effect_points(table, ax)
    drawn = [line.get_xydata() for line in ax.lines if line.get_marker() == "o"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["clean", "blur"]
    assert [[tuple(np.round(point)) for point in points] for points in drawn] == [[(1, 0), (2, 1)], [(3, 1)]]
    plt.close(figure)


def four(tiny_profile, tmp_path):
    """A profile of four encoders with fitted heads, two of them an ablation, and its names by those of FOUR."""
    names = dict(zip("acbd", ("mae_finetuned", "vit_supervised", "mae_plain", "vit_plain"), strict=True))
    models = {}
    for seed, (place, name) in enumerate(names.items()):
        models[name] = {
            "title": f"classifier {place}",
            "checkpoint": f"weights/{place}.safetensors",
            "arguments": TINY | {"num_classes": 0},
            "head": {"per_class": 6},
            "training": {"start": FOUR[place][0], "augmentation": FOUR[place][1], "source": "this test"},
            "ablation": name.endswith("_plain"),
        }
        (tmp_path / "weights").mkdir(exist_ok=True)
        save_file(make_vit(seed, num_classes=0).state_dict(), tmp_path / models[name]["checkpoint"])
    return load_profile(tiny_profile(per_class=12, models=models)), names


def test_an_ablation_is_shown_in_its_own_chapter_alone(tiny_profile, tmp_path):
    profile, _ = four(tiny_profile, tmp_path)
    here = chapter.begin(str(profile.path), "cpu")
    assert here.encoders == here.classifiers == ["mae_finetuned", "vit_supervised"]
    assert list(here.trainings) == ["mae_finetuned", "vit_supervised", "mae_plain", "vit_plain"]
    alone = chapter.begin(str(profile.path), "cpu", models=["mae_plain", "vit_plain"])
    assert alone.encoders == alone.classifiers == ["mae_plain", "vit_plain"], "where nothing else was asked for"


@pytest.mark.slow
def test_the_chapters_effects_are_those_of_its_cells(tiny_profile, tmp_path):
    """Every effect of the table, from what each model predicts of each image, in plain Python."""
    profile, names = four(tiny_profile, tmp_path)
    small = {"test_images_per_class": 6, "corruption_images_per_class": 2, "severities": [1, 5], "active_features": 2}
    assert Run(profile, ["13"], small, "cpu", tmp_path, str(tmp_path / "results")).all(1)
    here = chapter.begin(str(profile.path), "cpu", results_folder=str(tmp_path / "results"))
    conditions = {
        "clean": {"clean": Clean()},
        "50 % masked, most attended": {50: Occlusion(50)},
        "50 % masked, random": {50: Occlusion(50, "random")},
        "blur X": {"X": blur_levels(["X"])["X"]},
        "corruptions": corruption_levels(profile, (1, 5))[0],
    }
    table = here.read("factors_effects").set_index(["condition", "of", "effect"])["points"].sort_index()
    assert len(table) == 3 * (5 + 4)
    seen, read = set(), 0
    for condition, levels in conditions.items():
        images = here.images(per_class=2 if condition == "corruptions" else 6)
        sets = dict.fromkeys(names.values(), images)
        found, clean = (here.sweep(sets, chosen, "prediction") for chosen in (levels, conditions["clean"]))
        points = {"accuracy": {}, "change from clean": {}}
        for place, name in names.items():
            right = sum(
                int(a == b) for answers in found[name].values() for a, b in zip(answers, images.labels, strict=True)
            )
            before = sum(int(a == b) for a, b in zip(clean[name]["clean"], images.labels, strict=True))
            points["accuracy"][place] = 100 * right / len(levels) / len(images)
            points["change from clean"][place] = points["accuracy"][place] - 100 * before / len(images)
        for of, each in points.items():
            if of == "accuracy" or condition != "clean":
                a, b, c, d = (each[place] for place in "abcd")
                wanted = {
                    "start": (a - c + b - d) / 2,
                    "augmentation": (a - b + c - d) / 2,
                    "interaction": a - b - c + d,
                }
                assert table[condition, of].to_dict() == pytest.approx(wanted), (condition, of)
                seen, read = seen | {round(value) for value in wanted.values()}, read + 3
    assert read == len(table)
    assert len(seen) > 3, "classifiers that are all alike would prove nothing"
