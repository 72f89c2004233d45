"""Ground-truth files: every usual kind gives the same classes, and one that does not fit is refused."""

import shutil
from pathlib import Path

import numpy as np
import photographs
import pytest
from photographs import PAPER, opened
from scipy.io import savemat

from mae_helpers.images.labels import wordnet_ids
from mae_helpers.images.pixels import ImageError

FILES = {
    "kaggle": "LOC_val_solution.csv",
    "names and indices": "val.txt",
    "names and ids": "classes.txt",
    "ids": "imagenet_2012_validation_synset_labels.txt",
    "development kit": "ILSVRC2012_validation_ground_truth.txt",
}
KINDS = list(FILES)


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    return photographs.write_flat(tmp_path_factory.mktemp("imagenet") / "val")


@pytest.fixture
def copy(flat, tmp_path):
    """A flat folder of one's own, with nothing that says the classes."""
    return shutil.copytree(flat, tmp_path / "val")


def by_number(fill):
    """A value for each number up to the last image's: the images' own classes, `fill` for those that are not there."""
    numbers = {int(name[15:23]): label for name, label in photographs.validation_names().items()}
    return [numbers.get(number, fill) for number in range(1, max(numbers) + 1)]


def kit_numbers():
    """The development kit's own number of each class: here the sorted order of some of them, backwards."""
    names = sorted({*PAPER, *wordnet_ids()[:20]})
    return {name: len(names) - row for row, name in enumerate(names)}


