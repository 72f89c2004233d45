"""The site builds without a warning, and what its pages hold is whole: links, numbers, captions, data, order."""

import csv
import hashlib
import itertools
import json
import re
import shutil
from string import Formatter
from urllib.parse import parse_qs, unquote, urlparse

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

from mae_helpers.profile.settings import ROOT
from mae_helpers.run import findings, notebooks
from mae_helpers.run import site as book
from mae_helpers.run.notebooks import NotebookError

LARGEST_PAGE = 3_000_000  # bytes


class Page:
    """What a page's HTML says: addresses, ids, and the levels of its headings."""

    def __init__(self, text):
        elements = BeautifulSoup(text, "html.parser").find_all(True)
        self.ids = {one.get("id") for one in elements}
        self.links = [one[key] for one in elements for key in ("href", "src") if one.get(key) and one.name != "link"]
        self.headings = [int(one.name[1]) for one in elements if re.fullmatch("h[1-6]", one.name)]


def article(path):
    """The page's own part: without navigation, which is the same on every page."""
    return re.search(r"<article.*?</article>", path.read_text(), flags=re.S)[0]


def outputs(path):
    """What the cells of a page have shown, as parsed HTML."""
    return BeautifulSoup(path.read_text(), "html.parser").select("div.cell_output")


def named_cells(tiny_run):
    """Every figure and table of the run: (page, name, cell, the files of its data)."""
    for path in sorted(tiny_run.executed.glob("*.ipynb")):
        for name, cell, data in notebooks.figures(nbformat.read(path, 4)):
            yield path.stem, name, cell, data


def test_every_chapter_is_in_the_table_of_contents(pages):
    toc = (ROOT / "_toc.yml").read_text()
    for path in notebooks.find([]):
        assert f"notebooks/{path.stem}" in toc
    assert all(page.exists() for page in pages)


def test_links_and_images_of_every_page_exist(site, pages):
    targets, asking = {}, []
    for path in [*pages, site / "index.html", site / "search.html", site / "genindex.html"]:
        for link in Page(path.read_text()).links:
            address = urlparse(link)
            if address.scheme or link.startswith("//"):
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path.resolve()
            assert target.exists(), f"{path.name}: {link}"
            if "=" in address.fragment:  # read by the page's script
                asked, text = parse_qs(address.fragment), target.read_text()
                assert all(f'"{value}"' in text for (value,) in asked.values()), link
                asking.append(link)
            elif address.fragment and target.suffix == ".html":
                if target not in targets:
                    targets[target] = Page(target.read_text()).ids
                assert unquote(address.fragment) in targets[target], f"{path.name}: {link}"
    assert len(asking) >= 2, "the pages with perturbed images lead to one of them"


NUMBER = r"(?:Fig\.|Table) \d+\.\d+"


def parsed(path):
    """A page's own part as parsed HTML."""
    return BeautifulSoup(article(path), "html.parser")


def test_every_figure_and_table_is_numbered_captioned_and_described(pages):
    kinds = []
    for path in pages:
        last = {}
        for figure in parsed(path).select("figure"):
            told = re.match(r"(Fig\.|Table) (\d+)\.(\d+)\. (.*)", figure.figcaption.get_text().strip(), re.S)
            assert told, f"{path.name}: {figure['id']} without a number"
            kind, chapter, number, caption = told.groups()
            assert int(chapter) == int(path.stem[:2]), f"{path.name}: {kind} {chapter}.{number}"
            assert int(number) > last.get(kind, 0), f"{path.name}: {kind} {chapter}.{number} out of order"
            last[kind] = int(number)
            kinds.append(kind)
            assert len(caption) > 10, f"{path.name}: {kind} {number} without a caption"
            if kind == "Fig.":
                assert len(figure.img["alt"]) >= 20, f"{path.name}: {number} without a description"
            else:
                assert figure.table, f"{path.name}: {number} is no table"
    assert min(kinds.count("Fig."), kinds.count("Table")) > 20


def test_every_number_of_a_figure_in_a_text_is_a_link_to_it(pages):
    own = {}
    for path in pages:
        for figure in parsed(path).select("figure"):
            own[re.search(NUMBER, figure.figcaption.get_text())[0]] = f"{path.name}#{figure['id']}"
    linked = 0
    for path in pages:
        page = parsed(path)
        for apart in page.select("pre, code, figcaption strong"):
            apart.decompose()
        for link in page.select("a"):
            if re.fullmatch(NUMBER, link.get_text()):
                address = link["href"].rpartition("/")[2]
                assert (f"{path.name}{address}" if address.startswith("#") else address) == own[link.get_text()]
                linked += 1
                link.decompose()
        assert not (found := re.search(NUMBER, page.get_text())), f"{path.name}: {found[0]} is no link"
    assert linked > 100


