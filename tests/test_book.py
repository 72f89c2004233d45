"""The site builds without a warning, every page opens in a real browser, and nothing is asked of other hosts."""

import re
import shutil
from html.parser import HTMLParser
from urllib.parse import unquote, urlparse

import pytest
import yaml

from mae_helpers import book, notebooks
from mae_helpers.book import BookError
from mae_helpers.profiles import ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def site(tiny_run):
    """The site, built from the tiny run."""
    assert tiny_run.finished
    assert book.build(tiny_run.executed, tiny_run.out)
    return tiny_run.out / "html"


def pages(site):
    """The pages that a reader is led to."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    files = [toc["root"]] + [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [site / f"{file}.html" for file in files]


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.ids = [], set()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.add(attributes.get("id"))
        self.found += [attributes[key] for key in ("href", "src") if attributes.get(key) and tag != "link"]


def test_every_chapter_is_in_the_table_of_contents(site):
    toc = (ROOT / "_toc.yml").read_text()
    for path in notebooks.find([]):
        assert f"notebooks/{path.stem}" in toc
    assert all(page.exists() for page in pages(site))


def test_links_and_images_of_every_page_exist(site):
    for page in pages(site):
        links = Links()
        links.feed(page.read_text())
        for link in links.found:
            address = urlparse(link)
            if address.scheme or not address.path or address.path.startswith("//"):
                continue
            assert (page.parent / unquote(address.path)).exists(), f"{page.name}: {link}"


def test_every_figure_is_numbered_and_described(site):
    for page in pages(site):
        text = page.read_text()
        for figure in re.findall(r"<figure.*?</figure>", text, flags=re.S):
            assert re.search(r'caption-number">Fig\. \d+', figure), f"{page.name}: a figure without a number"
            assert re.search(r'<img[^>]*alt="[^"]{20,}"', figure), f"{page.name}: a figure without a description"


def test_references_are_resolved(site):
    for page in pages(site):
        prose = re.sub(r"<pre>.*?</pre>", "", page.read_text(), flags=re.S)
        assert "{numref}" not in prose, page.name


def test_second_build_does_nothing(site, tiny_run):
    assert not book.build(tiny_run.executed, tiny_run.out)


def test_a_broken_reference_is_an_error_that_names_it(tiny_run, tmp_path, monkeypatch):
    root = tmp_path / "root"
    shutil.copytree(ROOT / "book", root / "book")
    (root / "_config.yml").write_text((ROOT / "_config.yml").read_text())
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
    (root / "book" / "index.md").write_text("# Title\n\nSee {numref}`fig-that-is-not-there`.\n")
    (root / "book" / "references.bib").write_text("")
    stage = book.stage
    monkeypatch.setattr(book, "stage", lambda executed, source: stage(executed, source, root))
    with pytest.raises(BookError, match="fig-that-is-not-there"):
        book.build(tmp_path / "no-notebooks", tmp_path / "out")


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium, or a skip that says how to get one."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:  # without a path, Playwright takes its own Chromium
            started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        except Error as problem:
            if CHROMIUM is None and "Executable doesn't exist" in str(problem):
                pytest.skip(
                    "no Chromium: install Debian's package, or run .venv/bin/python -m playwright install chromium"
                )
            raise
        yield started
        started.close()


@pytest.mark.parametrize("width", [1400, 390])
def test_pages_open_without_error_and_without_sideways_scrolling(site, browser, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.route(re.compile("^https?://"), lambda route: route.abort())
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    for path in pages(site):
        page.goto(path.as_uri())
        assert page.locator("article h1").count() == 1, path.name
        assert page.evaluate("document.documentElement.scrollWidth") <= width + 1, path.name
        broken = page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
        assert not [image for image in broken if image.startswith("file:")], path.name
    page.close()
    # sphinx-thebe is set up twice by Jupyter Book 1 and its theme; its second declaration is refused, without effect
    assert not [error for error in errors if "THEBE_JS_URL" not in error], errors
