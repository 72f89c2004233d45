"""Image sets: what is in them, in which order, at which size, and what happens where a file or folder is wrong."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from photographs import PAPER as WORDNET
from PIL import Image
from torchvision.transforms import v2

from mae_helpers.demo.build_images import PER_CLASS, select
from mae_helpers.demo.data import CLASSES, MEAN, STD
from mae_helpers.images import sets as module
from mae_helpers.images.sets import (
    ImageError,
    class_index,
    fingerprint,
    first_images,
    open_images,
    resize,
    second_images,
)
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


def test_bundled_images_are_fifty_of_each_of_ten_classes(demo):
    assert len(demo) == 500
    assert demo.names == list(CLASSES)
    assert [int((demo.classes == name).sum()) for name in CLASSES] == [50] * 10
    assert demo.labels.tolist() == np.repeat(range(10), 50).tolist()


def test_bundled_images_have_sorted_unique_ids(demo):
    assert list(demo.ids) == sorted(set(demo.ids))


def test_bundled_images_are_rgb_at_the_models_size(demo):
    image = demo.image(123)
    assert image.mode == "RGB"
    assert image.size == (56, 56)
    assert demo.tensor([0, 499]).shape == (2, 3, 56, 56)
    assert demo.tensor([0]).dtype == torch.float32


def test_demo_profile_normalises_as_its_models_were_trained():
    settings = load_profile("demo").input
    assert settings.mean == [MEAN] * 3
    assert settings.std == [STD] * 3


def test_bundled_images_that_are_not_the_expected_ones_are_an_error(monkeypatch):
    monkeypatch.setattr(module, "DEMO_SHA256", "0" * 64)
    with pytest.raises(ImageError, match=r"fashion_mnist_500\.npz: SHA-256 is [0-9a-f]{64}, expected 0{64}"):
        first_images(load_profile("demo"))


def test_missing_bundled_images_are_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "DEMO_FILE", tmp_path / "gone.npz")
    with pytest.raises(ImageError, match=r"gone\.npz: SHA-256 is no file"):
        first_images(load_profile("demo"))


def test_digits_are_the_demos_second_images():
    digits = second_images(load_profile("demo"))
    assert len(digits) == 100
    assert digits.names == [str(number) for number in range(10)]
    assert set(digits.labels) == {-1}
    assert len(set(digits.ids)) == 100
    assert digits.image(0).size == (56, 56)
    pixels = np.asarray(digits.image(0))
    assert pixels.max() > 200, "sixteen grey levels are spread over the byte"
    assert pixels.min() < 30


def test_all_digits_are_there():
    assert len(open_images(Images(source="digits"), SETTINGS)) == 1797


def test_no_second_images_is_none(tiny_profile):
    assert second_images(load_profile(tiny_profile())) is None


def test_folders_are_walked_in_sorted_order(tmp_path):
    found = open_images(Images(source="folders", folder=write_folders(tmp_path)), SETTINGS)
    assert [name.split("/")[-2:] for name in found.ids] == [
        [kind, f"{number}.png"] for kind in ("cat", "dog") for number in range(3)
    ]
    assert found.classes.tolist() == ["cat"] * 3 + ["dog"] * 3
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    expected = resize(Image.fromarray(noise(20, 24, 3, seed=1)), 16, "squash")
    assert np.array_equal(np.asarray(found.image(4)), np.asarray(expected))


def test_folders_take_the_same_number_of_each_wanted_class(tmp_path):
    folder = write_folders(tmp_path, ("ant", "cat", "dog"))
    found = open_images(Images(source="folders", folder=folder, classes=["dog", "cat"], count=4), SETTINGS)
    assert found.classes.tolist() == ["dog", "dog", "cat", "cat"]
    assert found.labels.tolist() == [2, 2, 1, 1], "the position among all folders, wanted or not"


def test_files_that_are_no_images_are_passed_over(tmp_path):
    folder = write_folders(tmp_path)
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    assert len(open_images(Images(source="folders", folder=folder), SETTINGS)) == 6


def test_missing_folder_is_named(tmp_path):
    for source in ("folders", "flat"):
        with pytest.raises(ImageError, match=r"nowhere: no such folder"):
            open_images(Images(source=source, folder=str(tmp_path / "nowhere")), SETTINGS)


def test_missing_class_is_named(tmp_path):
    folder = write_folders(tmp_path)
    with pytest.raises(ImageError, match=r"no folder for the classes \['cow'\]; it holds \['cat', 'dog'\]"):
        open_images(Images(source="folders", folder=folder, classes=["cat", "cow"]), SETTINGS)


def test_class_with_too_few_images_is_named(tmp_path):
    folder = write_folders(tmp_path)
    with pytest.raises(ImageError, match=r"cat: 3 images, 5 were asked for"):
        open_images(Images(source="folders", folder=folder, count=10), SETTINGS)


def test_a_count_that_the_classes_cannot_share_is_an_error(tmp_path):
    folder = write_folders(tmp_path)
    with pytest.raises(ImageError, match=r"count 5 cannot be shared evenly by 2 classes"):
        open_images(Images(source="folders", folder=folder, count=5), SETTINGS)


@pytest.mark.parametrize("source", ["flat", "digits"])
def test_too_few_images_in_all_are_an_error(tmp_path, source):
    write_folders(tmp_path, ("cat",))
    folder = str(tmp_path / "cat") if source == "flat" else None
    with pytest.raises(ImageError, match=r"images, 5000 were asked for; lower `count`"):
        open_images(Images(source=source, folder=folder, count=5000), SETTINGS)


def test_flat_folder_has_no_labels(tmp_path):
    write_folders(tmp_path, ("cat",))
    found = open_images(Images(source="flat", folder=str(tmp_path / "cat"), count=2), SETTINGS)
    assert [name[-5:] for name in found.ids] == ["0.png", "1.png"]
    assert found.labels.tolist() == [-1, -1]


@pytest.mark.parametrize("name", ["cut.jpg", "empty.png", "text.png"])
def test_unreadable_file_is_an_error_with_its_path(tmp_path, name):
    path = tmp_path / name
    if name == "cut.jpg":
        Image.fromarray(noise(64, 64, 3)).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.write_text("" if name == "empty.png" else "this is no image")
    found = open_images(Images(source="flat", folder=str(tmp_path)), SETTINGS)
    with pytest.raises(ImageError, match=rf"{name}: not a readable image .*; replace or remove"):
        found.tensor([0])


def test_grey_and_cmyk_files_become_rgb(tmp_path):
    Image.fromarray(noise(16, 16)).save(tmp_path / "a.png")
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "b.jpg")
    found = open_images(Images(source="flat", folder=str(tmp_path)), SETTINGS)
    grey, red = (np.asarray(found.image(row)) for row in range(2))
    assert np.array_equal(grey, np.repeat(noise(16, 16)[..., None], 3, axis=-1))
    assert red.shape == (16, 16, 3)
    assert red[..., 0].min() > 200
    assert red[..., 1:].max() < 60


@pytest.mark.parametrize("position", [0, 3, 999])
def test_a_wordnet_id_finds_its_index_by_table(position):
    assert class_index("n02106662", position) == 235
    assert class_index("n04273569", position) == 814


def test_folders_of_wordnet_ids_get_the_papers_indices_wherever_they_stand(tmp_path):
    folder = write_folders(tmp_path, tuple(WORDNET), each=1)
    found = open_images(Images(source="folders", folder=folder, classes=list(WORDNET)), SETTINGS)
    assert found.labels.tolist() == list(WORDNET.values())
    one = open_images(Images(source="folders", folder=folder, classes=["n04065272"]), SETTINGS)
    assert one.labels.tolist() == [757]


def test_another_name_gets_its_position():
    assert class_index("german shepherd", 3) == 3


def test_squash_keeps_the_edges_and_crop_drops_them():
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, :50, 0] = 255  # the left quarter is red
    image = Image.fromarray(pixels)
    squashed, cropped = (np.asarray(resize(image, 50, how)) for how in ("squash", "crop"))
    assert squashed.shape == cropped.shape == (50, 50, 3)
    assert (squashed[25, :, 0] > 128).sum() in (12, 13), "a quarter of 50 columns"
    assert cropped.max() == 0, "57 px high, 114 wide: the middle 50 columns come from 56 to 144 of 200"


@pytest.mark.parametrize(
    ("width", "height"),
    [
        (100, 100),
        (500, 375),
        (375, 500),
        (400, 300),
        (300, 480),
        (640, 427),
        (402, 300),
    ],
)
def test_crop_agrees_with_torchvision_as_mae_is_evaluated(width, height):
    image = Image.fromarray(noise(height, width, 3))
    official = v2.Compose([v2.Resize(256, interpolation=v2.InterpolationMode.BICUBIC), v2.CenterCrop(224)])
    assert np.array_equal(np.asarray(resize(image, 224, "crop")), np.asarray(official(image)))


def test_normalisation_by_hand(tmp_path):
    Image.new("RGB", (16, 16), (255, 51, 0)).save(tmp_path / "a.png")
    found = open_images(Images(source="flat", folder=str(tmp_path)), SETTINGS).tensor([0])
    expected = torch.tensor([(1 - 0.5) / 0.5, (0.2 - 0.4) / 0.25, (0 - 0.3) / 0.2])
    torch.testing.assert_close(found, expected.reshape(1, 3, 1, 1).expand(1, 3, 16, 16))


def test_another_models_normalisation_changes_values_and_nothing_else(tiny_images):
    other = tiny_images.normalised_as([0.0] * 3, [1.0] * 3)
    torch.testing.assert_close(
        other.tensor([2])[0, 0], torch.tensor(np.asarray(other.image(2))[..., 0] / np.float32(255))
    )
    assert other.ids == tiny_images.ids
    assert tiny_images.normalised_as(None, None) is tiny_images


@pytest.mark.parametrize("size", [1, 5, 12, 100])
def test_batches_equal_single_images(tiny_images, size):
    rows, ids, tensors = zip(*tiny_images.batches(size), strict=True)
    assert [name for batch in ids for name in batch] == list(tiny_images.ids)
    assert [row for batch in rows for row in batch] == list(range(12))
    assert torch.equal(torch.cat(tensors), torch.cat([tiny_images.tensor([row]) for row in range(12)]))


def test_rows_and_columns_are_not_swapped(tiny_images):
    expected = np.asarray(tiny_images.image(0)).transpose(2, 0, 1)
    found = tiny_images.normalised_as([0.0] * 3, [1 / 255] * 3).tensor([0])[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_subset_takes_the_first_of_each_class_in_the_order_asked_for(tiny_images):
    found = tiny_images.subset(["dog", "bird"], per_class=2)
    assert found.ids == ["tiny/08", "tiny/09", "tiny/00", "tiny/01"]
    assert found.names == ["dog", "bird"]
    assert found.labels.tolist() == [2, 2, 0, 0]
    assert torch.equal(found.tensor([0, 3]), tiny_images.tensor([8, 1]))


def test_a_subset_of_a_subset_reads_the_right_images(tiny_images):
    found = tiny_images.subset(["cat"]).take([3, 0])
    assert found.ids == ["tiny/07", "tiny/04"]
    assert torch.equal(found.tensor([0, 1]), tiny_images.tensor([7, 4]))


def test_subset_without_arguments_is_everything(tiny_images):
    assert tiny_images.subset().ids == tiny_images.ids


def test_subset_names_the_class_that_does_not_fit(tiny_images):
    with pytest.raises(ImageError, match=r"'cow'; there are bird, cat, dog"):
        tiny_images.subset(["cow"])
    with pytest.raises(ImageError, match=r"class 'bird' has 4 images, 5 were asked for"):
        tiny_images.subset(["bird"], per_class=5)


def test_class_names_are_plain_strings(tiny_images):
    assert all(type(name) is str for name in tiny_images.names)


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

    def read(row):
        rows.append(row)
        return images.read(row)

    return replace(images, read=read), rows


def test_changed_pixels_are_passed_through_the_change_with_their_id(tiny_images):
    found = tiny_images.changed(darkened)
    for row in range(12):
        assert np.array_equal(found.pixels(row), tiny_images.pixels(row) * np.float32(row / 12))
    assert found.pixels(0).max() == 0
    assert found.ids == tiny_images.ids
    assert np.array_equal(found.pixels(5), tiny_images.pixels(5) * np.float32(5 / 12)), "a second look is the same"


def test_a_change_comes_before_the_normalisation(tiny_images):
    found = tiny_images.changed(darkened).tensor([6])[0]
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (tiny_images.input.mean, tiny_images.input.std))
    torch.testing.assert_close(found, (torch.from_numpy(tiny_images.pixels(6)).permute(2, 0, 1) / 2 - mean) / std)


def test_a_change_leaves_the_set_it_came_from_alone(tiny_images):
    before = tiny_images.tensor(range(12))
    tiny_images.changed(darkened).tensor(range(12))
    assert torch.equal(tiny_images.tensor(range(12)), before)


@pytest.mark.parametrize("hold", [False, True])
def test_images_taken_after_a_change_keep_theirs(tiny_images, hold):
    whole = tiny_images.changed(darkened)
    found = (whole.held() if hold else whole).take([7, 2, 11])
    assert torch.equal(found.tensor(range(3)), whole.tensor([7, 2, 11]))
    assert torch.equal(tiny_images.take([7, 2, 11]).changed(darkened).tensor(range(3)), found.tensor(range(3)))
    assert torch.equal(found.subset(["dog"]).tensor([0]), whole.tensor([11]))


@pytest.mark.parametrize("change", [None, darkened])
def test_held_images_are_the_same_and_are_read_once(tiny_images, change):
    images = tiny_images if change is None else tiny_images.changed(change)
    counted, rows = counting(images)
    held = counted.held()
    assert rows == list(range(12))
    for row in range(12):
        assert np.array_equal(held.pixels(row), images.pixels(row))
    assert torch.equal(held.tensor([3, 0, 3]), images.tensor([3, 0, 3]))
    assert torch.equal(torch.cat([batch for *_, batch in held.batches(5)]), images.tensor(range(12)))
    assert rows == list(range(12)), "nothing is read again"


def test_images_that_are_not_held_are_read_at_every_look(tiny_images):
    counted, rows = counting(tiny_images)
    counted.tensor([3, 0, 3])
    assert rows == [3, 0, 3]


def test_held_images_can_be_normalised_for_another_model(tiny_images):
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    expected = tiny_images.normalised_as(mean, std).tensor(range(12))
    assert torch.equal(tiny_images.held().normalised_as(mean, std).tensor(range(12)), expected)


def test_a_new_change_is_not_hidden_by_what_was_held(tiny_images):
    assert torch.equal(tiny_images.held().changed(darkened).tensor([4]), tiny_images.changed(darkened).tensor([4]))


def test_fingerprint_follows_a_folders_files(tmp_path):
    images = Images(source="folders", folder=write_folders(tmp_path))
    file = tmp_path / "cat" / "1.png"
    seen = [fingerprint(images)]
    assert fingerprint(images) == seen[0]
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    assert fingerprint(images) == seen[0]
    Image.fromarray(noise(20, 24, 3)).save(tmp_path / "dog" / "3.png")
    seen.append(fingerprint(images))
    os.utime(file, ns=(0, 0))
    seen.append(fingerprint(images))
    file.write_bytes(file.read_bytes() + b"more")
    os.utime(file, ns=(0, 0))
    seen.append(fingerprint(images))
    file.rename(tmp_path / "cat" / "9.png")
    seen.append(fingerprint(images))
    (tmp_path / "cat" / "9.png").unlink()
    seen.append(fingerprint(images))
    assert len(set(seen)) == 6, "added, written again, another size, renamed, removed"


def test_fingerprint_follows_the_profiles_choice(tmp_path):
    folder = write_folders(tmp_path)
    chosen = [
        Images(source="folders", folder=folder),
        Images(source="folders", folder=folder, classes=["cat"]),
        Images(source="folders", folder=folder, count=2),
    ]
    assert len({fingerprint(images) for images in [*chosen, Images(source="digits"), Images(source="bundled")]}) == 5


def test_fingerprint_follows_the_bundled_file(tmp_path, monkeypatch):
    images = Images(source="bundled", folder=None, classes=list(CLASSES))
    before = fingerprint(images)
    monkeypatch.setattr(module, "DEMO_FILE", tmp_path / "other.npz")
    (tmp_path / "other.npz").write_bytes(b"other images")
    assert fingerprint(images) != before
