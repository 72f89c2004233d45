"""The rules on made-up tables, on the published numbers and on untrained networks, and the scorecard as a whole."""

import re

import numpy as np
import pandas as pd
import pytest
from worlds import (
    FIG5,
    MAE,
    RANDOM,
    VIT,
    angles,
    distances,
    features,
    fig5,
    masks,
    ramp,
    separation,
    shifted,
    singular,
    table1,
    table2,
    table3,
)

from mae_helpers.perturbations.corruptions import GROUP_OF
from mae_helpers.profile.settings import ROOT
from mae_helpers.run import notebooks
from mae_helpers.run import tables as results
from mae_helpers.verdicts import scorecard as claims
from mae_helpers.verdicts.finding import Estimate, NotTestedError, accuracies, every, kept, some

SUPPORTED, PARTLY, INCONCLUSIVE, NOT_SUPPORTED, NOT_TESTED = claims.VERDICTS


def both(**how):
    """Attention distances on both image sets."""
    return pd.concat([distances(**how), distances(images="second", **how)])


def as_the_paper_says():
    """A run whose tables say what the paper says, at its sample sizes."""
    masking = masks()
    return {
        "fig1_fig2_separability": pd.concat(separation(token=token) for token in ("cls", "mean_patch", "patch")),
        "fig3_attention_distance": both(),
        "fig4_principal_angles": angles(),
        "fig4_singular_values": singular(),
        "masking_cosines": masking[0],
        "masking_invariance": masking[1],
        "table1_blur": table1(),
        "fig5_occlusion": fig5(),
        "table2_imagenet_c": table2(),
        "distribution_shift": shifted(35, 30),
        "table3_images": table3(),
        "fig6_fig7_features": features(SHARP),
    }


def SHARP(name, place, layer):
    """What the text says of Figs. 6 to 8: little is lost but at the strongest blur, and beyond 60 % in deep layers."""
    deep = layer / 12
    if name == "gaussian_blur":
        return 1 - 0.1 * place - 0.25 * (place == 1)
    return 1 - 0.3 * place - max(0.0, place - 6 / 9) * (0.6 + 0.9 * deep)


def reading(tables):
    def read(name):
        if name not in tables:
            raise FileNotFoundError(name)
        return tables[name]

    return read


def card_of(tables, **options):
    return claims.scorecard(reading(tables), **options).set_index("id")


@pytest.fixture(scope="module")
def paper_card():
    return card_of(as_the_paper_says())


def test_a_run_that_shows_what_the_paper_says_supports_it(paper_card):
    other = paper_card[paper_card["verdict"] != SUPPORTED]
    assert other.empty, other[["here", "note", "verdict"]].to_dict("index")


def test_the_untrained_network_beside_it_supports_nothing(paper_card):
    untrained = card_of(as_the_paper_says(), study=dict.fromkeys(claims.USUAL, RANDOM))
    assert set(untrained.loc[untrained["verdict"] == SUPPORTED].index) == set()
    assert (paper_card["untrained"] == untrained["here"]).all()
    assert (untrained["here"] != "").sum() > 15


ASKED_FOR = {  # what a rule compares with random weights or with a bound, beside the obvious: in words
    "attention_is_global.first": r"on average [\d.]+ % .*away",
    "vit_starts_local": r" less .* [+-]\d+\.\d \([+-]\d+\.\d to [+-]\d+\.\d\) points",
    "vit_expands": r"[+-]\d+ \([+-]\d+ to [+-]\d+\) points \(rank correlation of layers' means with depth -?\d\.\d\d",
    "angles_grow": r"rise [\d.-]+ .*rank correlation -?\d\.\d\d",
    "angles_are_about_classes": r"[\d.]+ .*times the larger",
    "singular_values_grow": r"(times [\d.]+ .*rank correlation -?\d\.\d\d.*){2}",
    "masks_agree": r"lowest 5 %: \d\.\d+.*times as far",
    "blur_cosine": r"turned by up to [\d.]+ % .*of the way",
    "blur_cosine_strongest": r"turned by up to [\d.]+ % .*of the way",
    "occlusion_cosine": r"turned by up to [\d.]+ % .*of the way",
    "norms_hold": r"[\d.]+ % .* and [\d.]+ % .*of the spread of norms",
    "shallow_layers_have_more": r"a contrast of -?\d\.\d\d",
    "blur_features": r"up to [\d.]+ % .*of a class's own lost",
    "occlusion_features": r"up to [\d.]+ % .*of a class's own lost",
    "deeper_layers_lose_more": r"[+-]\d+ .*points",
    "drop_rises_at_strongest_blur": r"less all from I to IX: [+-]\d\.\d\d",
}


