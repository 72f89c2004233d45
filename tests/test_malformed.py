"""Two hundred and more malformed inputs, drawn by hypothesis: each ends in a right result or in one clear error of ours.

An error is ours where its type is, where it was raised in `mae_helpers` itself, and where it says in a few lines which
file, entry or parameter it is about. Whatever is drawn runs no code and writes nothing: a canary tells.
"""

import contextlib
import io
import json
import os
import pickle
import re
import shutil
import struct
import tarfile
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import papermill
import pytest
import torch
import yaml
from conftest import write_tiny
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

import mae_helpers
from mae_helpers.encoder.weights import CheckpointError, load_model
from mae_helpers.images.pixels import ImageError
from mae_helpers.images.sets import first_images, open_images
from mae_helpers.profile.parameters import check_parameter, parse_value, shown
from mae_helpers.profile.settings import Images, Input, ProfileError, load_profile
from mae_helpers.run import command as run
from mae_helpers.run import notebooks
from mae_helpers.run.notebooks import NotebookError

OURS = Path(mae_helpers.__file__).parent
ERRORS = (ProfileError, ImageError, CheckpointError, NotebookError, ValueError)
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
        check_error(error, *about)
    return None


def check_error(caught: BaseException, *about: str) -> None:
    """It is one of ours, raised in our code, and names one of `about` in a few lines."""
    assert isinstance(caught, ERRORS), repr(caught)
    where, told = Path(traceback.extract_tb(caught.__traceback__)[-1].filename), str(caught)
    assert where.is_relative_to(OURS), f"{type(caught).__name__} from the depths of {where}: {told}"
    assert any(name in told for name in about), f"{about} are not in: {told}"
    assert told.count("\n") <= LINES, told
    assert len(told) <= LENGTH, told


