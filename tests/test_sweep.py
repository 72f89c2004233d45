"""Cells: equal to a direct forward pass, computed once in any order, and computed again where a file is damaged."""

import os
import re
import resource
import shutil
import warnings
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSES, TINY, make_vit
from PIL import Image
from safetensors.torch import save_file
from trouble import Counting, Tint

from mae_helpers.encoder.weights import CheckpointError, load_model
from mae_helpers.images.sets import open_images
from mae_helpers.perturbations.blur import GaussianBlur, blur, blur_levels
from mae_helpers.perturbations.corruptions import Corruption
from mae_helpers.perturbations.levels import Clean, Unchanged
from mae_helpers.perturbations.occlusion import Occlusion, occlusion_levels
from mae_helpers.profile import files
from mae_helpers.profile.files import StorageError
from mae_helpers.profile.settings import Computing
from mae_helpers.run.chapter import Chapter
from mae_helpers.sweep import recorded, sweep
from mae_helpers.sweep.cells import Cell
from mae_helpers.sweep.current import code_behind
from mae_helpers.sweep.recorded import ROLLOUTS

BLUR = GaussianBlur(5, 1.0)
MEASURES = ("prediction", "probability", "embedding", "heads")
LEVELS = blur_levels(["I"]) | {"half": Occlusion(50)}
TWO = ["mae_finetuned", "vit_supervised"]


def changed(model, **entries):
    """Settings of a profile with other entries."""
    return model.model_copy(update=entries)


def with_models(profile, **models):
    """A profile with some entries of its models changed."""
    return changed(
        profile, models=profile.models | {name: changed(profile.models[name], **more) for name, more in models.items()}
    )


def normalised(images, pixels):
    """Pixels (B, H, W, 3) as a model takes them."""
    scaled = (pixels - np.float32(images.input.mean)) / np.float32(images.input.std)
    return torch.from_numpy(scaled.transpose(0, 3, 1, 2).copy())


def pixels_of(images):
    return np.stack([images.pixels(row) for row in range(len(images))])


@torch.no_grad()
def by_hand(vit, batch):
    """All measures of a batch, written out: attention from Q and K, head outputs from V, rollout as a whole matrix."""
    tokens = vit._pos_embed(vit.patch_embed(batch))
    heads, joint = [], torch.eye(tokens.shape[1])
    for block in vit.blocks:
        qkv = block.attn.qkv(block.norm1(tokens)).unflatten(-1, (3, block.attn.num_heads, -1))
        query, key, value = (part.transpose(1, 2) for part in qkv.unbind(2))
        attention = torch.softmax(query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5, dim=-1)
        heads.append((attention @ value)[:, :, 1:].mean(2))
        joint = (attention.mean(1) + torch.eye(tokens.shape[1])) / 2 @ joint
        tokens = block(tokens)
    return {
        "prediction": vit(batch).argmax(1).numpy(),
        "probability": vit(batch).softmax(1).amax(1).numpy(),
        "embedding": tokens[:, 1:].mean(1).numpy(),
        "heads": torch.stack(heads, 1).numpy(),
        "cls_rollout": joint[:, 0, 1:].numpy(),
        "patch_rollout": joint[:, 1:, 1:].mean(1).numpy(),
    }


def same(first, second):
    """Whether two nested mappings hold the same arrays, to the bit."""
    assert set(first) == set(second)
    return all(
        same(first[key], second[key]) if isinstance(first[key], dict) else np.array_equal(first[key], second[key])
        for key in first
    )


def close(first, second):
    """Whether they hold the same arrays but for rounding, and the very same predictions."""
    for key, value in first.items():
        if isinstance(value, dict):
            close(value, second[key])
        elif key == "prediction":
            np.testing.assert_array_equal(value, second[key])
        else:
            np.testing.assert_allclose(second[key], value, rtol=0, atol=1e-6 * np.abs(value).max())