def test_a_row_has_the_numbers_that_its_rule_compares_of_both_networks(paper_card):
    for name, words in ASKED_FOR.items():
        for column in ("here", "untrained"):
            assert re.search(words, paper_card[column][name]), (name, column, paper_card[column][name])


def test_the_quotient_is_of_what_a_class_has_of_its_own():
    """A head has 8 common features, of which another class has 2 as well; 3 are lost: Q = 3 / 6."""
    table = features().assign(shared_count=2, clean_count=8, retained_count=8)
    for level, largest in (("X", 0), ("VIII", 50)):  # the claim is about levels I to VIII
        table.loc[table["level"] == level, "retained_count"] = 5
        assert f"up to {largest:.1f} % ({largest:.1f} %" in judged("blur_features", table)["here"]


def test_with_the_models_exchanged_the_comparisons_turn_round():
    exchanged = {"encoder": "vit_supervised", "classifier": VIT, "beside": MAE}
    tables = as_the_paper_says()
    tables["fig3_attention_distance"] = tables["fig3_attention_distance"].replace({"mae_pretrained": MAE})
    tables["fig3_attention_distance"] = pd.concat(
        [tables["fig3_attention_distance"], both()[lambda rows: rows["model"] == "mae_pretrained"]]
    )
    card = card_of(tables, study=exchanged)
    assert (
        card.loc[["more_robust_than_vit", "vit_starts_local", "vit_expands"], "verdict"].tolist() == [NOT_SUPPORTED] * 3
    )


def corrupted(**loss):
    """Table II where a group loses so many points a severity, 1 unless given."""
    return table2(lambda name, severity: 90 - severity * loss.get(GROUP_OF[name], 1))


def kept_by(top1, vit=80.0):
    return table2(lambda *_: top1, lambda *_: vit)


def against_vit(blur, occlusion, top1):
    """MAE's last levels; ViT keeps half of its accuracy from the first level on."""
    vit = [90.0] + [45.0] * 10
    return [table1(ramp(90, blur), vit), fig5(ramp(90, occlusion, 10), vit[:10]), kept_by(top1, 47)]


BUMP = [30, 28, 26, 25, 24, 23, 22, 21, 20.5, 22, 20]
FALLING, RISING = ramp(90, 50), ramp(50, 90)


def losing(kind, lost, **more):
    """Counts where one perturbation loses a growing share, the other as an untrained network does."""
    return features(lambda name, place, _: 1 - (lost if name == kind else 0.9) * place, **more)


def occluded(*drops, **more):
    """Shares lost at 0, 10, ... 90 %, in every layer alike."""
    return features(
        lambda name, place, _: 1 - (drops[round(9 * place)] if name == "occlusion" else 0.1 * place), **more
    )


def blurred(*drops, **more):
    return features(lambda name, place, _: 1 - (drops[round(10 * place)] if name == "gaussian_blur" else 0.1), **more)


