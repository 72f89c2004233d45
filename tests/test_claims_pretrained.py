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


def separation(mae, random, token="cls"):
    """kNN accuracies by layer of the two models, and another token that must not be read."""
    return pd.concat(
        pd.DataFrame({"model": model, "token": kind, "layer": LAYERS, "knn_percent": values})
        for kind, mine, control in ((token, mae, random), ("other", curve(90, 0), curve(0, 90)))
        for model, values in (("mae_pretrained", mine), ("random", control))
    )


@pytest.mark.parametrize(
    ("mae", "random", "verdict"),
    [
        (curve(30, 80), curve(30, 30), SUPPORTED),
        (curve(30, 34), curve(30, 30), PARTLY),
        (curve(30, 60), curve(30, 56), PARTLY),
        (curve(30, 60), curve(30, 60), NOT_SUPPORTED),
        (curve(60, 30), curve(30, 30), NOT_SUPPORTED),
        (curve(60, 50), curve(60, 20), NOT_SUPPORTED),
    ],
    ids=["rises alone", "rises a little", "rises a little more", "as random", "falls", "falls less than random"],
)
@pytest.mark.parametrize("token", ["cls", "mean_patch", "patch"])
def test_classes_separate(token, mae, random, verdict):
    row = claims.judge(f"classes_separate.{token}", separation(mae, random, token))
    assert row["verdict"] == verdict
    assert row["where"] == ("Fig. 2, Sec. IV-A1" if token == "patch" else f"Fig. 1{'ab'[token != 'cls']}, Sec. IV-A1")


def test_classes_separate_quotes_the_thirds():
    steps = np.repeat([20.0, 40.0, 60.0], 4)
    row = claims.judge("classes_separate.cls", separation(steps, np.full(12, 10.0)))
    assert "20 % in the first third, 60 % in the last" in row["here"]
    assert "10, 10 %" in row["here"]


def emergence(silhouette):
    columns = {"model": "mae_pretrained", "token": "mean_patch", "layer": LAYERS, "silhouette": silhouette}
    return claims.judge("emergence", pd.DataFrame(columns).sample(frac=1, random_state=0))


def test_emergence_is_where_the_silhouette_jumps():
    rows = {layer: emergence(np.where(layer <= LAYERS, 0.4, 0.0)) for layer in range(5, 12)}
    verdicts = [NOT_SUPPORTED, PARTLY, SUPPORTED, SUPPORTED, SUPPORTED, PARTLY, NOT_SUPPORTED]
    assert [row["verdict"] for row in rows.values()] == verdicts
    for layer, row in rows.items():
        assert f"+0.40 over the three layers that end at layer {layer}" in row["here"]


def test_a_silhouette_that_only_falls_shows_no_emergence():
    falling = -np.cumsum(np.where(np.isin(LAYERS, (6, 7, 8)), 0.01, 0.1))
    assert emergence(falling)["verdict"] == NOT_SUPPORTED


def distances(**by_model):
    """Shares of uniform attention's distance by model: an array (layers, heads) of them, uniform being 40 px."""
    tables = []
    for model, shares in by_model.items():
        layer, head = np.indices(shares.shape) + 1
        columns = {"layer": layer.ravel(), "head": head.ravel(), "distance_px": 40 * shares.ravel()}
        tables.append(pd.DataFrame(columns).assign(model=model, images="first", uniform_px=40.0))
    return pd.concat(tables, ignore_index=True)


def heads(inside, outside=0.2):
    """12 x 10 heads, the first `inside` of each layer at 90 % of uniform, the others elsewhere."""
    return np.tile(np.where(np.arange(10) < inside, 0.9, outside), (12, 1))


@pytest.mark.parametrize(
    ("inside", "outside", "verdict"),
    [(10, 0.2, SUPPORTED), (9, 0.2, SUPPORTED), (6, 0.2, PARTLY), (3, 0.2, NOT_SUPPORTED), (0, 1.2, NOT_SUPPORTED)],
)
def test_attention_is_global(inside, outside, verdict):
    table = distances(mae_pretrained=heads(inside, outside), random=heads(0))
    row = claims.judge("attention_is_global.first", table)
    assert row["verdict"] == verdict
    assert f"{10 * inside}% of heads" in row["here"]


@pytest.mark.parametrize(
    ("vit", "mae", "verdict"),
    [
        (0.2, 0.8, SUPPORTED),
        (0.2, 0.4, PARTLY),
        (0.7, 0.9, PARTLY),
        (0.2, 0.1, NOT_SUPPORTED),
        (0.9, 0.7, NOT_SUPPORTED),
    ],
)
def test_vit_starts_local(vit, mae, verdict):
    early = {"vit_supervised": vit, "mae_pretrained": mae}
    shares = {model: np.vstack([np.full((3, 4), value), np.full((9, 4), 1 - value)]) for model, value in early.items()}
    assert claims.judge("vit_starts_local", distances(**shares))["verdict"] == verdict


