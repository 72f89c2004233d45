"""The rules of Sections IV-B and IV-C on made-up tables, and the scorecard as a whole."""

import pandas as pd
import pytest

from mae_helpers.perturbations import corruptions
from mae_helpers.perturbations.blur import BLUR
from mae_helpers.profile.settings import ROOT
from mae_helpers.run import notebooks
from mae_helpers.run import tables as results
from mae_helpers.verdicts import scorecard as claims
from mae_helpers.verdicts.published import published

SUPPORTED, PARTLY, NOT_SUPPORTED, NOT_TESTED = claims.VERDICTS
LEVELS, PERCENTS = ["clean", *BLUR], list(range(0, 100, 10))


def ramp(start, end, count):
    return [start + (end - start) * step / (count - 1) for step in range(count)]


def paired(tables):
    """Tables of models that all saw the same images."""
    table = pd.concat(tables)
    return table.assign(paired_percent=table["top1_percent"])


def table1(mae, vit=None, psnr=None, ssim=None):
    """Accuracies by level of both models; PSNR and SSIM fall unless given."""
    psnr, ssim = psnr or ramp(30, 20, 11), ssim or ramp(1, 0.4, 11)
    return paired(
        pd.DataFrame({"model": model, "level": LEVELS, "top1_percent": values, "psnr_db": psnr, "ssim": ssim})
        for model, values in (("vit_supervised", vit or [50.0] * 11), ("mae_finetuned", mae))
    )


def fig5(mae, vit=None, random=None):
    return paired(
        pd.DataFrame({"model": model, "ranking": ranking, "occlusion_percent": PERCENTS, "top1_percent": values})
        for ranking, both in (("random", (random or mae, [1.0] * 10)), ("cls_rollout", (mae, vit or [50.0] * 10)))
        for model, values in zip(("mae_finetuned", "vit_supervised"), both, strict=True)
    )


def table2(top1, vit=50.0):
    """`top1(corruption, severity)` for MAE, one value for ViT; clean, both have 90 %."""
    rows = [
        {
            "model": model,
            "group": group,
            "corruption": name,
            "severity": severity,
            "top1_percent": value,
            "clean_percent": 90.0,
        }
        for name, group in corruptions.GROUP_OF.items()
        for severity in range(1, 6)
        for model, value in (("vit_supervised", vit), ("mae_finetuned", top1(name, severity)))
    ]
    return pd.DataFrame(rows)


def table3(blur=None, occlusion=None, **columns):
    """Cosines of MAE by level; of ViT all 0.1. Other columns are functions of the level's place, from 0 to 1."""
    tables = []
    for name, levels, values in (("gaussian_blur", LEVELS, blur), ("occlusion", PERCENTS, occlusion)):
        places = ramp(0, 1, len(levels))
        mae = {"mean_cosine": values or ramp(1, 0.9, len(levels))}
        mae |= {column: [function(place) for place in places] for column, function in columns.items()}
        for model, found in (("mae_finetuned", mae), ("vit_supervised", dict.fromkeys(mae, 0.1))):
            tables.append(pd.DataFrame({"model": model, "perturbation": name, "level": levels} | found))
    return pd.concat(tables, ignore_index=True)


def features(share):
    """Retained counts of 10 by level, layer: `share(perturbation, place of the level from 0 to 1, layer)`."""
    rows = [
        {
            "model": model,
            "perturbation": name,
            "level": level,
            "class": "cat",
            "layer": layer,
            "head": 1,
            "clean_count": 10,
            "retained_count": 10 * share(name, place, layer) if model == "mae_finetuned" else 0,
        }
        for model in ("mae_finetuned", "vit_supervised")
        for name, levels in (("gaussian_blur", LEVELS), ("occlusion", PERCENTS))
        for level, place in zip(levels, ramp(0, 1, len(levels)), strict=True)
        for layer in range(1, 13)
    ]
    return pd.DataFrame(rows)


