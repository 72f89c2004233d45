"""Sets of which not all can be shown: one image, one class, equal images. A chapter says so, and shows the rest."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import CLASSES, HEADS, make_vit
from PIL import Image
from safetensors.torch import save_file

from mae_helpers.figures.separability import tsne_by_layer
from mae_helpers.measures.separability import embed_layers
from mae_helpers.run import notebooks

SETS = {  # classes, images of each, and whether all images are the same grey
    "one image": (1, 1, False),
    "an image a class": (3, 1, False),
    "equal images": (3, 4, True),
}
SMALL = {"perplexity": 1, "patch_perplexity": 1, "tsne_patches": 4, "k": 2, "other_k": [1], "masks": 3}
REFUSED = {("03", "one image"): "principal angles are between classes, and there is only bird; take two or more"}


def run(chapter, **given):
    """All cells of a chapter, in this process; its names at the end."""
    names = {}
    for cell in notebooks.read(notebooks.find([chapter])[0])["cells"]:
        if cell["cell_type"] == "code":
            exec(cell["source"], names)
            if "parameters" in notebooks.tags(cell):
                names |= {name: value for name, value in given.items() if name in names}
    return names


@pytest.mark.parametrize("chapter", ["01", "02", "03", "04", "06"])
@pytest.mark.parametrize("kind", SETS)
def test_a_chapter_shows_what_can_be_shown(tiny_profile, tmp_path, monkeypatch, kind, chapter):
    classes, each, equal = SETS[kind]
    source = {"source": "folders", "folder": "images", "classes": CLASSES[:classes]}
    source["labels"] = {name: number for number, name in enumerate(CLASSES)}
    path = tiny_profile(per_class=each, images=source, three_classes=CLASSES[:classes])
    for file in tmp_path.glob("images/*/*.png") if equal else ():
        Image.new("RGB", (40, 48), (120, 120, 120)).save(file)
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    given = SMALL | {"profile": str(path), "device": "cpu", "results_folder": str(tmp_path / "results")}
    given |= {"images_per_class": each, "mask_ratio": 0.0 if equal and chapter == "01" else 0.5}
    if (chapter, kind) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[chapter, kind]):
            run(chapter, **given)
        return
    run(chapter, **given)
    assert list((tmp_path / "results").rglob("*.csv"))


@pytest.mark.parametrize("depth", [1, 2])
def test_a_model_of_few_layers_goes_through_every_chapter(tiny_profile, tmp_path, monkeypatch, depth):
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    path = tiny_profile()
    models = yaml.safe_load(path.read_text())["models"]
    for seed, (name, model) in enumerate(models.items()):
        model["arguments"]["depth"] = depth
        head = HEADS[name] | {"depth": depth}
        save_file(make_vit(seed, **head).state_dict(), tmp_path / model["checkpoint"])
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"models": models}))
    given = SMALL | {"profile": str(path), "device": "cpu", "results_folder": str(tmp_path / "results")}
    for chapter in ("01", "02", "03", "04", "05", "06", "08", "09", "14", "10", "00"):
        run(chapter, **given | {"images_per_class": 4, "perplexity": 3, "class_count": 3})
    card = pd.read_csv(next((tmp_path / "results").rglob("scorecard.csv")), keep_default_na=False)
    untested = card[card["verdict"] == "not tested here"]
    assert len(untested) < len(card)
    assert all(untested["note"]), "says why"
    assert untested["note"].str.contains(f"layers or more; this model has {depth}").any()


@pytest.mark.parametrize("points", [np.ones((6, 2, 3)), np.eye(3)[:, None].repeat(2, 1)], ids=["equal", "three"])
def test_where_there_is_no_map_each_panel_says_so(points):
    table = embed_layers(points, np.array(list("aabbcc"))[: len(points)], 1, standardise=True)
    assert table[["x", "y"]].isna().all(axis=None)
    figure = tsne_by_layer(table)
    assert all("no map" in ax.texts[0].get_text() for ax in figure.axes[:2])
    plt.close(figure)


def test_where_only_some_layers_have_a_map_the_legend_is_theirs():
    """Before the first layer all images may be the same."""
    points = np.random.default_rng(0).normal(size=(12, 2, 3))
    points[:, 0] = 1
    table = embed_layers(points, np.repeat(["bird", "cat"], 6), 2, standardise=False)
    assert table.groupby("layer")["x"].apply(pd.Series.isna).groupby("layer").mean().tolist() == [1, 0]
    figure = tsne_by_layer(table)
    assert [len(ax.texts) for ax in figure.axes[:2]] == [1, 0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["bird", "cat"]
    plt.close(figure)
