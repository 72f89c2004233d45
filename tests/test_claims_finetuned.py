"""The rules of Sections IV-B and IV-C on made-up tables, and the scorecard as a whole."""

import numpy as np
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
KINDS = {"gaussian_blur": LEVELS, "occlusion": PERCENTS}
MAE, VIT = "mae_finetuned", "vit_supervised"


def ramp(start, end, count=11):
    return np.linspace(start, end, count).tolist()


def frame(**columns):
    """A row for every combination of the columns' values, the last column fastest."""
    return pd.MultiIndex.from_product(columns.values(), names=columns).to_frame(index=False)


def paired(table, top1):
    """The table of models that all saw the same images, with these accuracies."""
    return table.assign(top1_percent=top1, paired_percent=top1)


def table1(mae, vit=(50.0,) * 11, psnr=None):
    """Accuracies by level of both models; PSNR falls unless given, SSIM always."""
    table = paired(frame(model=[VIT, MAE], level=LEVELS), [*vit, *mae])
    return table.assign(psnr_db=2 * (psnr or ramp(30, 20)), ssim=2 * ramp(1, 0.4))


def fig5(mae, vit=(50.0,) * 10, random=None):
    table = frame(ranking=["random", "cls_rollout"], model=[MAE, VIT], occlusion_percent=PERCENTS)
    return paired(table, [*(random or mae), *[1.0] * 10, *mae, *vit])


def table2(top1, vit=50.0):
    """`top1(corruption, severity)` for MAE, one value for ViT; clean, both have 90 %."""
    table = frame(model=[VIT, MAE], corruption=list(corruptions.GROUP_OF), severity=range(1, 6))
    values = [vit if model == VIT else top1(name, severity) for model, name, severity in table.to_numpy()]
    return table.assign(group=table["corruption"].map(corruptions.GROUP_OF), top1_percent=values, clean_percent=90.0)


def grouped(top1):
    """Table II where `top1(group, severity)` decides."""
    return table2(lambda name, severity: top1(corruptions.GROUP_OF[name], severity))


def losing(**loss):
    """Table II where a group loses so many points a severity, 1 unless given."""
    return grouped(lambda group, severity: 90 - severity * loss.get(group, 1))


def table3(blur=None, occlusion=None, **columns):
    """Cosines of MAE by level; of ViT all 0.1. Other columns are functions of the level's place, from 0 to 1."""
    tables = []
    for (name, levels), values in zip(KINDS.items(), (blur, occlusion), strict=True):
        mae = {"mean_cosine": values or ramp(1, 0.9, len(levels))}
        mae |= {column: list(map(function, ramp(0, 1, len(levels)))) for column, function in columns.items()}
        tables += [
            pd.DataFrame({"model": model, "perturbation": name, "level": levels} | values)
            for model, values in ((MAE, mae), (VIT, dict.fromkeys(mae, 0.1)))
        ]
    return pd.concat(tables, ignore_index=True)


def features(share):
    """Retained counts of 10 by level, layer: `share(perturbation, place of the level from 0 to 1, layer)`."""
    tables = []
    for name, levels in KINDS.items():
        places = dict(zip(levels, ramp(0, 1, len(levels)), strict=True))
        table = frame(model=[MAE, VIT], perturbation=[name], level=levels, layer=range(1, 13))
        counts = [10 * share(name, places[row.level], row.layer) * (row.model == MAE) for row in table.itertuples()]
        tables.append(table.assign(head=1, clean_count=10, retained_count=counts, **{"class": "cat"}))
    return pd.concat(tables, ignore_index=True)


def retaining(kind, lost):
    """Counts where one perturbation loses a growing share, and the other all."""
    return features(lambda name, place, _: 1 - lost * place if name == kind else 0)


def fig8(blur=None, occlusion=None):
    drops = {"gaussian_blur": blur or ramp(0, 1), "occlusion": occlusion or ramp(0, 1, 10)}
    return pd.concat(
        pd.DataFrame({"model": MAE, "perturbation": name, "level": KINDS[name], "mean_drop": drop})
        for name, drop in drops.items()
    )


