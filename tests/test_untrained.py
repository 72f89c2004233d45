"""A scorecard that can tell a trained model from nothing: untrained networks, on noise and on the demo's images."""

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
import yaml
from conftest import HEADS
from PIL import Image
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from mae_helpers.profile.settings import ROOT
from mae_helpers.run import chapter
from mae_helpers.verdicts import scorecard

CHAPTERS = ("01", "02", "03", "04", "05", "06", "08", "09")  # 07 asks the classifier alone, which is at chance
SIZE, CLASSES, EACH = 32, 5, 8
VIT = {"img_size": SIZE, "patch_size": 4, "embed_dim": 24, "depth": 4, "num_heads": 4}
SMALL = {
    **{"images_per_class": EACH, "test_images_per_class": EACH, "corruption_images_per_class": 1, "perplexity": 5},
    **{"patch_perplexity": 20, "tsne_patches": 4, "other_k": [2], "k": 3, "masks": 8, "class_count": CLASSES},
    **{"second_images": False, "device": "cpu"},
}


def write_images(folder, kind):
    """Five classes: noise, or pictures of the demo."""
    if kind == "the demo's images":
        images = chapter.begin("demo", "cpu").images()
    for number in range(CLASSES):
        place = folder / f"class{number}"
        place.mkdir(parents=True)
        for row in range(EACH):
            if kind == "noise":
                pixels = np.random.default_rng([number, row]).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            else:
                name = images.names[2 * number]
                pixels = np.uint8(255 * images.pixels(int(np.flatnonzero(images.classes == name)[row])))
            Image.fromarray(pixels).save(place / f"{row:02d}.png")


def run_cells(name, profile, results):
    """A chapter's code, cell by cell, in this process."""
    notebook, names = nbformat.read(next((ROOT / "notebooks").glob(f"{name}_*.ipynb")), 4), {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and "set-up" not in cell.get("id", ""):
            exec(compile(cell.source, f"{name}, {cell.id}", "exec"), names)
            if "parameters" in cell.metadata.get("tags", []):
                given = SMALL | {"profile": profile, "results_folder": results}
                names.update({key: value for key, value in given.items() if key in names})
    plt.close("all")


@pytest.mark.parametrize("kind", ["noise", "the demo's images"])
def test_an_untrained_network_supports_at_most_one_claim(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    write_images(tmp_path / "images", kind)
    for seed, (name, head) in enumerate(HEADS.items(), 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            weights = VisionTransformer(**VIT | head).state_dict()
        save_file(weights, tmp_path / f"{name}.safetensors")
    models = {name: {"checkpoint": f"{name}.safetensors", "arguments": VIT | head} for name, head in HEADS.items()}
    values = {"name": "untrained", "images": {"source": "folders", "folder": "images"}, "input": {"size": SIZE}}
    (tmp_path / "untrained.yaml").write_text(yaml.safe_dump(values | {"models": models}))
    for number in CHAPTERS:
        run_cells(number, str(tmp_path / "untrained.yaml"), str(tmp_path / "results"))
    here = chapter.begin(str(tmp_path / "untrained.yaml"), "cpu", results_folder=str(tmp_path / "results"))
    card = scorecard.scorecard(here.read, here.study).set_index("id")
    supported = card[card["verdict"] == "supported"]
    assert set(supported.index) <= {"blur_severity"}, supported[["here", "untrained", "note"]].to_dict("index")
    judged = card[card["verdict"] != scorecard.NOT_TESTED]
    assert len(judged) >= 20, card["note"].to_dict()