FALL = lambda name, place, layer: 1 - 0.95 * place  # noqa: E731 - what an untrained network loses, most of it
STEADY = lambda name, place, layer: 1 - 0.5 * place  # noqa: E731 - what it loses in even steps
S, P, I, N = SUPPORTED, PARTLY, INCONCLUSIVE, NOT_SUPPORTED  # noqa: E741
JUDGED = {  # by claim: tables, and the verdict that they deserve
    **{
        f"classes_separate.{token}": [
            (separation(token=token), S),
            (separation((20, 90, 45), token=token), P),  # not progressively
            (separation((20, 28, 34), token=token), I),  # more, and whether by 10 points is not certain
            (separation((20, 21, 22), token=token), N),
            (separation((20, 45, 90), (20, 45, 90), token=token), I),  # about as much as random weights
            (separation((90, 45, 20), token=token), N),
        ]
        for token in ("cls", "mean_patch", "patch")
    },
    **{
        f"emergence.{token}": [
            *((separation(climb_at=at, token=token), S) for at in (7, 8, 9)),
            *((separation(climb_at=at, token=token), P) for at in (6, 10)),
            *((separation(climb_at=at, token=token), N) for at in (5, 11)),
            (separation(climb_at=8, untrained_climb=0.5, token=token), N),
        ]
        for token in ("cls", "mean_patch")
    },
    "attention_is_global.first": [
        (distances(), S),
        (distances((0.55, 0.95)), P),
        (distances((0.1, 0.6)), N),
        (distances((0.995, 1.005)), N),  # looks at nothing in particular
    ],
    "attention_is_global.second": [(distances(images="second"), S), (distances((0.995, 1.005), images="second"), N)],
    "vit_starts_local": [
        (distances(), S),
        (distances(vit=(0.6, 1.0), mae=(0.9, 1.0)), P),
        (distances(vit=(0.999, 1.0), mae=(1.0, 1.001)), N),
        (distances(vit=(0.9, 1.0), mae=(0.3, 1.0)), N),
    ],
    "vit_expands": [(distances(), S), (distances(vit=(0.99, 1.0)), N), (distances(vit=(1.0, 0.3)), N)],
    "angles_grow": [
        (angles(), S),
        (angles(spread=(8, 2)), P),
        (angles((40, 10)), N),
        (angles(random=(10, 35)), N),  # random weights rise nearly as much
    ],
    "angles_are_about_classes": [
        (angles(), S),
        (angles(halves=35.0, untrained_halves=20.0), P),
        (angles(halves=50.0), N),
        (angles(random=(10, 45)), N),  # images of classes differ by as much without training
    ],
    "singular_values_grow": [
        (singular(), S),
        (singular(smallest=(3, 1)), P),
        (singular((50, 10), (3, 1)), N),
        (singular(random=(10, 50)), N),
    ],
    "masks_agree": [
        (masks(), S),
        (masks(norms=9.0), P),  # norms vary
        (masks(tail=0.8), P),  # a tail of cosines
        (masks(0.3, 0.98), N),
        (masks(random=(0.999, 0.3)), N),  # random weights agree more
    ],
    "blur_accuracy": [
        (table1(), S),
        (table1(ramp(90, 68)), P),
        (table1(ramp(90, 73)), I),
        (table1(ramp(90, 50)), N),
        (table1([100.0] * 11, images=10), I),  # too few images to say so
    ],
    "blur_severity": [(table1(psnr=psnr), verdict) for psnr, verdict in ((None, S), (BUMP, P), (BUMP[::-1], N))],
    "occlusion_half": [(fig5(), S), (fig5(ramp(100, 66, 10)), P), (fig5(ramp(100, 10, 10)), N)],
    "occlusion_ninety": [(fig5(), S), (fig5(ramp(100, 40, 10)), P), (fig5(ramp(100, 10, 10)), N)],
    "occlusion_knee": [
        (fig5(), S),
        (fig5([100, 94, 88, 82, 76, 70, 64, 54, 44, 34]), I),
        (fig5([100, 50, 40, 30, 28, 26, 24, 22, 21, 20]), N),
    ],
    "guided_costs_more": [
        (fig5(ramp(100, 40, 10), random=ramp(100, 80, 10)), S),
        (fig5(ramp(100, 40, 10), random=[100, 60, *ramp(100, 80, 10)[2:]]), P),  # random patches cost more at 10 %
        (fig5(ramp(100, 80, 10), random=ramp(100, 80, 10)), I),
        (fig5(ramp(100, 80, 10), random=ramp(100, 40, 10)), N),
    ],
    "any_subset_serves": [
        (fig5(), S),
        (fig5([*FIG5[:5], 65, *FIG5[6:]], random=[*FIG5[:5], 76, *FIG5[6:]]), P),
        (fig5([*FIG5[:5], 82, *FIG5[6:]], random=[*FIG5[:5], 91, *FIG5[6:]]), I),
        (fig5(ramp(100, 10, 10)[:5] + [20] * 5, random=ramp(100, 10, 10)[:5] + [20] * 5), N),
    ],
    "corruptions_stable": [
        (table2(), S),
        (table2(lambda name, _: 20 if GROUP_OF[name] == "weather" else 80), P),
        (table2(lambda *_: 20), N),
    ],
    "noise_is_steeper": [
        (corrupted(noise=8), S),
        (corrupted(noise=5, blur=8), P),
        (corrupted(noise=5, blur=5.2), I),
        (corrupted(blur=8), N),
    ],
    "severity_is_gradual": [
        (table2(), S),
        (table2(lambda _, severity: 90 - 30 * (severity == 5)), P),
        (table2(lambda _, severity: 50 + 5 * severity), N),
    ],
    "larger_shifts": [
        ([shifted(35, 36), table1()], S),
        ([shifted(35, 60), table1()], P),
        ([shifted(49, 48), table1()], I),
        ([shifted(70, 60), table1()], N),
    ],
    "more_robust_than_vit": [
        (against_vit(80, 80, 80), S),
        (against_vit(80, 80, 20), P),
        (against_vit(80, 80, 47), I),
        (against_vit(0, 0, 10), N),
    ],
    "blur_cosine": [
        (table3(), S),
        (table3(blur=ramp(1, 0.6)), P),
        (table3(blur=[*ramp(1, 0.8, 9), 0.7, 0.7]), I),
        (table3(blur=ramp(1, 0.1)), N),
        (table3(untrained=0.9), N),  # an untrained network turns less
        (table3(untrained=0.9, others=0.9), S),  # less, but as far as to another image
    ],
    "blur_cosine_strongest": [
        (table3(), S),
        (table3(blur=ramp(1, 0.65)), P),
        (table3(blur=ramp(1, 0.3)), N),
        (table3(untrained=0.8), N),
    ],
    "occlusion_cosine": [
        (table3(), S),
        (table3(occlusion=ramp(1, 0.45, 10)), P),
        (table3(occlusion=ramp(1, 0.1, 10)), N),
        (table3(untrained=0.9), N),
    ],
    "wrong_are_less_aligned": [
        ([table3(gap=gap), table1()], verdict) for gap, verdict in ((0.5, S), (0.1, P), (0.21, I), (-0.1, N))
    ],
    "alignment_follows_accuracy": [
        ([table3(top1=(blur, occlusion[:10])), table1()], verdict)
        for blur, occlusion, verdict in ((FALLING, FALLING, S), (FALLING, RISING, P), (RISING, RISING, N))
    ],
    "norms_hold": [(table3(norm=norm), verdict) for norm, verdict in ((0.05, S), (0.125, P), (0.19, N))],
    "shallow_layers_have_more": [
        (features(), S),
        (features(lambda _, place, layer: 1 - place * (0.9 - 0.07 * layer)), P),  # not when perturbed
        (features(clean=lambda layer: 3 + 0.3 * layer), N),
    ],
    "blur_features": [
        (losing("gaussian_blur", 0.2), S),
        (losing("gaussian_blur", 0.4), P),
        (losing("gaussian_blur", 0.9), N),
        (losing("gaussian_blur", 0.2, untrained=lambda *_: 0.99), N),
        (losing("gaussian_blur", 0.2, untrained=lambda *_: 0.9, shared=0.9), S),  # what it keeps, all classes have
        (losing("gaussian_blur", 0.2, untrained=lambda *_: 0.9, shared=1.0), S),  # and nothing else
    ],
    "occlusion_features": [
        (losing("occlusion", 0.4), S),
        (losing("occlusion", 0.8, untrained=lambda name, place, _: 1 - min(1, 1.6 * place)), P),
        (losing("occlusion", 0.95, untrained=FALL), N),
    ],
    "deeper_layers_lose_more": [
        (features(SHARP), S),
        (features(lambda _, place, layer: 1 - place * (0.3 + 0.02 * layer)), P),
        (features(lambda _, place, layer: 1 - place * (0.6 - 0.03 * layer)), N),
        (features(SHARP, untrained=SHARP), N),
    ],
    "retention_follows_accuracy": [
        ([features(), table1(blur), fig5(occlusion[:10])], verdict)
        for blur, occlusion, verdict in ((FALLING, FALLING, S), (FALLING, RISING, P), (RISING, RISING, N))
    ],
    "drop_rises_at_strongest_blur": [
        (blurred(0, *ramp(0.1, 0.15, 9), 0.6), S),
        (blurred(0, *ramp(0.1, 0.5, 9), 0.6), P),
        (blurred(0, *ramp(0.1, 0.6, 9), 0.4), N),
    ],
    "drop_rises_beyond_sixty": [
        (occluded(0, 0.04, 0.08, 0.12, 0.16, 0.2, 0.24, 0.4, 0.6, 0.8), S),
        (occluded(*ramp(0, 0.6, 10)), P),
        (occluded(0, 0.3, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8), N),
    ],
}


