"""The book as one PDF: its pages one after another, printed by Chromium where that is installed."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from bs4 import BeautifulSoup, Tag

from mae_helpers.run.notebooks import NotebookError

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
OPTIONS += ("--no-pdf-header-footer", "--virtual-time-budget=120000")  # ms of the page's: formulas are set by then


def _redirect(elements: list[Tag], change: Callable[[str], str]) -> None:
    """Change the addresses of links and pictures that lead to the site's own files."""
    for element in elements:
        for key in {"href", "src"} & element.attrs.keys():
            if ":" not in element[key]:
                element[key] = change(element[key])


def whole(html: Path, pages: list[str]) -> str:
    """One HTML page of `pages` of the site in `html`, each named without `.html`; links between them lead within it.

    An id becomes `<page>--<id>`, so that it stays the only one; `<page>--` is the page's beginning.
    """
    soups = [BeautifulSoup((html / f"{name}.html").read_text(encoding="utf-8"), "html.parser") for name in pages]
    articles = [soup.find("article") for soup in soups]
    for name, article in zip(pages, articles, strict=True):
        folder = PurePosixPath(name).parent

        def within(address: str, name: str = name, folder: PurePosixPath = folder) -> str:
            file, _, place = address.partition("#")
            target = os.path.normpath(folder / file) if file else f"{name}.html"
            page = target.removesuffix(".html")
            place = "" if "=" in place else place  # what a page's script reads
            return f"#{page}--{place}" if page in pages else target

        for element in article.select("[id]"):
            element["id"] = f"{name}--{element['id']}"
        _redirect(article.select("[href], [src]"), within)
        article.attrs |= {"id": f"{name}--", "style": "break-before: page"}
    start = PurePosixPath(pages[0]).parent
    _redirect(soups[0].select("head [href], head [src]"), lambda address: os.path.normpath(start / address))
    soups[0].body.clear()
    soups[0].body.extend(articles)
    return str(soups[0])


def print_book(html: Path, pages: list[str], target: Path) -> bool:
    """Write the pages as a PDF; False where no Chromium is installed, NotebookError where it does not print."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return False
    page = html / "whole.html"  # beside what it links to
    page.write_text(whole(html, pages), encoding="utf-8")
    with TemporaryDirectory() as profile:
        call = [browser, *OPTIONS, f"--user-data-dir={profile}", f"--print-to-pdf={target}", page.as_uri()]
        done = subprocess.run(call, capture_output=True, text=True)
    page.unlink()
    if done.returncode or not target.exists():
        raise NotebookError(f"{browser} did not print {target}:\n{done.stderr.strip()[-500:]}")
    return True
