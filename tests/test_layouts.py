"""Layouts: the same images in the same order, with the same classes and pixels, however they lie on a disk."""

import io
import json
import os
import shutil
import tarfile

import numpy as np
import photographs
import pytest
from photographs import EACH, PAPER, opened
from PIL import Image

from mae_helpers.images.labels import wordnet_ids
from mae_helpers.images.pixels import SUFFIXES, ImageError, resize
from mae_helpers.images.sets import open_images
from mae_helpers.profile.settings import Images, Input

DOG, BALL, VAN = "n02106662", "n02782093", "n03788195"
THREE = [VAN, DOG, BALL]


def build(flat, root):
    """The images of a flat folder in every layout: {name: folder or file}."""
    photographs.write_kaggle(flat.parent / "LOC_val_solution.csv")
    tars = photographs.write_class_tars(flat, root / "tars")
    inner = {path.name: path.read_bytes() for path in sorted(tars.iterdir())}
    everything = {name: (flat / name).read_bytes() for name in photographs.validation_names()}
    bare = photographs.write_tar(root / "bare" / "ILSVRC2012_img_val.tar", everything)
    shutil.copy(flat.parent / "LOC_val_solution.csv", bare.parent)
    return {
        "folders": photographs.write_folders(flat, root / "folders"),
        "flat": flat,
        "one tar": photographs.write_class_tar(flat, root / "one" / "val.tar"),
        "a tar a class": tars,
        "a tar a class, with ./": photographs.write_class_tars(flat, root / "dotted", "./"),
        "a tar of tars": photographs.write_tar(root / "nested" / "train.tar", inner),
        "a tar without folders": bare,
        "shards": photographs.write_shards(flat, root / "shards"),
        "shards, with ./": photographs.write_shards(flat, root / "dotted shards", "./"),
    }


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The same thirty photographs in every layout."""
    root = tmp_path_factory.mktemp("imagenet")
    return build(photographs.write_flat(root / "flat" / "val"), root)


@pytest.fixture(scope="module")
def broken(places, tmp_path_factory):
    """The same, the first image of DOG cut short; and as a Hugging Face set."""
    root = tmp_path_factory.mktemp("broken")
    flat = shutil.copytree(places["flat"], root / "flat" / "val")
    path = flat / "ILSVRC2012_val_00000003.JPEG"
    path.write_bytes(path.read_bytes()[:-400])
    return build(flat, root) | {"hf": f"hf:{photographs.write_folders(flat, root / 'hf')}"}


SOURCES = {"folders": "folders", "flat": "flat"}  # all others are tar
FLAT = ("flat", "a tar without folders")  # where no class is asked for, these have none
TARS = ("one tar", "a tar a class", "a tar a class, with ./", "a tar of tars", "shards", "shards, with ./")
NAMES = ("folders", *FLAT, *TARS)


@pytest.fixture(scope="module")
def expected(places):
    """Number in the file name -> its pixels at 32 px, straight from the file."""
    found = {}
    for name in photographs.validation_names():
        image = resize(Image.open(places["flat"] / name).convert("RGB"), 32, "squash")
        found[name[15:23]] = np.asarray(image, np.float32) / 255
    return found


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The package `datasets`, offline and with a cache of its own."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    return datasets


def check(found, expected, classes, each=EACH):
    """A set holds the first `each` images of these classes, in that order, each with its pixels, class and index."""
    names = photographs.validation_names().items()
    rows = [(name[15:23], label) for wanted in classes for name, label in names if label == wanted]
    rows = [row for number, row in enumerate(rows) if number % EACH < each]
    assert photographs.keys(found) == [key for key, _ in rows]
    assert found.classes.tolist() == [label for _, label in rows]
    assert found.labels.tolist() == [PAPER[label] for _, label in rows]
    assert len(set(found.ids)) == len(rows)
    for row, (key, _) in enumerate(rows):
        assert np.array_equal(found.pixels(row), expected[key]), found.ids[row]


def test_the_photographs_are_thirty_different_images_of_several_shapes(expected):
    assert len(expected) == len({pixels.tobytes() for pixels in expected.values()}) == 30
    assert len({photographs.photograph(number).size for number in range(30)}) == len(photographs.SIZES)
    assert min(pixels.std() for pixels in expected.values()) > 0.01, "none of them is empty"


@pytest.mark.parametrize("name", NAMES)
def test_every_layout_holds_the_same_images_in_the_same_order(places, expected, name):
    check(opened(places[name]), expected, PAPER)
    check(opened(places[name], SOURCES.get(name, "tar")), expected, PAPER)
    check(opened(places[name], classes=THREE), expected, THREE)
    check(opened(places[name], classes=THREE, count=6), expected, THREE, each=2)
    for classes in ("all",) if name in FLAT else ("all", []):
        check(opened(places[name], classes=classes), expected, sorted(PAPER))


REFUSALS = [  # classes asked for and how many images, and what is said of them
    ([DOG, "n01440764", "tench"], None, r"classes \['n01440764', 'tench'\]; it holds \['n01855032', 'n02105641'"),
    (list(PAPER), 40, rf"{DOG}: 3 images, 4 were asked for; lower images.count"),
    (list(PAPER), 11, "count 11 cannot be shared evenly by 10 classes"),
]


@pytest.mark.parametrize("name", NAMES)
def test_classes_and_counts_that_a_place_does_not_have_are_named(places, name):
    for classes, count, message in REFUSALS:
        with pytest.raises(ImageError, match=message):
            opened(places[name], classes=classes, count=count)


@pytest.mark.parametrize("name", FLAT)
def test_images_of_no_class_are_all_taken_in_order(places, expected, name):
    found = opened(places[name], classes=[])
    assert photographs.keys(found) == list(expected)
    assert set(found.labels) == {-1}
    assert opened(places[name], classes=[], count=4).ids == found.ids[:4]


@pytest.mark.parametrize("folders", [10, 200, 1000])
def test_indices_of_wordnet_ids_do_not_depend_on_the_other_folders(places, expected, tmp_path, folders):
    root = tmp_path / "val"
    shutil.copytree(places["folders"], root)
    others = [name for name in wordnet_ids() if name not in PAPER]
    for name in others[:: max(1, len(others) // max(1, folders - 10))][: folders - 10]:
        (root / name).mkdir()
    assert len(list(root.iterdir())) == folders
    found = opened(root)
    check(found, expected, PAPER)
    assert list(dict.fromkeys(found.labels.tolist())) == [235, 98, 237, 229, 417, 421, 430, 668, 757, 814]
    check(opened(root, classes=THREE), expected, THREE)


def test_what_lies_beside_the_images_does_not_matter(places, expected, tmp_path):
    root, flat = (shutil.copytree(places[name], tmp_path / name / "val") for name in ("folders", "flat"))
    Image.new("RGB", (8, 8)).save(root / "montage.png")
    (root / ".cache").mkdir()
    (root / DOG / "notes.txt").write_text("not an image")
    (root / DOG / "._ILSVRC2012_val_00000003.JPEG").write_bytes(b"what another system keeps about a file")
    photographs.write_kaggle(flat.parent / "LOC_val_solution.csv")
    for place in (root, flat):
        shutil.copy(places["a tar without folders"], place)
        check(opened(place), expected, PAPER)
    check(opened(root, "folders", "all"), expected, sorted(PAPER))


def test_an_archive_alone_is_what_it_holds(places, expected):
    check(opened(places["a tar without folders"].parent), expected, PAPER)
    check(opened(places["a tar a class"] / f"{DOG}.tar", classes=[DOG]), expected, [DOG])


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("source", ["auto", "hf"])
def test_a_local_hugging_face_folder_holds_the_same_images(hub, places, expected, tmp_path, split, source):
    root = tmp_path / "imagenet"
    shutil.copytree(places["folders"], root / split)
    found = opened(f"hf:{root}", source, split=split)
    check(found, expected, PAPER)
    assert list(found.ids) == list(opened(places["folders"]).ids)
    check(opened(f"hf:{root}", classes=THREE, count=6, split=split), expected, THREE, each=2)


def test_a_hub_set_of_a_thousand_words_has_imagenets_order(hub, places, expected, tmp_path, monkeypatch):
    words = [f"word {row}" for row in range(1000)]
    names = photographs.validation_names()
    features = hub.Features({"image": hub.Image(), "label": hub.ClassLabel(names=words)})
    stored = [{"path": name, "bytes": (places["flat"] / name).read_bytes()} for name in names]
    table = hub.Dataset.from_dict({"image": stored, "label": [PAPER[v] for v in names.values()]}, features=features)
    table.to_parquet(tmp_path / "hub" / "validation-00000.parquet")
    check(opened(f"hf:{tmp_path / 'hub'}"), expected, PAPER)


@pytest.mark.parametrize(
    ("place", "more", "message"),
    [
        ("nowhere", {}, r"^hf:\S*nowhere, split 'validation': \w+: .{10,}"),
        ("imagenet", {"split": "test"}, r"split 'test': ValueError: .*test"),
        ("imagenet", {"classes": ["n01440764"]}, r"no images of the classes \['n01440764'\]"),
    ],
)
def test_a_hugging_face_set_that_cannot_be_opened_is_one_error(hub, places, tmp_path, place, more, message):
    shutil.copytree(places["folders"], tmp_path / "imagenet")
    with pytest.raises(ImageError, match=message):
        opened(f"hf:{tmp_path / place}", **more)


def test_without_the_package_a_hugging_face_set_names_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImageError, match=r"hf:ILSVRC/imagenet-1k: needs the package `datasets`"):
        opened("hf:ILSVRC/imagenet-1k")


@pytest.mark.parametrize("name", [*NAMES, "hf"])
def test_a_truncated_image_is_named_when_it_is_read(hub, broken, expected, name):
    found = opened(broken[name])
    assert np.array_equal(found.pixels(1), expected["00000073"]), "the next image is whole"
    pattern = (
        rf"^{broken[name]}/.*ILSVRC2012_val_00000003\.\w+: not a readable image \(.*truncated.*; replace or remove"
    )
    with pytest.raises(ImageError, match=pattern):
        found.pixels(0)


@pytest.mark.parametrize("left", ["half a header", "half an image", "whole members"])
@pytest.mark.parametrize(
    ("name", "last"),
    [("one tar", "val.tar"), ("a tar a class", "n03788195.tar"), ("shards", "imagenet-val-000001.tar")],
)
def test_a_truncated_archive_is_named_wherever_it_ends(places, tmp_path, name, last, left):
    whole = places[name] if places[name].is_file() else places[name] / last
    with tarfile.open(whole) as file:
        member = [member for member in file if member.name.endswith(("JPEG", "jpg"))][1]
    end = {
        "half a header": member.offset + 200,
        "half an image": member.offset_data + 900,
        "whole members": member.offset,
    }
    root = shutil.copytree(whole.parent, tmp_path / "copy")
    (root / last).write_bytes(whole.read_bytes()[: end[left]])
    with pytest.raises(ImageError, match=rf"{last}: not a readable tar archive \(.+\); copy it again"):
        opened(root / last if places[name].is_file() else root)


def compressed(path):
    with tarfile.open(path, "w:gz") as file:
        file.add(__file__, f"{DOG}/a.png")


NO_ARCHIVES = {
    "empty.tar": lambda path: path.write_bytes(b""),
    "empty.zip": lambda path: path.write_bytes(b""),
    "text.tar": lambda path: path.write_bytes(b"this is no archive"),
    "text.zip": lambda path: path.write_bytes(b"this is no archive"),
    "val.tar.gz": compressed,
    "notes.tar": lambda path: photographs.write_tar(path, {f"{DOG}/notes.txt": b"no image"}),
    "shard.tar": lambda path: photographs.write_tar(path, {"1.cls": b"1", "1.json": b"{}"}),
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("name", NO_ARCHIVES)
def test_what_is_no_archive_of_images_is_an_error(tmp_path, name):
    NO_ARCHIVES[name](tmp_path / name)
    unread = r"not a readable tar archive \(.*\); copy it again, uncompressed"
    message = {"val.tar.gz": unread, "text.tar": unread, "text.zip": unread}.get(
        name, f"({unread}|no image in it; name)"
    )
    with pytest.raises(ImageError, match=f"{name}: {message}"):
        opened(tmp_path / name, "tar")


@pytest.mark.parametrize("label", [None, "1000", "-1", "n02106662", ""])
def test_a_shards_image_with_no_label_or_none_of_a_class_is_named(places, tmp_path, label):
    members = photographs.shard_members(places["flat"])
    name = "ILSVRC2012_val_00000003"
    members[f"{name}.cls"] = (label or "").encode()
    message = rf"0\.tar/{name}\.cls: '{label}' is no class"
    if label is None:
        del members[f"{name}.cls"]
        message = rf"0\.tar: {name}\.jpg has no \.cls beside it"
    photographs.write_tar(tmp_path / "0.tar", members)
    with pytest.raises(ImageError, match=message):
        opened(tmp_path)


def test_the_first_and_the_last_class_are_classes(places, tmp_path):
    image = (places["flat"] / "ILSVRC2012_val_00000003.JPEG").read_bytes()
    members = {"a.jpg": image, "a.cls": b"999\n", "b.jpg": image, "b.cls": b"0", "b.json": json.dumps({}).encode()}
    found = opened(photographs.write_tar(tmp_path / "0.tar", members), classes="all")
    assert found.labels.tolist() == [0, 999]
    assert found.classes.tolist() == ["n01440764", "n15075141"]


def test_a_name_that_is_there_twice_is_an_error(places, tmp_path):
    image = (places["flat"] / "ILSVRC2012_val_00000003.JPEG").read_bytes()
    both = {f"{part}/{DOG}/1.JPEG": image for part in ("train", "val")}
    with pytest.raises(ImageError, match=rf"{DOG}/1\.JPEG is in it twice"):
        opened(photographs.write_tar(tmp_path / "both.tar", both), classes=[DOG])


@pytest.mark.parametrize("classes", [list(PAPER), "all"])
def test_a_folder_that_holds_train_and_val_shows_what_it_holds(places, tmp_path, classes):
    for part in ("train", "val"):
        shutil.copytree(places["folders"], tmp_path / part)
    for count in (None, 10):
        with pytest.raises(ImageError, match=r"\['train', 'val'\]"):
            opened(tmp_path, classes=classes, count=count)


def test_a_folder_of_another_name_is_a_class_by_its_position(places, tmp_path):
    for label in (DOG, BALL):
        shutil.copytree(places["folders"] / label, tmp_path / {DOG: "german shepherd", BALL: "balloon"}[label])
    found = opened(tmp_path, classes="all")
    assert found.names == ["balloon", "german shepherd"]
    assert found.labels.tolist() == [0] * 3 + [1] * 3
    assert opened(tmp_path, classes=["german shepherd"]).labels.tolist() == [1] * 3


def test_a_flat_folder_without_ground_truth_names_the_remedy(places, tmp_path):
    root = shutil.copytree(places["flat"], tmp_path / "a" / "val")
    bare = shutil.copy(places["a tar without folders"], tmp_path / "val.tar")
    for place, classes in ((root, list(PAPER)), (root, "all"), (bare, list(PAPER))):
        with pytest.raises(
            ImageError, match=r"no file that says .* `labels` \(IMAGENET_LABELS\), or put one of LOC_val"
        ):
            opened(place, classes=classes)


@pytest.mark.parametrize("classes", [[], "all", [DOG]])
@pytest.mark.parametrize("source", ["auto", "flat", "folders", "tar"])
def test_an_empty_folder_is_an_error(tmp_path, source, classes):
    (tmp_path / "empty").mkdir()
    for count in (None, 10):
        with pytest.raises(ImageError, match="empty"):
            opened(tmp_path / "empty", source, classes, count=count)


@pytest.mark.parametrize("source", ["folders", "flat"])
def test_a_file_is_no_folder(places, source):
    with pytest.raises(ImageError, match=rf"val\.tar: a file, but `source` is {source}"):
        opened(places["one tar"], source)


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_suffix_is_found_in_either_case(tmp_path, suffix):
    (tmp_path / DOG).mkdir()
    for name in (f"a{suffix}", f"b{suffix.upper()}"):
        photographs.photograph(1).save(tmp_path / DOG / name)
    assert opened(tmp_path, classes=[DOG]).ids == [f"{DOG}/a{suffix}", f"{DOG}/b{suffix.upper()}"]


# What people have: nested folders, links, other suffixes, stray folders, numbers for names


def save_one(path, colour=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40), (colour, 50, 50)).save(path)


def opened_from(folder, **settings):
    return open_images(Images(source="folders", folder=str(folder), **settings), Input(size=8))


def test_images_in_folders_within_a_class_are_its_own_whatever_their_suffix(tmp_path):
    names = ["cat/images/1.JPEG", "cat/images/more/2.png", "dog/3.jfif", "dog/4.gif", "dog/5.ppm", "dog/6.jpe"]
    for name in names:
        save_one(tmp_path / name)
    found = opened_from(tmp_path)
    assert sorted(found.ids) == sorted(names)
    assert found.classes.tolist() == ["cat"] * 2 + ["dog"] * 4
    assert found.tensor(range(6)).isfinite().all()


def test_images_of_other_formats_are_counted_in_a_warning(tmp_path):
    save_one(tmp_path / "cat" / "1.png")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    for name in ("2.avif", "3.avif", "4.jp2"):
        (tmp_path / "cat" / name).write_bytes(b"")
    with pytest.warns(UserWarning, match=r"left out, of formats that are not read here: 2 \.avif, 1 \.jp2; save"):
        assert len(opened_from(tmp_path)) == 1


def test_a_class_that_would_lose_all_its_images_is_an_error(tmp_path):
    for name in ("cat/1.png", "parrot/1.png"):
        save_one(tmp_path / name)
    (tmp_path / "dog").symlink_to(tmp_path / "gone")
    (tmp_path / "emu").mkdir()
    (tmp_path / "emu" / "1.HEIC").write_bytes(b"")
    with pytest.raises(
        ImageError, match=r"no image behind \['dog', 'emu'\]: a broken link, or all its images of formats"
    ):
        opened_from(tmp_path)
    assert opened_from(tmp_path, classes=["cat", "parrot"]).names == ["cat", "parrot"]


def test_what_a_flat_folder_leaves_out_is_counted_in_a_warning(tmp_path):
    for name in ("1.png", "more/2.png", "more/3.png"):
        save_one(tmp_path / name)
    (tmp_path / "4.jp2").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"left out, in folders below it, .* not read here: 1 \.jp2, 2 \.png"):
        assert len(open_images(Images(source="flat", folder=str(tmp_path)), Input(size=8))) == 1


@pytest.mark.parametrize(("classes", "names"), [("all", [DOG, BALL]), (["cat", "dog"], ["cat", "dog"])])
def test_images_in_folders_within_a_class_are_its_own_in_an_archive_too(tmp_path, classes, names):
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "PNG")
    inner = [f"set/train/{name}/{more}.png" for name in names for more in ("1", "images/2", "images/more/3")]
    path = photographs.write_tar(tmp_path / "a.tar", dict.fromkeys(inner, content.getvalue()))
    found = opened(path, classes=classes)
    assert found.classes.tolist() == [name for name in sorted(names) for _ in range(3)]
    assert found.ids[0].startswith(f"{sorted(names)[0]}/")


@pytest.mark.parametrize(
    "stray", ["__MACOSX/._1.png", "@eaDir/1.png", "cat/@eaDir/1.png", ".cache/1.png", "empty/", "docs/read.txt"]
)
@pytest.mark.parametrize("classes", [[], ["cat", "dog"]])
def test_folders_without_images_do_not_count_for_the_index_of_a_class(tmp_path, stray, classes):
    for name in ("cat/1.png", "dog/1.png"):
        save_one(tmp_path / name)
    (tmp_path / stray).parent.mkdir(exist_ok=True)
    (tmp_path / stray).mkdir() if stray.endswith("/") else (tmp_path / stray).write_bytes(b"stray")
    found = opened_from(tmp_path, classes=classes)
    assert found.labels.tolist() == [0, 1]
    assert found.classes.tolist() == ["cat", "dog"]


def test_a_profile_may_give_each_class_its_number(tmp_path):
    for name in ("cat", "dog", "emu"):
        save_one(tmp_path / name / "1.png")
    found = opened_from(tmp_path, classes=["dog", "cat"], labels={"cat": 3, "dog": 281, "gnu": 0})
    assert dict(zip(found.classes, found.labels, strict=True)) == {"cat": 3, "dog": 281}
    with pytest.raises(ImageError, match=r"`labels` gives no number to \['dog', 'emu'\]; add them"):
        opened_from(tmp_path, labels={"cat": 3})
    for wrong in (3, ["cat"], {"cat": -1}, {"cat": 0.5}, {"cat": True}, {0: 1}):
        with pytest.raises(ValueError, match=r"give each class its number, as \{cat: 3\}"):
            Images(source="folders", folder=str(tmp_path), labels=wrong)


def test_a_name_all_of_digits_is_its_number(tmp_path):
    for number in (0, 2, 10):
        save_one(tmp_path / str(number) / "1.png")
    found = opened_from(tmp_path)
    assert dict(zip(found.classes, found.labels, strict=True)) == {"0": 0, "2": 2, "10": 10}
    save_one(tmp_path / "02" / "1.png")  # two names of one number are names
    assert opened_from(tmp_path).counted == ("0", "02", "10", "2")


def test_what_lies_behind_a_link_is_read_and_noticed_when_it_changes(tmp_path):
    save_one(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "cat").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "images", target_is_directory=True)
    before = opened_from(tmp_path / "images")
    assert before.classes.tolist() == ["cat"]
    save_one(tmp_path / "elsewhere" / "2.png")
    added = opened_from(tmp_path / "images")
    save_one(tmp_path / "elsewhere" / "1.png", 7)
    os.utime(tmp_path / "elsewhere" / "1.png", ns=(1, 1))
    assert len(added) == 2
    assert len({before.state, added.state, opened_from(tmp_path / "images").state}) == 3
