"""Notebook sources are clean, and every one of them runs through papermill."""

import itertools
import json
import re
import shutil
from collections import Counter

import nbformat
import pandas as pd
import pytest
from nbformat import v4
from processes import copied, python

from mae_helpers.profile.settings import ROOT, load_profile
from mae_helpers.run import notebooks, site
from mae_helpers.run import tables as results
from mae_helpers.run.notebooks import NotebookError

SOURCES = notebooks.find([])


def write_notebook(path, *cells, tags=()):
    """A notebook of code cells, the first with its parameters, and with `tags`."""
    made = [v4.new_code_cell(source, metadata={"tags": []}) for source in cells]
    made[0].metadata.tags = ["parameters", *tags]
    spec = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(v4.new_notebook(cells=made, metadata={"kernelspec": spec}), path)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_source_is_clean_and_in_style(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.kernelspec.language == "python"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    lengths = sorted(len(cell.source.splitlines()) for cell in code)
    assert lengths[-1] <= 15
    assert not any(line.lstrip().startswith(("def ", "class ")) for cell in code for line in cell.source.splitlines())


KINDS = {"fig": "Fig.", "tab": "Table"}


def numbers_of(path):
    """The figures and tables of a notebook: the number that each has by its place, its cell, and the cell below it."""
    cells, counts = nbformat.read(path, 4).cells, Counter()
    for cell, below in itertools.pairwise([*cells, v4.new_markdown_cell()]):
        if figure := cell.metadata.get("mystnb", {}).get("figure"):
            kind = KINDS[figure["name"][:3]]
            counts[kind] += 1
            yield f"{kind} {int(path.stem[:2])}.{counts[kind]}", cell, below


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_figure_is_captioned_described_and_referred_to(path):
    notebook = nbformat.read(path, 4)
    named = list(numbers_of(path))
    assert all("mystnb" in cell.metadata for cell in notebook.cells if "plt.show()" in cell.source)
    captions = [below.source for *_, below in named]
    text = "\n".join(cell.source for cell in notebook.cells if cell.source not in captions)
    for number, cell, below in named:
        assert below.source.startswith(f"**{number}.** "), f"{number} has no caption, or another number"
        assert site.CAPTION.match(below.source)
        assert below.source.endswith(".")
        if number.startswith("Fig."):
            assert cell.metadata["mystnb"]["image"]["alt"]
            assert re.search(rf"{re.escape(number)}(?!\d)", text), f"{number} is not referred to"


ROLE = re.compile(r"(?<!\$)\{[\w:-]+\}\}?`|^ *(?:```|~~~)+ *\{|^ *:::|^\([\w-]+\)= *$|\]\{[.#]", re.M)  # of MyST alone


def test_what_is_myst_alone_is_recognised():
    for text in ("{numref}`fig-a`", "f'{{ref}}`a`'", "::::{note}", "```{math}", "(a-b)=", "[done]{.verdict}"):
        assert ROLE.search(text), text
    for text in ("f'{name}: `x`'", "```\nmake book\n```", "$\\sqrt{2}$", "rows[0][{1}]"):
        assert not ROLE.search(text), text


def test_notebooks_read_alike_outside_the_book(tiny_run):
    for path in [*SOURCES, *sorted(tiny_run.executed.glob("*.ipynb"))]:
        for cell in nbformat.read(path, 4).cells:
            shown = [str(text) for output in cell.get("outputs", []) for text in output.get("data", {}).values()]
            for text in [cell.source, *shown]:
                assert not (found := ROLE.search(text)), f"{path}: {found[0]}"


def test_the_figures_that_sources_refer_to_exist_and_the_papers_are_named_as_such():
    known = {number for path in SOURCES for number, *_ in numbers_of(path)}
    for path in SOURCES:
        text = " ".join(cell.source for cell in nbformat.read(path, 4).cells)
        for number in re.findall(r"(?:Fig\.|Table) \d+\.\d+", text):
            assert number in known, f"{path.stem}: there is no {number}"
        for before, number in re.findall(r"(\S*)\s+\W*\b(Figs?\.\s+\d+(?!\.?\d))", text):
            assert before.endswith("paper's"), f"{path.stem}: whose is {number}?"


def test_papers_that_notebooks_link_are_in_the_bibliography():
    known = (ROOT / "book" / "references.bib").read_text()
    places = ("arxiv.org/abs/", "doi.org/", "jmlr.org/")
    for path in SOURCES:
        for link in re.findall(r"\]\((https://[^)]+)\)", path.read_text()):
            if any(place in link for place in places):
                assert re.sub("https://(arxiv.org/abs|doi.org)/", "", link) in known, f"{path.stem}: {link}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_chapters_title_has_its_number(path):
    number = int(path.stem[:2])
    title = nbformat.read(path, 4).cells[0].source.splitlines()[0]
    assert re.match(rf"# {number}\. [A-Z]" if number else "# [A-Z]", title)


def test_every_notebook_runs_without_progress_residue_and_stderr(tiny_run):
    assert tiny_run.finished
    for source in SOURCES:
        path = tiny_run.executed / source.name
        assert notebooks.complaint(path, "demo") is None
        for cell in nbformat.read(path, 4).cells:
            for output in cell.get("outputs", []):
                assert output.output_type != "stream", f"{path.stem}: {output.get('text')}"


NOT_ON_THE_DEMO = "distribution_shift"  # of ImageNet-R and -A: see test_paper_profile.py
TWO_BY_TWO = "factors_effects"  # of four classifiers: see test_factors.py


@pytest.mark.parametrize("name", [name for name in results.COLUMNS if name not in (NOT_ON_THE_DEMO, TWO_BY_TWO)])
def test_every_table_is_written_with_its_columns(tiny_run, name):
    table = pd.read_csv(tiny_run.tables / f"{name}.csv", keep_default_na=name != "scorecard")
    assert list(table.columns[: len(results.COLUMNS[name])]) == results.COLUMNS[name]
    assert len(set(results.COLUMNS[name])) == len(results.COLUMNS[name])
    assert len(table)
    may_be_missing = {"cosine_correct", "cosine_wrong"}  # where no image is classified so
    assert not table[[column for column in results.COLUMNS[name] if column not in may_be_missing]].isna().any().any()


def test_what_the_demo_lacks_is_said_in_one_line_each(tiny_run):
    assert not (tiny_run.tables / f"{NOT_ON_THE_DEMO}.csv").exists()
    page = nbformat.read(next(tiny_run.executed.glob("07_*.ipynb")), 4)
    said = [str(output.data) for cell in page.cells for output in cell.get("outputs", []) if "data" in output]
    for name in ("Published files of ImageNet-C", "ImageNet-R", "ImageNet-A"):
        assert any(f"{name}: left out, because this profile names none." in text for text in said), name


def test_nothing_done_changes_nothing(tiny_run):
    blur, occlusion, cosine, features, drop = (
        results.read_table(name, tiny_run.tables)
        for name in ("table1_blur", "fig5_occlusion", "table3_cosine", "fig6_fig7_features", "fig8_feature_drop")
    )
    untouched = cosine[cosine["level"].isin(["clean", "0"])]
    assert len(untouched) == 2 * 3  # models, and random weights
    assert (untouched["mean_cosine"] - 1).abs().max() < 1e-6
    assert untouched["norm_difference"].max() == 0
    clean = blur[blur["level"] == "clean"].set_index("model")
    assert (clean["ssim"] == 1).all()
    guided = occlusion[(occlusion["ranking"] == "cls_rollout") & (occlusion["occlusion_percent"] == 0)]
    pd.testing.assert_series_equal(guided.set_index("model")["top1_percent"], clean["top1_percent"])
    kept = features[features["level"].isin(["clean", "0"])]
    assert (kept["retained_count"] == kept["clean_count"]).all()
    assert (features["retained_count"] <= features["clean_count"]).all()
    assert (drop.loc[drop["level"].isin(["clean", "0"]), "mean_drop"] == 0).all()


def test_blur_hurts_the_pixels_within_each_kernel_size(tiny_run):
    table = results.read_table("table1_blur", tiny_run.tables)
    for _, rows in table.groupby(["model", "kernel_size"]):
        rows = rows.sort_values("sigma")
        assert rows["psnr_db"].is_monotonic_decreasing
        assert rows["ssim"].is_monotonic_decreasing


def test_the_scorecard_of_a_whole_run_tests_every_claim_but_the_larger_shifts(tiny_run):
    card = pd.read_csv(tiny_run.tables / "scorecard.csv", keep_default_na=False)
    untested = card[card["verdict"] == "not tested here"]
    assert untested["claim"].tolist() == ["MAE struggles on larger shifts, ImageNet-R and ImageNet-A"]
    assert (card["here"] != "").sum() == len(card) - 1


def test_layers_and_heads_count_from_one(tiny_run):
    table = results.read_table("fig3_attention_distance", tiny_run.tables)
    assert sorted(table["layer"].unique()) == list(range(1, 13))
    assert sorted(table["head"].unique()) == list(range(1, 13))


def test_run_json_says_how_the_tables_came_to_be(tiny_run):
    entries = json.loads((tiny_run.tables / "run.json").read_text())
    for source in SOURCES:
        assert entries["notebooks"][source.stem]["seconds"] > 0
        assert entries["notebooks"][source.stem]["peak_memory_mb"] > 100
    first = entries["notebooks"]["01_token_embeddings"]["parameters"]
    assert (first["images_per_class"], first["seed"], first["profile"]) == (6, 0, "demo")
    assert set(entries["provenance"]) == {"python", "machine", "commit", "packages"}
    assert all(entries["provenance"]["packages"][name] for name in results.PACKAGES)
    assert entries["device"] == "cpu"
    assert set(entries["checkpoints"]) == set(tiny_run.profile.weights)


@pytest.fixture
def folder(tmp_path):
    """A folder of one small notebook that takes x."""
    write_notebook(tmp_path / "01_small.ipynb", "x = 1", "x")
    return tmp_path


def test_find_by_number_stem_and_path(folder):
    path = folder / "01_small.ipynb"
    for name in ("1", "01", "01_small", str(path)):
        assert notebooks.find([name], folder) == [path]


def test_unknown_parameter_is_refused_with_the_known_ones(folder):
    paths = notebooks.find([], folder)
    with pytest.raises(NotebookError, match=r"parameter 'y' is unknown to 01_small; they take x"):
        notebooks.choose_parameters(paths, {"y": 1})
    told = "the profile's parameter 'xx' is unknown to every notebook; did you mean 'x'"
    with pytest.raises(NotebookError, match=told):
        notebooks.choose_parameters(paths, {"x": 2}, {"x": 3, "xx": 4})
    own = {"profile": "demo", "scheduler": None}  # of the whole run, for the notebooks that take them
    assert notebooks.choose_parameters(paths, {"x": 2}, {"x": 3} | own) == {paths[0]: {"x": 2}}


def test_complaints_name_what_is_wrong(folder, tmp_path):
    source, target = folder / "01_small.ipynb", tmp_path / "copy.ipynb"
    assert "not run" in notebooks.complaint(target, "demo")
    notebook = nbformat.read(source, 4)
    for mark, wanted, told in (
        ({"profile": "paper"}, None, "'paper', not 'demo'"),
        ({"profile": "demo"}, None, "cell that was not run"),
        ({"profile": "demo", "fingerprint": "a"}, "b", "made from something else"),
    ):
        notebook.metadata[notebooks.MARK] = mark
        nbformat.write(notebook, target)
        assert told in notebooks.complaint(target, "demo", wanted=wanted)


def test_fingerprint_follows_cells_parameters_and_data(folder):
    path, changed, profile = folder / "01_small.ipynb", folder / "02_changed.ipynb", load_profile("demo")
    changed.write_text(path.read_text().replace('"x"', '"x + 1"'))
    cases = [(path, 1, "data"), (path, 1, "data"), (path, 2, "data"), (path, 1, "other data"), (changed, 1, "data")]
    first, same, *others = [notebooks.fingerprint(at, profile, {"x": x}, data) for at, x, data in cases]
    assert first == same
    assert len({first, *others}) == 4


def test_a_notebook_is_read_and_written_as_nbformat_does():
    for path in SOURCES:
        assert notebooks.written(notebooks.read(path)) == nbformat.writes(nbformat.read(path, 4)) + "\n"


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["import mae_helpers.run.chapter"], ["mae_helpers.run.chapter"]),
        (["%matplotlib inline\n!ls", "if True:\n    %pip install x\nimport os"], []),
        (["from mae_helpers.run import chapter", "chapter.begin"], ["mae_helpers.run", "mae_helpers.run.chapter"]),
        (["from mae_helpers.run.tables import COLUMNS"], ["mae_helpers.run.tables"]),
    ],
)
def test_the_modules_that_a_notebook_imports(tmp_path, cells, expected):
    write_notebook(tmp_path / "01.ipynb", "x = 1", *cells)
    assert notebooks.modules(tmp_path / "01.ipynb") == expected


