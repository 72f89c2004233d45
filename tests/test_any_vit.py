"""The book on six Vision Transformers of different families, sizes and heads, and on an encoder alone."""

import nbformat
import pandas as pd
import pytest
import timm
import torch
from conftest import write_tiny
from safetensors.torch import save_file

from mae_helpers.measures.attention import patch_distances, uniform_distance
from mae_helpers.profile.settings import load_profile
from mae_helpers.run import command, notebooks

SMALL = {"embed_dim": 32, "depth": 4, "num_heads": 4}
HEADLESS, THREE = SMALL | {"num_classes": 0}, SMALL | {"num_classes": 3}
FAMILIES = {  # timm's name, arguments, and a head where it has none
    "registers": ("vit_small_patch14_reg4_dinov2", HEADLESS | {"img_size": 42}, {"per_class": 3, "token": "cls"}),
    "upright": ("vit_tiny_patch16_224", THREE | {"img_size": [48, 32]}, None),
    "no_cls": ("vit_base_patch16_siglip_gap_224", HEADLESS | {"img_size": 48}, {"per_class": 3}),
    "distilled": ("deit_tiny_distilled_patch16_224", THREE | {"img_size": 48}, None),
    "rotary": ("eva02_tiny_patch14_224", THREE | {"img_size": 42}, None),
    "relative": ("beit_base_patch16_224", THREE | {"img_size": 48}, None),
}
CLASSIFY = ["05", "06", "07", "08", "09"]
PARAMETERS = {
    "images_per_class": 5,
    "test_images_per_class": 3,
    "corruption_images_per_class": 1,
    "perplexity": 3,
    "patch_perplexity": 3,
    "tsne_patches": 2,
    "probe_patches": 2,
    "k": 2,
    "other_k": [1],
    "masks": 2,
    "blur_levels": ["I", "X"],
    "occlusion_percents": [0, 50],
    "severities": [1],
}


def small(name, arguments, seed):
    """The model of that name, reduced, with weights large enough for attention to be far from uniform."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(name, **arguments)
        for parameter in model.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


def ran(folder, names, entries, **given):
    """The tables and the executed chapters of a run on these models, and whether it succeeded."""
    for entry in entries.values():
        entry["checkpoint"] = str(folder / f"{entry['title']}.safetensors")
    path = write_tiny(folder, per_class=6, name="any", input={"size": 48}, models=entries)
    known = set().union(*map(notebooks.parameters_of, notebooks.find(names)))
    chosen = {name: value for name, value in PARAMETERS.items() if name in known} | given
    run = command.Run(load_profile(path), names, chosen, "cpu", folder, str(folder / "results"))
    return run.all(command.default_jobs("cpu")), folder / "results" / "any", folder / "executed" / "any"


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    """The chapters that draw models, on all six."""
    folder, models = tmp_path_factory.mktemp("six"), {}
    for seed, (name, (model, arguments, head)) in enumerate(FAMILIES.items()):
        models[name] = {"title": name.title(), "model": model, "arguments": arguments} | (
            {"head": head} if head else {}
        )
        save_file(small(model, arguments, seed).state_dict(), folder / f"{name.title()}.safetensors")
    return ran(folder, ["01", "02", "03", "04", *CLASSIFY, "12", "14"], models)


def said(path):
    """All text that an executed notebook shows."""
    outputs = [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]
    return "\n".join(output.get("data", {}).get("text/markdown", output.get("text", "")) for output in outputs)


def test_every_chapter_draws_all_of_them(six):
    finished, tables, _ = six
    assert finished
    names = [*FAMILIES, "random"]
    for table in ("fig1_fig2_separability", "fig3_attention_distance", "fig4_principal_angles", "masking_invariance"):
        assert list(pd.read_csv(tables / f"{table}.csv")["model"].unique()) == names, table
    for table in ("table1_blur", "fig5_occlusion", "table2_imagenet_c", "table3_cosine", "fig6_fig7_features"):
        found = pd.read_csv(tables / f"{table}.csv")
        control = {"random"} if table in ("table3_cosine", "fig6_fig7_features") else set()
        assert set(found["model"]) == set(FAMILIES) | control, table
        assert "images" not in found or (found["images"] == found["images"][0]).all(), "the same images for all"


def test_all_pairs_are_compared_on_the_tokens_that_both_have(six):
    _, tables, _ = six
    cka = pd.read_csv(tables / "cka.csv")
    assert {*cka["model_a"], *cka["model_b"]} == {*FAMILIES, "random"}
    of_cls = cka[cka["token"] == "cls"]
    assert "no_cls" not in {*of_cls["model_a"], *of_cls["model_b"]}
    count = len(FAMILIES) + 1
    pairs = cka[cka["control"] == "same_images"].groupby("token").size() / 4**2
    assert pairs.to_dict() == {"cls": (count - 1) * count / 2, "mean_patch": count * (count + 1) / 2}


def test_each_has_its_own_tokens_grid_and_size(six):
    _, tables, executed = six
    separability = pd.read_csv(tables / "fig1_fig2_separability.csv")
    assert set(separability.loc[separability["token"] == "cls", "model"]) == {*FAMILIES, "random"} - {"no_cls"}
    assert "There is no CLS token in: No_Cls, linear head." in said(executed / "01_token_embeddings.ipynb")
    uniform = pd.read_csv(tables / "fig3_attention_distance.csv").groupby("model")["uniform_px"].first()
    assert uniform["distilled"] / uniform["rotary"] == pytest.approx(16 / 14)  # both are grids of 3 x 3
    assert uniform["upright"] == pytest.approx(uniform_distance(patch_distances((3, 2), 16)))


def test_some_of_them_can_be_picked_and_an_encoder_alone_runs_what_it_can(tmp_path, capsys):
    name, arguments, _ = FAMILIES["no_cls"]
    save_file(small(name, arguments, 0).state_dict(), tmp_path / "Mine.safetensors")
    models = {
        "mine": {"title": "Mine", "model": name, "arguments": arguments},
        "gone": {"title": "Gone", "model": name},
    }
    finished, tables, executed = ran(tmp_path, ["01", "05"], models, models=["mine"])
    assert not finished
    trouble = capsys.readouterr().err
    assert "05_gaussian_blur: CheckpointError: " in trouble
    assert "any.yaml: none of the models mine has a classifier; add one, fit one a `head`, or run chapters" in trouble
    assert notebooks.complaint(executed / "01_token_embeddings.ipynb", "any") is None
    assert set(pd.read_csv(tables / "fig1_fig2_separability.csv")["model"]) == {"mine", "random"}


def test_a_model_that_is_not_there_cannot_be_picked(tmp_path):
    models = {"mine": {"title": "Mine", "model": FAMILIES["no_cls"][0]}}
    with pytest.raises(ValueError, match=r"parameter 'models' is \['dino'\]; use some of mine \(.*any\.yaml\)"):
        ran(tmp_path, ["01"], models, models=["dino"])
