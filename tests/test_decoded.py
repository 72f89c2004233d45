"""Images decoded once: the same pixels as before, each file opened once, and a damaged block noticed; reading ahead."""

import multiprocessing
import os
import pickle
import shutil
import signal
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
from mae_helpers.images.pixels import ImageError
from mae_helpers.images.sets import first_images, open_images
from mae_helpers.perturbations.corruptions import Corruption
from mae_helpers.profile.settings import Input, load_profile

DOG = "n02106662"
forked = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs a process at once")
quiet = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


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


def every(images):
    return np.stack([images.pixels(row) for row in range(len(images))])


def same(first, second):
    return len(first) == len(second) and np.array_equal(every(first), every(second))


def whole_blocks(path):
    """Which blocks of a file are written."""
    return np.flatnonzero(np.load(path, mmap_mode="r")["checksum"]).tolist()


def only_file(folder):
    (path,) = folder.rglob("*.npy")
    return path


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("how", ["squash", "crop"])
def test_decoded_images_are_the_same(tree, tmp_path, how, workers):
    plain = opened(tree, settings=Input(size=40, resize=how))
    found = decoded(plain, tmp_path, workers)
    assert same(found, plain)
    assert torch.equal(found.tensor(range(30)), plain.tensor(range(30)))
    stored = np.load(only_file(tmp_path))
    assert stored["bytes"].shape == (4, 8, 40, 40, 3)
    assert np.array_equal(stored["bytes"].reshape(-1, 40, 40, 3)[11], np.asarray(plain.image(11)))


def test_each_file_is_opened_once(tree, tmp_path, counted):
    found = decoded(opened(tree), tmp_path, 2)
    assert not counted, "nothing is decoded before it is asked for"
    for _ in range(2):
        assert sum(len(rows) for rows, *_ in found.batches(7, 2)) == 30
    again = decoded(opened(tree), tmp_path)
    assert torch.equal(again.tensor(range(30)), found.tensor(range(30)))
    assert len(counted) == 30
    assert set(counted.values()) == {1}


def test_only_the_blocks_that_are_asked_for_are_decoded_and_take_room(tree, tmp_path, counted):
    decoded(opened(tree, settings=Input(size=224)), tmp_path).pixels(9)
    assert len(counted) == 8
    path = only_file(tmp_path)
    assert whole_blocks(path) == [1]
    assert path.stat().st_blocks * 512 < path.stat().st_size / 2


@forked
@quiet
def test_processes_that_decode_at_once_share_the_work_and_one_that_is_killed_does_no_harm(tree, tmp_path):
    plain, context = opened(tree), multiprocessing.get_context("fork")

    def read(name, kill_at=None):
        log, real = (tmp_path / name).open("a"), Image.open

        def counting(file, *arguments, **more):
            print(os.path.basename(file), file=log, flush=True)
            if os.path.basename(file) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(file, *arguments, **more)

        Image.open = counting
        np.save(tmp_path / f"{name}.npy", every(decoded(plain, tmp_path / "pixels")))

    names = list(dict.fromkeys(name.rpartition("/")[2] for name in plain.ids))
    killed = context.Process(target=read, args=("killed", names[13]))
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    assert whole_blocks(only_file(tmp_path / "pixels")) == [0]
    both = [context.Process(target=read, args=(name,)) for name in ("first", "second")]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    for name in ("first", "second"):
        assert np.array_equal(np.load(tmp_path / f"{name}.npy"), every(plain))
    opened_by_both = [line for name in ("first", "second") for line in (tmp_path / name).read_text().split()]
    assert sorted(opened_by_both) == sorted(names[8:]), "each once, and the killed one's whole block not at all"


def test_other_sizes_files_and_orders_have_files_of_their_own(tree, tmp_path):
    root, out = shutil.copytree(tree, tmp_path / "val"), tmp_path / "pixels"
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
    for images in sets[:2]:
        other = images.normalised_as([0.5] * 3, [0.5] * 3)
        assert torch.equal(decoded(other, out).tensor([3]), other.tensor([3]))
    assert len(list(out.glob("*.npy"))) == 6, "the normalisation is no matter of the decoded bytes"
    photographs.photograph(12).rotate(180).save(root / DOG / "ILSVRC2012_val_00000003.JPEG")
    changed = opened(root)
    assert same(decoded(changed, out), changed)
    assert not np.array_equal(changed.pixels(0), opened(tree).pixels(0))
    assert len(list(out.glob("*.npy"))) == 7


def archive(path):
    """The same numbers, as an archive of arrays."""
    stored = np.load(path)
    with path.open("wb") as file:
        np.savez(file, stored)


OTHER = {  # what lies in the place of the file
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "text": lambda path: path.write_bytes(b"no block"),
    "shape": lambda path: np.save(path, np.load(path)[:3]),
    "kind": lambda path: np.save(path, np.load(path)["bytes"]),
    "values": lambda path: np.save(path, np.load(path)["bytes"].astype(np.float32)),
    "objects": lambda path: np.save(path, np.array([{}]), allow_pickle=True),
    "a pickle": lambda path: path.write_bytes(pickle.dumps([1])),
    "an archive": archive,
    "magic": lambda path: path.write_bytes(b"\x93NUMPY"),
    "noise": lambda path: path.write_bytes(np.random.default_rng(0).bytes(200)),
}
DAMAGES = {  # what becomes of the file, how many images are decoded again, and what is said
    **{name: (do, 30, "not a file of these images") for name, do in OTHER.items()},
    "one byte": (lambda path: poke(path, 3000), 8, "block 0 is not whole"),
    "a checksum": (lambda path: poke(path, path.stat().st_size - 1), 6, "block 3 is not whole"),
}