def fig8(blur=None, occlusion=None):
    return pd.concat(
        pd.DataFrame({"model": model, "perturbation": name, "level": levels, "mean_drop": values})
        for name, levels, values in (
            ("gaussian_blur", LEVELS, blur or ramp(0, 1, 11)),
            ("occlusion", PERCENTS, occlusion or ramp(0, 1, 10)),
        )
        for model in ("mae_finetuned",)
    )


@pytest.mark.parametrize(("last", "verdict"), [(80, SUPPORTED), (68, PARTLY), (50, NOT_SUPPORTED)])
def test_blur_accuracy(last, verdict):
    row = claims.judge("blur_accuracy", table1(ramp(90, last, 11)))
    assert row["verdict"] == verdict
    assert row["difference"] == f"{last - 80.8:+.1f} points at level X"


def test_blur_severity():
    assert claims.judge("blur_severity", table1([90.0] * 11))["verdict"] == SUPPORTED
    bump = [30, 28, 26, 25, 24, 23, 22, 21, 20.5, 22, 20]
    row = claims.judge("blur_severity", table1([90.0] * 11, psnr=bump))
    assert row["verdict"] == PARTLY
    assert "rises: VIII to IX" in row["here"]
    assert claims.judge("blur_severity", table1([90.0] * 11, psnr=bump[::-1]))["verdict"] == NOT_SUPPORTED


@pytest.mark.parametrize(
    ("name", "end", "verdict"),
    [
        ("occlusion_half", 90, SUPPORTED),
        ("occlusion_half", 60, PARTLY),
        ("occlusion_half", 10, NOT_SUPPORTED),
        ("occlusion_ninety", 70, SUPPORTED),
        ("occlusion_ninety", 40, PARTLY),
        ("occlusion_ninety", 10, NOT_SUPPORTED),
    ],
)
def test_occlusion_keeps(name, end, verdict):
    assert claims.judge(name, fig5(ramp(100, end, 10)))["verdict"] == verdict


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([100, 99, 98, 97, 96, 95, 94, 84, 74, 64], SUPPORTED),
        ([100, 95, 90, 85, 80, 75, 70, 64, 58, 51], PARTLY),
        ([100, 50, 40, 30, 28, 26, 24, 22, 21, 20], NOT_SUPPORTED),
    ],
)
def test_occlusion_knee(values, verdict):
    assert claims.judge("occlusion_knee", fig5(values))["verdict"] == verdict


@pytest.mark.parametrize(("at_half", "verdict"), [(82, SUPPORTED), (92, PARTLY), (99, NOT_SUPPORTED)])
def test_any_subset_serves(at_half, verdict):
    guided = [100, 98, 95, 92, 88, 80, 70, 60, 50, 40]
    random = [*guided[:5], at_half, *guided[6:]]
    assert claims.judge("any_subset_serves", fig5(guided, random=random))["verdict"] == verdict


def test_no_subset_serves_where_all_lose():
    assert claims.judge("any_subset_serves", fig5(ramp(100, 10, 10)[:5] + [20] * 5))["verdict"] == NOT_SUPPORTED


def test_corruptions_stable():
    assert claims.judge("corruptions_stable", table2(lambda *_: 80))["verdict"] == SUPPORTED
    weather = table2(lambda name, _: 20 if corruptions.GROUP_OF[name] == "weather" else 80)
    assert claims.judge("corruptions_stable", weather)["verdict"] == PARTLY
    assert claims.judge("corruptions_stable", table2(lambda *_: 20))["verdict"] == NOT_SUPPORTED


def test_no_share_is_kept_of_nothing():
    nothing = table2(lambda *_: 0.0).assign(clean_percent=0.0)
    for name, tables in {
        "blur_accuracy": [table1([0.0] * 11)],
        "occlusion_half": [fig5([0.0] * 10)],
        "corruptions_stable": [nothing],
        "more_robust_than_vit": [table1([0.0] * 11), fig5([0.0] * 10), nothing],
    }.items():
        row = claims.judge(name, *tables)
        assert row["verdict"] == NOT_TESTED, name
        assert "accuracy on clean images is 0 %" in row["note"]


