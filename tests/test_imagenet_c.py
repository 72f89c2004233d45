"""ImageNet-C's published files: found in either layout, paired by number, and equal to a forward pass on their pixels."""

import os
import shutil

import numpy as np
import photographs
import pytest
import torch
from conftest import TINY, make_vit
from photographs import PAPER, SETTINGS, opened
from PIL import Image
from safetensors.torch import save_file

from mae_helpers.images.pixels import ImageError, resize
from mae_helpers.perturbations.corruptions import GROUP_OF, SEVERITIES
from mae_helpers.perturbations.imagenet_c import CorruptedFiles, file_levels, file_name
from mae_helpers.perturbations.levels import Clean
from mae_helpers.profile.settings import Images, Model, Profile
from mae_helpers.sweep import sweep
from mae_helpers.sweep.subjects import Subject

DOG = "n02106662"
CLASSES = list(PAPER)
CORRUPTIONS = ("gaussian_noise", "contrast")


def corrupted(image, corruption, severity):
    """A stand-in for a corruption that no other shares: darker, or flatter, by severity; 60 px as all files are."""
    pixels = np.asarray(image.resize((60, 60)), float)
    changed = pixels * (1 - 0.15 * severity) if corruption == "contrast" else 255 - pixels * (1 - 0.1 * severity)
    return Image.fromarray(changed.astype(np.uint8))


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    return photographs.write_flat(tmp_path_factory.mktemp("imagenet") / "val")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """`corruption/severity/class/file`, two corruptions of fifteen."""
    root = tmp_path_factory.mktemp("imagenet-c")
    for number, (name, label) in enumerate(photographs.validation_names().items()):
        image = photographs.photograph(number)
        for corruption in CORRUPTIONS:
            for severity in SEVERITIES:
                path = root / corruption / str(severity) / label / name
                path.parent.mkdir(parents=True, exist_ok=True)
                corrupted(image.convert("RGB"), corruption, severity).save(path, quality=85)
    return root


@pytest.fixture
def images(flat):
    photographs.write_kaggle(flat.parent / "LOC_val_solution.csv")
    return opened(flat)


def source(folder, **more):
    return Images(source="folders", folder=str(folder), **more)


def files_pixels(images, root, corruption, severity):
    """The pixels of an image set's files, (N, H, W, 3), found by hand."""
    found = []
    for name, label in zip(photographs.keys(images), images.classes, strict=True):
        path = root / corruption / str(severity) / label / f"ILSVRC2012_val_{name}.JPEG"
        found.append(np.asarray(resize(Image.open(path).convert("RGB"), images.input.size, "squash"), np.float32) / 255)
    return np.stack(found)


def read(images, level):
    changed = images.changed(level.change(images, {}))
    return np.stack([changed.pixels(row) for row in range(len(images))])


def test_the_published_layout_gives_a_cell_for_each_corruption_and_severity_that_is_there(published, images):
    levels = file_levels(source(published), CLASSES)
    assert list(levels) == [(corruption, severity) for corruption in CORRUPTIONS for severity in SEVERITIES]
    for (corruption, severity), level in levels.items():
        assert (level.corruption, level.severity) == (corruption, severity)
        assert level.name == f"{corruption}_{severity}_files"
        assert np.array_equal(read(images, level), files_pixels(images, published, corruption, severity))
    assert len({read(images, level).tobytes() for level in levels.values()}) == 10
    assert list(file_levels(source(published), CLASSES, (2, 4))) == [(c, s) for c in CORRUPTIONS for s in (2, 4)]


def test_the_grouped_layout_gives_the_same_cells_and_one_group_alone_is_enough(published, images, tmp_path):
    (tmp_path / "extra" / "speckle_noise" / "1").mkdir(parents=True)
    for corruption in CORRUPTIONS:
        shutil.copytree(published / corruption, tmp_path / GROUP_OF[corruption] / corruption)
        alone = {name for name, _ in file_levels(source(tmp_path), CLASSES)}
        assert alone == ({"gaussian_noise"} if corruption == "gaussian_noise" else set(CORRUPTIONS))
    plain, grouped = (file_levels(source(root), CLASSES) for root in (published, tmp_path))
    assert list(plain) == list(grouped)
    for level in plain:
        assert np.array_equal(read(images, plain[level]), read(images, grouped[level]))


@pytest.mark.parametrize(
    ("image_id", "name"),
    [
        ("ILSVRC2012_val_00000293.JPEG", "ILSVRC2012_val_00000293.JPEG"),
        ("n02106662/ILSVRC2012_val_00000293.JPEG", "ILSVRC2012_val_00000293.JPEG"),
        ("imagenet-val-000001/ILSVRC2012_val_00000293.jpg", "ILSVRC2012_val_00000293.JPEG"),
        ("n02106662/ILSVRC2012_val_00000293_n02106662.JPEG", "ILSVRC2012_val_00000293.JPEG"),
        ("german shepherd/12.png", "12.png"),
    ],
)
def test_a_files_name(image_id, name):
    assert file_name(image_id) == name


