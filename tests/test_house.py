"""What chapters import, told from the sources alone: a library that one chapter needs does not slow the others."""

import ast

import nbformat
import pytest

from mae_helpers.run import notebooks
from mae_helpers.sweep.current import _source, code_behind

ONLY_IN = {  # libraries that take seconds to import: where they may be imported when a chapter starts
    "imagecorruptions": set(),
    "numba": set(),
    "openTSNE": {"01_token_embeddings"},
    "skimage": {"05_gaussian_blur", "11_reproduction_notes"},
    "distributed": set(),
    "papermill": set(),
    "sphinx": set(),
}


def imported_at_once(source):
    """The dotted names that a module imports when it is itself imported: not those within functions."""
    waiting, names = list(ast.parse(source).body), set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.If | ast.Try | ast.With) and "TYPE_CHECKING" not in ast.unparse(node)[:40]:
            waiting += node.body
    return names


def libraries_of(source):
    """Top names of all libraries that code imports at once, through modules of ours."""
    waiting, seen = imported_at_once(source), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        path = _source(name) if name.startswith("mae_helpers") else None
        waiting |= imported_at_once(path.read_text()) if path else set()
    return {name.partition(".")[0] for name in seen}


@pytest.mark.parametrize("path", notebooks.find([]), ids=lambda path: path.stem)
def test_a_chapter_starts_without_what_only_another_needs(path):
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    libraries = libraries_of("\n".join(cells))
    assert {"mae_helpers"} <= libraries
    for library, chapters in ONLY_IN.items():
        assert library not in libraries or path.stem in chapters, library


def test_the_walk_finds_what_is_imported_at_once_and_not_what_is_imported_within():
    assert "skimage" in libraries_of("from mae_helpers.perturbations.quality import psnr")
    assert "numba" not in libraries_of("from mae_helpers.perturbations.corruptions import GROUPS")
    assert "json" not in libraries_of("def later():\n    import json")
    assert "json" in libraries_of("try:\n    import json\nexcept ImportError:\n    pass")
    assert "mae_helpers.encoder.walk" in code_behind("mae_helpers.encoder.passes").files