def test_noise_is_steeper():
    def losing(**loss):
        return table2(lambda name, severity: 90 - severity * loss.get(corruptions.GROUP_OF[name], 1))

    assert claims.judge("noise_is_steeper", losing(noise=5))["verdict"] == SUPPORTED
    assert claims.judge("noise_is_steeper", losing(noise=5, blur=6))["verdict"] == PARTLY
    assert claims.judge("noise_is_steeper", losing(blur=6))["verdict"] == NOT_SUPPORTED


def test_severity_is_gradual():
    assert claims.judge("severity_is_gradual", table2(lambda _, s: 90 - 5 * s))["verdict"] == SUPPORTED
    assert claims.judge("severity_is_gradual", table2(lambda _, s: 90 - 30 * (s == 5)))["verdict"] == PARTLY
    assert claims.judge("severity_is_gradual", table2(lambda _, s: 50 + 5 * s))["verdict"] == NOT_SUPPORTED


@pytest.mark.parametrize(("top1", "verdict"), [((35, 36), SUPPORTED), ((35, 60), PARTLY), ((70, 60), NOT_SUPPORTED)])
def test_larger_shifts(top1, verdict):
    columns = {"model": "mae_finetuned", "dataset": ["imagenet-r", "imagenet-a"], "top1_percent": top1}
    assert claims.judge("larger_shifts", pd.DataFrame(columns))["verdict"] == verdict


def test_more_robust_than_vit():
    def judged(blur, occlusion, corrupted):
        """MAE's last levels, ViT keeping half of its 80 % from the first level on."""
        vit = [80.0] + [40.0] * 10
        tables = (
            table1(ramp(90, blur, 11), vit),
            fig5(ramp(90, occlusion, 10), vit[:10]),
            table2(lambda *_: corrupted, 40),
        )
        return claims.judge("more_robust_than_vit", *tables)["verdict"]

    assert judged(80, 80, 80) == SUPPORTED
    assert judged(80, 80, 10) == PARTLY
    assert judged(-200, -200, 10) == NOT_SUPPORTED


@pytest.mark.parametrize(
    ("name", "end", "verdict"),
    [
        ("blur_cosine", 0.85, SUPPORTED),
        ("blur_cosine", 0.75, PARTLY),
        ("blur_cosine", 0.1, NOT_SUPPORTED),
        ("blur_cosine_strongest", 0.79, SUPPORTED),
        ("blur_cosine_strongest", 0.65, PARTLY),
        ("blur_cosine_strongest", 0.3, NOT_SUPPORTED),
    ],
)
def test_blur_cosines(name, end, verdict):
    assert claims.judge(name, table3(blur=ramp(1, end, 11)))["verdict"] == verdict


@pytest.mark.parametrize(("end", "verdict"), [(0.75, SUPPORTED), (0.45, PARTLY), (0.1, NOT_SUPPORTED)])
def test_occlusion_cosine(end, verdict):
    assert claims.judge("occlusion_cosine", table3(occlusion=ramp(1, end, 10)))["verdict"] == verdict


@pytest.mark.parametrize(("gap", "verdict"), [(0.5, SUPPORTED), (0.1, PARTLY), (-0.1, NOT_SUPPORTED)])
def test_wrong_are_less_aligned(gap, verdict):
    table = table3(cosine_correct=lambda place: 1 - 0.1 * place, cosine_wrong=lambda place: 1 - (0.1 + gap) * place)
    assert claims.judge("wrong_are_less_aligned", table)["verdict"] == verdict