def judged(name, tables):
    return claims.judge(name, *(tables if isinstance(tables, list) else [tables]))


@pytest.mark.parametrize(
    ("name", "case"), [(name, number) for name, cases in JUDGED.items() for number in range(len(cases))]
)
def test_each_rule_tells_the_verdicts_apart(name, case):
    tables, verdict = JUDGED[name][case]
    row = judged(name, tables)
    assert row["verdict"] == verdict, row


def test_every_rule_is_tried():
    assert set(JUDGED) == set(claims.CLAIMS)


def test_words_and_differences_quote_the_tables():
    row = judged("blur_accuracy", table1([90.0] * 10 + [68.0]))
    assert row["here"].startswith("68.0 % at level X, 90.0 % clean; least kept at X: 76 % (")
    assert row["difference"] == "-12.8 points at level X"
    assert "rises: VIII to IX" in judged("blur_severity", table1(psnr=BUMP))["here"]
    assert judged("occlusion_half", fig5(ramp(90, 0, 10)))["difference"] == "-50.0 points"
    assert judged("blur_cosine_strongest", table3(blur=ramp(1, 0.8)))["difference"] == "+0.010"
    assert (
        "+0.40 (+0.37 to +0.43) over the three layers that end at layer 8"
        in judged("emergence.cls", separation(climb_at=8))["here"]
    )
    assert "100 % of heads" in judged("attention_is_global.first", distances())["here"]


