"""The page "Look closer": its pictures and numbers are the run's, and it can be used by keyboard, without a server."""

import copy
import json
import re
from base64 import b64decode
from dataclasses import replace
from io import BytesIO
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from matplotlib import colormaps
from PIL import Image

from mae_helpers.images import sets as images
from mae_helpers.images.labels import wordnet_ids
from mae_helpers.perturbations import levels as perturbations
from mae_helpers.perturbations.blur import blur_levels
from mae_helpers.perturbations.occlusion import occlusion_levels
from mae_helpers.profile.settings import load_profile
from mae_helpers.run import closer

HOSTILE = '</script><b title="&">cat</b>'
MODELS = ("mae_finetuned", "vit_supervised")
LEVELS = {
    "gaussian_blur": blur_levels(["I", "V", "X"]),
    "occlusion": occlusion_levels("cls_rollout", [0, 50]),
}


class Made:
    """What a run would give: images of three classes, one with a hostile name, and all that is computed of them at random."""

    def __init__(self):
        generator = np.random.default_rng(1)
        pixels, labels = generator.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8), np.repeat(range(3), 4)
        settings = images.Input(size=32, mean=[0.5, 0.4, 0.3], std=[0.3, 0.25, 0.2])
        ids, names = [f"tiny/{row:02d}" for row in range(12)], np.array(["bird", HOSTILE, "dog"])
        self.images = images.ImageSet.of_pictures(
            ids, labels, names[labels], lambda row: Image.fromarray(pixels[row]), settings
        )
        self.names = closer.class_names(self.images, 5)
        other = self.images.normalised_as([0.1, 0.2, 0.9], [1, 1, 1])
        self.seen = {"mae_finetuned": self.images, "vit_supervised": other}
        self.rollouts = {model: generator.random((12, 16)) for model in MODELS}
        self.embeddings = by_level(lambda: generator.normal(1, 1, (12, 6)))
        self.predictions = by_level(lambda: generator.integers(0, 5, 12))
        self.probabilities = by_level(lambda: generator.random(12, dtype=np.float32))
        self.parts = {
            name: closer.per_image(
                self.embeddings[name], self.predictions[name], self.probabilities[name], self.seen, name
            )
            for name in LEVELS
        }

    def shown(self, models=MODELS, per_class=2):
        seen = {model: self.seen[model] for model in models}
        rows = closer.first_rows(self.images, per_class)
        return closer.within_budget(closer.entry(row, seen, LEVELS, self.rollouts) for row in rows)

    def data(self, models=MODELS, per_class=2):
        table = pd.concat(self.parts.values())
        return closer.page_data(self.shown(models, per_class), table, LEVELS, self.names)


def by_level(values, levels=LEVELS):
    """Values of both models under every level of every perturbation."""
    return {name: {model: {one: values() for one in chosen} for model in MODELS} for name, chosen in levels.items()}


@pytest.fixture(scope="module")
def made():
    return Made()


def decoded(uri):
    kind, code = uri.split(",")
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(BytesIO(b64decode(code))).convert("RGB"))


def as_bytes(pixels):
    return np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8)


def parsed(data):
    return BeautifulSoup(closer.page(data), "html.parser")


def test_the_first_images_of_all_classes_come_before_the_second(made):
    mixed = made.images.take([4, 0, 5, 1, 8, 2])
    assert closer.first_rows(mixed, 1) == [0, 1, 4]
    assert closer.first_rows(mixed, 2) == [0, 1, 4, 2, 3]
    with pytest.raises(ValueError, match="shown_per_class 0: use 1 or more"):
        closer.first_rows(mixed, 0)


def test_the_numbers_stand_beside_the_image_and_level_that_they_belong_to(made):
    table = made.parts["occlusion"].set_index(["model", "level", "image"])
    assert len(table) == 2 * 2 * 12
    for model in MODELS:
        clean, moved = (made.embeddings["occlusion"][model][level][7] for level in (0, 50))
        row = table.loc[(model, 50, "tiny/07")]
        cosine = clean @ moved / np.linalg.norm(clean) / np.linalg.norm(moved)
        assert row["cosine"] == pytest.approx(cosine)
        assert row["predicted"] == made.predictions["occlusion"][model][50][7]
        assert row["probability"] == made.probabilities["occlusion"][model][50][7]
        assert row["correct"] == (row["predicted"] == made.images.labels[7])
        assert table.loc[(model, 0, "tiny/07"), "cosine"] == pytest.approx(1)