def test_alignment_follows_accuracy():
    falling, rising = ramp(90, 50, 11), ramp(50, 90, 11)
    table = table3()
    judged = {
        verdict: claims.judge("alignment_follows_accuracy", table, table1(blur), fig5(occlusion[:10]))["verdict"]
        for verdict, blur, occlusion in (
            (SUPPORTED, falling, falling),
            (PARTLY, falling, rising),
            (NOT_SUPPORTED, rising, rising),
        )
    }
    assert all(verdict == found for verdict, found in judged.items())


@pytest.mark.parametrize(("change", "verdict"), [(0.05, SUPPORTED), (0.2, PARTLY), (0.5, NOT_SUPPORTED)])
def test_norms_hold(change, verdict):
    table = table3(relative_norm_difference=lambda place: change * place)
    assert claims.judge("norms_hold", table)["verdict"] == verdict


@pytest.mark.parametrize(("lost", "verdict"), [(0.2, SUPPORTED), (0.4, PARTLY), (0.9, NOT_SUPPORTED)])
def test_features_retained(lost, verdict):
    blur = features(lambda name, place, _: 1 - lost * place if name == "gaussian_blur" else 0)
    assert claims.judge("blur_features", blur)["verdict"] == verdict
    occlusion = features(lambda name, place, _: 1 - lost * place if name == "occlusion" else 0)
    row = claims.judge("occlusion_features", occlusion)
    assert row["verdict"] == (SUPPORTED if lost < 0.5 else PARTLY)


def test_features_lost_early_are_not_retained():
    row = claims.judge("occlusion_features", features(lambda name, place, _: 1.0 if place == 0 else 0.1))
    assert row["verdict"] == NOT_SUPPORTED


@pytest.mark.parametrize(("slope", "verdict"), [(0.5, SUPPORTED), (0.05, PARTLY), (-0.3, NOT_SUPPORTED)])
def test_deeper_layers_lose_more(slope, verdict):
    table = features(lambda _, place, layer: 1 - place * (0.5 + slope * (layer - 6.5) / 12))
    assert claims.judge("deeper_layers_lose_more", table)["verdict"] == verdict


@pytest.mark.parametrize(
    ("ninth", "last", "verdict"), [(0.3, 1.0, SUPPORTED), (0.9, 1.0, PARTLY), (0.9, 0.5, NOT_SUPPORTED)]
)
def test_drop_rises_at_strongest_blur(ninth, last, verdict):
    values = [0.0, *ramp(0.2, ninth, 9), last]
    assert claims.judge("drop_rises_at_strongest_blur", fig8(blur=values))["verdict"] == verdict


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 8, 10, 12], SUPPORTED),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], PARTLY),
        ([0, 3, 2, 3, 4, 5, 6, 7, 8, 9], NOT_SUPPORTED),
    ],
)
def test_drop_rises_beyond_sixty(values, verdict):
    assert claims.judge("drop_rises_beyond_sixty", fig8(occlusion=values))["verdict"] == verdict


def test_rules_on_the_published_numbers():
    """The published tables support what the paper says of accuracies and cosines, and not that blur levels are ordered by features."""
    blur = published("table1_blur").assign(model="mae_finetuned")
    clean = pd.DataFrame({"model": ["mae_finetuned"], "level": "clean", "top1_percent": 93.4, "psnr_db": 99, "ssim": 1})
    blur = pd.concat([clean, blur])
    occlusion = published("fig5_occlusion").assign(model="mae_finetuned", ranking="cls_rollout")
    cosine = published("table3_cosine").assign(model="mae_finetuned")
    assert claims.judge("blur_accuracy", blur)["verdict"] == SUPPORTED
    assert claims.judge("blur_severity", blur)["verdict"] == SUPPORTED
    for name in ("occlusion_half", "occlusion_knee", "occlusion_ninety"):
        assert claims.judge(name, occlusion)["verdict"] == SUPPORTED
    start = pd.DataFrame(
        {"model": ["mae_finetuned"], "perturbation": "gaussian_blur", "level": "clean", "mean_cosine": 1.0}
    )
    cosine = pd.concat([start, cosine])
    for name in ("blur_cosine", "blur_cosine_strongest", "occlusion_cosine"):
        assert claims.judge(name, cosine)["verdict"] == SUPPORTED
    corrupted = published("table2_imagenet_c").assign(model="mae_finetuned", clean_percent=93.4)
    assert claims.judge("corruptions_stable", corrupted)["verdict"] in (SUPPORTED, PARTLY)
    assert claims.judge("noise_is_steeper", corrupted)["verdict"] in (SUPPORTED, PARTLY)
    released = published("released_feature_drop").assign(model="mae_finetuned")
    assert claims.judge("drop_rises_beyond_sixty", released)["verdict"] != SUPPORTED


