"""Parameters as people give them to a chapter, by the runner or by papermill alone: taken as they are meant, or refused."""

import ast
import subprocess
import sys

import pytest
from papermill.translators import PythonTranslator

from mae_helpers.profile.parameters import defaults_in
from mae_helpers.profile.settings import ROOT
from mae_helpers.run import chapter, notebooks

SOURCES = notebooks.find([])
DEFAULTS = defaults_in(notebooks.NOTEBOOKS)


def begun(path, **given):
    """The names of a chapter after its first cells, up to the call that checks its parameters, with those that are given."""
    names = {}
    for cell in notebooks.read(path)["cells"]:
        if cell["cell_type"] == "code":
            exec(cell["source"], names)
            if "parameters" in notebooks.tags(cell):
                exec(PythonTranslator.codify(given), names)
            if "of_notebook" in cell["source"]:
                return names
    raise AssertionError(f"{path.stem} never begins")


MEANT = [  # a parameter, how it is given, and what is meant
    ("blur_levels", "VI", ["VI"]),
    ("blur_levels", "[VI, X]", ["VI", "X"]),  # papermill's -p knows no lists
    ("blur_levels", ["X"], ["X"]),
    ("second_images", "false", False),  # nor `false`
    ("second_images", True, True),
    ("centred", "no", False),
    ("k", 5.0, 5),
    ("k", "5", 5),
    ("k", "010", 10),  # not YAML's 8
    ("other_k", 2.0, [2]),
    ("severities", 3, [3]),
    ("severities", [3.0, 1], [3, 1]),
    ("seed", 4.0, 4),
    ("occlusion_percents", 12.5, [12.5]),
    ("occlusion_percents", [0, 50], [0, 50]),
    ("perplexity", 7.5, 7.5),
    ("mask_ratio", "0.5", 0.5),
    ("images_per_class", "null", None),
    ("fill", "black", "black"),
]
REFUSED = [  # a parameter, how it is given, and the remedy
    ("k", None, "whole numbers from 1"),
    ("k", "null", "whole numbers from 1"),
    ("k", 2.5, "whole numbers from 1"),
    ("k", True, "whole numbers from 1"),
    ("masks", 0, "whole numbers from 1"),
    ("seed", -1.0, "whole numbers from 0"),
    ("severities", "1,2", "whole numbers from 1"),
    ("occlusion_percents", [0, "half"], "a list of numbers"),
    ("mask_ratio", "0,75", "a number"),
    ("mask_ratio", float("nan"), "a number"),
    ("second_images", 1, "true or false"),
    ("blur_levels", [6], "a list of names"),
    ("blur_levels", None, "a list of names"),
    ("profile", 3, "text"),
    ("results_folder", ["here"], "text"),
]


def taking(table):
    """Each row with every chapter that takes its parameter."""
    return [
        pytest.param(path, *row, id=f"{path.stem[:2]}-{row[0]}-{row[1]}")
        for row in table
        for path in SOURCES
        if row[0] in notebooks.parameters_of(path)
    ]


@pytest.mark.parametrize(("path", "name", "given", "meant"), taking(MEANT))
def test_a_chapter_and_the_runner_take_a_parameter_as_it_is_meant(path, name, given, meant):
    found, ran = begun(path, **{name: given})[name], notebooks.choose_parameters([path], {name: given})[path][name]
    assert found == ran == meant
    assert repr(found) == repr(ran) == repr(meant), "5 is not 5.0, nor true 1"


@pytest.mark.parametrize(("path", "name", "given", "remedy"), taking(REFUSED))
def test_a_chapter_refuses_what_is_no_such_parameter_before_it_opens_anything(path, name, given, remedy):
    with pytest.raises(ValueError, match=rf"^parameter '{name}' is .*; use {remedy}[^\n]*$") as caught:
        begun(path, **{name: given})
    assert repr(given) in str(caught.value)


def test_papermill_alone_says_it_in_one_line(tmp_path):
    command = [sys.executable, "-m", "papermill", "03_principal_angles.ipynb", tmp_path / "out.ipynb", "-k", "python3"]
    done = subprocess.run([*command, "-p", "k", "null"], cwd=ROOT / "notebooks", capture_output=True, text=True)
    assert done.returncode
    assert "ValueError: parameter 'k' is 'null'; use whole numbers from 1 to 1000000" in done.stderr.splitlines()


def test_a_chapters_own_parameters_reach_what_it_begins_with(tmp_path, tiny_profile):
    names = {"profile": str(tiny_profile()), "seed": 3.0, "results_folder": str(tmp_path), "k": 2.0, "masks": len}
    here = chapter.of_notebook(names, device="cpu")
    assert (here.profile.name, here.seed, here.device.type) == ("tiny", 3, "cpu")
    assert here.tables.is_relative_to(tmp_path)
    assert (names["seed"], names["k"], names["masks"]) == (3, 2, len), "what is callable is no parameter"


def test_no_chapter_gives_the_name_of_anothers_parameter_to_something_else():
    """Its first cells may be run again when all its names are there."""
    for path in SOURCES:
        code = [cell["source"] for cell in notebooks.read(path)["cells"] if cell["cell_type"] == "code"]
        names = [node for node in ast.walk(ast.parse("\n".join(code))) if isinstance(node, ast.Name)]
        stored = {node.id for node in names if isinstance(node.ctx, ast.Store)}
        assert stored & set(DEFAULTS) == set(notebooks.parameters_of(path)), path.stem