def test_the_overlay_runs_from_the_lowest_to_the_highest_score():
    scores = np.zeros(16)
    scores[5], scores[6] = 3, -1
    heat = closer.overlay(np.ones((32, 32, 3)), scores)
    ends = {name: np.array(colormaps["inferno"](value)[:3]) for name, value in (("low", 0.0), ("high", 1.0))}
    np.testing.assert_allclose(heat[8:16, 8:16], np.broadcast_to(0.35 + 0.65 * ends["high"], (8, 8, 3)))
    np.testing.assert_allclose(heat[8:16, 16:24], np.broadcast_to(0.35 + 0.65 * ends["low"], (8, 8, 3)))
    assert np.isfinite(closer.overlay(np.ones((32, 32, 3)), np.ones(16))).all()


def test_small_pictures_are_exact_and_large_ones_reduced(made):
    pixels = made.images.pixels(3)
    np.testing.assert_array_equal(decoded(closer.data_uri(pixels)), as_bytes(pixels))
    ramp = np.broadcast_to(np.linspace(0, 1, 300)[:, None, None], (300, 300, 3))
    reduced = decoded(closer.data_uri(ramp))
    assert reduced.shape == (224, 224, 3)
    assert abs(reduced[112].mean() - 127.5) < 3


def test_every_picture_is_what_the_model_sees(made):
    one = closer.entry(6, made.seen, LEVELS, made.rollouts)
    assert (one["id"], one["class"], one["number"]) == ("tiny/06", HOSTILE, 3)
    assert len(set(one["pictures"])) == len(one["pictures"])
    np.testing.assert_array_equal(decoded(one["pictures"][one["clean"]]), as_bytes(made.images.pixels(6)))
    for model in MODELS:
        seen, held = made.seen[model].take([6]), {"cls_rollout": made.rollouts[model][[6]]}
        for name, chosen in LEVELS.items():
            expected = perturbations.pictures(seen, chosen, held)[0]
            assert len(one["models"][model][name]) == len(expected)
            for place, pixels in zip(one["models"][model][name], expected, strict=True):
                np.testing.assert_array_equal(decoded(one["pictures"][place]), as_bytes(pixels))
            assert one["models"][model][name][0] == one["clean"]
    first, second = (one["models"][model] for model in MODELS)
    assert first["gaussian_blur"] == second["gaussian_blur"]
    assert first["occlusion"][1] != second["occlusion"][1]
    assert first["overlay"] != second["overlay"]


def small(name, number, size):
    return {"class": name, "number": number, "pictures": ["x" * size]}


def test_the_budget_keeps_whole_rounds_where_one_fits():
    order = [(name, number) for number in (1, 2, 3) for name in "ba"]
    found = [small(name, number, 10) for name, number in order]

    def kept(budget):
        return [(one["class"], one["number"]) for one in closer.within_budget(found, budget)]

    assert kept(60) == [("b", 1), ("b", 2), ("b", 3), ("a", 1), ("a", 2), ("a", 3)]
    assert kept(59) == kept(40) == [("b", 1), ("b", 2), ("a", 1), ("a", 2)]
    assert kept(39) == kept(20) == [("b", 1), ("a", 1)]
    assert kept(19) == [("b", 1)]
    with pytest.raises(ValueError, match="take 10 bytes, the budget is 9; use fewer levels"):
        kept(9)


def test_no_more_is_made_than_fits():
    def endless():
        number = 0
        while True:
            number += 1
            yield small("a", number, 10)

    assert len(closer.within_budget(endless(), 35)) == 3


def test_the_page_says_when_it_shows_fewer_than_asked():
    shown = [small("a", number, 500_000) for number in (1, 2)]
    assert closer.size_sentence(shown, 2, 56) == (
        "The page shows 2 images. Their pictures, 56 px wide and stored without loss, take 1.00 MB of the 2.5 MB that "
        "this page allows for them."
    )
    fewer = closer.size_sentence(shown[:1], 4, 384, 700_000)
    assert "shows 1 image of the 4 asked for: more would not fit" in fewer
    assert "384 px wide and stored as WebP of quality 60, reduced to 224 px, take 0.50 MB of the 0.7 MB" in fewer


