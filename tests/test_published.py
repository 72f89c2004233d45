"""Published numbers, and a run's numbers beside them."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from mae_helpers.measures.features import feature_table
from mae_helpers.verdicts import published as reference
from mae_helpers.verdicts.published import arrange, compare, compare_features, feature_agreement, published, show


def differences(rows, value="top1_percent"):
    """The differences of these rows from the paper, each with the ends of its interval."""
    return rows[[f"{value}_difference{side}" for side in ("", "_low", "_high")]].to_numpy()


@pytest.mark.parametrize(
    ("name", "rows"), [("table1_blur", 10), ("table2_imagenet_c", 75), ("table3_cosine", 20), ("fig5_occlusion", 10)]
)
def test_published_tables_are_whole(name, rows):
    table = published(name)
    assert len(table) == rows
    assert not table.isna().any().any()


def test_published_values_that_the_text_quotes():
    assert reference.paper("table1_blur", "top1_percent", level="X") == 80.8
    assert reference.paper("fig5_occlusion", "top1_percent", occlusion_percent=90) == 60.8
    assert reference.paper("table3_cosine", "mean_cosine", perturbation="occlusion", level="60") == 0.836


def test_an_unknown_table_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'table9'.*fig5_occlusion"):
        published("table9")


def test_compare_without_a_vit_and_with_numbers_as_levels():
    table = pd.DataFrame({"model": "mae_finetuned", "occlusion_percent": [0, 90], "top1_percent": [90.0, 50.0]})
    found = compare(table, "fig5_occlusion", ["occlusion_percent"], ["top1_percent"])
    assert found["top1_percent_difference"].tolist() == pytest.approx([-3.4, -10.8])
    assert "top1_percent_vit" not in found


def accuracies(**columns):
    """The fine-tuned MAE at blur levels, with intervals; Table I has 89.8 at I and 80.8 at X, and no clean row."""
    rows = {
        "level": ["clean", "I", "X"],
        "top1_percent": [95.0, 91.0, 79.0],
        "top1_low": [93.0, 89.0, 75.5],
        "top1_high": [97.0, 92.9, 80.8],
    }
    return pd.DataFrame({"model": "mae_finetuned"} | rows | columns)


def plain(texts):
    return [text.replace("\u00a0", " ") for text in texts]


def cell(page, text):
    """The id of the only cell or heading of a page that reads `text`."""
    (part,) = [part for part in page.split("<t")[1:] if f">{text}</t" in part]
    return re.search(r'id="(\w+)"', part)[1]


def is_grey(page, text):
    """Whether the page's style sheet has the colour on the cell or heading that reads `text`."""
    rules = [rule for rule in page.split("</style>")[0].split("}") if "--pst-color-text-muted" in rule]
    return cell(page, text) in re.findall(r"#(T_\w+)", "".join(rules))


def test_compare_by_hand():
    mae = accuracies(ssim=[1.0, 0.9, 0.5])
    vit = mae.assign(model="vit_supervised", top1_percent=[70, 60, 50])
    table = compare(pd.concat([mae, vit]), "table1_blur", ["level"], ["top1_percent", "ssim"])
    assert table["level"].tolist() == ["clean", "I", "X"]
    assert table["top1_percent"].tolist() == [95, 91, 79]
    assert table["top1_percent_of_vit_supervised"].tolist() == [70, 60, 50]
    assert table["top1_percent_paper"].tolist()[1:] == [89.8, 80.8]
    assert table.loc[0, ["top1_percent_paper", "ssim_paper"]].isna().all()
    clean, first, last = differences(table)  # their intervals are those of the values less the published ones
    assert np.isnan(clean).all()
    assert first == pytest.approx([1.2, -0.8, 3.1])
    assert last == pytest.approx([-1.8, -5.3, 0.0], abs=1e-9)
    assert table["ssim_difference"].tolist()[1:] == pytest.approx([0.032, 0.034])
    assert not {"ssim_difference_low", "ssim_difference_high"} & set(table)  # as it has no interval here
    assert show(table, {"ssim": "{:.3f}"}, True).data["ssim (difference)"].tolist() == ["", "+0.032", "+0.034"]


@pytest.mark.parametrize(
    ("name", "value", "ends"),
    [
        ("table3_cosine", "mean_cosine", ("cosine_low", "cosine_high")),
        ("released_feature_drop", "mean_drop", ("low", "high")),
    ],
)
def test_cosines_and_drops_have_intervals_of_their_own_columns(name, value, ends):
    row = {"model": "mae_finetuned", "perturbation": "occlusion", "level": [50]}
    row |= {value: 0.9, ends[0]: 0.8, ends[1]: 0.95}
    paper = reference.paper(name, value, perturbation="occlusion", level="50")
    compared = compare(pd.DataFrame(row), name, ["perturbation", "level"], [value])
    assert differences(compared, value)[0] == pytest.approx([0.9 - paper, 0.8 - paper, 0.95 - paper])