def test_every_table_that_a_notebook_shows_has_a_number(pages):
    for path in pages:
        tables = [table for output in outputs(path) for table in output.select("table")]
        loose = [table for table in tables if not table.find_parent(["figure", "noscript"])]
        assert not loose, path.name


def test_every_figure_and_table_offers_its_data_and_every_figure_its_drawing(site, tiny_run):
    for page, name, cell, data in named_cells(tiny_run):
        text = (site / "notebooks" / f"{page}.html").read_text()
        links = re.findall(r'href="(\.\./_downloads/\w+/([^"/]+))"', text)
        offered = {file: site / "notebooks" / link for link, file in links}
        if name.startswith("fig-"):
            assert data, f"{page}: {name} names no data"
            assert offered[f"{name}.svg"].read_text() == cell.outputs[-1].data["image/svg+xml"]
        for file in data:
            assert offered[file].read_bytes() == (tiny_run.tables / file).read_bytes(), f"{page}: {file}"


def test_the_data_of_a_figure_are_rows_under_named_columns(tiny_run):
    files = {file for _, _, _, data in named_cells(tiny_run) for file in data if file.endswith(".csv")}
    assert len(files) > 25
    for file in files:
        with (tiny_run.tables / file).open() as opened:
            heads, first = next(rows := csv.reader(opened)), next(rows)
        assert len(set(heads)) == len(heads) == len(first)
        assert all(heads)


def test_every_figure_and_table_is_referred_to_by_number(pages):
    text = "".join(map(article, pages))
    for path in pages:
        for name in re.findall(r'<figure[^>]*id="([^"]+)"', path.read_text()):
            assert re.search(rf'href="[^"]*#{name}">{NUMBER}</a>', text), f"{path.name}: {name}"


def test_code_that_only_draws_is_folded(site, tiny_run):
    for page, name, cell, _ in named_cells(tiny_run):
        assert "hide-input" in cell.metadata.get("tags", []), f"{page}: {name}"
    assert '<details class="admonition hide' in (site / "notebooks" / "05_gaussian_blur.html").read_text()


def test_every_page_says_whose_numbers_it_holds(pages, tiny_run):
    for path in pages:
        banner = re.search(r'<aside class="bd-header-announcement.*?</aside>', path.read_text(), flags=re.S)[0]
        assert f"<strong>Profile {tiny_run.profile.title}:</strong>" in banner
        assert "not those of the paper" in banner
    line = book.banner(tiny_run.profile.model_copy(update={"title": "<i>A</i>", "about": "B & C"}))
    assert line == "<strong>Profile &lt;i&gt;A&lt;/i&gt;:</strong> B &amp; C"


def test_headings_are_in_order_and_no_page_is_heavy(pages):
    for path in pages:
        levels = Page(article(path)).headings
        assert levels.count(1) == 1, path.name
        assert levels[0] == 1, path.name
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), path.name
        images = [link for link in Page(path.read_text()).links if "_images/" in link]
        size = path.stat().st_size + sum((path.parent / image).stat().st_size for image in set(images))
        assert size < LARGEST_PAGE, f"{path.name}: {size / 1e6:.1f} MB"


def test_no_page_shows_progress_bars_warnings_or_references_that_are_not_resolved(pages):
    for path in pages:
        for output in outputs(path):
            assert not output.select(".stderr, .traceback"), path.name
            assert not re.search(r"\d+%\|.*\|\s*\d+/\d+|it/s\]|Warning:", output.get_text()), path.name
        prose = re.sub(r"<pre>.*?</pre>", "", path.read_text(), flags=re.S)
        assert not re.search(r"\{(numref|ref|cite|doc|download)\}", prose), path.name


def test_the_about_page_says_how_to_cite_this_run(site, tiny_run):
    page = (site / "book" / "about.html").read_text()
    assert "@misc" in page
    assert json.loads((tiny_run.tables / "run.json").read_text())["provenance"]["commit"] in page