@pytest.mark.parametrize(
    ("name", "tables", "note"),
    [
        ("more_robust_than_vit", [table1(), fig5().query(f"model == '{MAE}'"), table2()], VIT),
        ("occlusion_half", fig5().query("occlusion_percent != 50"), "no level 50"),
        ("occlusion_knee", fig5().query("occlusion_percent != 0"), "no level 0"),
        ("occlusion_knee", fig5().query("occlusion_percent <= 60"), "no level beyond 60"),
        ("any_subset_serves", fig5().query("ranking != 'random'"), "no ranking 'random'"),
        ("noise_is_steeper", table2().query("severity == 1"), "no severity 5"),
        ("severity_is_gradual", table2().query("severity in (1, 5)"), "no level 2, 3, 4"),
        ("alignment_follows_accuracy", [table3().query("level != 'IX'"), table1()], "no level IX"),
        ("wrong_are_less_aligned", [table3().assign(correct=True), table1()], "classified alike"),
        ("deeper_layers_lose_more", features().query("level != 90"), "no level 90"),
        ("attention_is_global.second", distances(), "no images 'second'"),
        ("vit_starts_local", distances().query(f"model != '{VIT}'"), f"no model '{VIT}'"),
        ("classes_separate.cls", separation().assign(knn_percent=np.nan), "two images or more of each class"),
        ("emergence.cls", separation().assign(silhouette=np.nan), "no silhouette"),
        ("singular_values_grow", singular(smallest=(0, 0)), "not defined on this run's images"),
    ],
)
def test_what_a_run_lacks_is_not_tested_and_named(name, tables, note):
    row = judged(name, tables)
    assert row["verdict"] == NOT_TESTED
    assert note in row["note"]