def test_what_is_missing_or_broken_is_named(published, images, tmp_path):
    root = shutil.copytree(published, tmp_path / "c")
    (root / "contrast" / "3").rename(tmp_path / "3")
    with pytest.raises(ImageError, match=r"contrast/3: no such folder; ImageNet-C has severities 1 to 5"):
        file_levels(source(root), CLASSES)
    (tmp_path / "3").rename(root / "contrast" / "3")
    path = root / "contrast" / "2" / DOG / "ILSVRC2012_val_00000073.JPEG"
    level = file_levels(source(root), CLASSES)["contrast", 2]
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ImageError, match=rf"{path}: not a readable image \(.+\); replace the file"):
        read(images, level)
    path.unlink()
    with pytest.raises(ImageError, match=rf"{path}: no such file; ImageNet-C must hold the images"):
        read(images, level)


def test_what_is_not_there_is_left_out_where_it_is_optional_and_else_an_error(tmp_path):
    assert file_levels(None, CLASSES) == {}
    assert file_levels(source(tmp_path / "gone", optional=True), CLASSES) == {}
    with pytest.raises(ImageError, match=r"gone: no such folder of ImageNet-C; correct `folder`"):
        file_levels(source(tmp_path / "gone"), CLASSES)
    (tmp_path / "here").mkdir()
    for optional in (False, True):
        with pytest.raises(ImageError, match=r"here: no corruption of ImageNet-C in it; expected folders such as"):
            file_levels(source(tmp_path / "here", optional=optional), CLASSES)


@pytest.mark.parametrize("classes", [CLASSES, "all", []])
def test_the_state_follows_the_files_of_wanted_classes(published, images, tmp_path, classes):
    root = shutil.copytree(published, tmp_path / "c")
    others = [name for name in CLASSES if name != DOG]
    before, before_others = file_levels(source(root), classes), file_levels(source(root), others)
    assert file_levels(source(root), classes) == before
    folder = root / "gaussian_noise" / "5" / DOG
    time = folder.stat().st_mtime_ns
    with (folder / "ILSVRC2012_val_00000003.JPEG").open("r+b") as file:
        Image.new("RGB", (60, 60)).save(file, "JPEG")
    assert folder.stat().st_mtime_ns == time, "overwritten in place"
    overwritten = file_levels(source(root), classes)["gaussian_noise", 5]
    assert repr(overwritten) != repr(before["gaussian_noise", 5]), (
        "the fields of a perturbation are part of a cell's key"
    )
    assert read(images, overwritten)[0].max() == 0
    (folder / "ILSVRC2012_val_00000073.JPEG").unlink()
    os.utime(folder, ns=(1, 1))
    after = file_levels(source(root), classes)
    assert after["gaussian_noise", 5] != overwritten
    assert after != before
    assert file_levels(source(root), others) == before_others
    (folder.parent / "n01440764").mkdir()
    assert (file_levels(source(root), classes) == after) == (classes == CLASSES)


@torch.no_grad()
def test_cells_equal_a_direct_forward_pass_on_the_files(published, images, tmp_path):
    levels = file_levels(source(published), CLASSES)
    settings, models = {"num_classes": 1000, "global_pool": "avg"}, {}
    for seed, normalisation in enumerate(({}, {"mean": [0.5] * 3, "std": [0.5] * 3})):
        path = tmp_path / f"{seed}.safetensors"
        save_file(make_vit(seed, **settings).state_dict(), path)
        models[f"model {seed}"] = Model(checkpoint=str(path), arguments=TINY | settings, **normalisation)
    profile = Profile(name="files", images=images.source, input=images.input, models=models)
    images = images.take(range(0, 30, 2))
    subjects = [Subject(profile, name, images.source, pixels=tmp_path / "pixels").showing(images) for name in models]
    chosen = {level: levels[level] for level in (("gaussian_noise", 1), ("contrast", 5))}
    for measure in ("prediction", "embedding"):
        found = sweep.sweep(subjects, {"clean": Clean(), **chosen}, measure, tmp_path / "cells")
        for subject in subjects:
            assert not np.array_equal(found[subject.name]["clean"], found[subject.name]["gaussian_noise", 1])
            for level in chosen:
                pixels = files_pixels(images, published, *level)
                mean, std = np.float32(subject.images.input.mean), np.float32(subject.images.input.std)
                batch, vit = torch.from_numpy(((pixels - mean) / std).transpose(0, 3, 1, 2).copy()), subject.open()
                if measure == "prediction":
                    assert np.array_equal(found[subject.name][level], vit(batch).argmax(1).numpy())
                else:
                    tokens = vit.blocks(vit.norm_pre(vit._pos_embed(vit.patch_embed(batch))))
                    expected = tokens[:, 1:].mean(1).numpy()
                    np.testing.assert_allclose(found[subject.name][level], expected, rtol=1e-5, atol=1e-5)


def test_files_are_taken_whatever_the_size_that_the_model_wants(published, flat):
    level = CorruptedFiles("contrast", 1, str(published / "contrast" / "1"), "")
    for size in (32, 60):
        found = opened(flat, settings=type(SETTINGS)(size=size))
        assert np.array_equal(read(found, level), files_pixels(found, published, "contrast", 1))
    stored = published / "contrast" / "1" / found.classes[0] / found.ids[0]
    assert np.array_equal(read(found, level)[0] * 255, np.asarray(Image.open(stored))), "at its own size, untouched"