def write_kit(folder, numbers=None):
    """The kit's meta.mat: a struct array in the order of its own numbers."""
    numbers = numbers or kit_numbers()
    rows = sorted((number, name) for name, number in numbers.items())
    synsets = np.zeros(
        (len(rows), 1), dtype=[("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    )
    for row, (number, name) in enumerate(rows):
        synsets[row, 0] = (float(number), name, f"words, of {name}", 0.0)
    savemat(folder / "meta.mat", {"synsets": synsets})


def write(kind, folder):
    """A ground-truth file of one kind."""
    path = folder / FILES[kind]
    names = photographs.validation_names()
    if kind == "kaggle":
        return photographs.write_kaggle(path)
    if kind == "names and indices":
        lines = [f"{name} {PAPER[label]}" for name, label in reversed(names.items())]
    elif kind == "names and ids":
        lines = [f"{name}\t{label}" for name, label in names.items()]
    elif kind == "ids":
        lines = by_number("n01440764")
    else:
        write_kit(folder)
        lines = [str(kit_numbers()[label]) for label in by_number("n01440764")]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("place", ["beside", "above", "elsewhere"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_classes(copy, tmp_path, kind, place):
    (tmp_path / "elsewhere").mkdir()
    path = write(kind, {"beside": copy, "above": tmp_path, "elsewhere": tmp_path / "elsewhere"}[place])
    named = place == "elsewhere" or kind == "names and ids"  # the others have a usual name in a usual place
    found = opened(copy, labels=str(path) if named else None)
    names = photographs.validation_names()
    assert list(found.ids) == [name for label in PAPER for name, other in names.items() if other == label]
    assert found.classes.tolist() == [names[name] for name in found.ids]
    assert list(dict.fromkeys(found.labels.tolist())) == list(PAPER.values())
    assert opened(copy, labels=str(path), classes=["n03788195"], count=2).labels.tolist() == [668, 668]


def test_a_named_file_comes_before_one_that_lies_beside(copy, tmp_path):
    photographs.write_kaggle(copy / "LOC_val_solution.csv", dict.fromkeys(photographs.validation_names(), "n01440764"))
    assert set(opened(copy, classes="all").labels) == {0}
    named = write("ids", tmp_path)
    named.write_text(named.read_text(), "utf-8-sig")  # with the mark that some editors put first
    assert len(set(opened(copy, classes="all", labels=str(named)).labels)) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_some_of_the_images_are_enough(copy, kind):
    path = write(kind, copy.parent)
    for name in list(photographs.validation_names())[::2]:
        (copy / name).unlink()
    found = opened(copy, classes="all", labels=str(path))
    assert found.classes.tolist() == [photographs.validation_names()[name] for name in found.ids]
    assert len(found) == 15


def test_names_of_ones_own_take_a_line_each_in_sorted_order(copy):
    labels = list(PAPER) * photographs.EACH
    for row, path in enumerate(sorted(copy.iterdir())):
        path.rename(copy / f"picture {row:02d}.jpg")
    path = copy.parent / "classes.txt"
    path.write_text("\n".join(labels))
    found = opened(copy, labels=str(path))
    assert (
        [labels[int(name[8:10])] for name in found.ids]
        == found.classes.tolist()
        == sorted(labels, key=list(PAPER).index)
    )
    path.write_text("\n".join(labels[:-1]))
    with pytest.raises(ImageError, match=r"classes\.txt: 29 lines do not fit 30 images"):
        opened(copy, labels=str(path))


def lines(change):
    """A change of a file's lines."""
    return lambda path: path.write_text("\n".join(change(path.read_text().splitlines())))


def without_one(rows):
    return [row for row in rows if "00000073" not in row]


def lacking(path):
    """The kit without the class of the first image."""
    write_kit(path.parent, {name: number for name, number in kit_numbers().items() if name != "n02106662"})


def valued(value):
    """A file in which one image has another class."""
    return lines(lambda rows: [row.replace("00000073.JPEG 235", f"00000073.JPEG {value}") for row in rows])


def meta(write):
    """The kit with another meta.mat."""
    return lambda path: write(path.with_name("meta.mat"))


NOT_IN_IT = r": ILSVRC2012_val_00000073\.JPEG is not in it"
NO_CLASS = r"val\.txt: ILSVRC2012_val_00000073\.JPEG is {}; expected a WordNet id or an index from 0 to 999"
STRANGE = ["1000", "n00000000", "dog", "-1", "2.0", "1e3"]
LONG = {"9" * 5000: r"9{10,}\.\.\.9+", "x" * 4000: r"x{10,}\.\.\.x+"}
NO_KIT = r"meta\.mat: not the development kit's \(.+\); copy it again"
LACKING = rf"00000003\.JPEG is number {kit_numbers()['n02106662']}, which meta\.mat lacks"
REFUSALS = [  # the kind of file, what is done to it, and what is said
    *((kind, lines(without_one), NOT_IN_IT) for kind in KINDS[:3]),
    *(("names and indices", valued(value), NO_CLASS.format(value)) for value in STRANGE),
    *(("names and indices", valued(value), NO_CLASS.format(told)) for value, told in LONG.items()),
    ("ids", lines(lambda rows: rows[:-1]), "205 lines do not fit 30 images; use the file of this very set"),
    ("ids", lambda path: path.write_text("\n\n"), "nothing in it; use a ground-truth file of these images"),
    ("ids", lambda path: path.write_bytes(b"\xff\xfe\x00"), "not text in UTF-8"),
    ("names and ids", lines(lambda rows: [*rows, rows[0][:-9] + "n01440764"]), "is in it twice, as 'n01440764' too"),
    ("kaggle", lambda path: path.unlink(), "no such file; name a ground-truth file as `labels`"),
    ("development kit", meta(Path.unlink), r"the development kit's own order; put the kit's meta\.mat beside it"),
    ("development kit", lacking, LACKING),
    ("development kit", meta(lambda path: path.write_text("no matrix, but as long as a header " * 9)), NO_KIT),
    ("development kit", meta(lambda path: savemat(path, {"classes": np.arange(3)})), NO_KIT),
]


@pytest.mark.parametrize(("kind", "damage", "message"), REFUSALS)
def test_a_file_that_does_not_fit_its_images_is_refused(copy, kind, damage, message):
    path = write(kind, copy.parent)
    damage(path)
    with pytest.raises(ImageError, match=message) as caught:
        opened(copy, labels=str(path))
    assert str(caught.value).startswith(str(copy.parent)), "the file is named"


def test_a_kit_of_a_single_class_is_read(copy):
    for name, label in photographs.validation_names().items():
        if label != "n02106662":
            (copy / name).unlink()
    write("development kit", copy.parent)
    numbers = {"n02106662": kit_numbers()["n02106662"]}
    write_kit(copy.parent, numbers)
    assert opened(copy, classes=["n02106662"]).labels.tolist() == [235] * 3
