"""The book as one PDF: links lead within it, and Chromium prints it where there is one."""

import shutil

import pytest
from bs4 import BeautifulSoup

from mae_helpers.run import pdf
from mae_helpers.run.notebooks import NotebookError

PAGES = {
    "notebooks/a": '<h1 id="top">A</h1><a href="../book/b.html#more">b</a><a href="#top">up</a><a href="c.html">c</a>',
    "book/b": '<h1 id="top">B</h1><p id="more"></p><img src="../_images/x.svg"><a href="../notebooks/a.html">a</a>'
    '<a href="https://arxiv.org/abs/2602.03531">out</a>',
}


@pytest.fixture
def html(tmp_path):
    for name, article in PAGES.items():
        (tmp_path / name).parent.mkdir()
        head = '<head><link rel="stylesheet" href="../_static/book.css"></head>'
        text = f"<html>{head}<body><nav>menu</nav><article>{article}</article></body></html>"
        (tmp_path / f"{name}.html").write_text(text)
    return tmp_path


def test_links_between_pages_lead_within_the_whole(html):
    soup = BeautifulSoup(pdf.whole(html, list(PAGES)), "html.parser")
    assert [link["href"] for link in soup.body.find_all("a")] == [
        *("#book/b--more", "#notebooks/a--top", "notebooks/c.html"),
        *("#notebooks/a--", "https://arxiv.org/abs/2602.03531"),
    ]
    ids = [element["id"] for element in soup.select("[id]")]
    assert ids == ["notebooks/a--", "notebooks/a--top", "book/b--", "book/b--top", "book/b--more"]
    assert soup.find("img")["src"] == "_images/x.svg"
    assert soup.find("link")["href"] == "_static/book.css"
    assert soup.find("nav") is None


def test_every_link_of_the_book_has_an_end(site, pages):
    names = [path.relative_to(site).as_posix().removesuffix(".html") for path in pages]
    soup = BeautifulSoup(pdf.whole(site, names), "html.parser")
    ids = [element["id"] for element in soup.select("[id]")]
    assert len(set(ids)) == len(ids)
    within = {link["href"][1:] for link in soup.select("article a[href^='#']")}
    assert len(within) > 200
    assert within <= set(ids), within - set(ids)


@pytest.mark.slow
def test_the_whole_is_printed_where_there_is_a_browser(html, monkeypatch):
    if not any(map(shutil.which, pdf.BROWSERS)):
        pytest.skip("no Chromium")
    assert pdf.print_book(html, list(PAGES), html / "book.pdf")
    printed = (html / "book.pdf").read_bytes()
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") == 2, "a page each"
    assert not (html / "whole.html").exists()
    with pytest.raises(NotebookError, match=r"did not print .*none/book\.pdf"):
        pdf.print_book(html, list(PAGES), html / "none" / "book.pdf")
    monkeypatch.setenv("PATH", "")
    assert not pdf.print_book(html, list(PAGES), html / "other.pdf")