ABOUT_ACCURACY = {
    name
    for name, claim in claims.CLAIMS.items()
    if {"table1_blur", "fig5_occlusion", "table2_imagenet_c"} & set(claim["tables"])
}


@pytest.mark.parametrize("name", sorted(ABOUT_ACCURACY - {"blur_severity"}))
def test_nothing_is_said_of_a_classifier_at_chance(name):
    tables = as_the_paper_says()
    tables = [tables[table] for table in claims.CLAIMS[name]["tables"]]
    row = claims.judge(name, *(t.assign(clean_low=9.0, chance_percent=10.0) if "clean_low" in t else t for t in tables))
    assert row["verdict"] == NOT_TESTED
    assert "not above chance" in row["note"]


def test_the_published_numbers_support_what_the_text_says_of_accuracies_and_cosines_and_not_all_of_the_features():
    by_rule = {name: claims.by_the_paper(name) for name, claim in claims.CLAIMS.items() if claim.get("published")}
    short = {name: verdict for name, verdict in by_rule.items() if verdict != SUPPORTED}
    features = [
        "occlusion_features",
        "deeper_layers_lose_more",
        "drop_rises_at_strongest_blur",
        "drop_rises_beyond_sixty",
    ]
    assert short == {"blur_features": NOT_SUPPORTED} | dict.fromkeys(features, PARTLY)
    assert claims.by_the_paper("guided_costs_more") == ""


def test_every_claim_has_a_rule_its_tables_and_a_figure_in_the_book():
    sources = "".join(path.read_text() for path in notebooks.find([]))
    for name, entry in claims.CLAIMS.items():
        assert callable(claims.rule_of(name)[0])
        keys = {"section", "claim", "where", "paper", "supported", "partly", "reason", "tables", "figure"}
        assert set(entry) - {"published"} == keys
        assert set(entry["tables"]) <= set(results.COLUMNS) | {"distribution_shift"}
        assert not entry["figure"] or f"**{entry['figure']}.** " in sources, entry["figure"]
    assert len(claims.CLAIMS) >= 35


def test_scorecard_without_tables_tests_nothing():
    card = card_of({})
    assert len(card) == len(claims.CLAIMS)
    assert set(card["verdict"]) == {NOT_TESTED}
    assert card["note"].str.contains("this run has no table").all()
    assert set(results.COLUMNS["scorecard"]) <= set(card.columns)