@contextlib.contextmanager
def untouched(folder: Path) -> Iterator[Path]:
    """A canary that whatever is run inside would make; and no file beside it may come or go."""
    canary, before = folder / "canary", sorted(folder.iterdir())
    yield canary
    assert not canary.exists(), "something was executed"
    assert sorted(folder.iterdir()) == before, "something was written"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the tiny profile, its images and checkpoints, and a place for what is drawn."""
    root = tmp_path_factory.mktemp("malformed")
    write_tiny(root)
    return root


# --- profiles -------------------------------------------------------------------------------------------------------

ODD = [
    *(None, True, False, 0, -1, 3, 10**9, 10**400, -(10**30), 1.5, 1e308, float("nan"), float("inf"), float("-inf")),
    *([], {}, [None], [[]], ["cat", "cat"], {"a": 1}, {1: 2}, {None: []}, [1, "a", {}], [0.0, 0.5, 0.5], b"\xff"),
    *("", " ", "..", "/", "../../..", "tiny.yaml", "images", "/dev/null", "/nowhere", "a\nb", "~nobody/x"),
    *("x" * 5000, "x" * 300, "ß\u202e\u0301", "\x07", "a\0b", "${HOME:-x}", "${", "bundled:../../x", "hf-hub:a/b"),
    *("http://", "file:///etc/passwd", "https://a/..", "md5:zz", "shake_128:00", "sha256:", "all", "demo"),
]
KEYS = {  # by the part of a profile that they stand in
    "": "name images input models three_classes second_images shifted_images imagenet_c compute parameters title about "
    "same_as_paper path nonsense",
    "images": "source folder classes count labels split optional title",
    "input": "size resize mean std extra",
    "compute": "precision compile batch_size workers",
    "models.mae_pretrained": "checkpoint model arguments url hash mean std",
    "models.mae_pretrained.arguments": "img_size patch_size embed_dim depth num_heads num_classes global_pool mlp_ratio "
    "class_token reg_tokens norm_layer pretrained checkpoint_path drop_rate",
}
ENTRIES = [tuple(filter(None, [*part.split("."), name])) for part, names in KEYS.items() for name in names.split()]
ENTRIES += [("models", "mae_pretrained"), ("models", ""), ("models", 3)]
MUTATION = st.tuples(st.sampled_from(ENTRIES), st.one_of(st.sampled_from([*ODD, KeyError]), st.text(max_size=12)))
MERGES = "\n".join(f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}]}}" for n in range(1, 40))
LAUGHS = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))
UNREAD = "not valid YAML"
TEXTS = {  # a good profile, altered, and what is said of it; None where it is still right
    "bomb": (lambda good: f"a0: &a0 [x]\n{LAUGHS}\n{good.replace('name: tiny', 'name: *a11')}", UNREAD),
    "merges": (lambda good: f"m0: &m0 {{x: 1}}\n{MERGES}\n{good}", UNREAD),
    "itself": (lambda good: good.replace("name: tiny", "name: &a [*a]"), UNREAD + ": it holds itself through an alias"),
    "twice": (lambda good: good + "input: {size: 64}\n", UNREAD + ": the key 'input' stands twice in one mapping"),
    "tag system": (lambda good: good + "about: !!python/object/apply:os.system ['touch CANARY']\n", UNREAD),
    "tag name": (lambda good: good + "about: !!python/name:os.system\n", UNREAD),
    "tag int": (lambda good: good.replace("size: 32", "size: !!int x"), UNREAD),
    "tag bool": (lambda good: good.replace("size: 32", "size: !!bool x"), UNREAD),
    "tag set": (lambda good: good.replace("size: 32", "size: !!set {a, b}"), "input.size is "),
    "date": (lambda good: good.replace("name: tiny", "name: 2024-02-31"), UNREAD),
    "long": (lambda good: good.replace("size: 32", f"size: {'9' * 6000}"), UNREAD),
    "deep": (lambda good: good + f"about: {'[' * 3000}{']' * 3000}\n", UNREAD + ": nested too deeply"),
    "surrogate": (lambda good: good.replace("name: tiny", 'name: "\\ud800"'), UNREAD),
    "two documents": (lambda good: f"{good}---\n{good}", UNREAD),
    "utf-16": (lambda good: good.encode("utf-16"), None),
    "utf-16 without mark": (lambda good: good.encode("utf-16-le"), UNREAD),
    "byte order mark": (lambda good: good.encode("utf-8-sig"), None),
    "latin-1": (lambda good: good.replace("name: tiny", "name: Grün").encode("latin-1"), UNREAD),
    "tabs": (lambda good: good.replace("  ", "\t"), UNREAD),
    "cut": (lambda good: good[: good.index("three_classes") + 5], UNREAD),
    "list": (lambda good: "- a\n- b\n", "is ['a', 'b']; use a mapping"),
    "word": (lambda good: "tiny", "is 'tiny'; use a mapping"),
    "nothing": (lambda good: "", "is None; use a mapping"),
    "zeros": (lambda good: bytes(64), UNREAD),
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
    entries = [value for part in (images, model) if isinstance(part, dict) for value in part.values()]
    told = [value for value in entries if isinstance(value, str) and value.strip()]
    return [*told, *(shown(value)[1:-1] for value in told), "VisionTransformer", "bundled", "class", "digits"]


@pytest.mark.parametrize("name", TEXTS)
def test_a_file_that_is_hardly_a_profile_is_right_or_refused(home, name):
    path, (alter, told) = home / "odd.yaml", TEXTS[name]
    content = alter((home / "tiny.yaml").read_text())
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(content.replace(b"CANARY", str(home / "canary").encode()))
    try:
        with untouched(home):
            profile = outcome(lambda: load_profile(path), f"{path}: {told}")
    finally:
        path.unlink()
    assert (profile is None) == (told is not None)
    if profile:
        same = load_profile(home / "tiny.yaml")
        assert profile == same.model_copy(update={"path": profile.path})


NO_NAMES = ["papr", "", ".", "..", "/", "x" * 5000, "a\0b", "~nobody/x", "\n", "../demo", "/dev/null"]


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_of_no_profile_is_refused(name):
    with pytest.raises(
        ProfileError, match=r"unknown profile '.*: neither a bundled one \(atlas, demo, paper\) nor a YAML file"
    ):
        load_profile(name)


# --- images ---------------------------------------------------------------------------------------------------------

SIDE = 16
GENERATOR = np.random.default_rng(2)
GREY = np.add.outer(np.arange(20), np.arange(24)).astype(np.uint8) * 5
COLOURS = GENERATOR.integers(0, 256, (20, 24, 3), dtype=np.uint8)
PICTURE = Image.fromarray(COLOURS)

NARROW = PICTURE.resize((1, 400_000))
TWO = {"save_all": True, "append_images": [PICTURE.rotate(180)]}


def file_of(image: Image.Image, kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def turned() -> bytes:
    tags = Image.Exif()
    tags[0x0112] = 6  # turn by 90 degrees to look at it
    return file_of(PICTURE, "PNG", exif=tags)


def declared(width: int, height: int) -> bytes:
    """A PNG whose header says another size than its pixels have."""
    content = bytearray(file_of(PICTURE, "PNG"))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


PLAIN = {name: file_of(PICTURE, name) for name in ("PNG", "BMP", "TIFF", "PPM")}
RIGHT = {  # what is in the file, and the pixels that are right
    **{name: (content, PICTURE) for name, content in PLAIN.items()},
    "JPEG": (file_of(PICTURE, "JPEG"), None),  # None: whatever Pillow decodes
    "CMYK": (file_of(PICTURE.convert("CMYK"), "JPEG"), None),
    "grey JPEG": (file_of(Image.fromarray(GREY), "JPEG"), None),
    "palette": (file_of(PICTURE.quantize(16), "PNG", transparency=3), PICTURE.quantize(16).convert("RGB")),
    "grey": (file_of(Image.fromarray(GREY), "PNG"), Image.fromarray(GREY).convert("RGB")),
    "1 bit": (file_of(Image.fromarray(GREY > 60), "PNG"), None),
    "16 bit": (file_of(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"), Image.fromarray(GREY).convert("RGB")),
    "alpha": (file_of(Image.fromarray(np.dstack([COLOURS, GREY])), "PNG"), PICTURE),
    "animated": (file_of(PICTURE, "GIF", **TWO), None),
    "animated WebP": (file_of(PICTURE, "WEBP", lossless=True, **TWO), None),
    "turned by EXIF": (turned(), PICTURE),
    "1 x 1": (file_of(PICTURE.crop((0, 0, 1, 1)), "PNG"), PICTURE.crop((0, 0, 1, 1))),
    "narrow": (file_of(NARROW, "PNG"), NARROW),
}
REFUSED = {
    "empty": b"",
    "text": b"not a picture\n" * 20,
    "zeros": bytes(2000),
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(CANARY) (w) file closefile\nshowpage\n%%EOF\n",
    "PDF": b"%PDF-1.4\n%%EOF\n",
    "pickle": pickle.dumps({"a": 1}),
    "zip": b"PK\x03\x04" + bytes(60),
    "declares 20000 x 20000": declared(20_000, 20_000),
    "declares 10000 x 10000": declared(10_000, 10_000),
    "declares 2 ** 31": declared(2**31 - 1, 2**31 - 1),
    "declares nothing": declared(0, 0),
    "floating point": file_of(Image.fromarray(GREY.astype(np.float32) / 255), "TIFF"),
    "32 bit": file_of(Image.fromarray(GREY.astype(np.int32) * 100_000), "TIFF"),
}
NAMES = [
    *("a.jpg", "a.PNG", "a b.png", "ü\u0301\u202e.png", "a\nb.webp", "'; rm x.tif", "%s{0}.jpeg", "-.png"),
    "x" * 200 + ".bmp",
]


def opened(folder: Path, how: str = "squash"):
    """The images of a folder, and the first of them as the model would see it."""
    source = "tar" if folder.suffix == ".tar" else "folders"
    images = open_images(Images(source=source, folder=str(folder), classes="all"), Input(size=SIDE, resize=how))
    return images, images.image(0)


def expected(content: bytes, pixels: Image.Image | None) -> np.ndarray:
    """Pillow's own decoding, at the model's size."""
    pixels = pixels or Image.open(io.BytesIO(content)).convert("RGB")
    return np.asarray(pixels.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("how", ["squash", "crop"])
@pytest.mark.parametrize("kind", [*RIGHT, *REFUSED])
def test_an_odd_image_has_pillows_pixels_or_is_refused(tmp_path, kind, how):
    (tmp_path / "cat").mkdir()
    content, pixels = RIGHT.get(kind) or (REFUSED[kind].replace(b"CANARY", str(tmp_path / "canary").encode()), None)
    name = NAMES[list(RIGHT | REFUSED).index(kind) % len(NAMES)]
    (tmp_path / "cat" / name).write_bytes(content)
    with untouched(tmp_path), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # goes with the error, does not stand for it
        found = outcome(lambda: opened(tmp_path, how), str(tmp_path / "cat" / name))
    if found is None:
        assert kind in REFUSED or (kind, how) == ("narrow", "crop")
        return
    assert kind in RIGHT
    assert found[0].ids == [f"cat/{name}"]
    assert (found[1].mode, found[1].size) == ("RGB", (SIDE, SIDE))
    if how == "squash":
        assert np.array_equal(np.asarray(found[1]), expected(content, pixels))


@drawn(40)
@given(st.sampled_from(sorted(set(RIGHT) - {"1 bit"})), st.floats(0, 1), st.integers(0, 255))
def test_a_damaged_image_is_refused_or_is_what_pillow_reads(tmp_path_factory, kind, place, byte):
    root = tmp_path_factory.mktemp("odd")
    (root / "cat").mkdir()
    content = bytearray(RIGHT[kind][0])
    if byte % 2:
        content[min(int(place * len(content)), len(content) - 1)] ^= byte
    else:
        content = content[: int(place * len(content))]
    (root / "cat" / "a.png").write_bytes(bytes(content))
    with untouched(root), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = outcome(lambda: opened(root), "a.png")
        if found is not None and RIGHT[kind][1] is None:
            assert np.array_equal(np.asarray(found[1]), expected(bytes(content), None))


NO_FILES: dict[str, Callable[[Path], object]] = {  # what stands in the place of an image file
    "folder": Path.mkdir,
    "dangling": lambda odd: odd.symlink_to("nowhere"),
    "loop": lambda odd: odd.symlink_to(odd),
    "pipe": os.mkfifo,
    "device": lambda odd: odd.symlink_to("/dev/zero"),
    "bytes": lambda odd: odd.with_name(os.fsdecode(b"\xff\xfe.jpg")).write_bytes(PLAIN["PNG"]),
    "class": lambda odd: (odd.parent.rmdir(), odd.parent.write_bytes(PLAIN["PNG"])),
    "link": lambda odd: (
        (odd.parents[1] / "b.png").write_bytes(PLAIN["PNG"]),
        odd.symlink_to(odd.parents[1] / "b.png"),
    ),
}


@pytest.mark.parametrize("how", NO_FILES)
def test_what_is_no_file_is_refused(tmp_path, how):
    (tmp_path / "cat").mkdir()
    NO_FILES[how](tmp_path / "cat" / "a.jpg")
    found = outcome(lambda: opened(tmp_path), str(tmp_path))
    assert (found is not None) == (how == "link"), "a link to a good image is one"


# --- archives -------------------------------------------------------------------------------------------------------


def member(name: str, content: bytes = PLAIN["PNG"], **entries: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in entries.items():
        setattr(info, key, value)
    return info, content


MEMBERS = {
    "good": member("cat/z.png"),
    "climbs": member("cat/../../../a.png"),
    "climbs at once": member("../a.png"),
    "absolute": member("/tmp/a.png"),
    "symbolic link": member("cat/a.png", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard link": member("cat/a.png", b"", type=tarfile.LNKTYPE, linkname="cat/z.png"),
    "device": member("cat/a.png", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "pipe": member("cat/a.png", b"", type=tarfile.FIFOTYPE),
    "sparse": member("cat/a.png", type=tarfile.GNUTYPE_SPARSE),
    "folder": member("cat/a.png", b"", type=tarfile.DIRTYPE),
    "odd name": member("cat/\udcff.png"),
    "newline": member("cat/a\nb.png"),
    "label": member("cat/z.cls", b"12"),
    "long label": member("cat/z.cls", b"9" * 5000),
    "negative label": member("cat/z.cls", b"-1"),
    "inner archive that is none": member("inner.tar", b"nothing of the kind" * 40),
    "no image": member("cat/a.png", b"not a picture"),
    "twice": member("cat/z.png", PLAIN["BMP"]),
}
HARMLESS = {"good", "folder", "newline", "label"}


@pytest.mark.parametrize("name", MEMBERS)
def test_an_odd_member_of_an_archive_is_right_or_refused(tmp_path, name):
    """Each beside a good one, and beside each other."""
    archive, right = tmp_path / "all.tar", expected(PLAIN["PNG"], PICTURE)

    def look() -> list[np.ndarray]:
        images, _ = opened(archive)
        return [np.asarray(images.image(row)) for row in range(len(images))]

    for other in MEMBERS:
        names = {"good", name, other}
        with tarfile.open(archive, "w") as file:
            for info, content in (MEMBERS[one] for one in MEMBERS if one in names):
                file.addfile(info, io.BytesIO(content))
        with untouched(tmp_path):
            found = outcome(look, "all.tar")
        assert (found is not None) == (names <= HARMLESS and not {"label", "newline"} <= names)
        assert found is None or len(found) == 1 + ("newline" in names)
        assert all(np.array_equal(one, right) for one in found or ())


# --- checkpoints ----------------------------------------------------------------------------------------------------


TENSOR = "blocks.1.attn.qkv.weight"


def with_tensor(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict], dict]:
    return lambda w: w | {TENSOR: change(w[TENSOR])}


def poked(value: float) -> Callable[[dict], dict]:
    return with_tensor(lambda t: t.double().index_fill(0, torch.tensor(3), value))


def bombed(content: bytes) -> bytes:
    """With a member of a zip that unpacks to a thousand times its size."""
    packed_anew = io.BytesIO(content)
    with zipfile.ZipFile(packed_anew, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data/99", bytes(60_000_000))
    return packed_anew.getvalue()


TENSORS = {  # a state dict, altered, and whether it is still the same model
    "whole": (lambda w: w, True),
    "float64": (lambda w: {key: value.double() for key, value in w.items()}, True),
    "NaN": (poked(float("nan")), False),
    "infinite": (poked(float("-inf")), False),
    "too large for float32": (poked(1e300), False),
    "int8": (with_tensor(lambda t: (t * 10).to(torch.int8)), False),
    "bool": (with_tensor(lambda t: t > 0), False),
    "complex": (with_tensor(lambda t: t.to(torch.complex64)), False),
    "turned": (with_tensor(lambda t: t.T.contiguous()), False),
    "flat": (with_tensor(lambda t: t.flatten()), False),
    "no number": (with_tensor(lambda t: t[:0]), False),
    "a scalar": (with_tensor(lambda t: t[0, 0].clone()), False),
    "empty": (lambda w: {}, False),
    "prefix": (lambda w: {f"module.{key}": value for key, value in w.items()}, True),
    "surplus": (lambda w: w | {"x" * 3000 + "\n": torch.zeros(1)}, False),
    "missing": (lambda w: dict(list(w.items())[1:]), False),
}
PICKLES = {  # what else a pickle may hold
    "nested": (lambda w: {"model": w, "args": None}, True),
    "nested twice": (lambda w: {"model": {"model": w}}, True),
    "list": (lambda w: list(w.values()), False),
    "number": (lambda w: 3, False),
    "None": (lambda w: None, False),
    "numbers for keys": (lambda w: dict(enumerate(w.values())), False),
    "sparse": (with_tensor(lambda t: t.to_sparse()), False),
    "meta": (with_tensor(lambda t: t.to("meta")), False),
    "spread": (with_tensor(lambda t: torch.zeros(1).expand(10**12)), False),
    "half spread": (with_tensor(lambda t: torch.zeros(1, dtype=torch.float16).expand(10**12)), False),
    "module": (lambda w: torch.nn.Linear(2, 2), False),
    "a name": (lambda w: {"model": "vit", "state": w}, False),
    "nothing": (lambda w: {"model": None}, False),
}
BYTES = {
    "no byte": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "last byte": lambda content: content[:-1],
    "more": lambda content: content + b"more",
    "header of all": lambda content: struct.pack("<Q", 2**63) + content[8:],
    "header too short": lambda content: struct.pack("<Q", 7) + content[8:],
    "header of nothing": lambda content: struct.pack("<Q", 0) + content[8:],
    "header is no JSON": lambda content: content[:8] + b"[" * 100 + content[108:],
    "text": lambda content: b"version https://example.org\noid sha256:00\nsize 3\n",
    "page": lambda content: b"<!DOCTYPE html><html>no such file</html>",
    "zip bomb": bombed,
}


TOLD = {  # what else a message says
    "NaN": f"{TENSOR} has 24 numbers that are NaN or infinite in float32",
    "int8": f"does not fit the model: {TENSOR} holds torch.int8, expected floating point",
    "flat": f"does not fit the model: size mismatch for {TENSOR}",
    "a name": "'model': str, 'state': dict found; expected tensors by name, flat or under one of model_ema, ",
    "folder": "a folder without config.json",
    "list": "None: list found; expected tensors by name",
    "numbers for keys": "0: Tensor, 1: Tensor, 2: Tensor and ",
    "cut": "not a readable checkpoint",
}


def write_checkpoint(path: Path, kind: str, good: dict) -> bool | None:
    """Write an odd checkpoint; returns whether it is still the same model, None where that is the reader's to say."""
    change, right = (TENSORS | PICKLES).get(kind, (lambda w: w, False))
    weights, safe = change(dict(good)), path.suffix == ".safetensors"
    save_file({key: value.contiguous() for key, value in weights.items()}, path) if safe else torch.save(weights, path)
    if kind in BYTES:
        path.write_bytes(BYTES[kind](path.read_bytes()))
    return None if kind == "more" else right  # of a zip some readers look from its end, and find the whole


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        *((kind, suffix) for kind in [*TENSORS, *BYTES, "folder"] for suffix in (".safetensors", ".pth")),
        *((kind, ".pth") for kind in PICKLES),
    ],
)
def test_an_odd_checkpoint_is_the_same_model_or_refused(home, kind, suffix):
    path, profile = home / f"odd{suffix}", home / "odd.yaml"
    good = load_file(home / "weights" / "mae_pretrained.safetensors")
    right = path.mkdir() or False if kind == "folder" else write_checkpoint(path, kind, good)
    profile.write_text((home / "tiny.yaml").read_text().replace("weights/mae_pretrained.safetensors", path.name))
    try:
        with untouched(home):
            model = outcome(
                lambda: load_model(load_profile(profile), "mae_pretrained"), f"{path}: {TOLD.get(kind, '')}"
            )
    finally:
        profile.unlink()
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert right is None or (model is not None) == right
    if model is not None:
        found = model.state_dict()
        assert all(torch.equal(found[key], value) for key, value in good.items())