CODE_NOW = """
import sys
from mae_helpers.profile.settings import ROOT, load_profile
from mae_helpers.run import notebooks
profile = load_profile("demo")
for path in notebooks.find([]):
    print(path.stem, notebooks.fingerprint(path, profile, {}, "data"))
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the code and the chapters, and a function that gives the chapters' fingerprints there."""
    root = copied(tmp_path_factory.mktemp("copied"))
    shutil.copytree(ROOT / "notebooks", root / "notebooks", dirs_exist_ok=True)

    def fingerprints():
        told, _ = python(root, "-c", CODE_NOW).communicate()
        return dict(line.split() for line in told.splitlines())

    return root, fingerprints(), fingerprints


BLUR = {"05_gaussian_blur", "06_occlusion", "07_imagenet_c", "08_directional_alignment", "09_head_features"}
VERDICTS = BLUR | {path.stem for path in SOURCES if path.stem < "05" or path.stem.startswith(("10", "11"))}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edited", "expected"),
    [
        ("mae_helpers/figures/training.py", {"90_demo_model"}),
        ("mae_helpers/figures/speed.py", {"92_how_fast"}),
        ("mae_helpers/figures/overview.py", {"00_overview"}),
        ("mae_helpers/run/closer.py", {"12_look_closer"}),
        ("mae_helpers/run/look_closer/closer.css", {"12_look_closer"}),
        ("mae_helpers/run/site.py", set()),
        ("mae_helpers/run/command.py", set()),
        ("mae_helpers/verdicts/claims.yaml", VERDICTS),
        ("mae_helpers/profile/demo.yaml", {path.stem for path in SOURCES}),
    ],
)
def test_an_edit_runs_the_chapters_again_that_use_what_was_edited_and_no_other(house, edited, expected):
    root, before, fingerprints = house
    file = root / edited
    kept = file.read_text()
    file.write_text(f"{kept}\nEDITED = 1\n" if file.suffix == ".py" else f"{kept}\n# edited\n")
    try:
        after = fingerprints()
    finally:
        file.write_text(kept)
    assert after.keys() == {path.stem for path in SOURCES}
    assert {name for name in after if after[name] != before[name]} == expected
