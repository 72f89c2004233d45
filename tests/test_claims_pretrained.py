"""The rules of Section IV-A on made-up tables that support a claim, support it partly, and contradict it."""

import numpy as np
import pandas as pd
import pytest

from mae_helpers.measures.masking import cosine_table
from mae_helpers.verdicts import scorecard as claims

SUPPORTED, PARTLY, NOT_SUPPORTED, NOT_TESTED = claims.VERDICTS
LAYERS = np.arange(1, 13)


def curve(start, end):
    return np.linspace(start, end, 12)


def last(value, others):
    """The curve `others` but in the last layer."""
    return np.where(LAYERS == 12, value, others)


def separation(mae, random, token="cls"):
    """kNN accuracies by layer of the two models, and another token that must not be read."""
    return pd.concat(
        pd.DataFrame({"model": model, "token": kind, "layer": LAYERS, "knn_percent": values})
        for kind, mine, control in ((token, mae, random), ("other", curve(90, 0), curve(0, 90)))
        for model, values in (("mae_pretrained", mine), ("random", control))
    )


def clusters(silhouette):
    """The silhouette of mean patch tokens by layer, in no order."""
    columns = {"model": "mae_pretrained", "token": "mean_patch", "layer": LAYERS, "silhouette": silhouette}
    return pd.DataFrame(columns).sample(frac=1, random_state=0)


def jump(layer):
    return clusters(np.where(layer <= LAYERS, 0.4, 0.0))


def distances(**by_model):
    """Shares of uniform attention's distance by model: an array (layers, heads) of them, uniform being 40 px."""
    tables = []
    for model, shares in by_model.items():
        layer, head = np.indices(shares.shape) + 1
        columns = {"layer": layer.ravel(), "head": head.ravel(), "distance_px": 40 * shares.ravel()}
        tables.append(pd.DataFrame(columns).assign(model=model, images="first", uniform_px=40.0))
    return pd.concat(tables, ignore_index=True)


def heads(inside, outside=0.2):
    """12 x 10 heads, the first `inside` of each layer at 90 % of uniform, the others elsewhere; random ones all elsewhere."""
    mae, random = (np.tile(np.where(np.arange(10) < count, 0.9, outside), (12, 1)) for count in (inside, 0))
    return distances(mae_pretrained=mae, random=random)


def early(vit, mae):
    """Heads of both models with these shares in the first quarter of the layers, and the opposite beyond."""
    both = {"vit_supervised": vit, "mae_pretrained": mae}
    return distances(
        **{name: np.repeat([[at], [1 - at]], [3, 9], axis=0).repeat(4, axis=1) for name, at in both.items()}
    )


def angles(mae, random, spread):
    """Three angles a layer, `spread` to each side of the median; the other controls must not be read."""
    around = np.outer(spread, [-1, 0, 1]).ravel()
    return pd.concat(
        pd.DataFrame({"layer": np.repeat(LAYERS, 3), "model": model, "control": control, "main": main}).assign(
            theta1_deg=sign * np.repeat(medians, 3) + around - 50 * (not main)
        )
        for model, medians in (("mae_pretrained", mae), ("random", random))
        for control, sign in (("between_classes", 1), ("split_half", -1))
        for main in (True, False)
    )


def controls(*degrees):
    """Angles between classes, halves and shuffled labels in the last layer; first layer and random weights differ."""
    columns = {"control": ["between_classes", "split_half", "shuffled_labels"], "theta1_deg": degrees, "layer": 12}
    table = pd.DataFrame(columns | {"model": "mae_pretrained", "main": True})
    first = table.assign(layer=1, theta1_deg=50 - table["theta1_deg"])
    random = table.assign(model="random", theta1_deg=1.0)
    return pd.concat([table, first, random, table.assign(main=False, theta1_deg=30.0)])


def singular(largest, smallest):
    return pd.concat(
        pd.DataFrame({"model": model, "layer": LAYERS, "class": name, "index": index, "singular_value": values})
        for name in ("cat", "dog")
        for model, found in (("mae_pretrained", (largest, np.full(12, 5.0), smallest)), ("random", [curve(9, 1)] * 3))
        for index, values in enumerate(found, 1)
    )


def masks(within, norm_range, between=0.5):
    """Cosines as given; ten images with mean norms 50 to 60 and the given range of norms within each."""
    pairs = [("within", value) for value in within] + [("between", between)] * 20
    summary = cosine_table(pd.DataFrame(pairs, columns=["pair", "cosine"]))
    image, side = np.divmod(np.arange(20), 2)
    norms = pd.DataFrame({"image": image, "norm": 50 + image * 10 / 9 + (side - 0.5) * norm_range})
    return summary.assign(model="mae_pretrained"), norms.assign(model="mae_pretrained")