def poke(path, place):
    """Another byte at one place."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed_and_the_images_decoded_again(tree, tmp_path, counted, damage):
    plain = opened(tree)
    expected = plain.tensor(range(30))
    every(decoded(plain, tmp_path))
    path = only_file(tmp_path)
    whole, (do, count, message) = path.read_bytes(), DAMAGES[damage]
    do(path)
    counted.clear()
    found = decoded(plain, tmp_path)
    with pytest.warns(UserWarning, match=rf"{path}: {message}.*; decoded again"):
        assert torch.equal(found.tensor(range(30)), expected)
    assert len(counted) == count
    assert path.read_bytes() == whole
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(decoded(plain, tmp_path).tensor(range(30)), expected)


@pytest.mark.parametrize("separate", [False, True])
def test_threads_that_ask_at_once_get_the_right_images(tree, tmp_path, counted, separate):
    plain = opened(tree)
    expected = every(plain)
    counted.clear()
    sets = [decoded(plain, tmp_path, 2) for _ in range(4 if separate else 1)] * (1 if separate else 4)
    start = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda images: start.wait() >= 0 and every(images), sets):
            assert np.array_equal(found, expected)
    assert set(counted.values()) == {1}


def inverted(pixels, name):
    return 1 - pixels if name.startswith(DOG) else pixels


@pytest.mark.parametrize(
    "use",
    [
        lambda images: images.subset(["n04273569", DOG], 2),
        lambda images: images.take([29, 0, 8, 7]),
        lambda images: images.take(range(20, 5, -1)).take([3, 0]),
        lambda images: images.changed(inverted),
        lambda images: images.changed(inverted).take([2, 1, 4]),
        lambda images: images.subset([DOG]).held(2, inverted),
        lambda images: images.normalised_as([0.5] * 3, [0.5] * 3),
    ],
)
def test_decoded_sets_can_be_chosen_from_changed_and_held(tree, tmp_path, use):
    plain = opened(tree)
    found = decoded(plain, tmp_path, 2)
    assert use(found).ids == use(plain).ids
    assert torch.equal(use(found).tensor([1, 0]), use(plain).tensor([1, 0]))
    assert not np.array_equal(found.changed(inverted).pixels(0), found.pixels(0))
    before, pixels = found.pixels(0).copy(), found.pixels(0)
    pixels[:] = 0
    assert np.array_equal(found.pixels(0), before), "what is written into an image does not reach the file"


def test_images_that_are_no_files_come_back_as_they_are(tmp_path, tiny_images):
    demo = load_profile("demo")
    for images in (first_images(demo), open_images(demo.second_images, demo.input), tiny_images):
        assert decoded(images, tmp_path) is images
    assert not list(tmp_path.iterdir())


def test_a_broken_image_is_named_and_leaves_no_block(tree, tmp_path):
    root = shutil.copytree(tree, tmp_path / "val")
    path = root / DOG / "ILSVRC2012_val_00000073.JPEG"
    path.write_bytes(path.read_bytes()[:-300])
    found = decoded(opened(root), tmp_path / "pixels", 2)
    for _ in range(2):
        with pytest.raises(ImageError, match=rf"{DOG}/ILSVRC2012_val_00000073\.JPEG: not a readable image"):
            found.pixels(0)
    assert not list((tmp_path / "pixels").glob("*.npy"))
    assert found.pixels(8).shape == (32, 32, 3), "the other blocks can be had"
    assert whole_blocks(only_file(tmp_path / "pixels")) == [1]


@pytest.mark.parametrize("size", [1, 7, 30, 64])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_batches_do_not_depend_on_workers(tree, size, workers):
    plain = opened(tree)
    rows, ids, batches = zip(*plain.batches(size, workers), strict=True)
    assert [list(some) for some in rows] == [list(range(30))[start : start + size] for start in range(0, 30, size)]
    assert [name for some in ids for name in some] == plain.ids
    assert torch.equal(torch.cat(batches), plain.tensor(range(30)))


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_reading_ahead_ends_with_whoever_asks(tree, workers):
    plain, read = opened(tree), []
    images = replace(plain, pixels=lambda row: read.append(row) or plain.pixels(row))
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


@pytest.mark.parametrize("corruption", ["gaussian_noise", "glass_blur"])
def test_corruptions_in_processes_are_the_same_as_one_by_one(tree, tmp_path, corruption):
    images = decoded(opened(tree), tmp_path).take([0, 8, 17])
    change = Corruption(corruption, 2).change(images, {})
    alone = images.held(1, change)
    assert same(alone, images.changed(change))
    assert same(images.held(2, change, processes=True), alone)
    assert not any(np.array_equal(alone.pixels(row), images.pixels(row)) for row in range(3))