def swept(subjects, levels, measures, folder):
    """Several measures of each level: {model: {level: {measure: array}}}."""
    each = {measure: sweep.sweep(subjects, levels, measure, folder) for measure in measures}
    return {
        one.name: {level: {measure: each[measure][one.name][level] for measure in measures} for level in levels}
        for one in subjects
    }


def cells(subjects, perturbation, measures, folder):
    """Several measures of one perturbation: {model: {measure: array}}."""
    return {
        name: levels["level"] for name, levels in swept(subjects, {"level": perturbation}, measures, folder).items()
    }


def written(folder):
    """Every file but locks, with what changes where it is written again."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != ".locks"]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def names(paths):
    """Models and perturbations of cells."""
    return sorted((path.parent.name, path.name.split("-")[0]) for path in paths)


# What a cell holds


@pytest.mark.parametrize(
    ("perturbation", "change", "measures"),
    [
        (Clean(), lambda pixels: pixels, MEASURES + ROLLOUTS),
        (BLUR, lambda pixels: blur(pixels, 5, 1.0), MEASURES),
    ],
)
def test_cells_equal_a_direct_forward_pass_of_the_changed_pixels(pair, tmp_path, perturbation, change, measures):
    found = cells(pair, perturbation, measures, tmp_path)
    for one in pair:
        pixels = np.stack([change(image) for image in pixels_of(one.images)])
        expected = by_hand(one.open(), normalised(one.images, pixels))
        for measure in measures:
            assert found[one.name][measure].shape == expected[measure].shape
            np.testing.assert_allclose(found[one.name][measure], expected[measure], rtol=1e-5, atol=1e-5)
    assert not np.allclose(found[TWO[0]]["embedding"], found[TWO[1]]["embedding"])


@pytest.mark.parametrize("ranking", ROLLOUTS)
def test_occlusion_masks_each_models_own_highest_patches(pair, tmp_path, ranking):
    found = sweep.sweep(pair, {25: Occlusion(25, ranking)}, "embedding", tmp_path)
    masks = []
    for one in pair:
        batch = normalised(one.images, pixels_of(one.images))
        scores = by_hand(one.open(), batch)[ranking]
        masks.append([set(np.argsort(-image)[:4]) for image in scores])
        for image, mask in zip(batch, masks[-1], strict=True):
            for row, column in (divmod(patch, 4) for patch in mask):
                image[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 0
        expected = by_hand(one.open(), batch)["embedding"]
        np.testing.assert_allclose(found[one.name][25], expected, rtol=1e-5, atol=1e-5)
    assert any(first != second for first, second in zip(*masks, strict=True))


@pytest.mark.parametrize("nothing", [Occlusion(0), Occlusion(0, "patch_rollout"), Occlusion(0, "random"), Unchanged()])
def test_where_nothing_is_done_the_cell_is_the_clean_one(pair, tmp_path, nothing):
    measure = "prediction" if nothing == Unchanged() else "embedding"
    clean, found = (cells(pair, one, [measure], tmp_path) for one in (Clean(), nothing))
    for one in pair:
        np.testing.assert_allclose(found[one.name][measure], clean[one.name][measure], rtol=1e-5, atol=1e-6)


def test_order_and_company_change_nothing_and_nothing_is_computed_twice(pair, tmp_path):
    levels, folder = blur_levels(["I", "X"]) | {"half": Occlusion(50)}, tmp_path / "cells"
    together = swept(pair, levels, MEASURES[:2], folder / "together")
    assert list(together) == TWO
    backwards = dict(reversed(levels.items()))
    for one in reversed(pair):
        alone = swept([one], backwards, MEASURES[:2], folder / "alone")
        assert list(alone[one.name]) == list(backwards)
        assert same(alone, {one.name: together[one.name]})
    before = written(folder)
    assert len(before) == 2 * 2 * 4, "with the clean cells for the rollouts"
    assert same(together, swept(pair, levels, MEASURES[:2], folder / "together"))
    assert written(folder) == before
    none, folder = occlusion_levels("cls_rollout", [0, 50]), tmp_path / "none"
    clean = sweep.sweep(pair[:1], {0: Clean()}, "embedding", folder)
    first = written(folder)
    assert same(clean[TWO[0]], {0: sweep.sweep(pair, none, "embedding", folder)[TWO[0]][0]})
    assert first.items() <= written(folder).items(), "a further model is computed without the first"
    both = [(name, what) for name in TWO for what in ("clean", none[50].name)]
    assert names(written(folder)) == both, "no occlusion is the clean cell itself"


def test_chunks_change_nothing_and_models_share_the_perturbed_pixels(pair, tmp_path, monkeypatch):
    levels, found = LEVELS | {"counted": Counting()}, []
    for chunk in (recorded.CHUNK, 5):
        monkeypatch.setattr(recorded, "CHUNK", chunk)
        Counting.seen.clear()
        found.append(swept(pair, levels, MEASURES, tmp_path / str(chunk)))
        assert sorted(Counting.seen) == sorted(pair[0].images.ids), "each image once for both models"
    close(*found)


def test_a_large_set_is_cut_into_parts_with_the_same_results(pair, tmp_path, monkeypatch):
    """Twelve images in parts of five: three files a model and level; `own_prediction` still knows all classes."""
    whole, own = swept(pair, LEVELS, MEASURES[:2], tmp_path / "whole"), {"own": Unchanged()}
    whole_own = swept(pair, own, ["own_prediction"], tmp_path / "whole")
    monkeypatch.setattr(sweep, "PART", 5)
    folder = tmp_path / "parts"
    parts = swept(pair, LEVELS, MEASURES[:2], folder)
    assert names(written(folder)).count((TWO[0], BLUR.name)) == 3
    assert {path.suffix for path in written(folder)} == {".npz"}, "nothing but cells is left behind"
    close(whole, parts)
    assert same(whole_own, swept(pair, own, ["own_prediction"], folder))
    before = written(folder)
    assert same(parts, swept(pair, LEVELS, MEASURES[:2], folder))
    assert written(folder) == before


def test_images_of_other_files_are_not_shared_though_they_have_the_same_names(pair, tmp_path):
    others = shutil.copytree(tmp_path / "images", tmp_path / "others")
    for path in others.rglob("*.png"):
        Image.open(path).rotate(90).save(path)
    mae, sup = pair
    turned = replace(sup, source=changed(sup.source, folder=str(others)))
    found = cells([mae, turned], BLUR, ["embedding"], tmp_path / "together")
    assert same(found, {one.name: cells([one], BLUR, ["embedding"], tmp_path / "b")[one.name] for one in (mae, turned)})
    assert not np.allclose(
        found[sup.name]["embedding"], cells([sup], BLUR, ["embedding"], tmp_path)[sup.name]["embedding"]
    )


# Damage


class Trap:
    """Something whose unpickling leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def one_bit_of_a_measure(path, _):
    with np.load(path) as file:
        embedding = file["embedding"].tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(embedding) + 5] ^= 1
    path.write_bytes(content)