def test_classes_have_names_as_far_as_they_are_known(made):
    assert made.names == ["bird", HOSTILE, "dog", "class 3", "class 4"]
    labels = np.full(12, 235)
    shepherds = replace(made.images, labels=labels, classes=np.full(12, "n02106662"))
    known = closer.class_names(shepherds, len(wordnet_ids()))
    assert (known[235], known[757], len(known)) == ("German shepherd", "recreational vehicle", 1000)
    elsewhere = closer.class_names(replace(shepherds, labels=labels + 1), 1000)
    assert (elsewhere[236], elsewhere[757]) == ("German shepherd", "class 757")


def test_every_image_and_level_has_its_numbers(made):
    data = made.data()
    assert [image["title"] for image in data["images"]] == [
        f"{n} {i}" for n in ("bird", HOSTILE, "dog") for i in (1, 2)
    ]
    assert [kind["levels"] for kind in data["perturbations"]] == [["clean", "I", "V", "X"], ["0 %", "50 %"]]
    assert data["perturbations"][1]["words"] == ["with nothing masked", "with 50 % of the patches masked"]
    for image in data["images"]:
        row = made.images.ids.index(image["id"])
        for model in MODELS:
            for name, chosen in LEVELS.items():
                found, table = image["models"][model][name], made.parts[name].set_index(["model", "level", "image"])
                rows = [table.loc[(model, level, image["id"])] for level in chosen]
                assert found["cosine"] == [round(one["cosine"], 4) for one in rows]
                assert found["probability"] == pytest.approx([one["probability"] for one in rows], abs=6e-5)
                assert found["predicted"] == [made.predictions[name][model][level][row] for level in chosen]
                assert found["correct"] == [label == made.images.labels[row] for label in found["predicted"]]
                assert max(found["pictures"]) < len(image["pictures"])
                assert len(found["pictures"]) == len(chosen)


def test_a_missing_number_is_an_error(made):
    table = pd.concat(made.parts.values())
    with pytest.raises(KeyError, match="occlusion"):
        closer.page_data(made.shown(), table[table["level"] != 50], LEVELS, made.names)


def test_the_data_survive_the_page_whatever_their_names(made):
    data = made.data()
    page = parsed(data)
    text = page.select_one("script#closer-data").string
    assert json.loads(text) == data
    assert "<" not in text
    assert not page.select("b"), "a class name has become an element"
    assert [option.text for option in page.select("option")] == [image["title"] for image in data["images"]]
    with pytest.raises(ValueError, match="JSON"):
        closer.page(data | {"odd": float("nan")})


def test_ids_and_classes_of_the_page_have_a_prefix(made):
    text = re.sub(r'<script type="application/json".*?</script>', "", closer.page(made.data()), flags=re.S)
    named = re.findall(r'\s(?:id|class|name|for)="([^"$]+)"', text)
    assert len(named) > 30
    assert all(word.startswith("closer") for names in named for word in names.split())


def test_without_scripts_there_is_a_table_of_every_image_and_model(made):
    data = made.data()
    table = parsed(data).select_one("noscript table")
    rows = [[cell.text for cell in row.select("td")] for row in table.select("tbody tr")]
    assert [cell.text for cell in table.select("th")][3:] == ["clean", "Gaussian blur X", "Occlusion 50 %"]
    assert len(rows) == len(data["images"]) * len(MODELS)
    assert HOSTILE in rows[4][1]
    last = data["images"][-1]["models"]["vit_supervised"]["occlusion"]
    assert rows[-1][-1] == (
        f"{data['names'][last['predicted'][-1]]} ({last['probability'][-1]:.2f}), cosine {last['cosine'][-1]:.3f}"
    )


