"""The code behind a result: what is reached by import counts, what is not does not."""

import sys
from importlib.metadata import version

import pytest

from mae_helpers.perturbations.corruptions import Corruption
from mae_helpers.perturbations.imagenet_c import CorruptedFiles
from mae_helpers.perturbations.levels import Clean
from mae_helpers.profile.settings import ROOT
from mae_helpers.sweep import cells
from mae_helpers.sweep.dependencies import Dependencies, dependencies, imports

SOURCE = """
import os.path, torch as t
from . import near
from .. import far
from ..far.deep import name
from pandas import DataFrame
def late():
    from scipy.stats import bootstrap
    if True:
        import yaml
text = "import nothing"
"""


def test_imports_by_hand():
    assert imports(SOURCE, "house.room") == {
        *("os.path", "torch", "house.room", "house.room.near", "house", "house.far", "house.far.deep"),
        *("house.far.deep.name", "pandas", "pandas.DataFrame", "scipy.stats", "scipy.stats.bootstrap", "yaml"),
    }


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A user's own modules: `mine` reaches `helper`, which reaches back, and NumPy; `other` is nobody's concern."""
    texts = {
        "mine_of_test.py": "from box_of_test.helper import value\nfrom mae_helpers.perturbations import Clean\n",
        "box_of_test/__init__.py": "",
        "box_of_test/helper.py": "import numpy\nimport mine_of_test\nvalue = 1\n",
        "box_of_test/other.py": "import pandas\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def afresh(*modules) -> Dependencies:
    return dependencies.__wrapped__(*modules)


def test_a_users_module_is_followed_across_folders_and_circles_without_being_imported(house):
    found = afresh("mine_of_test")
    assert {"mine_of_test", "box_of_test", "box_of_test.helper", "mae_helpers.perturbations"} <= set(found.code)
    assert "box_of_test.other" not in found.code
    assert found.libraries["numpy"] == version("numpy")
    assert found.libraries["opencv-python-headless"] == version("opencv-python-headless")
    assert not {"mine_of_test", "box_of_test"} & set(sys.modules)


def test_an_edit_of_what_is_reached_is_noticed_and_named_and_of_nothing_else(house):
    before = afresh("mine_of_test")
    (house / "box_of_test" / "other.py").write_text("# edited\n")
    assert afresh("mine_of_test").digest == before.digest
    with (house / "box_of_test" / "helper.py").open("a") as file:
        file.write("value = 2\n")
    after = afresh("mine_of_test")
    assert after.digest != before.digest
    assert before.difference(after) == "another box_of_test.helper"
    assert before.difference(before) == ""


def test_another_version_of_a_library_is_noticed_and_named(monkeypatch):
    before = afresh("mae_helpers.measures")
    monkeypatch.setattr("mae_helpers.dependencies.version", lambda name: "0.1" if name == "torch" else version(name))
    after = afresh("mae_helpers.measures")
    assert after.digest != before.digest
    assert before.difference(after) == f"torch 0.1 instead of {version('torch')}"


def test_the_same_whatever_was_asked_before():
    assert afresh("mae_helpers.measures") == afresh("mae_helpers.measures") == dependencies("mae_helpers.measures")


@pytest.mark.parametrize("name", ["__main__", "nowhere_at_all", "sys", "mae_helpers.images.ImageSet"])
def test_a_module_without_a_file_is_refused(name, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    with pytest.raises(ValueError, match=f"module '{name}' has no file here"):
        dependencies(name)


def test_what_decides_a_cell_and_what_does_not():
    """Measures, models, images and the perturbation's own module do; figures, claims, pages and the scheduling do not."""
    reached = {name.removeprefix("mae_helpers.") for name in cells.code_behind(Clean()).code}
    decide = {"attention", "checkpoints", "compute", "decoded", "encoder", "features", "images", "layouts", "measures"}
    assert decide | {"ground_truth", "perturbations", "profiles", "subjects"} <= reached
    rest = {"book", "chapter", "claims.pretrained", "closer", "corruptions", "figures.style", "imagenet_c", "notes"}
    rest |= {"reference", "results", "robustness", "run", "sweep", "workers"}
    assert all((ROOT / "mae_helpers" / f"{name.replace('.', '/')}.py").exists() for name in rest)
    assert not rest & reached
    for kind, more in ((Corruption("fog", 1), "corruptions"), (CorruptedFiles("fog", 1, "", ""), "imagenet_c")):
        assert f"mae_helpers.{more}" in cells.code_behind(kind).code
    libraries = set(cells.code_behind(Corruption("fog", 1)).libraries)
    assert {"torch", "timm", "numpy", "pillow", "scikit-image", "opencv-python-headless"} <= libraries
    assert "imagecorruptions-imaug" in libraries
    assert not {"matplotlib", "distributed", "papermill"} & libraries
