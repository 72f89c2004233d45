"""A Sphinx extension: "Fig. 4.2" in a text is a link to that figure, tables that notebooks show are captioned as such,
and references are a plain list.

A number is how a caption begins. MyST-NB knows figures only: `mystnb: figure: {name: tab-blur, caption: ...}`
in a cell's metadata makes its output one. Here those whose name begins with `tab-` become tables.
"""

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.logging import getLogger
from sphinx.writers.html5 import HTML5Translator

LABEL = re.compile(r"((?:Fig\.|Table) \d+\.\d+)")  # the paper's have no dot


class captioned_table(nodes.figure):
    """The output of a cell that is a table."""


class TablesAmongFigures(SphinxTransform):
    """Note each figure's number; those named `tab-...` become tables, or go where the cell showed nothing."""

    default_priority = 400

    def apply(self, **_: object) -> None:
        """Replace them in this document."""
        known = self.env.get_domain("std").anonlabels
        for figure in list(self.document.findall(nodes.figure)):
            if number := LABEL.match(figure[-1].astext()):
                known[number[1]] = self.env.docname, figure["ids"][0]
            if not any(name.startswith("tab-") for name in figure["names"]):
                continue
            if all(isinstance(child, nodes.caption | nodes.legend) for child in figure.children):
                figure.parent.remove(figure)
                continue
            table = captioned_table("", *figure.children, **figure.attributes)
            figure.replace_self(table)
            self.document.ids |= dict.fromkeys(table["ids"], table)


class LinkedNumbers(SphinxPostTransform):
    """Make a link of each "Fig. 4.2" and "Table 4.1" in running text; a warning where there is none."""

    default_priority = 300  # what a cell shows is chosen by then

    def run(self, **_: object) -> None:
        """Replace them in this document."""
        known, here, builder = self.env.get_domain("std").anonlabels, self.env.docname, self.app.builder
        kept = nodes.literal | nodes.FixedTextElement | nodes.reference | nodes.title
        for text in [one for one in self.document.findall(nodes.Text) if LABEL.search(one)]:
            if isinstance(text.parent, kept) or isinstance(text.parent.parent, nodes.caption):
                continue  # code, or a caption's own number
            parts = [nodes.Text(part) for part in LABEL.split(text)]
            for place, number in list(enumerate(parts))[1::2]:
                if number not in known:
                    getLogger(__name__).warning("there is no %s", number, location=text.parent)
                    continue
                page, name = known[number]
                address = f"{builder.get_relative_uri(here, page)}#{name}"
                parts[place] = nodes.reference("", number, refuri=address, internal=True)
            text.parent.replace(text, parts)


def visit(self: HTML5Translator, node: captioned_table) -> None:
    """Begin a table's element: a figure of its own class."""
    self.body.append(self.starttag(node, "figure", CLASS="captioned-table"))


def depart(self: HTML5Translator, node: captioned_table) -> None:
    """End it, and the caption in it, which docutils leaves open for a legend to follow."""
    self.body.append("</figcaption>\n</figure>\n")


def without_list_role(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: object) -> None:
    """Take the role `list` from the references: its entries have another role than that of a list's items."""
    if "body" in context:
        context["body"] = context["body"].replace(
            '<div role="list" class="citation-list">', '<div class="citation-list">'
        )


def without_numbers(app: Sphinx, config: Config) -> None:
    """No second numbers for figures, whose captions have their own: Jupyter Book's LaTeX asks for them."""
    config["numfig"] = False


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls."""
    app.add_node(captioned_table, html=(visit, depart))
    app.add_transform(TablesAmongFigures)
    app.add_post_transform(LinkedNumbers)
    app.connect("config-inited", without_numbers, priority=900)  # after Jupyter Book
    app.connect("html-page-context", without_list_role)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