# --- parameters -----------------------------------------------------------------------------------------------------

CHAPTERS = {path.stem: notebooks.parameters_of(path) for path in notebooks.find([])}
PARAMETERS = sorted((stem, name) for stem, values in CHAPTERS.items() for name in values if name != "scheduler")
VALUES = [
    *("", " ", "null", "~", "None", "true", "no", "0", "-1", "1", "2", "1000000000", "-0.0", "0.5", "1.5"),
    *(".nan", ".inf", "-.inf", "nan", "inf", "1e400", "9" * 5000, "0x10", "1_0", "1:30", "0b_", "2024-02-31"),
    *("[]", "[1]", "[1, 1]", "[1, [2]]", "[null]", "[true]", "['I']", "[I, XI]", "[50, 101]", "[.nan]", "[0]"),
    *("{}", "{a: 1}", "{1: 2}", "&a [*a]", "[" * 2000, "[1, 2", "'", '"', "!!python/name:os.system", "!!int x"),
    *("__import__('os').system('touch CANARY')", "!!python/object/apply:os.system ['touch CANARY']"),
    *("$(touch CANARY)", "x; touch CANARY", "../..", "/dev/null", "a\nb", "x" * 5000, "\ud800", "a\0b", "ß"),
]


def in_process(failures: list[BaseException], name: str) -> Callable[..., None]:
    """In the place of papermill: a chapter's cells up to the last that reads the parameter `name` or checks all of them, here."""

    def execute(source: Path, target: Path, parameters: dict, *others: object) -> None:
        cells = [cell for cell in nbformat.read(source, 4).cells if cell.cell_type == "code"]
        reading = [place for place, cell in enumerate(cells) if re.search(rf"\b{name}\b|of_notebook", cell.source)]
        names: dict[str, object] = {}
        try:
            for cell in cells[: max(reading) + 1]:
                exec(compile(cell.source, source.stem, "exec"), names)
                if "parameters" in cell.metadata.get("tags", []):
                    injected = papermill.translators.PythonTranslator.codify(parameters)
                    exec(compile(injected, source.stem, "exec"), names)
        except Exception as error:
            failures.append(error)
            raise NotebookError(f"{source.stem}: {type(error).__name__}: {error}") from error

    return execute


