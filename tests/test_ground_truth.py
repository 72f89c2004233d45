"""Ground-truth files: every usual kind gives the same classes, and one that does not fit is refused."""

import shutil

import numpy as np
import photographs
import pytest
from photographs import PAPER, opened
from scipy.io import savemat

from mae_helpers.images.sets import ImageError

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
    names = sorted({*PAPER, *photographs.all_classes()[:20]})
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
    assert len(set(opened(copy, classes="all", labels=str(write("ids", tmp_path))).labels)) == 10


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


def test_too_few_lines_for_the_images_numbers_are_an_error(copy):
    path = write("ids", copy.parent)
    path.write_text("\n".join(path.read_text().split()[:-1]))
    with pytest.raises(ImageError, match=r"205 lines do not fit 30 images; use the file of this very set"):
        opened(copy)


@pytest.mark.parametrize("kind", ["kaggle", "names and indices", "names and ids"])
def test_an_image_that_the_file_lacks_is_named(copy, kind):
    path = write(kind, copy.parent)
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "00000073" not in line))
    with pytest.raises(ImageError, match=rf"{path.name}: ILSVRC2012_val_00000073\.JPEG is not in it"):
        opened(copy, labels=str(path))


@pytest.mark.parametrize("value", ["1000", "n00000000", "dog", "-1", "2.0"])
def test_a_value_that_is_no_class_is_named(copy, value):
    path = write("names and indices", copy.parent)
    path.write_text(path.read_text().replace("00000073.JPEG 235", f"00000073.JPEG {value}"))
    with pytest.raises(ImageError, match=rf"val\.txt: ILSVRC2012_val_00000073\.JPEG is {value}; expected a WordNet id"):
        opened(copy)


def test_the_kits_numbers_without_its_meta_mat_are_an_error(copy):
    write("development kit", copy.parent)
    (copy.parent / "meta.mat").unlink()
    with pytest.raises(ImageError, match=r"the development kit's own order; put the kit's meta\.mat beside it"):
        opened(copy)


def test_a_number_that_meta_mat_lacks_is_never_taken_for_an_index(copy):
    write("development kit", copy.parent)
    numbers = kit_numbers()
    lacking = numbers.pop("n02106662")
    write_kit(copy.parent, numbers)
    with pytest.raises(ImageError, match=rf"00000003\.JPEG is number {lacking}, which meta\.mat lacks"):
        opened(copy)


@pytest.mark.parametrize("content", ["text", "another variable"])
def test_a_meta_mat_of_another_kind_is_an_error(copy, content):
    write("development kit", copy.parent)
    if content == "text":
        (copy.parent / "meta.mat").write_text("no matrix at all, but long enough to be read as a header " * 9)
    else:
        savemat(copy.parent / "meta.mat", {"classes": np.arange(3)})
    with pytest.raises(ImageError, match=r"meta\.mat: not the development kit's \(.+\); copy it again"):
        opened(copy)


def test_a_kit_of_a_single_class_is_read(copy):
    for name, label in photographs.validation_names().items():
        if label != "n02106662":
            (copy / name).unlink()
    write("development kit", copy.parent)
    numbers = {"n02106662": kit_numbers()["n02106662"]}
    write_kit(copy.parent, numbers)
    assert opened(copy, classes=["n02106662"]).labels.tolist() == [235] * 3


def test_an_empty_and_a_missing_file_are_errors(copy, tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(ImageError, match=r"empty\.txt: nothing in it"):
        opened(copy, labels=str(tmp_path / "empty.txt"))
    with pytest.raises(ImageError, match=r"gone\.txt"):
        opened(copy, labels=str(tmp_path / "gone.txt"))