def test_a_page_shows_the_difference_with_its_interval_signs_and_no_negative_zero():
    table = compare(accuracies(), "table1_blur", ["level"], ["top1_percent"])
    shown = show(table, {"level": "{}", "top1_percent": "{:.1f}"}, True, {"top1_percent": "top-1 (%)"}).data
    assert plain(shown["top-1 (%)"]) == ["95.0 (93.0 to 97.0)", "91.0 (89.0 to 92.9)", "79.0 (75.5 to 80.8)"]
    assert shown["top-1 (%) (paper)"].tolist() == ["", "89.8", "80.8"]
    assert plain(shown["top-1 (%) (difference)"]) == ["", "+1.2 (−0.8 to +3.1)", "−1.8 (−5.3 to +0.0)"]
    tiny = pd.DataFrame({"x_difference": [-1e-9], "x": [-0.5]})
    assert show(tiny, {"x": "{:.1f}"}, True).data.loc[0].tolist() == ["−0.5", "+0.0"]
    assert show(tiny, {"x_difference": "{:.1f}"}, True).data.loc[0].tolist() == ["−0.0"]  # a value of that name


@pytest.mark.parametrize("same_data", [True, False])
def test_published_values_are_grey_and_without_difference_on_other_data(same_data):
    table = compare(accuracies(), "table1_blur", ["level"], ["top1_percent"])
    shown = show(table, {"level": "{}", "top1_percent": "{:.1f}"}, same_data, {"top1_percent": "top-1 (%)"}, "released")
    more = ["top-1 (%) (released)", "top-1 (%) (difference)"]
    heading = "top-1 (%) (released: another model and data)"
    assert shown.data.columns.tolist() == ["level", "top-1 (%)", *(more if same_data else [heading])]
    page = shown.to_html()
    for text in ("89.8", "80.8", more[0] if same_data else heading):
        assert is_grey(page, text) is not same_data
    for text in ("level", "top-1 (%)", "X"):
        assert not is_grey(page, text)
    assert ("−1.8" in page) is same_data
    assert "nan" not in page


def corrupted():
    """Three cells of Table II, which has 90.0 and 50.0 for Gaussian noise and 76.2 for fog, in no sorted order."""
    kinds = {"group": ["weather", "noise", "noise", "other"], "corruption": ["fog", *["gaussian_noise"] * 2, "new_one"]}
    rows = {"severity": [5, 5, 1, 5], "top1_percent": [75.2, 51.0, 90.0, 11.0]}
    ends = {"top1_low": [74.0, 49.5, 90.0, 10.0], "top1_high": [78.0, 52.0, 90.0, 12.0]}
    table = pd.DataFrame({"model": "mae_finetuned"} | kinds | rows | ends)
    return compare(table, "table2_imagenet_c", ["group", "corruption", "severity"], ["top1_percent"])


@pytest.mark.parametrize("same_data", [True, False])
def test_arranged_as_in_the_paper(same_data):
    shown = arrange(corrupted(), "top1_percent", "severity", ["group", "corruption"], "{:.1f}", same_data)
    table, page = shown.data.fillna(""), shown.to_html()
    assert table.columns.tolist() == [("weather", "fog"), ("noise", "gaussian noise"), ("other", "new one")]
    kinds = ["here", "paper", *(["difference"] if same_data else [])]
    assert table.index.tolist() == [(level, kind) for level in "51" for kind in kinds]
    assert table.loc[("5", "here")].tolist() == ["75.2", "51.0", "11.0"]
    assert table.loc[("5", "paper")].tolist() == ["76.2", "50.0", ""]
    assert table.loc[("1", "paper")].tolist() == ["", "90.0", ""]
    if same_data:
        texts = ["−1.0 (−2.2 to +1.8)", "+1.0 (−0.5 to +2.0)", ""]
        assert plain(table.loc[("5", "difference")]) == texts
        assert plain(table.loc[("1", "difference")]) == ["", "+0.0 (+0.0 to +0.0)", ""]
    assert is_grey(page, "76.2") is not same_data
    assert not is_grey(page, "75.2")
    assert ("<caption>Rows in grey: paper, another model and data</caption>" in page) is not same_data
    assert "nan" not in page.lower()
    one = arrange(corrupted().iloc[[0]], "top1_percent", "severity", ["group", "corruption"], "{:.1f}", same_data)
    assert is_grey(one.to_html(), "paper") is not same_data
    assert not is_grey(one.to_html(), "here")


