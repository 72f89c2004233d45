"""A Sphinx extension: tables that notebooks show are numbered and captioned as tables, and references are a plain list.

MyST-NB can only number figures: `mystnb: figure: {name: tab-blur, caption: ...}` in a cell's metadata makes its output
one. Here those whose name begins with `tab-` become tables, with numbers of their own.
"""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.writers.html5 import HTML5Translator


class captioned_table(nodes.figure):
    """The output of a cell that counts among the tables."""


class TablesAmongFigures(SphinxTransform):
    """Turn figures whose name begins with `tab-` into tables; one whose cell showed nothing is left out."""

    default_priority = 400

    def apply(self, **_: object) -> None:
        """Replace them in this document."""
        figures = self.document.findall(nodes.figure)
        for figure in [one for one in figures if any(name.startswith("tab-") for name in one["names"])]:
            if all(isinstance(child, nodes.caption | nodes.legend) for child in figure.children):
                figure.parent.remove(figure)
                continue
            table = captioned_table("", *figure.children, **figure.attributes)
            figure.replace_self(table)
            self.document.ids |= dict.fromkeys(table["ids"], table)


def caption_of(node: captioned_table) -> str | None:
    """The text of a table's caption, which makes it one that can be referred to."""
    return next((child.astext() for child in node.children if isinstance(child, nodes.caption)), None)


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


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls."""
    app.add_enumerable_node(captioned_table, "table", caption_of, html=(visit, depart))
    app.add_transform(TablesAmongFigures)
    app.connect("html-page-context", without_list_role)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
