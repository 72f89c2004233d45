"""Image sets: what is in them, in which order, at which size, and what happens where a file or folder is wrong."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from mae_helpers.demo.build_images import PER_CLASS, select
from mae_helpers.demo.data import MEAN, STD
from mae_helpers.images import sets as module
from mae_helpers.images.pixels import ImageError, resize
from mae_helpers.images.sets import DEMO_CLASSES as CLASSES
from mae_helpers.images.sets import fingerprint, first_images, open_images
from mae_helpers.profile.settings import Images, Input, load_profile

SETTINGS = Input(size=16, mean=[0.5, 0.4, 0.3], std=[0.5, 0.25, 0.2])


@pytest.fixture(scope="module")
def demo():
    return first_images(load_profile("demo"))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_folders(root, names=("cat", "dog"), each=3):
    """Folders of PNGs, written in the reverse of their sorted order."""
    for name in reversed(names):
        (root / name).mkdir(parents=True)
        for number in reversed(range(each)):
            Image.fromarray(noise(20, 24, 3, seed=number)).save(root / name / f"{number}.png")
    return str(root)


def opened(source, folder=None, classes=(), **more):
    chosen = classes if classes == "all" else list(classes)
    return open_images(Images(source=source, folder=folder and str(folder), classes=chosen, **more), SETTINGS)


def test_bundled_images_are_fifty_of_each_of_ten_classes(demo):
    assert len(demo) == 500
    assert demo.names == list(CLASSES)
    assert demo.classes.tolist() == np.repeat(CLASSES, 50).tolist()
    assert demo.labels.tolist() == np.repeat(range(10), 50).tolist()
    assert list(demo.ids) == sorted(set(demo.ids))
    image = demo.image(123)
    assert (image.mode, image.size) == ("RGB", (56, 56))
    assert demo.tensor([0, 499]).shape == (2, 3, 56, 56)
    assert demo.tensor([0]).dtype == torch.float32


def test_the_demos_pixels_and_normalisation_are_those_its_models_were_trained_with(demo):
    assert demo.input.mean == [MEAN] * 3
    assert demo.input.std == [STD] * 3
    with np.load(module.DEMO_FILE) as file:
        expected = Image.fromarray(file["images"][123]).convert("RGB").resize((56, 56), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(demo.image(123)), np.asarray(expected))


def test_bundled_images_that_are_missing_or_not_the_expected_ones_are_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "DEMO_SHA256", "0" * 64)
    with pytest.raises(ImageError, match=r"fashion_mnist_500\.npz: SHA-256 is [0-9a-f]{64}, expected 0{64}"):
        first_images(load_profile("demo"))
    monkeypatch.setattr(module, "DEMO_FILE", tmp_path / "gone.npz")
    with pytest.raises(ImageError, match=r"gone\.npz: SHA-256 is no file"):
        first_images(load_profile("demo"))


def test_digits_are_the_demos_second_images():
    demo = load_profile("demo")
    digits = open_images(demo.second_images, demo.input)
    assert digits.names == [str(number) for number in range(10)]
    assert set(digits.labels) == {-1}
    assert list(digits.ids) == [f"digits/{row:04d}" for row in range(100)], "no class is asked for: in their own order"
    assert digits.image(0).size == (56, 56)
    pixels = np.asarray(digits.image(0))
    assert pixels.max() > 200, "sixteen grey levels are spread over the byte"
    assert pixels.min() < 30
    assert len(opened("digits")) == 1797


NAMES = {"bundled": list(CLASSES), "digits": list("0123456789")}
SHARED = [(source, classes) for source in NAMES for classes in (None, "all", "two")]


@pytest.mark.parametrize(("source", "classes"), [case for case in SHARED if case != ("digits", None)])
def test_every_source_shares_its_count_evenly_by_the_classes_asked_for(source, classes):
    wanted = NAMES[source][2:0:-1] if classes == "two" else NAMES[source]
    found = opened(source, classes=wanted if classes == "two" else classes or [], count=2 * len(wanted))
    assert found.classes.tolist() == np.repeat(wanted, 2).tolist()
    numbers = [-1 if source == "digits" else NAMES[source].index(name) for name in wanted]
    assert found.labels.tolist() == np.repeat(numbers, 2).tolist(), "the position among all classes, wanted or not"
    whole = opened(source)
    first = {name: np.flatnonzero(whole.classes == name)[:2] for name in wanted}
    assert list(found.ids) == [whole.ids[row] for name in wanted for row in first[name]]
    assert torch.equal(found.tensor([3]), whole.tensor([first[wanted[1]][1]]))


@pytest.mark.parametrize("source", NAMES)
def test_classes_that_do_not_fit_a_source_are_named(source):
    names = NAMES[source]
    for classes, count, message in (
        ([names[0], "cow"], None, rf"no images of the classes \['cow'\]; it holds \['{names[0]}', '{names[1]}'"),
        (names, 11, "count 11 cannot be shared evenly by 10 classes"),
        ("all", 5000, rf"{names[0]}: \d+ images, 500 were asked for; lower images\.count"),
    ):
        with pytest.raises(ImageError, match=f"{source}.*{message}"):
            opened(source, classes=classes, count=count)


@pytest.mark.parametrize("source", ["flat", "digits"])
def test_too_few_images_in_all_are_an_error(tmp_path, source):
    write_folders(tmp_path, ("cat",))
    with pytest.raises(ImageError, match=r"images, 5000 were asked for; lower `count`"):
        opened(source, tmp_path / "cat" if source == "flat" else None, count=5000)


@pytest.mark.parametrize("source", ["folders", "flat"])
def test_missing_folder_is_named(tmp_path, source):
    with pytest.raises(ImageError, match=r"nowhere: no such folder"):
        opened(source, tmp_path / "nowhere")


def test_squash_keeps_the_edges_and_crop_drops_them():
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, :50, 0] = 255  # the left quarter is red
    image = Image.fromarray(pixels)
    squashed, cropped = (np.asarray(resize(image, 50, how)) for how in ("squash", "crop"))
    assert squashed.shape == cropped.shape == (50, 50, 3)
    assert (squashed[25, :, 0] > 128).sum() in (12, 13), "a quarter of 50 columns"
    assert cropped.max() == 0, "57 px high, 114 wide: the middle 50 columns come from 56 to 144 of 200"


SIZES = [(100, 100), (500, 375), (375, 500), (400, 300), (300, 480), (640, 427), (402, 300)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_crop_agrees_with_torchvision_as_mae_is_evaluated(width, height):
    image = Image.fromarray(noise(height, width, 3))
    official = v2.Compose([v2.Resize(256, interpolation=v2.InterpolationMode.BICUBIC), v2.CenterCrop(224)])
    assert np.array_equal(np.asarray(resize(image, 224, "crop")), np.asarray(official(image)))


def test_normalisation_by_hand(tmp_path):
    Image.new("RGB", (16, 16), (255, 51, 0)).save(tmp_path / "a.png")
    expected = torch.tensor([(1 - 0.5) / 0.5, (0.2 - 0.4) / 0.25, (0 - 0.3) / 0.2])
    found = opened("flat", tmp_path).tensor([0])
    torch.testing.assert_close(found, expected.reshape(1, 3, 1, 1).expand(1, 3, 16, 16))


def test_another_models_normalisation_changes_values_and_nothing_else(tiny_images):
    other = tiny_images.normalised_as([0.0] * 3, [1 / 255] * 3)
    expected = np.asarray(tiny_images.image(0)).transpose(2, 0, 1)  # rows and columns are not swapped
    np.testing.assert_allclose(other.tensor([0])[0], expected, rtol=1e-5)
    assert other.ids == tiny_images.ids
    assert (other.input.size, other.input.resize) == (tiny_images.input.size, tiny_images.input.resize)


def test_subset_takes_the_first_of_each_class_in_the_order_asked_for(tiny_images):
    found = tiny_images.subset(["dog", "bird"], per_class=2)
    assert found.ids == ["tiny/08", "tiny/09", "tiny/00", "tiny/01"]
    assert found.names == ["dog", "bird"]
    assert found.labels.tolist() == [2, 2, 0, 0]
    assert torch.equal(found.tensor([0, 3]), tiny_images.tensor([8, 1]))
    assert tiny_images.subset().ids == tiny_images.ids
    assert all(type(name) is str for name in tiny_images.names)


def test_a_subset_of_a_subset_reads_the_right_images(tiny_images):
    found = tiny_images.subset(["cat"]).take([3, 0])
    assert found.ids == ["tiny/07", "tiny/04"]
    assert torch.equal(found.tensor([0, 1]), tiny_images.tensor([7, 4]))


@pytest.mark.parametrize(
    ("classes", "per_class", "message"),
    [
        (["cow"], None, r"'cow'; there are bird, cat, dog"),
        (["bird"], 5, r"class 'bird' has 4 images, 5 were asked for"),
        (["bird"], 0, r"0 images of each class: use 1 or more"),
    ],
)
def test_subset_names_the_class_that_does_not_fit(tiny_images, classes, per_class, message):
    with pytest.raises(ImageError, match=message):
        tiny_images.subset(classes, per_class)


def test_the_bundled_selection_is_the_first_fifty_of_each_class():
    labels = np.random.default_rng(0).integers(0, 10, 1000, dtype=np.uint8)
    images = noise(1000, 2, 2)
    found = select(images, labels)
    assert found["images"].shape == (10 * PER_CLASS, 2, 2)
    assert found["labels"].tolist() == np.repeat(range(10), PER_CLASS).tolist()
    for label in range(10):
        index = found["index"][found["labels"] == label]
        assert index.tolist() == [row for row in range(1000) if labels[row] == label][:PER_CLASS]
    assert np.array_equal(found["images"], images[found["index"]])


def darkened(pixels, name):
    """Pixels times a factor that depends on the image's id: tiny/00 is black, tiny/11 almost as it was."""
    return pixels * np.float32(int(name[-2:]) / 12)


