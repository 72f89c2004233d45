"""Published numbers, and a run's numbers beside them."""

import pandas as pd
import pytest

from mae_helpers.reference import compare, published, show


def run(**accuracies):
    return pd.concat(
        pd.DataFrame({"model": model, "level": ["clean", "I", "X"], "top1_percent": values, "ssim": [1.0, 0.9, 0.5]})
        for model, values in accuracies.items()
    )


@pytest.mark.parametrize(
    ("name", "rows"),
    [("table1_blur", 10), ("table2_imagenet_c", 75), ("table3_cosine", 20), ("fig5_occlusion", 10)],
)
def test_published_tables_are_whole(name, rows):
    table = published(name)
    assert len(table) == rows
    assert not table.isna().any().any()


def test_published_values_that_the_text_quotes():
    assert published("table1_blur").set_index("level").loc["X", "top1_percent"] == 80.8
    assert published("fig5_occlusion").set_index("occlusion_percent").loc[90, "top1_percent"] == 60.8


def test_an_unknown_table_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'table9'.*fig5_occlusion"):
        published("table9")


def test_compare_by_hand():
    table = compare(
        run(vit_supervised=[70, 60, 50], mae_finetuned=[95, 90, 80]), "table1_blur", ["level"], ["top1_percent", "ssim"]
    )
    assert table["level"].tolist() == ["clean", "I", "X"]
    assert table["top1_percent"].tolist() == [95, 90, 80]
    assert table["top1_percent_vit"].tolist() == [70, 60, 50]
    assert pd.isna(table["top1_percent_paper"][0])
    assert table["top1_percent_paper"].tolist()[1:] == [89.8, 80.8]
    assert table["top1_percent_difference"].tolist()[1:] == pytest.approx([0.2, -0.8])
    assert table["ssim_difference"].tolist()[1:] == pytest.approx([0.032, 0.034])


def test_compare_without_a_vit_and_with_numbers_as_levels():
    table = pd.DataFrame({"model": "mae_finetuned", "occlusion_percent": [0, 90], "top1_percent": [90.0, 50.0]})
    found = compare(table, "fig5_occlusion", ["occlusion_percent"], ["top1_percent"])
    assert found["top1_percent_difference"].tolist() == pytest.approx([-3.4, -10.8])
    assert "top1_percent_vit" not in found


@pytest.mark.parametrize("same_data", [True, False])
def test_published_values_are_grey_and_without_difference_on_other_data(same_data):
    table = compare(run(mae_finetuned=[95, 90, 80]), "table1_blur", ["level"], ["top1_percent"])
    shown = show(table, {"level": "{}", "top1_percent": "{:.1f}"}, same_data, {"top1_percent": "top-1 (%)"})
    difference = ["top-1 (%) (difference)"] if same_data else []
    assert shown.data.columns.tolist() == ["level", "top-1 (%)", "top-1 (%) (paper)", *difference]
    page = shown.to_html()
    assert ("color: #767676" in page) is not same_data
    assert ("-0.8" in page) is same_data
    assert "nan" not in page
