"""The profile `paper`, whole, on photographs in ImageNet's layouts and small random models in MAE's official one."""

import argparse
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
import torch
import yaml
from conftest import HEADS, TINY, make_vit
from photographs import PAPER, opened, photograph, write_flat, write_folders

from mae_helpers.perturbations.corruptions import GROUP_OF, SEVERITIES
from mae_helpers.profile.settings import BUNDLED, load_profile
from mae_helpers.run import command as run
from mae_helpers.run import notebooks
from mae_helpers.run.tables import COLUMNS
from mae_helpers.verdicts.scorecard import VERDICTS

VARIABLES = ("IMAGENET", "IMAGENET_LABELS", "IMAGENET_C", "IMAGENET_R", "IMAGENET_A", "SAM", "WEIGHTS")
EACH = 2
SMALL = {  # for models of 24 features in 4 heads, and two images of a class
    "images_per_class": EACH,
    "perplexity": 1,
    "patch_perplexity": 5,
    "tsne_patches": 4,
    "other_k": [2],
    "k": 3,
    "masks": 4,
    "active_features": 3,
}


def write_weights(root, folders):
    """Random weights as Meta publishes MAE's: pickles that hold a state dict and the training's settings.

    The classifiers' heads know the images in `folders`: scores fall with the distance from the mean of each class.
    """
    root.mkdir()
    images = opened(folders)
    for seed, (name, head) in enumerate(HEADS.items(), 8):
        vit = make_vit(seed, **head | ({"num_classes": 1000} if head["num_classes"] else {}))
        if head["num_classes"]:
            with torch.no_grad():
                found = vit.forward_head(vit.forward_features(images.tensor(range(len(images)))), pre_logits=True)
                vit.head.bias.fill_(-1e4)
                for label in PAPER.values():
                    middle = found[images.labels == label].mean(0)
                    vit.head.weight[label], vit.head.bias[label] = middle, -(middle**2).sum() / 2
        torch.save({"model": vit.state_dict(), "args": argparse.Namespace(model=name)}, root / f"{name}.pth")


