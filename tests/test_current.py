"""The code behind a result: what is reached by import counts by its meaning, what is not reached does not."""

import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version

import pytest

from mae_helpers.perturbations.corruptions import Corruption
from mae_helpers.perturbations.imagenet_c import CorruptedFiles
from mae_helpers.perturbations.levels import Clean
from mae_helpers.profile.settings import ROOT
from mae_helpers.sweep import cells
from mae_helpers.sweep.current import Code, code_behind, imports, meaning

SOURCE = '''
"""A module."""
import os.path, torch as t
from . import near
from .. import far
from ..far.deep import name
from pandas import DataFrame
def late(value):
    """Text."""
    from scipy.stats import bootstrap
    if value > 3:
        import yaml
        raise ValueError(f"{value} is above 3" + (", really" if t else ""), 1) from None
    return "import nothing"
'''


def test_imports_by_hand():
    assert imports(SOURCE, "house.room") == {
        *("os.path", "torch", "house.room", "house.room.near", "house", "house.far", "house.far.deep"),
        *("house.far.deep.name", "pandas", "pandas.DataFrame", "scipy.stats", "scipy.stats.bootstrap", "yaml"),
    }


@pytest.mark.parametrize(
    ("old", "new", "another"),
    [
        ('"""A module."""', '"""Other words."""', False),
        ('"""A module."""', "", False),
        ('    """Text."""\n', "", False),
        ("from . import near", "from . import near  # why\n\n", False),
        ("{value} is above 3", "{value:.2f} is too much, {late}", False),
        ('f"{value} is above 3"', '"too much"', False),
        (", really", "!", False),
        ("value > 3", "value > 4", True),
        ("ValueError", "TypeError", True),
        (", 1)", ", 2)", True),
        ("import nothing", "import a thing", True),
        ("from . import near", "from . import nearer", True),
        ('    """Text."""\n', '    """Text."""\n    "Text."\n', True),
    ],
)
def test_words_for_readers_are_no_part_of_the_meaning(old, new, another):
    assert old in SOURCE
    assert (meaning(SOURCE.replace(old, new)) != meaning(SOURCE)) == another


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A user's own modules: `mine` reaches `helper`, which reaches back, and NumPy; `other` is nobody's concern."""
    texts = {
        "mine_of_test.py": "from box_of_test.helper import value\nfrom mae_helpers.perturbations.levels import Clean\n",
        "box_of_test/__init__.py": "",
        "box_of_test/helper.py": "import numpy\nimport mine_of_test\nvalue = 1\n",
        "box_of_test/other.py": "import pandas\n",
        "room_of_test/plain.py": "from room_of_test import beside\n",  # no package, only a folder
        "room_of_test/beside.py": "",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def afresh(*modules) -> Code:
    code_behind.cache_clear()
    return code_behind(*modules)


def test_a_users_module_is_followed_across_folders_and_circles_without_being_imported(house):
    reached = set(afresh("mine_of_test").files)
    assert {"mine_of_test", "box_of_test", "box_of_test.helper", "mae_helpers.perturbations.levels"} <= reached
    assert "box_of_test.other" not in reached
    assert set(afresh("room_of_test.plain").files) == {"room_of_test.plain", "room_of_test.beside"}
    assert not {"mine_of_test", "box_of_test", "room_of_test"} & set(sys.modules)


def test_an_edit_of_what_is_reached_is_noticed_and_named_and_of_nothing_else(house):
    before = afresh("mine_of_test")
    (house / "box_of_test" / "other.py").write_text("edited = 1\n")
    (house / "box_of_test" / "helper.py").write_text("# said\nimport numpy\nimport mine_of_test\nvalue = 1\n")
    assert afresh("mine_of_test") == before
    (house / "box_of_test" / "helper.py").write_text("import numpy\nimport mine_of_test\nvalue = 2\n")
    after = afresh("mine_of_test")
    assert after.digest != before.digest
    assert before.difference(after) == "another box_of_test.helper"


def test_another_version_of_a_library_is_noticed_and_named():
    before = code_behind("mae_helpers.sweep.current")
    after = replace(before, libraries=before.libraries | {"torch": "0.1"})
    assert after.digest != before.digest
    assert before.difference(after) == f"torch 0.1 instead of {version('torch')}"
    missing = replace(before, libraries={name: there for name, there in before.libraries.items() if name != "timm"})
    assert before.difference(missing) == f"timm none instead of {version('timm')}"
    assert before.difference(before) == ""


def test_the_same_whatever_was_asked_before_and_without_torch():
    code = (
        "import sys; from mae_helpers.sweep.current import code_behind; "
        "print(code_behind('mae_helpers.sweep.recorded').digest, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [code_behind("mae_helpers.sweep.recorded").digest, "False"]


@pytest.mark.parametrize("name", ["__main__", "nowhere_at_all", "sys", "mae_helpers.images.sets.ImageSet"])
def test_a_module_without_a_file_is_refused(name):
    with pytest.raises(ValueError, match=f"module '{name}' has no file here"):
        code_behind(name)


def test_what_decides_a_cell_and_what_does_not():
    """Measures, models, images and the perturbation's own module do; figures, verdicts, pages and the scheduling do not."""
    reached = {name.removeprefix("mae_helpers.") for name in cells.code_of(Clean()).files}
    decide = {"sweep": ("recorded", "subjects"), "profile": ("settings", "machine"), "perturbations": ("levels",)}
    decide |= {"encoder": ("walk", "passes", "weights", "vit"), "measures": ("attention", "features")}
    decide |= {"images": ("sets", "layouts", "labels", "pixels")}
    assert {f"{room}.{one}" for room, files in decide.items() for one in files} <= reached
    assert (
        not {"sweep.sweep", "sweep.workers", "sweep.cells", "measures.alignment", "perturbations.corruptions"} & reached
    )
    assert not [name for name in reached if name.partition(".")[0] in ("figures", "verdicts", "run")]
    for kind, more in ((Corruption("fog", 1), "corruptions"), (CorruptedFiles("fog", 1, "", ""), "imagenet_c")):
        assert f"mae_helpers.perturbations.{more}" in cells.code_of(kind).files
    libraries = set(cells.code_of(Clean()).libraries)
    assert {"python", "torch", "timm", "numpy", "pillow", "scikit-image", "imagecorruptions-imaug"} <= libraries
    assert not {"matplotlib", "distributed", "papermill"} & libraries