@pytest.fixture(scope="module")
def small(home):
    """The tiny profile with parameters that make its chapters run in a moment."""
    values = yaml.safe_load((home / "tiny.yaml").read_text())
    counts = {"images_per_class": 4, "test_images_per_class": 4}
    counts |= {"corruption_images_per_class": 1, "perplexity": 2, "patch_perplexity": 4, "tsne_patches": 2, "masks": 3}
    parameters = counts | {"k": 3, "other_k": [2], "orders": 2}
    path = home / "small.yaml"
    path.write_text(yaml.safe_dump(values | {"name": "small", "parameters": parameters}))
    return path


@drawn(100)
@given(st.sampled_from(PARAMETERS), st.one_of(st.sampled_from(VALUES), st.text(max_size=8)))
def test_an_odd_parameter_is_taken_or_refused(small, home, tmp_path_factory, which, text):
    (stem, name), failures, told = which, [], io.StringIO()
    out = tmp_path_factory.mktemp("out")
    text = text.replace("CANARY", str(home / "canary"))
    options = ["--profile", str(small), "--device", "cpu", "--jobs", "1", "--no-book"]
    options += ["--out", str(out), "--results", str(out)]
    with untouched(home), pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(told):
        patch.setattr(notebooks, "execute", in_process(failures, name))
        patch.setattr(plt, "show", lambda: None)
        try:
            status = run.main([stem, "-p", name, text, *options])
        except SystemExit:  # argparse takes such a value for an option, and says so
            assert text.startswith("-")
            assert "argument" in told.getvalue()
            return
    plt.close("all")
    if failures:
        check_error(failures[0], name, "take more", *map(str, said_of(text)))
    elif status:
        assert re.search(rf"error: parameter '{name}' is .*; use", told.getvalue()), told.getvalue()
        assert len(told.getvalue()) < LENGTH
    else:
        entries = json.loads((out / "small" / "run.json").read_text())["notebooks"][stem]["parameters"]
        said = None if text == "None" else yaml.safe_load(text) if text.strip() else text
        assert entries[name] in (said, [said]), "one value stands for a list of one"


