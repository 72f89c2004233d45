"""The site in headless Chromium, from the file system: nothing breaks, nothing is fetched, everyone can use it."""

import itertools
import re

import pytest
from axe_playwright_python.sync_playwright import Axe

CUT_OFF = """[...document.querySelectorAll("div.math mjx-container")].filter(
    formula => formula.getBoundingClientRect().left < formula.parentNode.getBoundingClientRect().left - 1
).map(formula => formula.textContent)"""  # formulas whose beginning cannot be scrolled to


@pytest.mark.parametrize("width", [1400, 390])
def test_pages_open_without_trouble_and_without_sideways_scrolling(site, pages, visit, width):
    tab = visit(width)
    for path in [*pages, site / "index.html"]:
        page = tab.open(path)
        if path.name == "index.html":
            page.wait_for_url("**/00_overview.html")  # it leads there
        page.wait_for_load_state("load")
        page.evaluate("() => window.MathJax?.startup?.promise?.then(() => true)")  # all formulas are set
        assert tab.trouble == [], path.name
        assert page.locator("article h1").count() == 1, path.name
        assert page.evaluate("document.documentElement.scrollWidth") <= width + 1, path.name
        assert page.locator("mjx-merror").count() == 0, path.name
        assert page.evaluate(CUT_OFF) == [], path.name
        page.evaluate("document.querySelectorAll('img[loading=lazy]').forEach(i => i.loading = 'eager')")
        broken = page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
        assert broken == [], path.name


def test_a_visit_notes_what_is_wrong(visit, tmp_path):
    (tmp_path / "page.html").write_text(
        "<script>console.error('said'); nothing()</script><img src='gone.png'><img src='https://127.0.0.1:9/x.png'>"
    )
    tab = visit()
    tab.open(tmp_path / "page.html").wait_for_load_state("networkidle")
    told = " ".join(tab.trouble)
    for part in ("console: said", "nothing is not defined", "gone.png", "asked for: https://127.0.0.1:9/x.png"):
        assert part in told


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_barrier(pages, visit, theme):
    """axe-core's rules of serious and critical impact: contrast, labels, names, languages, landmarks."""
    tab, found = visit(1400, theme), []
    for path in pages:
        page = tab.open(path)
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        page.wait_for_timeout(400)  # they fade in
        for rule in Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]:
            if rule["impact"] in ("serious", "critical"):
                places = [node["html"][:120] for node in rule["nodes"][:3]]
                found.append(f"{path.stem}: {rule['id']}, {len(rule['nodes'])} times, such as {places}")
    assert not found, "\n".join(found)


def test_axe_finds_a_barrier(visit, tmp_path):
    (tmp_path / "page.html").write_text("<html lang=en><title>t</title><p style='color: #ccc'>faint</p></html>")
    found = Axe().run(visit().open(tmp_path / "page.html")).response["violations"]
    assert "color-contrast" in [rule["id"] for rule in found]


def test_search_finds_the_chapter_on_principal_angles(site, visit):
    tab = visit()
    page = tab.open(site / "search.html")
    page.goto((site / "search.html").as_uri() + "?q=principal+angle")
    page.wait_for_selector("#search-results ul.search li a")
    page.wait_for_function("/found|matching/.test(document.querySelector('#search-results').textContent)")
    titles = page.locator("#search-results ul.search li > a").all_text_contents()
    assert any("Principal angles between class subspaces" in title for title in titles)
    assert tab.trouble == []


def test_formulas_are_set_without_a_network(site, visit):
    tab = visit()
    page = tab.open(site / "notebooks" / "03_principal_angles.html")
    page.wait_for_selector("mjx-container")
    assert page.locator("mjx-container").count() >= 3
    assert tab.trouble == []


def test_code_is_one_click_away(site, visit):
    page = visit().open(site / "notebooks" / "05_gaussian_blur.html")
    folded = page.locator("details.hide").nth(2)
    code = folded.locator("pre").first
    assert not code.is_visible()
    folded.locator("summary").click()
    assert code.is_visible()


def test_dark_mode_is_one_click_away_and_stays(site, pages, visit):
    page, seen = visit().open(pages[1]), []
    for _ in range(3):
        page.locator("button.theme-switch-button").first.click()
        seen.append(page.evaluate("document.documentElement.dataset.theme"))
    assert set(seen) == {"light", "dark"}


def test_pages_lead_to_the_next_and_the_one_before(pages, visit):
    tab = visit()
    for before, after in itertools.pairwise(pages):
        assert tab.open(before).locator("a.right-next").get_attribute("href").endswith(after.name)
        assert tab.open(after).locator("a.left-prev").get_attribute("href").endswith(before.name)


def test_the_menu_opens_on_a_telephone(pages, visit):
    page = visit(390).open(pages[0])
    link = page.locator("a.reference.internal:visible", has_text="Directional alignment")
    before = link.count()
    page.locator(".bd-header-article button.primary-toggle").click()
    page.wait_for_timeout(400)
    assert link.count() == before + 1


def test_printed_pages_have_their_figures_and_profile_but_no_navigation(site, visit):
    page = visit().open(site / "notebooks" / "05_gaussian_blur.html")
    page.emulate_media(media="print")
    assert page.locator("figure img").first.is_visible()
    assert page.locator(".bd-header-announcement").is_visible()
    for hidden in ("p.downloads", ".bd-sidebar-primary", ".prev-next-footer", ".bd-header-article"):
        assert not page.locator(hidden).first.is_visible(), hidden
    assert re.match(rb"%PDF", page.pdf(format="A4"))