def rewritten(path, **entries):
    with np.load(path) as file:
        kept = {name: file[name] for name in file.files}
    np.savez(path, **{name: value for name, value in (kept | entries).items() if value is not None})


DAMAGE = {
    "shortened": lambda path, _: path.write_bytes(path.read_bytes()[:-100]),
    "emptied": lambda path, _: path.write_bytes(b""),
    "of another cell": lambda path, other: path.write_bytes(other.read_bytes()),
    "random bytes": lambda path, _: path.write_bytes(np.random.default_rng(3).bytes(5000)),
    "one bit of a measure": one_bit_of_a_measure,
    "without a measure": lambda path, _: rewritten(path, heads=None),
    "an array": lambda path, _: np.save(path.open("wb"), np.zeros(3)),
    "a trap": lambda path, _: rewritten(path, heads=np.array([Trap(path.parent / "sprung")], dtype=object)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cell_is_named_computed_again_and_never_executed(pair, tmp_path, damage):
    before = cells(pair, BLUR, MEASURES, tmp_path)
    broken, whole = (Cell(tmp_path, one, BLUR).path for one in pair)
    stamp = written(whole.parent)
    DAMAGE[damage](broken, whole)
    damaged = written(broken.parent)
    words = "it belongs to another cell" if damage == "of another cell" else ""
    with pytest.warns(UserWarning, match=rf"{re.escape(str(broken))}: not a whole cell \(.*{words}") as caught:
        after = cells(pair, BLUR, MEASURES, tmp_path)
    assert [warning.category for warning in caught].count(UserWarning) == 1
    assert same(before, after)
    assert written(whole.parent) == stamp
    repaired = written(broken.parent)
    assert set(repaired) == {broken}, "nothing in it was executed"
    assert repaired != damaged
    with warnings.catch_warnings(action="error"):
        assert same(before, cells(pair, BLUR, MEASURES, tmp_path))
    assert written(broken.parent) == repaired


def test_a_failed_write_leaves_nothing_and_the_next_call_succeeds(mae, tmp_path):
    """No file may have more than 1,000 bytes: a disk that is full, without a disk."""
    folder, before = tmp_path / "cells", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(StorageError, match=r"no room for gaussian_blur_5_1.*MB are free"):
            cells([mae], BLUR, MEASURES, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not written(folder)
    assert set(cells([mae], BLUR, MEASURES, folder)[mae.name]) == set(MEASURES)


# Keys


def key(subject, perturbation=BLUR):
    return Cell(Path(), subject, perturbation).key


def test_whatever_decides_a_cell_has_a_key_of_its_own_and_words_have_none(mae, tmp_path):
    settings = [Clean(), BLUR, GaussianBlur(5, 2.0), GaussianBlur(7, 1.0)]
    settings += [Occlusion(10), Occlusion(20), Occlusion(10, seed=1), Occlusion(10, fill="black")]
    settings += [Occlusion(10, ranking) for ranking in ("patch_rollout", "random")]
    settings += [Corruption("fog", 1), Corruption("fog", 2), Corruption("snow", 1), Corruption("fog", 1, seed=1)]
    profile, model = mae.profile, mae.profile.models[mae.name]
    shutil.copytree(tmp_path / "images", tmp_path / "copy")

    def other(**entries):
        return replace(mae, profile=with_models(profile, mae_finetuned=entries))

    subjects = [
        mae,
        other(checkpoint=profile.models["vit_supervised"].checkpoint),
        other(arguments=model.arguments | {"num_heads": 2}),
        other(mean=[0.5, 0.4, 0.3], std=[0.3, 0.25, 0.25]),
        other(mean=[0.5, 0.4, 0.4], std=[0.3, 0.25, 0.2]),
        replace(mae, name="vit_supervised"),
        replace(mae, rows=tuple(range(11))),
        replace(mae, rows=tuple(reversed(range(12)))),
        replace(mae, source=changed(mae.source, folder=str(tmp_path / "copy"))),
        replace(mae, source=changed(mae.source, classes=CLASSES[::-1])),
        replace(mae, profile=changed(profile, input=changed(profile.input, resize="crop"))),
        replace(mae, profile=changed(profile, compute=changed(profile.compute, compile=True))),
        replace(mae, precision="bf16"),
        replace(mae, device="cuda"),
        replace(mae, among=(0, 1)),
    ]
    keys = [key(one, setting) for one in subjects for setting in settings]
    assert len(set(keys)) == len(subjects) * len(settings)
    words = {"title": "Another", "about": "Other words", "name": "another", "path": None}
    twins = [
        replace(mae, profile=changed(profile, **words), source=changed(mae.source, title="New", optional=True)),
        replace(mae, seed=1, pixels=tmp_path / "pixels", among=(0, 1, 2)),
        replace(mae, device="cpu:0", precision="float32"),
        replace(mae, profile=changed(profile, compute=Computing(batch_size=7, workers=5))),
        *mae.parts(12),
    ]
    assert {key(twin, Corruption("fog", 3, 0)) for twin in twins} == {key(mae, Corruption("fog", 3))}


def test_fields_of_a_perturbation_are_told_apart_by_their_content(mae):
    """NumPy's own text of a large array leaves its middle out."""
    first, second = np.zeros(5000), np.zeros(5000)
    second[2500] = 1
    kinds = [first, second, first.astype(np.float32), first.reshape(50, 100), Path("a"), np.float64(1), [1, 2], None]
    keys = [key(mae, Tint(kind)) for kind in kinds]
    assert len(set(keys)) == len(kinds)
    assert key(mae, Tint(np.zeros(5000))) == keys[0]
    with pytest.raises(TypeError, match="a perturbation's fields must be numbers, text, arrays"):
        key(mae, Tint(lambda: 1))


MINE = """
from mae_helpers.perturbations.levels import Clean
class Mine(Clean):
    def change(self, images, clean):
        if images.input.size == 1:
            raise ValueError("too small")
        return lambda pixels, name: pixels * 0.5
"""


def test_other_code_is_computed_anew_and_other_words_are_not(mae, tmp_path, monkeypatch):
    """A user's own module beside the project."""
    module = tmp_path / "mine_of_sweep.py"
    module.write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    from mine_of_sweep import Mine

    folder = tmp_path / "cells"
    for text, count in (
        (MINE, 1),
        (MINE.replace("too small", "larger!") + "# edited", 1),
        (MINE.replace("0.5", "0.6"), 2),
    ):
        module.write_text(text)
        code_behind.cache_clear()
        cells([mae], Mine(), ["prediction"], folder)
        assert len(written(folder)) == count
    code_behind.cache_clear()


@pytest.mark.parametrize("name", ["../../up", "..", "/root", "a/b", ".hidden"])
def test_names_do_not_lead_out_of_the_folder_of_cells(mae, tmp_path, name):
    path = Cell(tmp_path / "cells", mae, Tint(name=name)).path
    assert path.resolve().parent.parent == tmp_path / "cells"
    assert not path.name.startswith(".")


# What is refused


def headed(mae, classes, folder):
    """The subject with a head of so many classes."""
    head = {"num_classes": classes, "global_pool": "avg"}
    path = folder / f"{classes}.safetensors"
    save_file(make_vit(1, **head).state_dict(), path)
    return replace(
        mae, profile=with_models(mae.profile, mae_finetuned={"checkpoint": str(path), "arguments": TINY | head})
    )


def unlabelled(mae, folder):
    source = changed(mae.source, source="flat", folder=str(folder / "images" / "cat"), classes=[], count=4, labels=None)
    return replace(mae, source=source, rows=tuple(range(4)))


def test_the_control_of_an_encoder_without_classes_has_a_head_that_knows_nothing(mae, tmp_path):
    control = replace(mae, name="random")
    found = {seed: sweep.sweep([replace(control, seed=seed)], {1: Clean()}, "prediction", tmp_path) for seed in (0, 1)}
    predicted = {seed: results["random"][1] for seed, results in found.items()}
    assert set(predicted[0]) <= {0, 1, 2}
    assert control.classifier().num_classes == 3
    assert sweep.sweep([control], {1: Clean()}, "embedding", tmp_path)["random"][1].shape == (12, 24)


@pytest.mark.parametrize(
    ("made", "perturbation", "measure", "words"),
    [
        (None, Corruption("fog", 1), "heads", r"fog_1: \['heads'\] are not recorded; there are"),
        (None, BLUR, "cls_rollout", r"gaussian_blur_5_1: \['cls_rollout'\] are not recorded"),
        (None, Occlusion(10, "random"), "heads", r"\['heads'\] are not recorded"),
        (None, Clean(), "colour", r"clean: \['colour'\] are not recorded"),
        (lambda mae, folder: headed(mae, 2, folder), Clean(), "heads", "has the label 2, but .* knows 2 classes"),
        (lambda mae, folder: headed(mae, 2, folder), Occlusion(10), "embedding", "mae_finetuned: .* the label 2"),
        (unlabelled, Clean(), "heads", "accuracy needs labels"),
        (lambda mae, _: replace(mae, name="mae_pretrained"), Clean(), "heads", "mae_pretrained has no classifier"),
    ],
)
def test_what_cannot_be_swept_is_named(mae, tmp_path, made, perturbation, measure, words):
    with pytest.raises(ValueError, match=words):
        sweep.sweep([made(mae, tmp_path) if made else mae], {1: perturbation}, measure, tmp_path / "cells")
    assert not list(tmp_path.rglob("*.npz"))


def named(mae, folder, names, labels=None, wanted="all", tarred=False):
    """The subject with images in folders of these names, one each, and an empty one beside them."""
    place = folder / "more"
    for name in names:
        (place / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(place / name / "a.png")
    (place / "empty").mkdir()
    if tarred:
        place = Path(shutil.make_archive(str(place), "tar", place))
    entries = {"source": "auto", "folder": str(place), "classes": wanted, "count": None, "labels": labels}
    rows = tuple(range(len(names if wanted == "all" else wanted)))
    return replace(mae, source=changed(mae.source, **entries), rows=rows)


PETS = ["cat", "dog", "pig"]


@pytest.mark.parametrize("tarred", [False, True])
@pytest.mark.parametrize("wanted", ["all", ["pig"], ["cat", "pig"]])
@pytest.mark.parametrize("names", [PETS, ["7", *PETS], [f"pet {number:02d}" for number in range(40)]])
def test_folders_counted_in_their_order_are_as_many_as_the_heads_classes(mae, tmp_path, names, wanted, tarred):
    """One more or one less would shift the labels, silently."""
    wanted = wanted if wanted == "all" or "cat" in names else names[5:7]
    subject = named(mae, tmp_path, names, wanted=wanted, tarred=tarred)
    told = (
        rf"mae_finetuned: its head has 5 classes, but there are {len(names)} folders of images, \('{names[0]}', .*\); "
    )
    told += rf"say which is which in the profile, as images\.labels: {{'{names[0]}': 0, \.\.\.}}$"
    with pytest.raises(ValueError, match=told) as caught:
        cells([subject], Clean(), ["prediction"], tmp_path)
    assert len(str(caught.value)) < 300
    assert not list(tmp_path.rglob("*.npz"))
    cells([headed(subject, len(names), tmp_path)], Clean(), ["prediction"], tmp_path)


@pytest.mark.parametrize(
    ("names", "labels", "wanted"),
    [
        (PETS, {"cat": 3, "dog": 0, "pig": 4}, "all"),
        (PETS, {"pig": 4}, ["pig"]),
        (["0", "3", "04"], None, "all"),
        ([*PETS, "0", "3"], None, "all"),
    ],
)
def test_where_labels_are_said_or_the_folders_are_as_many_the_head_may_have_others(
    mae, tmp_path, names, labels, wanted
):
    subject = named(mae, tmp_path, names, labels, wanted)
    assert cells([subject], Clean(), ["prediction"], tmp_path)
    numbered = all(name.isdecimal() for name in names)
    says = labels or {name: int(name) if numbered else place for place, name in enumerate(sorted(names))}
    assert subject.images.labels.tolist() == [says[name] for name in subject.images.classes]


def test_the_last_class_is_within_the_models_classes(mae, tmp_path):
    assert cells([headed(mae, 3, tmp_path)], Clean(), ["prediction"], tmp_path)[TWO[0]]["prediction"].max() <= 2


# Chapters


@pytest.fixture
def chapter(pair, tmp_path):
    return Chapter(pair[0].profile, torch.device("cpu"), 0, tmp_path / "results" / "tiny")


def afresh(chapter, **models):
    """The chapter opened anew, with some entries of its models changed."""
    return replace(chapter, profile=with_models(chapter.profile, **models))


def embeddings(chapter, name=TWO[0], images=None):
    images = chapter.images() if images is None else images
    return chapter.sweep({name: images}, {"clean": Clean()}, "embedding")[name]["clean"]


def test_a_chapters_sweep_gives_each_model_its_own_normalisation(chapter):
    found = chapter.sweep(dict.fromkeys(TWO, chapter.images()), blur_levels(["X"]), "prediction")
    assert {name: list(levels) for name, levels in found.items()} == {name: ["clean", "X"] for name in TWO}
    pixels = pixels_of(chapter.images())
    for name, own in zip(TWO, (chapter.images(), chapter.images().normalised_as([0.5] * 3, [0.5] * 3)), strict=True):
        with torch.no_grad():
            expected = load_model(chapter.profile, name)(normalised(own, pixels)).argmax(1)
        assert np.array_equal(found[name]["clean"], expected)


def test_chapters_share_their_cells_and_a_process_its_models(chapter):
    first = chapter.sweep(dict.fromkeys(TWO, chapter.images()), LEVELS, "embedding")
    before = written(chapter.tables / "cells")
    assert {path.parent.name for path in before} == set(TWO)
    assert same(first, afresh(chapter).sweep(dict.fromkeys(TWO, chapter.images()), LEVELS, "embedding"))
    assert written(chapter.tables / "cells") == before
    assert afresh(chapter).model(TWO[0]) is chapter.model(TWO[0])
    assert afresh(chapter).images().pixels(3) is not None


def test_other_weights_settings_seeds_and_images_are_computed_anew(chapter, tmp_path):
    """Where mae_pretrained has a classifier, its random control can be swept as well."""
    others = shutil.copytree(tmp_path / "images", tmp_path / "others")
    for path in others.rglob("*.png"):
        Image.open(path).rotate(90).save(path)
    turned = open_images(changed(chapter.profile.images, folder=str(others)), chapter.profile.input)
    assert list(turned.ids) == list(chapter.images().ids)
    model = chapter.profile.models[TWO[0]]
    other = afresh(chapter, mae_finetuned={"arguments": model.arguments | {"num_heads": 2}})
    head = afresh(chapter, mae_pretrained={"arguments": model.arguments, "checkpoint": model.checkpoint})
    found = [embeddings(chapter), embeddings(other), embeddings(chapter, images=turned)]
    found += [embeddings(replace(head, seed=seed), "random") for seed in (0, 1)]
    shutil.copy(tmp_path / "images" / "dog" / "002.png", tmp_path / "images" / "cat" / "001.png")
    found.append(embeddings(afresh(chapter)))
    save_file(make_vit(7, global_pool="avg").state_dict(), model.checkpoint)
    found.append(embeddings(afresh(chapter)))
    for first, second in combinations(found, 2):
        assert not np.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        lambda images: images.changed(lambda pixels, name: 1 - pixels),
        lambda images: replace(images, source=None),
        lambda images: replace(images, ids=[f"{name}x" for name in images.ids]),
        lambda images: replace(images, labels=images.labels[::-1].copy()),
        lambda images: images.normalised_as([0.1] * 3, [0.2] * 3),
    ],
)
def test_images_of_no_profile_and_changed_ones_are_refused(chapter, change):
    with pytest.raises(
        ValueError, match=r"mae_finetuned: these images come from no profile, or were changed since; .*"
    ):
        embeddings(chapter, images=change(chapter.images()))
    assert len(embeddings(chapter, images=chapter.seen_by(TWO[0], chapter.images(per_class=1)))) == 3


def test_checkpoints_that_are_missing_unknown_or_not_the_right_ones_are_named_though_their_cells_are_there(chapter):
    embeddings(chapter, TWO[1])
    path = Path(chapter.profile.models[TWO[1]].checkpoint)
    with pytest.raises(CheckpointError, match="no model 'mae_huge' among mae_pretrained, mae_finetuned"):
        embeddings(chapter, "mae_huge")
    with pytest.raises(CheckpointError, match=r"vit_supervised\.safetensors: sha256 is .* expected 000000"):
        embeddings(afresh(chapter, vit_supervised={"hash": "sha256:000000"}), TWO[1])
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{re.escape(str(path))}: no such checkpoint"):
        embeddings(chapter, TWO[1])


# Several runs at once (see also test_killed.py)


def test_a_guided_cell_that_another_run_finishes_while_the_clean_ones_are_computed(pair, tmp_path, monkeypatch):
    """One of two models is done when its turn comes: it is read, and the other's own rollouts are still at hand."""
    half = {50: Occlusion(50)}
    expected = sweep.sweep(pair, half, "embedding", tmp_path / "expected")
    whole, path = (Cell(folder, pair[0], half[50]).path for folder in (tmp_path / "expected", tmp_path))
    path.parent.mkdir()
    real = sweep.measured
    monkeypatch.setattr(sweep, "measured", lambda task: (path.exists() or os.link(whole, path), real(task))[1])
    assert same(sweep.sweep(pair, half, "embedding", tmp_path), expected)
    assert path.samefile(whole), "what another run finished is not computed again"


def test_what_another_run_holds_comes_last_and_is_not_waited_for_for_ever(mae, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "WAIT", 0)
    with (
        files.claim([Cell(tmp_path, mae, BLUR).lock]),
        pytest.warns(UserWarning, match="another run holds 1 cells for too long"),
    ):
        found = sweep.sweep([mae], {"blur": BLUR, "clean": Clean()}, "embedding", tmp_path)
    blurred, clean = (Cell(tmp_path, mae, one).path.stat().st_mtime_ns for one in (BLUR, Clean()))
    assert clean < blurred
    assert list(found[mae.name]) == ["blur", "clean"]
    assert same(found, sweep.sweep([mae], {"blur": BLUR, "clean": Clean()}, "embedding", tmp_path / "other"))


# One seed, the same tables: batch size and threads


@pytest.mark.parametrize(
    ("first", "second"),
    [({"batch_size": 12}, {"batch_size": size}) for size in (1, 5, 7, 32)] + [({"workers": 1}, {"workers": 2})],
)
def test_batch_size_and_threads_change_no_prediction_and_no_ranking(pair, tmp_path, first, second):
    """On the CPU. Embeddings, head features and rollouts move by rounding alone, at most 1e-6 of the largest."""
    before, found = torch.get_num_threads(), []
    for how in (first, second):
        torch.set_num_threads(how.get("workers", before))  # matrix products are cut up by them
        profile = changed(pair[0].profile, compute=Computing(**how))
        here = ([replace(one, profile=profile) for one in pair], tmp_path / str(how))
        found.append(swept(here[0], LEVELS, MEASURES, here[1]))
        for name, levels in swept(here[0], {"rollouts": Clean()}, ROLLOUTS, here[1]).items():
            found[-1][name] |= levels
    torch.set_num_threads(before)
    close(*found)
    for name in TWO:
        for measure in ROLLOUTS:
            one, two = (np.argsort(-each[name]["rollouts"][measure], kind="stable") for each in found)
            assert np.array_equal(one, two)


# Time on many GPUs


def test_seconds_on_gpus_worked_by_hand():
    part = sweep.PART
    assert sweep.seconds_on(1, 1, 1000, 100) == 10
    assert sweep.seconds_on(1, 75, 50_000, 1000) == pytest.approx(3750)  # 3.75 million images
    assert sweep.seconds_on(8, 8, part, part) == 1  # a part each
    assert sweep.seconds_on(8, 9, part, part) == 2  # one of them has two
    assert sweep.seconds_on(2, 1, part + 1, 1) == part  # a part and a single image
    assert sweep.seconds_on(1000, 1, part, part) == 1  # no more than there is work for
    most = 75 * -(-50_000 // part) // 64 + 1
    assert 3750 / 64 <= sweep.seconds_on(64, 75, 50_000, 1000) <= most * part / 1000