def test_the_demo_fits_whole_and_the_budget_leaves_room_for_the_rest():
    found = images.first_images(load_profile("demo")).subset(per_class=2)
    levels = {"gaussian_blur": blur_levels(), "occlusion": occlusion_levels("cls_rollout")}
    generator = np.random.default_rng(0)
    seen, rollouts = dict.fromkeys(MODELS, found), {model: generator.random((20, 196)) for model in MODELS}
    shown = closer.within_budget(closer.entry(row, seen, levels, rollouts) for row in closer.first_rows(found, 2))
    assert len(shown) == 20
    values = by_level(lambda: generator.random((20, 3)), levels)
    labels = by_level(lambda: found.labels, levels)
    sure = by_level(lambda: generator.random(20), levels)
    table = pd.concat(closer.per_image(values[name], labels[name], sure[name], seen, name) for name in levels)
    text = closer.page(closer.page_data(shown, table, levels, closer.class_names(found, 10)))
    rest = len(text) - sum(len(uri) for one in shown for uri in one["pictures"])
    assert rest < 200_000
    assert closer.BUDGET + rest < 2.8e6, "the book's own frame takes about 0.1 MB"


@pytest.fixture
def shown(visit, tmp_path):
    """A function that opens the page's data in a tab: alone in a document with the book's colours of a theme."""

    def opened(data, theme="light", **options):
        page, text = {"light": ("#ffffff", "#222832"), "dark": ("#14181e", "#ced6dd")}[theme]
        path = tmp_path / f"closer-{theme}.html"
        path.write_text(
            f'<!doctype html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8"><title>Look closer</title>'
            '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
            "<style>html[data-theme=dark] .bd-content div.cell_output :is(img, .text_html:not(:has(table.dataframe)))"
            "{background: #ced6dd; color: #222832; padding: 8px}</style></head>"  # as the book's theme has it
            f'<body style="background:{page};color:{text}"><main class="bd-content"><div class="cell_output">'
            f'<div class="output text_html">{closer.page(data)}</div></div></main></body></html>'
        )
        tab = visit(theme=theme, **options)
        tab.open(path)
        return tab

    return opened


def shows(page, data, image, kind, level):
    """Whether all that is on the page is what the data say of this image, perturbation and level."""
    about, kinds = data["images"][image], data["perturbations"][kind]
    assert page.input_value("#closer-image") == str(image)
    assert page.text_content("#closer-level-name") == kinds["levels"][level]
    assert page.get_attribute("#closer-level", "aria-valuetext") == kinds["levels"][level]
    assert page.get_attribute("#closer-clean", "src") == about["pictures"][about["clean"]]
    assert page.text_content("#closer-truth") == about["truth"]
    assert page.get_attribute("#closer-svg [data-level]", "data-level") == str(level)
    said = page.text_content('[aria-live="polite"]')
    assert said.startswith(f"{about['title']} {kinds['words'][level]}.")
    for place, model in enumerate(data["models"]):
        card, placed = page.locator(f'[data-model="{place}"]'), about["models"][model["key"]]
        found = placed[kinds["key"]]
        name, cosine = data["names"][found["predicted"][level]], f"{found['cosine'][level]:.3f}"
        verdict, probability = "right" if found["correct"][level] else "wrong", f"{found['probability'][level]:.2f}"
        assert card.locator(".closer-seen").get_attribute("src") == about["pictures"][found["pictures"][level]]
        assert card.locator(".closer-overlay").get_attribute("src") == about["pictures"][placed["overlay"]]
        assert re.fullmatch(rf"{re.escape(name)} \S {verdict}", card.locator(".closer-prediction").text_content())
        assert card.locator(".closer-cosine").text_content() == cosine
        assert card.locator(".closer-probability").text_content() == probability
        heard = f"predicts {name} with probability {probability}, which is {verdict}; cosine {cosine}."
        assert f"{model['name']} {heard}" in said
    marks = page.locator("#closer-svg :is(circle, rect)").count()
    assert marks == len(kinds["levels"]) * len(data["models"])


def test_an_address_names_image_perturbation_and_level(made, shown):
    data = made.data()
    page = shown(data).page
    kind = data["perturbations"][1]
    place = {"image": data["images"][2]["id"], "kind": kind["key"], "level": kind["levels"][1]}
    page.evaluate("hash => { location.hash = hash }", urlencode(place))
    page.wait_for_function("document.getElementById('closer-image').value === '2'")
    shows(page, data, 2, 1, 1)
    page.evaluate(
        "hash => { location.hash = hash }", urlencode({"image": "none", "kind": data["perturbations"][0]["key"]})
    )
    page.wait_for_function("document.querySelector('input[type=radio]').checked")
    shows(page, data, 2, 0, len(data["perturbations"][0]["levels"]) - 1)


