"""Images decoded once: the same pixels as before, each file opened once, and a damaged block noticed; reading ahead."""

import multiprocessing
import os
import shutil
import threading
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import photographs
import pytest
import torch
from photographs import PAPER, opened
from PIL import Image

from mae_helpers.images import decoded as module
from mae_helpers.images.decoded import decoded
from mae_helpers.images.sets import ImageError, first_images, second_images
from mae_helpers.perturbations.corruptions import Corruption
from mae_helpers.profile.settings import Input, load_profile


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    return photographs.write_folders(photographs.write_flat(root / "flat"), root / "val")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of eight: thirty images are three whole ones and a rest."""
    monkeypatch.setattr(module, "BLOCK", 8)


@pytest.fixture
def counted(monkeypatch):
    """How often each image file has been opened, by its name."""
    times, real, lock = Counter(), Image.open, threading.Lock()

    def counting(file, *arguments, **more):
        with lock:
            times[os.path.basename(file)] += 1
        return real(file, *arguments, **more)

    monkeypatch.setattr(Image, "open", counting)
    return times


def same(first, second):
    assert len(first) == len(second)
    return all(np.array_equal(first.pixels(row), second.pixels(row)) for row in range(len(first)))


def blocks(folder):
    return sorted(folder.rglob("*.npy"))


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("how", ["squash", "crop"])
def test_decoded_images_are_the_same(tree, tmp_path, how, workers):
    plain = opened(tree, settings=Input(size=40, resize=how))
    found = decoded(plain, tmp_path, workers)
    assert same(found, plain)
    assert torch.equal(found.tensor(range(30)), plain.tensor(range(30)))
    assert [np.load(path).shape for path in blocks(tmp_path)] == [(8, 40, 40, 3)] * 3 + [(6, 40, 40, 3)]


def test_each_file_is_opened_once(tree, tmp_path, counted):
    plain = opened(tree)
    found = decoded(plain, tmp_path, 2)
    assert not counted, "nothing is decoded before it is asked for"
    for _ in range(2):
        assert sum(len(rows) for rows, *_ in found.batches(7, 2)) == 30
    again = decoded(opened(tree), tmp_path)
    assert torch.equal(again.tensor(range(30)), found.tensor(range(30)))
    assert len(counted) == 30
    assert set(counted.values()) == {1}


def test_only_the_blocks_that_are_asked_for_are_decoded(tree, tmp_path, counted):
    decoded(opened(tree), tmp_path).pixels(9)
    assert len(counted) == 8
    assert [path.name for path in blocks(tmp_path)] == ["00001.npy"]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs a process that starts at once")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_another_process_reads_what_this_one_decoded(tree, tmp_path, monkeypatch):
    plain = opened(tree)
    expected = [plain.pixels(row) for row in range(30)]
    decoded(plain, tmp_path / "pixels").held()
    monkeypatch.setattr(Image, "open", None)

    def read():
        found = decoded(opened(tree), tmp_path / "pixels")
        np.save(tmp_path / "there.npy", [found.pixels(row) for row in range(30)])

    process = multiprocessing.get_context("fork").Process(target=read)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert np.array_equal(np.load(tmp_path / "there.npy"), expected)


def test_other_sizes_files_and_orders_have_blocks_of_their_own(tree, tmp_path):
    root = shutil.copytree(tree, tmp_path / "val")
    out = tmp_path / "pixels"
    sets = [
        opened(root),
        opened(root, settings=Input(size=48)),
        opened(root, settings=Input(size=32, resize="crop")),
        opened(root, classes=list(PAPER)[::-1]),
        opened(root, classes=list(PAPER)[:3]),
        opened(root).take(range(29, -1, -1)),
    ]
    for images in sets:
        assert same(decoded(images, out), images)
    assert len(list(out.iterdir())) == 6
    for images in sets[:2]:
        other = images.normalised_as([0.5] * 3, [0.5] * 3)
        assert torch.equal(decoded(other, out).tensor([3]), other.tensor([3]))
    assert len(list(out.iterdir())) == 6, "the normalisation is no matter of the decoded bytes"
    photographs.photograph(12).rotate(180).save(root / "n02106662" / "ILSVRC2012_val_00000003.JPEG")
    changed = opened(root)
    assert same(decoded(changed, out), changed)
    assert not np.array_equal(changed.pixels(0), opened(tree).pixels(0))
    assert len(list(out.iterdir())) == 7


@pytest.mark.parametrize("damage", ["empty", "cut", "shape", "kind", "text", "pickle"])
def test_a_damaged_block_is_noticed_and_decoded_again(tree, tmp_path, counted, damage):
    plain = opened(tree)
    expected = plain.tensor(range(30))
    decoded(plain, tmp_path).held()
    path = blocks(tmp_path)[1]
    whole = path.read_bytes()
    if damage in ("empty", "cut", "text"):
        path.write_bytes({"empty": b"", "cut": whole[:-100], "text": b"no block"}[damage])
    else:
        content = {"shape": np.load(path)[:7], "kind": np.load(path).astype(np.int16), "pickle": np.array([{}])}[damage]
        np.save(path, content, allow_pickle=True)
    counted.clear()
    found = decoded(plain, tmp_path)
    with pytest.warns(UserWarning, match=r"00001\.npy: not a whole block of images \(.+\); decoded again"):
        assert torch.equal(found.tensor(range(30)), expected)
    assert len(counted) == 8
    assert path.read_bytes() == whole
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(decoded(plain, tmp_path).tensor(range(30)), expected)


@pytest.mark.parametrize("separate", [False, True])
def test_threads_that_ask_at_once_get_the_right_images(tree, tmp_path, counted, separate):
    plain = opened(tree)
    expected = [plain.pixels(row) for row in range(30)]
    counted.clear()
    sets = [decoded(plain, tmp_path, 2) for _ in range(4 if separate else 1)] * (1 if separate else 4)
    start = threading.Barrier(4)

    def read(images):
        start.wait()
        return [images.pixels(row) for row in range(30)]

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(read, sets):
            assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    assert set(counted.values()) == {1}


def test_decoded_sets_can_be_chosen_from_changed_and_held(tree, tmp_path):
    plain = opened(tree)
    found = decoded(plain, tmp_path, 2)

    def inverted(pixels, name):
        return 1 - pixels if name.startswith("n02106662") else pixels

    for use in (
        lambda images: images.subset(["n04273569", "n02106662"], 2),
        lambda images: images.take([29, 0, 8, 7]),
        lambda images: images.take(range(20, 5, -1)).take([3, 0]),
        lambda images: images.changed(inverted),
        lambda images: images.changed(inverted).take([2, 1, 4]),
        lambda images: images.held(2),
        lambda images: images.subset(["n02106662"]).changed(inverted).held(),
        lambda images: images.normalised_as([0.5] * 3, [0.5] * 3),
    ):
        assert use(found).ids == use(plain).ids
        assert torch.equal(use(found).tensor([1, 0]), use(plain).tensor([1, 0]))
        assert np.array_equal(np.asarray(found.image(11)), np.asarray(plain.image(11)))
    assert not np.array_equal(found.changed(inverted).pixels(0), found.pixels(0))


def test_a_held_image_can_be_written_to_without_harm(tree, tmp_path):
    found = decoded(opened(tree), tmp_path)
    before = found.pixels(0).copy()
    pixels = found.pixels(0)
    pixels[:] = 0
    assert np.array_equal(found.pixels(0), before)


def test_images_that_are_no_files_come_back_as_they_are(tmp_path, tiny_images):
    demo = load_profile("demo")
    for images in (first_images(demo), second_images(demo), tiny_images):
        assert decoded(images, tmp_path) is images
    assert not list(tmp_path.iterdir())


def test_a_broken_image_is_named_and_leaves_no_block(tree, tmp_path):
    root = shutil.copytree(tree, tmp_path / "val")
    path = root / "n02106662" / "ILSVRC2012_val_00000073.JPEG"
    path.write_bytes(path.read_bytes()[:-300])
    found = decoded(opened(root), tmp_path / "pixels", 2)
    for _ in range(2):
        with pytest.raises(ImageError, match=r"n02106662/ILSVRC2012_val_00000073\.JPEG: not a readable image"):
            found.pixels(0)
    assert not blocks(tmp_path / "pixels")
    assert found.pixels(8).shape == (32, 32, 3), "the other blocks can be had"


@pytest.mark.parametrize("size", [1, 7, 30, 64])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_batches_do_not_depend_on_workers(tree, size, workers):
    plain = opened(tree)
    found = list(plain.batches(size, workers))
    assert [list(rows) for rows, *_ in found] == [list(range(30))[start : start + size] for start in range(0, 30, size)]
    assert torch.equal(torch.cat([batch for *_, batch in found]), plain.tensor(range(30)))


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_reading_ahead_ends_with_whoever_asks(tree, workers):
    plain, read = opened(tree), []
    images = replace(plain, read=lambda row: read.append(row) or plain.read(row))
    before = threading.active_count()
    walk = images.batches(2, workers)
    for rows, *_ in walk:
        if rows.start == 4:
            break
    walk.close()
    assert threading.active_count() == before
    assert len(read) <= 12, "three batches, and those that were under way"
    assert sorted(set(read)) == sorted(read), "none twice"


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_broken_image_ends_the_walk_with_its_name(tree, tmp_path, workers):
    root = shutil.copytree(tree, tmp_path / "val")
    path = root / "n02107312" / "ILSVRC2012_val_00000017.JPEG"
    path.write_bytes(path.read_bytes()[:500])
    before, seen = threading.active_count(), []
    walk = (seen.extend(rows) for rows, *_ in opened(root).batches(2, workers))
    with pytest.raises(ImageError, match=r"n02107312/ILSVRC2012_val_00000017\.JPEG: not a readable image"):
        list(walk)
    assert seen == list(range(6)), "what comes before it"
    assert threading.active_count() == before


def test_corruptions_in_processes_are_the_same_as_one_by_one(tree, tmp_path):
    images = decoded(opened(tree), tmp_path).take([0, 8, 17])
    for corruption in (Corruption("gaussian_noise", 2), Corruption("glass_blur", 2)):
        changed = images.changed(corruption.change(images, {}))
        alone, together = changed.held(), changed.held(2, processes=True)
        for row in range(3):
            assert np.array_equal(alone.pixels(row), changed.pixels(row))
            assert np.array_equal(together.pixels(row), alone.pixels(row))
            assert not np.array_equal(alone.pixels(row), images.pixels(row))