def said_of(text: str) -> list[object]:
    """How a message may show a value that was given as `text`: as such, by its repr, or by its entries."""
    value = parse_value(text)
    return [text, value, repr(value), *(map(repr, value) if isinstance(value, list) else ())]


@pytest.mark.parametrize(
    ("name", "option"), [("profile", "--profile"), ("device", "--device"), ("results_folder", "--results")]
)
def test_what_holds_for_the_whole_run_is_no_parameter(name, option):
    """A chapter on another profile than the run's would put its numbers into the wrong folder."""
    with pytest.raises(NotebookError, match=f"'{name}' is that of the whole run; use the option {option}"):
        notebooks.choose_parameters(notebooks.find(["05"]), {name: "demo"})


@pytest.mark.parametrize("name", ["x" * 5000, "", "images_per_clas", "seed ", "__class__"])
def test_an_unknown_parameter_is_refused(name):
    with pytest.raises(NotebookError, match="is unknown to"):
        notebooks.choose_parameters(notebooks.find(["05"]), {name: 1})


def test_all_values_of_the_chapters_and_of_the_papers_profile_are_of_their_kind():
    notebooks.choose_parameters(notebooks.find([]), {}, load_profile("paper").parameters)
    for path in notebooks.find([]):
        defaults = {name: value for name, value in CHAPTERS[path.stem].items() if name not in notebooks.OPTIONS}
        assert notebooks.choose_parameters([path], defaults)[path] == defaults