def angles(mae, random, spread):
    """Three angles a layer, `spread` to each side of the median; the other controls must not be read."""
    columns = {"layer": np.repeat(LAYERS, 3)}
    around = np.outer(spread, [-1, 0, 1]).ravel()
    return pd.concat(
        pd.DataFrame(columns | {"theta1_deg": sign * np.repeat(medians, 3) + around - 50 * (not main)}).assign(
            model=model, control=control, main=main
        )
        for model, medians in (("mae_pretrained", mae), ("random", random))
        for control, sign in (("between_classes", 1), ("split_half", -1))
        for main in (True, False)
    )


@pytest.mark.parametrize(
    ("mae", "random", "spread", "verdict"),
    [
        (curve(10, 40), curve(10, 12), curve(1, 5), SUPPORTED),
        (curve(10, 40), curve(10, 12), curve(5, 1), PARTLY),
        (np.where(LAYERS == 12, 40, curve(30, 10)), curve(10, 12), curve(1, 5), PARTLY),
        (curve(40, 10), curve(10, 12), curve(1, 5), NOT_SUPPORTED),
        (curve(10, 20), curve(10, 30), curve(1, 5), NOT_SUPPORTED),
    ],
    ids=["grow", "spread shrinks", "only the last", "fall", "less than random"],
)
def test_angles_grow(mae, random, spread, verdict):
    assert claims.judge("angles_grow", angles(mae, random, spread))["verdict"] == verdict


@pytest.mark.parametrize(
    ("between", "half", "shuffled", "verdict"),
    [(40, 10, 12, SUPPORTED), (30, 10, 20, SUPPORTED), (15, 10, 12, PARTLY), (11, 10, 12, NOT_SUPPORTED)],
)
def test_angles_are_about_classes(between, half, shuffled, verdict):
    last = pd.DataFrame({"control": ["between_classes", "split_half", "shuffled_labels"], "layer": 12})
    last = last.assign(model="mae_pretrained", main=True, theta1_deg=[between, half, shuffled])
    first, random = (
        last.assign(layer=1, theta1_deg=50 - last["theta1_deg"]),
        last.assign(model="random", theta1_deg=1.0),
    )
    table = pd.concat([last, first, random, last.assign(main=False, theta1_deg=30.0)])
    assert claims.judge("angles_are_about_classes", table)["verdict"] == verdict


@pytest.mark.parametrize(
    ("largest", "smallest", "verdict"),
    [
        (curve(10, 50), curve(1, 2), SUPPORTED),
        (curve(10, 50), curve(2, 1), PARTLY),
        (curve(50, 10), curve(1, 2), PARTLY),
        (curve(50, 10), curve(2, 1), NOT_SUPPORTED),
        (np.where(LAYERS == 12, 60, curve(50, 10)), curve(2, 1), NOT_SUPPORTED),
    ],
    ids=["both", "largest", "smallest", "none", "only the last layer"],
)
def test_singular_values_grow(largest, smallest, verdict):
    table = pd.concat(
        pd.DataFrame({"model": model, "layer": LAYERS, "class": name, "index": index, "singular_value": values})
        for name in ("cat", "dog")
        for model, found in (("mae_pretrained", (largest, np.full(12, 5.0), smallest)), ("random", [curve(9, 1)] * 3))
        for index, values in enumerate(found, 1)
    )
    assert claims.judge("singular_values_grow", table)["verdict"] == verdict


def masks(within, between, norm_range):
    """Cosines as given; ten images with mean norms 50 to 60 and the given range of norms within each."""
    pairs = [("within", value) for value in within] + [("between", value) for value in between]
    norms = [
        {"image": image, "norm": 50 + image * 10 / 9 + side * norm_range / 2} for image in range(10) for side in (-1, 1)
    ]
    summary = cosine_table(pd.DataFrame(pairs, columns=["pair", "cosine"]))
    return summary.assign(model="mae_pretrained"), pd.DataFrame(norms).assign(model="mae_pretrained")


@pytest.mark.parametrize(
    ("within", "norm_range", "verdict"),
    [
        ([0.99] * 20, 1.0, SUPPORTED),
        ([0.99] * 20, 9.0, PARTLY),
        ([0.99] * 18 + [0.1] * 2, 1.0, PARTLY),
        ([0.3] * 20, 1.0, NOT_SUPPORTED),
    ],
    ids=["aligned", "norms vary", "a tail", "less than between"],
)
def test_masks_agree(within, norm_range, verdict):
    assert claims.judge("masks_agree", *masks(within, [0.5] * 20, norm_range))["verdict"] == verdict


def test_claims_are_shown_whole_and_without_row_numbers():
    rows = [
        claims.judge("attention_is_global.first", distances(mae_pretrained=heads(10))),
        claims.judge("masks_agree", *masks([0.9], [0.1], 1.0)),
    ]
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
    row = claims.judge(name, distances(mae_pretrained=heads(10)))
    assert row["verdict"] == NOT_TESTED
    assert note in row["note"]
