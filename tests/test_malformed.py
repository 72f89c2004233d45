"""Two hundred and more malformed inputs, drawn by hypothesis: each ends in a right result or in one clear error of ours.

An error is ours where its type is, where it was raised in `mae_helpers` itself, and where it says in a few lines which
file, entry or parameter it is about. Whatever is drawn runs no code and writes nothing: a canary tells.
"""

import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

import mae_helpers
from mae_helpers import notebooks, run
from mae_helpers.checkpoints import load_model
from mae_helpers.decoded import decoded
from mae_helpers.downloads import DownloadError
from mae_helpers.images import first_images, open_images
from mae_helpers.image_files import FORMATS, ImageError
from mae_helpers.kinds import fits, shown
from mae_helpers.notebooks import NotebookError
from mae_helpers.profiles import Images, Input, ProfileError, load_profile
from mae_helpers.weights import CheckpointError

OURS = Path(mae_helpers.__file__).parent
ERRORS = (ProfileError, ImageError, CheckpointError, NotebookError, DownloadError, ValueError)
LINES, LENGTH = 6, 3000  # a few lines: the largest part are paths of temporary folders


def drawn(count: int):
    """Settings of one kind of input: the same examples at every run, each within some seconds."""
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=timedelta(seconds=20),
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )


def outcome(act: Callable[[], object], *about: str) -> object:
    """What `act` gives, or None where it raises an error of ours that names one of `about`; anything else fails."""
    try:
        return act()
    except ERRORS as error:
        where = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        assert where.is_relative_to(OURS), f"{type(error).__name__} from the depths of {where}: {error}"
        told = str(error)
        assert any(name in told for name in about), f"{about} are not in: {told}"
        assert told.count("\n") <= LINES, told
        assert len(told) <= LENGTH, told
        return None