def test_the_page_is_used_by_keyboard_alone(made, shown):
    data = made.data()
    tab, order = shown(data), []
    page = tab.page

    def press(*keys):
        for key in keys:
            page.keyboard.press(key)

    shows(page, data, 0, 0, 3)
    for _ in range(5):
        press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.name"))
        outline = page.evaluate(
            "(s => s.outlineStyle + ' ' + parseFloat(s.outlineWidth))(getComputedStyle(document.activeElement))"
        )
        assert outline == "solid 3", order[-1]
    assert order == ["closer-previous", "closer-image", "closer-next", "closer-kind", "closer-level"]
    for keys, state in (
        (["ArrowLeft"], (0, 0, 2)),
        (["ArrowLeft"], (0, 0, 1)),
        (["ArrowLeft"], (0, 0, 0)),
        (["Shift+Tab", "ArrowRight"], (0, 1, 1)),
        (["Tab", "Home"], (0, 1, 0)),
        (["Shift+Tab", "Shift+Tab", "Enter"], (1, 1, 0)),
        (["Shift+Tab", "ArrowDown"], (2, 1, 0)),
        (["Shift+Tab", "Space", "Space", "Space"], (5, 1, 0)),
    ):
        press(*keys)
        shows(page, data, *state)
    broken = page.evaluate("Promise.all([...document.images].map(i => i.decode())).then(() => 'whole')")
    assert broken == "whole"
    assert not tab.trouble


def test_a_profile_with_one_model_shows_one(made, shown):
    data = made.data(MODELS[:1], per_class=1)
    tab = shown(data)
    shows(tab.page, data, 0, 0, 3)
    assert tab.page.locator(".closer-model").count() == 1
    assert not tab.trouble


CONTRASTS = """() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (text) => {
    const shares = numbers(text).slice(0, 3).map((v) => v / 255);
    const [r, g, b] = shares.map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (numbers(colour)[3] !== 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const texts = [...document.querySelectorAll("#closer *")].filter((one) =>
    !one.closest("script") && [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
  return texts.map((one) => {
    const style = getComputedStyle(one);
    const pair = [light(one.closest("svg") ? style.fill : style.color), light(behind(one))].sort((a, b) => b - a);
    return [(pair[0] + 0.05) / (pair[1] + 0.05), one.outerHTML.slice(0, 60)];
  });
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_contrast(made, shown, theme):
    data = copy.deepcopy(made.data())
    for image in data["images"]:  # both verdicts must be on the page
        image["models"]["mae_finetuned"]["gaussian_blur"]["correct"][-1] = True
        image["models"]["vit_supervised"]["gaussian_blur"]["correct"][-1] = False
    found = shown(data, theme).page.evaluate(CONTRASTS)
    text = " ".join(place for _, place in found)
    assert len(found) > 30
    assert "closer-right" in text
    assert "closer-wrong" in text
    assert not [one for one in found if one[0] < 4.5]


def test_a_narrow_screen_does_not_scroll_sideways(made, shown):
    page = shown(made.data(), width=390).page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#closer-svg").bounding_box()["width"] > 300


def test_paper_has_the_pictures_and_the_sentence_but_no_controls(made, shown):
    page = shown(made.data(), "dark").page
    assert page.locator(".closer-controls").is_visible()
    page.emulate_media(media="print")
    assert not page.locator(".closer-controls").is_visible()
    assert page.locator("#closer-said").is_visible()
    assert page.locator(".closer-seen").first.is_visible()
    assert page.evaluate("getComputedStyle(document.getElementById('closer-said')).color") == "rgb(0, 0, 0)"


def test_without_scripts_the_table_is_what_one_sees(made, shown):
    page = shown(made.data(), java_script_enabled=False).page
    assert not page.locator("#closer").is_visible()
    assert page.locator("noscript td").first.is_visible()