@pytest.mark.parametrize(("width", "count"), [(64, 10), (16, 3), (32, 5), (128, 20), (4, 1), (1, 1)])
def test_the_released_share_of_narrower_heads(width, count):
    assert reference.released_active(width) == count


def counted(layers=12, heads=12, levels=("clean", "I"), perturbation="gaussian_blur"):
    """Counts of one class, nothing lost: the features of ten images are active at random, the same at all levels."""
    clean = np.random.default_rng(0).random((10, layers, heads, 64)) < 0.7
    table = feature_table(clean, dict.fromkeys(levels, clean), np.array(["a"] * 10), 0.6)
    return table.assign(perturbation=perturbation)


def test_released_counts_beside_a_runs_by_hand():
    blur, occlusion = counted(), counted(levels=(0, 50, 90), perturbation="occlusion")
    table = compare_features(pd.concat([blur, occlusion]))
    assert len(table) == 4 * 144
    assert "clean" not in set(table["level"])
    cells = table.set_index(["perturbation", "level", "layer", "head"])
    for *key, clean, kept in (  # as they stand in released_head_features.csv
        ("gaussian_blur", "I", 12, 12, 3, 2),
        ("occlusion", "50", 7, 3, 6, 3),
        ("occlusion", "90", 12, 12, 3, 0),
    ):
        row = cells.loc[tuple(key)]
        assert (row["released_clean_count"], row["released_retained_count"]) == (clean, kept)
        assert row["difference"] == row["retained_count"] - kept
    here = blur[(blur["level"] == "I") & (blur["layer"] == 12) & (blur["head"] == 12)]
    assert cells.loc[("gaussian_blur", "I", 12, 12), "retained_count"] == here["retained_count"].item()


@pytest.mark.parametrize(("layers", "heads"), [(2, 3), (24, 16)])
def test_heads_that_the_release_lacks_have_no_released_counts(layers, heads):
    table = compare_features(counted(layers, heads, ("clean", "I", "XI")))
    assert len(table) == 2 * layers * heads
    inside = (table["layer"] <= 12) & (table["head"] <= 12) & (table["level"] == "I")
    for column in ("released_clean_count", "released_retained_count", "difference"):
        assert (table[column].notna() == inside).all()
    first, other = feature_agreement(table).to_dict("records")
    everywhere = published("released_head_features").query("level == 'I'")["retained_count"].mean()
    assert first["retained_count_paper"] == pytest.approx(everywhere)
    assert first["retained_count"] == pytest.approx(table.loc[table["level"] == "I", "retained_count"].mean())
    assert first["heads"] == other["heads"] == layers * heads
    assert not np.isnan(first["retained_count_difference"])
    missing = (
        "retained_count_paper",
        "retained_percent_paper",
        "retained_count_difference",
        "within_one_percent",
        "rank_correlation",
    )
    assert np.isnan([other[name] for name in missing]).all()


def agreement(counts, seed=0):
    """The row of a run that counts so much at 50 % occlusion, and what the release counts there."""
    released = published("released_head_features").query("perturbation == 'occlusion' and level == '50'")
    run = released.assign(**{"class": "a"}, retained_count=counts(released["retained_count"]))
    row = feature_agreement(compare_features(run), seed).iloc[0]
    return row, released["retained_count"]


def test_a_run_that_counts_what_the_release_counts_agrees_wholly():
    row, _ = agreement(lambda released: released)
    assert row["retained_count"] == pytest.approx(row["retained_count_paper"])
    clean = published("released_head_features").query("perturbation == 'occlusion' and level == '50'")["clean_count"]
    assert (
        row["retained_percent"]
        == row["retained_percent_paper"]
        == pytest.approx(100 * row["retained_count"] / clean.mean())
    )
    assert differences(row, "retained_count").tolist() == [0, 0, 0]
    assert row["within_one_percent"] == 100
    assert row["rank_correlation"] == pytest.approx(1)


def test_agreement_by_hand():
    shift = np.repeat([2, -1, 0], [36, 36, 72])
    row, released = agreement(lambda released: released + shift, seed=3)
    difference, low, high = differences(row, "retained_count")
    assert difference == pytest.approx((36 * 2 - 36) / 144)
    assert low < 0.25 < high
    error = 1.96 * shift.std() / 12
    assert [low, high] == pytest.approx([0.25 - error, 0.25 + error], abs=0.03)
    assert row["within_one_percent"] == 75
    assert row["rank_correlation"] == pytest.approx(spearmanr(released + shift, released).statistic)
    assert 0 < row["rank_correlation"] < 0.99


def test_a_model_that_keeps_nothing_has_no_rank_correlation():
    row, _ = agreement(lambda released: 0)
    assert np.isnan(row["rank_correlation"])
    assert row["retained_count"] == 0