CASES = {
    "emergence": [
        *zip(map(jump, (7, 8, 9)), [SUPPORTED] * 3, strict=True),
        *zip(map(jump, (6, 10)), [PARTLY] * 2, strict=True),
        *zip(map(jump, (5, 11)), [NOT_SUPPORTED] * 2, strict=True),
        (clusters(-np.cumsum(np.where(np.isin(LAYERS, (6, 7, 8)), 0.01, 0.1))), NOT_SUPPORTED),  # only falls
    ],
    "attention_is_global.first": [
        (heads(10), SUPPORTED),
        (heads(9), SUPPORTED),
        (heads(6), PARTLY),
        (heads(3), NOT_SUPPORTED),
        (heads(0, 1.2), NOT_SUPPORTED),
    ],
    "vit_starts_local": [
        (early(0.2, 0.8), SUPPORTED),
        (early(0.2, 0.4), PARTLY),
        (early(0.7, 0.9), PARTLY),
        (early(0.2, 0.1), NOT_SUPPORTED),
        (early(0.9, 0.7), NOT_SUPPORTED),
    ],
    "angles_grow": [
        (angles(curve(10, 40), curve(10, 12), curve(1, 5)), SUPPORTED),
        (angles(curve(10, 40), curve(10, 12), curve(5, 1)), PARTLY),  # the spread shrinks
        (angles(last(40, curve(30, 10)), curve(10, 12), curve(1, 5)), PARTLY),  # only in the last layer
        (angles(curve(40, 10), curve(10, 12), curve(1, 5)), NOT_SUPPORTED),
        (angles(curve(10, 20), curve(10, 30), curve(1, 5)), NOT_SUPPORTED),  # less than with random weights
    ],
    "angles_are_about_classes": [
        (controls(40, 10, 12), SUPPORTED),
        (controls(30, 10, 20), SUPPORTED),
        (controls(15, 10, 12), PARTLY),
        (controls(11, 10, 12), NOT_SUPPORTED),
    ],
    "singular_values_grow": [
        (singular(curve(10, 50), curve(1, 2)), SUPPORTED),
        (singular(curve(10, 50), curve(2, 1)), PARTLY),
        (singular(curve(50, 10), curve(1, 2)), PARTLY),
        (singular(curve(50, 10), curve(2, 1)), NOT_SUPPORTED),
        (singular(last(60, curve(50, 10)), curve(2, 1)), NOT_SUPPORTED),  # only in the last layer
    ],
    "masks_agree": [
        (masks([0.99] * 20, 1.0), SUPPORTED),
        (masks([0.99] * 20, 9.0), PARTLY),  # norms vary
        (masks([0.99] * 18 + [0.1] * 2, 1.0), PARTLY),  # a tail of cosines
        (masks([0.3] * 20, 1.0), NOT_SUPPORTED),
    ],
} | {
    f"classes_separate.{token}": [
        (separation(curve(30, 80), curve(30, 30), token), SUPPORTED),
        (separation(curve(30, 34), curve(30, 30), token), PARTLY),  # rises a little
        (separation(curve(30, 60), curve(30, 56), token), PARTLY),  # a little more than with random weights
        (separation(curve(30, 60), curve(30, 60), token), NOT_SUPPORTED),
        (separation(curve(60, 30), curve(30, 30), token), NOT_SUPPORTED),
        (separation(curve(60, 50), curve(60, 20), token), NOT_SUPPORTED),  # falls less than with random weights
    ]
    for token in ("cls", "mean_patch", "patch")
}


def judged(name, tables):
    return claims.judge(name, *(tables if isinstance(tables, tuple) else [tables]))


@pytest.mark.parametrize(
    ("name", "tables", "verdict"), [(name, *case) for name, cases in CASES.items() for case in cases]
)
def test_each_rule_tells_full_partial_and_no_support_apart(name, tables, verdict):
    assert judged(name, tables)["verdict"] == verdict


@pytest.mark.parametrize(
    ("name", "tables", "words"),
    [
        (
            "classes_separate.cls",
            separation(np.repeat([20.0, 40.0, 60.0], 4), np.full(12, 10.0)),
            "kNN 20 % in the first third, 60 % in the last (random weights: 10, 10 %)",
        ),
        *(("emergence", jump(at), f"+0.40 over the three layers that end at layer {at}") for at in range(5, 12)),
        *(("attention_is_global.first", heads(count), f"{10 * count}% of heads") for count in (0, 3, 6, 9, 10)),
    ],
)
def test_words_quote_the_tables(name, tables, words):
    assert words in judged(name, tables)["here"]


@pytest.mark.parametrize(("token", "figure"), [("cls", "Fig. 1a"), ("mean_patch", "Fig. 1b"), ("patch", "Fig. 2")])
def test_each_kind_of_token_has_its_figure(token, figure):
    assert claims.CLAIMS[f"classes_separate.{token}"]["where"] == f"{figure}, Sec. IV-A1"


def test_claims_are_shown_whole_and_without_row_numbers():
    rows = [judged("attention_is_global.first", heads(10)), judged("masks_agree", masks([0.9], 1.0, between=0.1))]
    shown = claims.show(*rows)
    assert shown.data.columns.tolist() == ["claim", "where", "paper", "here", "tolerance", "verdict", "note"]
    assert shown.data["verdict"].tolist() == [SUPPORTED, SUPPORTED]
    page = shown.to_html()
    assert all(row[key] in page for row in rows for key in ("claim", "here", "verdict"))
    assert "row_heading" not in page


@pytest.mark.parametrize(
    ("name", "note"), [("attention_is_global.second", "no images 'second'"), ("vit_starts_local", "no model 'vit_")]
)
def test_what_a_run_lacks_is_not_tested(name, note):
    row = judged(name, heads(10))
    assert row["verdict"] == NOT_TESTED
    assert note in row["note"]


def test_votes_that_could_not_be_taken_are_not_tested():
    row = judged("classes_separate.cls", separation(curve(np.nan, np.nan), curve(50, 50), token="cls"))
    assert row["verdict"] == NOT_TESTED
    assert "two images or more of each class" in row["note"]