def write_imagenet_c(folders, root):
    """The grouped layout of ImageNet-C; the images are only darkened."""
    files = [path for label in PAPER for path in sorted((folders / label).iterdir())[:EACH]]
    for number, path in enumerate(files):
        image = photograph(number).resize((32, 32))
        for severity in SEVERITIES:
            darker = image.point(lambda value, severity=severity: value // severity)
            for corruption, group in GROUP_OF.items():
                place = root / group / corruption / str(severity) / path.parent.name
                place.mkdir(parents=True, exist_ok=True)
                darker.save(place / path.name)


def small_paper(path):
    """paper.yaml with 32-px models of random weights; nothing else is changed but the number of images."""
    values = yaml.safe_load((BUNDLED / "paper.yaml").read_text())
    values["input"]["size"] = 32
    values["images"]["count"] = 10 * EACH
    values["second_images"]["count"] = 5
    values["models"] = {
        name: {
            "checkpoint": f"${{WEIGHTS:-weights}}/{name}.pth",
            "arguments": TINY | head | ({"num_classes": 1000} if head["num_classes"] else {}),
        }
        for name, head in HEADS.items()
    }
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """All chapters, run once on the small profile, with every image set there."""
    root = tmp_path_factory.mktemp("paper")
    flat = write_flat(root / "flat")
    folders = write_folders(flat, root / "val")
    write_folders(flat, root / "renditions", list(PAPER)[:4])
    write_folders(flat, root / "adversarial", list(PAPER)[2:5])
    write_imagenet_c(folders, root / "corrupted")
    write_weights(root / "weights", folders)
    places = ("val", None, "corrupted", "renditions", "adversarial", "flat", "weights")
    with pytest.MonkeyPatch.context() as patch:
        for variable, place in zip(VARIABLES, places, strict=True):
            patch.setenv(variable, str(root / place) if place else "")
        profile = load_profile(small_paper(root / "paper.yaml"))
        out = root / "out"
        jobs = run.default_jobs("cpu")
        finished = run.Run(profile, [], SMALL, "cpu", out, str(out / "results")).all(jobs)
    return SimpleNamespace(finished=finished, tables=out / "results" / "paper", executed=out / "executed" / "paper")


def read(paper, name):
    return pd.read_csv(paper.tables / f"{name}.csv")


def text_of(paper, number):
    """All that a chapter's outputs say."""
    notebook = nbformat.read(next(paper.executed.glob(f"{number}_*.ipynb")), 4)
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(str(data.get(kind, "")) for data in shown for kind in ("text/markdown", "text/html"))


def test_every_chapter_ran_and_every_table_is_there_of_these_images(paper):
    assert paper.finished
    chapters = [path.name for path in notebooks.find([], profile="paper")]
    assert sorted(path.name for path in paper.executed.glob("*.ipynb")) == chapters
    assert "90_demo_model.ipynb" not in chapters, "which is about the demo alone"
    for name, columns in COLUMNS.items():
        if name.startswith("demo_") or name == "factors_effects":  # which takes a two by two of classifiers
            assert not (paper.tables / f"{name}.csv").exists(), name
        else:
            assert set(columns) <= set(read(paper, name).columns), name
    blur = read(paper, "table1_blur")
    assert set(blur["images"]) == {10 * EACH}
    assert set(blur["model"]) == {"mae_finetuned", "vit_supervised"}
    assert set(read(paper, "fig4_principal_angles")["class_a"].str.split(" / ").str[0]) <= set(PAPER)
    assert set(read(paper, "fig3_attention_distance")["images"]) == {"first", "second"}
    assert list((paper.tables / "pixels").glob("*.npy")), "files were decoded once"


def test_imagenet_c_was_read_from_its_files(paper):
    table = read(paper, "table2_imagenet_c")
    assert set(table["source"]) == {"files"}
    assert len(table) == 2 * 75
    wide = table[table["model"] == "mae_finetuned"].pivot(index="severity", columns="corruption", values="top1_percent")
    assert wide.eq(wide.iloc[:, 0], axis=0).all(axis=None), "all corruptions have the same files here"
    assert "published files of ImageNet-C" in text_of(paper, "07")


def test_other_test_sets_are_measured_over_all_and_over_their_own_classes(paper):
    table = read(paper, "distribution_shift").set_index(["model", "dataset"])
    assert set(table.index.get_level_values("dataset")) == {"ImageNet-R", "ImageNet-A"}
    assert set(table.loc["mae_finetuned", "images"]) == {12, 9}
    assert (table["subset_top1_percent"] >= table["top1_percent"]).all()
    assert "48.3" in text_of(paper, "07"), "the published value stands beside it"


@pytest.mark.parametrize("chapter", ["05", "06", "07", "08", "09"])
def test_the_comparison_shows_differences_with_intervals_and_nothing_grey(paper, tiny_run, chapter):
    here, demo = text_of(paper, chapter), text_of(SimpleNamespace(executed=tiny_run.executed), chapter)
    assert "difference" in here
    assert "(−" in here or "(+" in here
    assert "another model and data" not in here
    assert "another model and data" in demo


def test_the_scorecard_tests_every_claim(paper):
    card = read(paper, "scorecard").set_index("claim")
    untested = card[card["verdict"] == "not tested here"]
    assert set(untested["id"]) == {"singular_values_grow"}, untested["note"].to_dict()
    assert "not defined" in untested["note"].item(), "two images of a class have no smallest value above 0"
    assert card["by_the_paper"].fillna("").isin(["", *VERDICTS[:4]]).all()


class TestMissingImages:
    @pytest.fixture
    def small(self, tmp_path, monkeypatch):
        """The small profile with only the ten classes' images and the weights."""
        for variable in VARIABLES:
            monkeypatch.delenv(variable, raising=False)
        folders = write_folders(write_flat(tmp_path / "flat"), tmp_path / "val")
        write_weights(tmp_path / "weights", folders)
        monkeypatch.setenv("IMAGENET", str(folders))
        return small_paper(tmp_path / "paper.yaml")

    def test_what_is_missing_is_named_and_left_out(self, small, capsys):
        run.check_inputs(load_profile(small), "cpu")
        told = capsys.readouterr().err
        for what, folder in {"second images": "sam", "ImageNet-C": "imagenet-c", "ImageNet-R": "imagenet-r"}.items():
            assert what in told
            assert f"left out, because there is no {small.parent / 'data' / folder}" in told

    @pytest.mark.parametrize("variable", ["SAM", "IMAGENET_C", "IMAGENET_R", "IMAGENET_A", "IMAGENET"])
    def test_what_was_asked_for_must_be_there(self, small, monkeypatch, tmp_path, variable):
        monkeypatch.setenv(variable, str(tmp_path / "nowhere"))
        with pytest.raises(ValueError, match="nowhere: no such"):
            run.check_inputs(load_profile(small), "cpu")