@contextmanager
def untouched(folder: Path) -> Iterator[Path]:
    """A canary that whatever is run inside would make; and no file beside it may come or go."""
    canary, before = folder / "canary", sorted(folder.iterdir())
    yield canary
    assert not canary.exists(), "something was executed"
    assert sorted(folder.iterdir()) == before, "something was written"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the tiny profile, its images and checkpoints, and a place for what is drawn."""
    from conftest import CLASSES, HEADS, TINY, make_vit

    root = tmp_path_factory.mktemp("malformed")
    generator = np.random.default_rng(1)
    for label in CLASSES:
        (root / "images" / label).mkdir(parents=True)
        for number in range(4):
            pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / label / f"{number:03d}.png")
    (root / "weights").mkdir()
    for seed, (model, head) in enumerate(HEADS.items()):
        save_file(make_vit(seed, **head).state_dict(), root / "weights" / f"{model}.safetensors")
    values = {
        "name": "tiny",
        "images": {"source": "folders", "folder": "images", "classes": CLASSES, "count": 12},
        "three_classes": CLASSES,
        "input": {"size": 32},
        "models": {
            model: {"checkpoint": f"weights/{model}.safetensors", "arguments": TINY | head}
            for model, head in HEADS.items()
        },
    }
    (root / "tiny.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return root


# --- profiles -------------------------------------------------------------------------------------------------------

ODD = st.one_of(
    st.sampled_from(
        [None, True, False, 0, -1, 3, 10**9, 10**400, -(10**30), 1.5, 1e308, float("nan"), float("inf"), float("-inf")]
    ),
    st.sampled_from(
        [[], {}, [None], [[]], ["cat", "cat"], {"a": 1}, {1: 2}, {None: []}, [1, "a", {}], [0.0, 0.5, 0.5]]
    ),
    st.sampled_from(
        ["", " ", "..", "/", "../../..", "tiny.yaml", "images", "/dev/null", "/nowhere", "a\nb", "~nobody/x"]
    ),
    st.sampled_from(
        ["x" * 5000, "x" * 300, "ß\u202e\u0301", "\x07", "a\0b", "${HOME:-x}", "${", "bundled:../../x", "hf-hub:a/b"]
    ),
    st.sampled_from(
        ["http://", "file:///etc/passwd", "https://a/..", "md5:zz", "shake_128:00", "sha256:", "all", "demo"]
    ),
    st.text(max_size=12),
)
ENTRIES = [
    *((name,) for name in ("name", "images", "input", "models", "three_classes", "second_images", "shifted_images")),
    *(
        (name,)
        for name in ("imagenet_c", "compute", "parameters", "title", "about", "same_as_paper", "path", "nonsense")
    ),
    *(("images", name) for name in ("source", "folder", "classes", "count", "labels", "split", "optional", "title")),
    *(("input", name) for name in ("size", "resize", "mean", "std", "extra")),
    *(("compute", name) for name in ("precision", "compile", "batch_size", "workers")),
    *(
        ("models", "mae_pretrained", name)
        for name in ("checkpoint", "model", "arguments", "url", "hash", "mean", "std")
    ),
    *(
        ("models", "mae_pretrained", "arguments", name)
        for name in ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "num_classes", "global_pool")
    ),
    *(
        ("models", "mae_pretrained", "arguments", name)
        for name in (
            "mlp_ratio",
            "class_token",
            "reg_tokens",
            "norm_layer",
            "pretrained",
            "checkpoint_path",
            "drop_rate",
        )
    ),
    ("models", "mae_pretrained"),
    ("models", ""),
    ("models", 3),
]
MUTATION = st.tuples(st.sampled_from(ENTRIES), st.one_of(ODD, st.just(KeyError)))
MERGES = "\n".join(f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}]}}" for n in range(1, 40))
LAUGHS = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))
TEXTS = {
    "bomb": lambda good: f"a0: &a0 [x]\n{LAUGHS}\nname: *a11\n{good}".encode(),
    "merges": lambda good: f"m0: &m0 {{x: 1}}\n{MERGES}\n{good}".encode(),
    "itself": lambda good: good.replace("name: tiny", "name: &a [*a]").encode(),
    "twice": lambda good: (good + "input: {size: 64}\n").encode(),
    "tag system": lambda good: (good + "about: !!python/object/apply:os.system ['touch CANARY']\n").encode(),
    "tag name": lambda good: (good + "about: !!python/name:os.system\n").encode(),
    "tag int": lambda good: good.replace("size: 32", "size: !!int x").encode(),
    "tag bool": lambda good: good.replace("size: 32", "size: !!bool x").encode(),
    "tag set": lambda good: good.replace("size: 32", "size: !!set {a, b}").encode(),
    "date": lambda good: good.replace("name: tiny", "name: 2024-02-31").encode(),
    "long": lambda good: good.replace("size: 32", f"size: {'9' * 6000}").encode(),
    "deep": lambda good: (good + f"about: {'[' * 3000}{']' * 3000}\n").encode(),
    "surrogate": lambda good: good.replace("name: tiny", 'name: "\\ud800"').encode(),
    "two documents": lambda good: f"{good}---\n{good}".encode(),
    "utf-16": lambda good: good.encode("utf-16"),
    "utf-16 without mark": lambda good: good.encode("utf-16-le"),
    "latin-1": lambda good: good.replace("name: tiny", "name: Grün").encode("latin-1"),
    "tabs": lambda good: good.replace("  ", "\t").encode(),
    "cut": lambda good: good.encode()[: len(good) // 2],
    "list": lambda good: b"- a\n- b\n",
    "word": lambda good: b"tiny",
    "nothing": lambda good: b"",
    "zeros": lambda good: bytes(64),
}


def altered(values: dict, path: tuple, value: object) -> dict:
    """A copy of nested `values` with the entry at `path` replaced, or taken away where the value is KeyError."""
    head, *rest = path
    copy = dict(values)
    if rest:
        inner = copy.get(head)
        copy[head] = altered(inner if isinstance(inner, dict) else {}, tuple(rest), value)
    elif value is KeyError:
        copy.pop(head, None)
    else:
        copy[head] = value
    return copy


def used(path: Path) -> object:
    """A profile with its first image and its model, as a run would open them."""
    profile = load_profile(path)
    images = first_images(profile)
    images.tensor([0])
    return profile, images, load_model(profile, "mae_pretrained")


@drawn(130)
@given(st.lists(MUTATION, min_size=1, max_size=2))
def test_a_profile_with_odd_entries_is_right_or_refused(home, mutations):
    values = good = yaml.safe_load((home / "tiny.yaml").read_text())
    for place, value in mutations:
        values = altered(values, place, value)
    path = home / "odd.yaml"
    path.write_text(yaml.dump(values, sort_keys=False, allow_unicode=False))
    try:
        with untouched(home):
            found = outcome(lambda: used(path), "odd.yaml", str(home), *known_places(values))
    finally:
        path.unlink()
    if found is None:
        return
    profile, images, model = found
    assert profile.name == values["name"]
    assert profile.input.size == values["input"]["size"]
    assert profile.images.classes == values["images"].get("classes", [])
    assert images.image(0).size == (profile.input.size,) * 2
    assert len(images) == values["images"].get("count", 12)
    weights = load_file(home / good["models"]["mae_pretrained"]["checkpoint"])
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in weights.items())


def known_places(values: object) -> list[str]:
    """What a message may name beside the profile's own file: the places and values in it, as messages show them."""
    images, model = ((values.get(key) or {}) if isinstance(values, dict) else {} for key in ("images", "models"))
    model = model.get("mae_pretrained") or {} if isinstance(model, dict) else {}
    entries = [
        *(images.values() if isinstance(images, dict) else ()),
        *(model.values() if isinstance(model, dict) else ()),
    ]
    told = [value for value in entries if isinstance(value, str) and value.strip()]
    return [*told, *(shown(value)[1:-1] for value in told), "VisionTransformer", "bundled", "class", "digits"]


@drawn(2 * len(TEXTS))
@given(st.sampled_from(sorted(TEXTS)))
def test_a_file_that_is_hardly_a_profile_is_right_or_refused(home, name):
    path, good = home / "odd.yaml", (home / "tiny.yaml").read_text()
    path.write_bytes(TEXTS[name](good).replace(b"CANARY", str(home / "canary").encode()))
    try:
        with untouched(home):
            profile = outcome(lambda: load_profile(path), "odd.yaml")
    finally:
        path.unlink()
    assert (profile is not None) == (name in ("utf-16",)), "only a mark says that a file is in UTF-16"
    if profile:
        same = load_profile(home / "tiny.yaml")
        assert vars(profile) | {"path": None} == vars(same) | {"path": None}


@pytest.mark.parametrize("name", ["", ".", "..", "/", "x" * 5000, "a\0b", "~nobody/x", "\n", "../demo", "/dev/null"])
def test_a_name_of_no_profile_is_refused(name):
    with pytest.raises(ProfileError, match="unknown profile"):
        load_profile(name)