def counting(images):
    """The same images, and a list of the rows that have been read."""
    rows = []
    return replace(images, pixels=lambda row: rows.append(row) or images.pixels(row)), rows


def test_a_change_is_of_pixels_by_id_before_the_normalisation_and_leaves_its_set_alone(tiny_images):
    before, found = tiny_images.tensor(range(12)), tiny_images.changed(darkened)
    for row in [*range(12), 5]:
        assert np.array_equal(found.pixels(row), tiny_images.pixels(row) * np.float32(row / 12))
    assert found.pixels(0).max() == 0
    assert found.ids == tiny_images.ids
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (tiny_images.input.mean, tiny_images.input.std))
    half = torch.from_numpy(tiny_images.pixels(6)).permute(2, 0, 1) / 2
    torch.testing.assert_close(found.tensor([6])[0], (half - mean) / std)
    assert torch.equal(tiny_images.tensor(range(12)), before)


def test_changed_images_are_no_longer_the_profiles(demo):
    assert demo.take([3]).source == demo.source == load_profile("demo").images
    assert demo.changed(darkened).source is None
    assert demo.take([3]).held(1, darkened).source is None


@pytest.mark.parametrize("hold", [False, True])
def test_images_taken_after_a_change_keep_theirs(tiny_images, hold):
    whole = tiny_images.held(1, darkened) if hold else tiny_images.changed(darkened)
    found = whole.take([7, 2, 11])
    assert torch.equal(found.tensor(range(3)), whole.tensor([7, 2, 11]))
    assert torch.equal(tiny_images.take([7, 2, 11]).changed(darkened).tensor(range(3)), found.tensor(range(3)))
    assert torch.equal(found.subset(["dog"]).tensor([0]), whole.tensor([11]))