def shifted(*top1):
    return pd.DataFrame({"model": MAE, "dataset": ["imagenet-r", "imagenet-a"], "top1_percent": top1})


def against_vit(blur, occlusion, corrupted):
    """MAE's last levels, ViT keeping half of its 80 % from the first level on."""
    vit = [80.0] + [40.0] * 10
    return [table1(ramp(90, blur), vit), fig5(ramp(90, occlusion, 10), vit[:10]), table2(lambda *_: corrupted, 40)]


def apart(gap):
    return table3(cosine_correct=lambda place: 1 - 0.1 * place, cosine_wrong=lambda place: 1 - (0.1 + gap) * place)


BUMP = [30, 28, 26, 25, 24, 23, 22, 21, 20.5, 22, 20]
GUIDED = [100, 98, 95, 92, 88, 80, 70, 60, 50, 40]
FALLING, RISING = ramp(90, 50), ramp(50, 90)
JUDGED = {  # by claim: the tables that support it, that support it partly, and that do not
    "blur_accuracy": [table1(ramp(90, last)) for last in (80, 68, 50)],
    "blur_severity": [table1([90.0] * 11, psnr=psnr) for psnr in (None, BUMP, BUMP[::-1])],
    "occlusion_half": [fig5(ramp(100, end, 10)) for end in (90, 60, 10)],
    "occlusion_ninety": [fig5(ramp(100, end, 10)) for end in (70, 40, 10)],
    "occlusion_knee": [
        fig5([100, 99, 98, 97, 96, 95, 94, 84, 74, 64]),
        fig5([100, 95, 90, 85, 80, 75, 70, 64, 58, 51]),
        fig5([100, 50, 40, 30, 28, 26, 24, 22, 21, 20]),
    ],
    "any_subset_serves": [fig5(GUIDED, random=[*GUIDED[:5], half, *GUIDED[6:]]) for half in (82, 92, 99)],
    "corruptions_stable": [
        table2(lambda *_: 80),
        grouped(lambda group, _: 20 if group == "weather" else 80),
        table2(lambda *_: 20),
    ],
    "noise_is_steeper": [losing(noise=5), losing(noise=5, blur=6), losing(blur=6)],
    "severity_is_gradual": [
        table2(lambda _, severity: 90 - 5 * severity),
        table2(lambda _, severity: 90 - 30 * (severity == 5)),
        table2(lambda _, severity: 50 + 5 * severity),
    ],
    "larger_shifts": [shifted(35, 36), shifted(35, 60), shifted(70, 60)],
    "more_robust_than_vit": [against_vit(80, 80, 80), against_vit(80, 80, 10), against_vit(-200, -200, 10)],
    "blur_cosine": [table3(blur=ramp(1, end)) for end in (0.85, 0.75, 0.1)],
    "blur_cosine_strongest": [table3(blur=ramp(1, end)) for end in (0.79, 0.65, 0.3)],
    "occlusion_cosine": [table3(occlusion=ramp(1, end, 10)) for end in (0.75, 0.45, 0.1)],
    "wrong_are_less_aligned": [apart(0.5), apart(0.1), apart(-0.1)],
    "alignment_follows_accuracy": [
        [table3(), table1(blur), fig5(occlusion[:10])]
        for blur, occlusion in ((FALLING, FALLING), (FALLING, RISING), (RISING, RISING))
    ],
    "norms_hold": [table3(relative_norm_difference=lambda place, most=most: most * place) for most in (0.05, 0.2, 0.5)],
    "blur_features": [retaining("gaussian_blur", lost) for lost in (0.2, 0.4, 0.9)],
    "occlusion_features": [
        retaining("occlusion", 0.4),
        retaining("occlusion", 0.9),
        features(lambda name, place, _: 1.0 if place == 0 else 0.1),
    ],
    "deeper_layers_lose_more": [
        features(lambda _, place, layer, slope=slope: 1 - place * (0.5 + slope * (layer - 6.5) / 12))
        for slope in (0.5, 0.05, -0.3)
    ],
    "drop_rises_at_strongest_blur": [
        fig8(blur=[0.0, *ramp(0.2, ninth, 9), last]) for ninth, last in ((0.3, 1.0), (0.9, 1.0), (0.9, 0.5))
    ],
    "drop_rises_beyond_sixty": [
        fig8(occlusion=[0, 1, 2, 3, 4, 5, 6, 8, 10, 12]),
        fig8(occlusion=[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        fig8(occlusion=[0, 3, 2, 3, 4, 5, 6, 7, 8, 9]),
    ],
}


def judged(name, tables):
    return claims.judge(name, *(tables if isinstance(tables, list) else [tables]))


@pytest.mark.parametrize("name", JUDGED)
def test_each_rule_tells_full_partial_and_no_support_apart(name):
    verdicts = [judged(name, tables)["verdict"] for tables in JUDGED[name]]
    assert verdicts == [SUPPORTED, PARTLY, NOT_SUPPORTED]


def test_every_rule_of_these_sections_is_tried():
    assert set(JUDGED) == {name for name, claim in claims.CLAIMS.items() if claim["section"] != "Pretrained encoder"}


def test_no_subset_serves_where_all_lose():
    row = claims.judge("any_subset_serves", fig5(ramp(100, 10, 10)[:5] + [20] * 5))
    assert row["verdict"] == NOT_SUPPORTED


def test_words_and_differences_quote_the_tables():
    row = judged("blur_accuracy", JUDGED["blur_accuracy"][1])
    assert row["here"] == "68.0 % at level X, 90.0 % clean; least at X: 76% of it kept"
    assert row["difference"] == "-12.8 points at level X"
    assert "rises: VIII to IX" in judged("blur_severity", JUDGED["blur_severity"][1])["here"]
    assert judged("occlusion_half", JUDGED["occlusion_half"][2])["difference"] == "-40.0 points"
    assert judged("blur_cosine_strongest", table3(blur=ramp(1, 0.8)))["difference"] == "+0.010"


NOTHING = table2(lambda *_: 0.0).assign(clean_percent=0.0)
ALL = [90.0] * 11


@pytest.mark.parametrize(
    ("name", "tables", "note"),
    [
        ("blur_accuracy", table1([0.0] * 11), "accuracy on clean images is 0 %"),
        ("occlusion_half", fig5([0.0] * 10), "accuracy on clean images is 0 %"),
        ("corruptions_stable", NOTHING, "accuracy on clean images is 0 %"),
        ("more_robust_than_vit", [table1([0.0] * 11), fig5([0.0] * 10), NOTHING], "accuracy on clean images is 0 %"),
        ("more_robust_than_vit", [table1(ALL), fig5(ALL[:10]).query(f"model == '{MAE}'"), table2(lambda *_: 80)], VIT),
        ("occlusion_half", fig5(ALL[:10]).query("occlusion_percent != 50"), "no level 50"),
        ("occlusion_half", fig5(ALL[:10]).query("occlusion_percent != 0"), "no level 0"),
        ("occlusion_knee", fig5(ALL[:10]).query("occlusion_percent <= 60"), "no level beyond 60"),
        ("any_subset_serves", fig5(ALL[:10]).query("ranking != 'random'"), "no ranking 'random'"),
        ("noise_is_steeper", table2(lambda *_: 80).query("severity == 1"), "no severity 5"),
        ("severity_is_gradual", table2(lambda *_: 80).query("severity in (1, 5)"), "no level 2, 3, 4"),
        ("alignment_follows_accuracy", [table3(), table1(ALL).query("level != 'V'"), fig5(ALL[:10])], "no level V"),
        ("wrong_are_less_aligned", apart(float("nan")), "classified alike"),
        ("deeper_layers_lose_more", features(lambda *_: 1).query("level != 90"), "no level 90"),
    ],
)
def test_what_a_run_lacks_is_not_tested_and_named(name, tables, note):
    row = judged(name, tables)
    assert row["verdict"] == NOT_TESTED
    assert note in row["note"]


def test_rules_on_the_published_numbers():
    """The published tables support what the paper says of accuracies and cosines, and not that blur levels are ordered by features."""

    def paper(name, **columns):
        return published(name).assign(model=MAE, **columns)

    clean = pd.DataFrame({"model": [MAE], "level": "clean"})
    blur = pd.concat([clean.assign(top1_percent=93.4, psnr_db=99, ssim=1), paper("table1_blur")])
    cosine = pd.concat([clean.assign(perturbation="gaussian_blur", mean_cosine=1.0), paper("table3_cosine")])
    occlusion, corrupted = (
        paper("fig5_occlusion", ranking="cls_rollout"),
        paper("table2_imagenet_c", clean_percent=93.4),
    )
    supported = dict.fromkeys(("blur_accuracy", "blur_severity"), blur)
    supported |= dict.fromkeys(("occlusion_half", "occlusion_knee", "occlusion_ninety"), occlusion)
    supported |= dict.fromkeys(("blur_cosine", "blur_cosine_strongest", "occlusion_cosine"), cosine)
    for name, table in supported.items():
        assert claims.judge(name, table)["verdict"] == SUPPORTED, name
    for name in ("corruptions_stable", "noise_is_steeper"):
        assert claims.judge(name, corrupted)["verdict"] in (SUPPORTED, PARTLY), name
    assert claims.judge("drop_rises_beyond_sixty", paper("released_feature_drop"))["verdict"] != SUPPORTED


def test_every_claim_has_a_rule_its_tables_and_a_figure_in_the_book():
    sources = "".join(path.read_text() for path in notebooks.find([]))
    for name, entry in claims.CLAIMS.items():
        assert callable(claims.rule_of(name)[0])
        assert set(entry) == {"section", "claim", "where", "paper", "supported", "partly", "tables", "figure"}
        assert set(entry["tables"]) <= set(results.COLUMNS) | {"distribution_shift"}
        assert not entry["figure"] or f"**{entry['figure']}.** " in sources, entry["figure"]
    assert len(claims.CLAIMS) >= 20


def card_of(**tables):
    """The scorecard of a run that has these tables alone."""

    def read(name):
        if name not in tables:
            raise FileNotFoundError(name)
        return tables[name]

    return claims.scorecard(read)


def test_scorecard_without_tables_tests_nothing():
    card = card_of()
    assert len(card) == len(claims.CLAIMS)
    assert set(card["verdict"]) == {NOT_TESTED}
    assert card["note"].str.contains("this run has no table").all()
    assert list(card.columns[:8]) == results.COLUMNS["scorecard"]


def test_scorecard_as_markdown_links_the_figure_and_names_what_is_missing():
    card = card_of(table1_blur=table1(ramp(90, 80)))
    lines = claims.as_markdown(card, "Classifier under perturbation").splitlines()
    (line,) = (line for line in lines if "stable under blur" in line)
    assert line.endswith("| Fig. 5.3 |")
    assert '| <span class="verdict supported">supported</span> |' in line
    assert sum(">not tested here<" in line for line in lines) == 9
    head, rule, first = claims.headlines(card, ["blur_accuracy"]).splitlines()
    assert head == "| the paper says | this run | verdict | see |"
    assert rule == "| --- | --- | --- | --- |"
    assert first.startswith("| accuracy remains stable under blur, even the strongest (Table I, Sec. IV-B) | 80.0 % at")


def test_every_verdict_has_a_badge_in_the_style_sheet():
    style = (ROOT / "book" / "_static" / "book.css").read_text()
    for verdict in claims.VERDICTS:
        assert f".verdict.{verdict.replace(' ', '-')} {{" in style


@pytest.mark.parametrize("name", sorted(set(JUDGED) - {"blur_severity"}))
def test_nothing_is_said_of_a_classifier_at_chance(name):
    tables = JUDGED[name][0]
    tables = tables if isinstance(tables, list) else [tables]
    for low, verdict in ((9.0, claims.NOT_TESTED), (11.0, SUPPORTED)):
        beside = {"clean_percent": 15.0, "clean_low": low, "chance_percent": 10.0}
        if "clean_percent" in tables[0]:
            beside.pop("clean_percent")  # its shares are of this one
        row = claims.judge(name, *(table.assign(**beside) for table in tables))
        assert row["verdict"] == verdict
    assert (
        "not above chance"
        in claims.judge(name, *(table.assign(**beside | {"clean_low": 9.0}) for table in tables))["note"]
    )