def test_scorecard_as_markdown_has_the_whole_rule_and_the_figure():
    card = claims.scorecard(reading({"table1_blur": table1()}))
    lines = claims.as_markdown(card, "Classifier under perturbation").splitlines()
    (line,) = (line for line in lines if "stable under blur" in line)
    assert line.endswith("| Fig. 5.3 |")
    assert '| <span class="verdict supported">supported</span> |' in line
    assert "<details><summary>more</summary>partly: every level keeps 70 % or more. Why: the paper keeps 86 %" in line
    assert sum(">not tested here<" in line for line in lines) == 10
    head, rule, first = claims.headlines(card, ["blur_accuracy"]).splitlines()
    assert head == "| the paper says | this run | verdict | see |"
    assert rule == "| --- | --- | --- | --- |"
    assert first.startswith("| accuracy remains stable under blur, even the strongest (Table I, Sec. IV-B) | 80.8 % at")


def test_claims_are_shown_whole_and_without_row_numbers():
    rows = [judged("attention_is_global.first", distances()), judged("masks_agree", masks())]
    shown = claims.show(*rows)
    columns = ["claim", "where", "paper", "here", "untrained", "tolerance", "verdict", "note"]
    assert shown.data.columns.tolist() == columns
    page = shown.to_html()
    assert all(row[key] in page for row in rows for key in ("claim", "here", "verdict", "reason"))
    assert "row_heading" not in page


def test_every_verdict_has_a_badge_in_the_style_sheet():
    style = (ROOT / "book" / "_static" / "book.css").read_text()
    for verdict in claims.VERDICTS:
        assert f".verdict.{verdict.replace(' ', '-')} {{" in style


def test_three_valued_truth():
    assert [every(True, True), every(True, None), every(None, False)] == [True, None, False]
    assert [some(False, False), some(False, None), some(None, True)] == [False, None, True]
    assert every(np.True_, np.False_) is False
    found = Estimate(1.0, 0.5, 1.5)
    assert [found.above(0.4), found.above(1.0), found.above(1.5)] == [True, None, False]
    assert [found.below(1.6), found.below(1.0), found.below(0.5)] == [True, None, False]
    with pytest.raises(NotTestedError):
        Estimate(float("nan"), 0, 1)


def test_differences_by_mover():
    """Zou and Donner (2008): 0.3 (0.1 to 0.6) and 0.2 (0.15 to 0.4) give 0.1 - sqrt(0.2^2 + 0.2^2) and + sqrt(0.3^2 + 0.05^2)."""
    difference = Estimate(0.3, 0.1, 0.6) - Estimate(0.2, 0.15, 0.4)
    assert vars(difference) == pytest.approx({"value": 0.1, "low": 0.1 - 0.08**0.5, "high": 0.1 + 0.0925**0.5})


@pytest.mark.parametrize(("images", "share"), [(20, 0.93), (100, 0.8), (500, 0.5)])
def test_intervals_of_an_accuracy_cover_it(images, share):
    """Of samples of independent images, 93 % or more have an interval that holds the truth; the percentile bootstrap's 72 %."""
    held = []
    for seed in range(150):
        drawn = np.random.default_rng(seed).random((2, images)) < share
        letters = ["".join("R" if one else "W" for one in row) for row in drawn]
        table = pd.DataFrame(
            {"model": "classifier", "level": ["clean", "I"], "right": letters, "clean_right": letters[0]}
        )
        found = Estimate.of(accuracies(table, "level").loc["I"])
        held.append(found.low <= 100 * share <= found.high)
    assert np.mean(held) >= 0.91


def test_shares_are_of_what_is_above_chance_and_paired():
    """Chance 10 %, clean 60 %: 35 % keeps half; equal letters differ by nothing, however few images."""
    table = table1([60.0] * 10 + [35.0], classes=10).replace({MAE: "classifier"})
    share = kept(accuracies(table, "level"), 10.0)
    assert share[0]["X"] == pytest.approx(0.5, abs=0.01)
    assert share[0]["I"] == 1
    first, second = (accuracies(table, "level").loc[level] for level in ("II", "IV"))
    assert Estimate.of(first - second).value == 0