FITTING = [  # a parameter's name, its default, values that fit and values that do not
    ("a", 3, [1.0], [True, 1.5, 10**400, None, 0]),
    ("a", True, [], [1]),
    ("a", 0.5, [1], [float("nan"), 10**400]),
    ("a", None, [None], []),
    ("a", "a", [], [{"a": []}]),
    ("a", ["a"], [["a"], "a"], [1, None]),
    ("a", [0.5], [[1, 2.5]], []),
    ("a", [1], [], [[1, 2.5]]),
    ("seed", 10, [0], [2**32]),
    ("perplexity", 10, [2.5], []),
    ("occlusion_percents", [0, 10], [[0, 12.5]], []),
    ("few_images_per_class", 10, [None], []),
    ("scheduler", 10, [2, "tcp://there:8786"], [0, [2]]),
]


@pytest.mark.parametrize(("name", "default", "fitting", "strange"), FITTING)
def test_a_parameter_is_of_the_kind_of_its_default_or_of_its_own(name, default, fitting, strange):
    """A whole number is a number, and true is none; some names take more than their default tells."""
    for value in fitting:
        check_parameter(name, value, [default])
    for value in strange:
        with pytest.raises(ValueError, match=rf"parameter '{name}' is .*; use [a-z ]+"):
            check_parameter(name, value, [default])


def test_a_value_is_shown_in_one_line_whatever_it_is():
    deep: list = []
    for _ in range(500):
        deep = [deep, deep]
    for value in (deep, "x\n" * 10**6, 10**10**4, {n: n for n in range(10**5)}):
        assert len(shown(value)) < 1000
        assert "\n" not in shown(value)