def test_downloaded_notebooks_are_those_that_were_run(site, tiny_run):
    for path in tiny_run.executed.glob("*.ipynb"):
        ran, offered = (nbformat.read(one, 4).cells for one in (path, site / "_sources" / "notebooks" / path.name))
        assert offered[1:] == ran[1:]
        assert re.fullmatch(r"\n\n\*Needs `mae_helpers`:\* .*", offered[0].source.removeprefix(ran[0].source))


def test_second_build_does_nothing(site, tiny_run):
    assert not book.build(tiny_run.profile, tiny_run.executed, tiny_run.tables, tiny_run.out)


def test_tables_that_are_not_those_of_the_run_are_refused(tiny_run, tmp_path):
    path, tables = next(tiny_run.executed.glob("05_*.ipynb")), tmp_path / "tables"
    shutil.copytree(tiny_run.tables, tables, ignore=shutil.ignore_patterns("cells", "pixels"))
    digest = nbformat.read(path, 4).metadata[notebooks.MARK]["tables"]["table1_blur.csv"]
    assert digest == hashlib.sha256((tables / "table1_blur.csv").read_bytes()).hexdigest()
    assert notebooks.complaint(path, "demo", tables) is None
    (tables / "scorecard.csv").unlink()  # another chapter writes it later
    assert notebooks.complaint(path, "demo", tables) is None
    with (tables / "table1_blur.csv").open("a") as file:
        file.write("\n")
    assert "05_gaussian_blur: table1_blur.csv is not what its run wrote" in notebooks.complaint(path, "demo", tables)
    (tables / "table1_blur.csv").unlink()
    assert notebooks.complaint(path, "demo", tables)


def test_every_finding_has_a_place_and_is_held_against_tables_that_a_run_writes(tiny_run):
    captions = "".join(path.read_text() for path in notebooks.find([]))
    paths = sorted((ROOT / findings.FOLDER).rglob("*.md"))
    assert paths
    for path in paths:
        place, _ = findings.finding(path, findings.Tables(tiny_run.tables))
        where, number = place.split(" ", 1)
        assert where in ("above", "below")
        assert f"**{number}.** " in captions, path.name
        head, text = path.read_text().split("---\n")[1:]
        assert {name for _, name, *_ in Formatter().parse(text) if name} <= set(yaml.safe_load(head)["let"]), path.name


@pytest.fixture
def root(tmp_path):
    """A repository with two pages of prose."""
    root = tmp_path / "root"
    shutil.copytree(ROOT / "book", root / "book")
    for name in ("_config.yml", "CITATION.cff"):
        shutil.copy(ROOT / name, root)
    toc = {"format": "jb-book", "root": "book/index", "parts": [{"chapters": [{"file": "book/other"}]}]}
    (root / "_toc.yml").write_text(yaml.safe_dump(toc))
    (root / "book" / "index.md").write_text("# Title\n\nText.\n")
    (root / "book" / "other.md").write_text("# Second\n\nOther.\n")
    (root / "book" / "references.bib").write_text("")
    return root


def test_only_what_changed_is_built_again_and_all_where_the_menu_changed(tiny_run, tmp_path, root):
    def build(name, text):
        (root / "book" / f"{name}.md").write_text(text)
        assert book.build(tiny_run.profile, tmp_path / "no-notebooks", tmp_path, tmp_path / "out", root)
        pages = [tmp_path / "out" / "html" / "book" / f"{page}.html" for page in ("index", "other")]
        return [page.read_text() for page in pages], [page.stat().st_mtime_ns for page in pages]

    _, first = build("index", "# Title\n\nText.\n")
    (index, _), second = build("index", "# Title\n\nAnother text.\n")
    assert "Another text." in index
    assert second[0] != first[0]
    assert second[1] == first[1], "the page that did not change"
    (root / "book" / "third.md").write_text("# Third\n\nOther.\n")
    (root / "_toc.yml").write_text((root / "_toc.yml").read_text().replace("book/other", "book/third"))
    with pytest.raises(FileNotFoundError, match=r"other\.html"):  # it is no page of the book any more
        build("other", "# Second\n\nOther.\n")
    index = (tmp_path / "out" / "html" / "book" / "index.html").read_text()
    assert "Third" in index
    assert "Second" not in index


def test_a_broken_reference_is_an_error_that_names_it(tiny_run, tmp_path, root):
    (root / "book" / "index.md").write_text("# Title\n\nSee Fig. 4.9.\n")
    with pytest.raises(NotebookError, match=r"there is no Fig\. 4\.9"):
        book.build(tiny_run.profile, tmp_path / "no-notebooks", tmp_path, tmp_path / "out", root)