def test_a_missing_level_is_not_tested():
    row = claims.judge("occlusion_half", fig5([90.0] * 10).query("occlusion_percent != 50"))
    assert row["verdict"] == NOT_TESTED
    assert "no level 50" in row["note"]


def test_a_missing_model_is_not_tested():
    only = fig5([90.0] * 10).query("model == 'mae_finetuned'")
    row = claims.judge("more_robust_than_vit", table1([90.0] * 11), only, table2(lambda *_: 80))
    assert row["verdict"] == NOT_TESTED
    assert "vit_supervised" in row["note"]


def test_every_claim_has_a_rule_its_tables_and_a_figure_in_the_book():
    sources = "".join(path.read_text() for path in notebooks.find([]))
    for name, entry in claims.CLAIMS.items():
        assert callable(claims.rule_of(name)[0])
        assert set(entry) == {"section", "claim", "where", "paper", "supported", "partly", "tables", "figure"}
        assert set(entry["tables"]) <= set(results.COLUMNS) | {"distribution_shift"}
        assert not entry["figure"] or f'"name": "{entry["figure"]}"' in sources, entry["figure"]
    assert len(claims.CLAIMS) >= 20


def test_scorecard_without_tables_tests_nothing():
    def read(name):
        raise FileNotFoundError(name)

    card = claims.scorecard(read)
    assert len(card) == len(claims.CLAIMS)
    assert set(card["verdict"]) == {NOT_TESTED}
    assert card["note"].str.contains("this run has no table").all()
    assert list(card.columns[:8]) == results.COLUMNS["scorecard"]


def test_scorecard_as_markdown_links_the_figure_and_names_what_is_missing():
    def read(name):
        if name != "table1_blur":
            raise FileNotFoundError(name)
        return table1(ramp(90, 80, 11))

    text = claims.as_markdown(claims.scorecard(read), "Classifier under perturbation")
    line = next(line for line in text.splitlines() if "stable under blur" in line)
    assert "{numref}`fig-blur-accuracy`" in line
    assert "| [supported]{.verdict .supported} |" in line
    assert sum("[not tested here]" in line for line in text.splitlines()) == 9


def test_every_verdict_has_a_badge_in_the_style_sheet():
    style = (ROOT / "book" / "_static" / "book.css").read_text()
    for verdict in claims.VERDICTS:
        assert f".verdict.{verdict.replace(' ', '-')} {{" in style


@pytest.mark.parametrize(
    ("name", "tables"),
    [
        ("deeper_layers_lose_more", [features(lambda *_: 1).query("level != 90")]),
        ("noise_is_steeper", [table2(lambda *_: 80).query("severity == 1")]),
        ("severity_is_gradual", [table2(lambda *_: 80).query("severity in (1, 5)")]),
        ("occlusion_knee", [fig5([90.0] * 10).query("occlusion_percent <= 60")]),
        ("alignment_follows_accuracy", [table3(), table1([90.0] * 11).query("level != 'V'"), fig5([90.0] * 10)]),
        ("wrong_are_less_aligned", [table3(cosine_correct=lambda _: 0.9, cosine_wrong=lambda _: float("nan"))]),
    ],
)
def test_too_few_levels_are_not_tested(name, tables):
    row = claims.judge(name, *tables)
    assert row["verdict"] == NOT_TESTED
    assert row["note"]