def test_held_images_are_the_same_and_are_read_once(tiny_images):
    images = tiny_images.changed(darkened)
    counted, rows = counting(tiny_images)
    held = counted.held(1, darkened)
    assert rows == list(range(12))
    assert all(np.array_equal(held.pixels(row), images.pixels(row)) for row in range(12))
    assert torch.equal(held.tensor([3, 0, 3]), images.tensor([3, 0, 3]))
    assert torch.equal(torch.cat([batch for *_, batch in held.batches(5)]), images.tensor(range(12)))
    other = images.normalised_as([0.1, 0.2, 0.3], [0.5, 0.6, 0.7]).tensor(range(12))
    assert torch.equal(held.normalised_as([0.1, 0.2, 0.3], [0.5, 0.6, 0.7]).tensor(range(12)), other)
    assert rows == list(range(12)), "nothing is read again"
    assert torch.equal(held.changed(darkened).tensor([4]), images.changed(darkened).tensor([4])), "nor hidden"
    counted.tensor([3, 0, 3])
    assert rows[12:] == [3, 0, 3], "what is not held is read at every look"


def test_fingerprint_follows_a_folders_files(tmp_path):
    images = Images(source="folders", folder=write_folders(tmp_path))
    file, last = tmp_path / "cat" / "1.png", tmp_path / "cat" / "9.png"
    seen = [fingerprint(images)]
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    assert fingerprint(images) == seen[0]
    for change in (
        lambda: Image.fromarray(noise(20, 24, 3)).save(tmp_path / "dog" / "3.png"),
        lambda: os.utime(file, ns=(0, 0)),
        lambda: (file.write_bytes(file.read_bytes() + b"more"), os.utime(file, ns=(0, 0))),
        lambda: file.rename(last),
        lambda: last.unlink(),
    ):
        change()
        seen.append(fingerprint(images))
    assert len(set(seen)) == 6, "added, written again, another size, renamed, removed"


def test_fingerprint_follows_the_profiles_choice_and_not_its_words(tmp_path):
    whole = Images(source="folders", folder=write_folders(tmp_path))
    others = ({"classes": ["cat"]}, {"count": 2}, {"source": "digits"}, {"source": "bundled"})
    assert len({fingerprint(images) for images in [whole, *(whole.model_copy(update=one) for one in others)]}) == 5
    for words in ({"title": "Pets"}, {"optional": True}):
        assert fingerprint(whole.model_copy(update=words)) == fingerprint(whole)


def test_fingerprint_follows_the_bundled_file(tmp_path, monkeypatch):
    images = Images(source="bundled", folder=None, classes=list(CLASSES))
    before = fingerprint(images)
    monkeypatch.setattr(module, "DEMO_FILE", tmp_path / "other.npz")
    (tmp_path / "other.npz").write_bytes(b"other images")
    assert fingerprint(images) != before
