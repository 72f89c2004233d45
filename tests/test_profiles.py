"""Profiles: the bundled ones load, and each thing that can be wrong in one's own is named with its file."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import yaml
from timm.layers.activations import QuickGELU

from mae_helpers.encoder import weights
from mae_helpers.perturbations.levels import Clean
from mae_helpers.profile.settings import BUNDLED, ROOT, Images, Profile, ProfileError, load_profile
from mae_helpers.run import chapter
from mae_helpers.run.tables import data_fingerprint

VARIABLES = ("IMAGENET", "IMAGENET_LABELS", "IMAGENET_C", "IMAGENET_R", "IMAGENET_A", "SAM", "WEIGHTS")
FOLDERS = {"source": "folders", "folder": "x"}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    """None of the variables that name the paper's images and weights."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def write(folder, changes=None, **more):
    """A small valid profile with some entries changed, or removed where None."""
    values = {
        "name": "mine",
        "images": {"source": "folders", "folder": "pictures", "classes": ["cat", "dog"]},
        "input": {"size": 32},
        "models": {"mae_pretrained": {"checkpoint": "weights/mae.pth"}},
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in (values | (changes or {}) | more).items() if v is not None}))
    return path


def error_of(path):
    with pytest.raises(ProfileError) as caught:
        load_profile(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is there


def test_demo_loads():
    demo = load_profile("demo")
    assert demo.name == "demo"
    assert demo.images.source == "bundled"
    assert len(demo.images.classes) == 10
    assert set(demo.models) == {"mae_pretrained", "mae_finetuned", "vit_supervised"}
    assert demo.decoder.checkpoint == "bundled:mae_decoder.safetensors"
    assert demo.models["mae_finetuned"].arguments["depth"] == 12
    assert demo.models["mae_pretrained"].checkpoint.startswith("bundled:")
    assert demo.second_images.source == "digits"
    assert not demo.same_as_paper


def test_paper_loads_with_folders_at_the_repositorys_root_and_only_what_it_can_do_without_is_optional():
    paper = load_profile("paper")
    assert Path(paper.images.folder) == ROOT / "data" / "imagenet" / "val"
    assert Path(paper.second_images.folder) == ROOT / "data" / "sam"
    assert Path(paper.imagenet_c.folder) == ROOT / "data" / "imagenet-c"
    assert set(paper.shifted_images) == {"ImageNet-R", "ImageNet-A"}
    assert Path(paper.models["mae_pretrained"].checkpoint) == ROOT / "weights" / "mae_pretrain_vit_base.pth"
    assert paper.models["mae_finetuned"].arguments == {"num_classes": 1000, "global_pool": "avg"}
    assert paper.same_as_paper
    assert not paper.images.optional
    assert all(one.optional for one in [paper.second_images, paper.imagenet_c, *paper.shifted_images.values()])


ATLAS = {  # by name: prefix tokens, patches a side, classes
    "mae": (1, 14, 0),
    "mae_finetuned": (1, 14, 1000),
    "dino": (1, 14, 0),
    "dinov2": (5, 16, 0),
    "clip": (1, 14, 0),
    "siglip": (0, 14, 0),
    "augreg": (1, 14, 1000),
    "deit3": (1, 14, 1000),
}
NORMALISED = {"clip": 0.48145466, "siglip": 0.5, "augreg": 0.5}  # the first channel's mean; of the others ImageNet's


def test_the_atlas_has_the_papers_images_and_eight_encoders_that_timm_has_weights_of():
    atlas, paper = load_profile("atlas"), load_profile("paper")
    parts = ("images", "three_classes", "second_images", "imagenet_c", "shifted_images")
    assert all(getattr(atlas, part) == getattr(paper, part) for part in parts)
    assert atlas.study.said == {"encoder": "mae", "classifier": "mae_finetuned", "beside": "augreg"}
    assert not atlas.same_as_paper
    assert list(atlas.models) == list(ATLAS)
    assert atlas.models["mae_finetuned"].hash == paper.models["mae_finetuned"].hash
    known = timm.list_pretrained("*")
    assert {model.model for model in atlas.models.values() if not model.url} < set(known)
    for name, (prefix, side, classes) in ATLAS.items():
        model, seen = weights.outline(atlas.models[name]), weights.input_of(atlas, name)
        assert (model.num_prefix_tokens, model.patch_embed.grid_size, model.num_classes) == (
            prefix,
            (side, side),
            classes,
        )
        assert (len(model.blocks), model.embed_dim) == (12, 768)
        assert 85e6 < sum(each.numel() for each in model.parameters()) < 93e6
        assert (seen.size, seen.mean[0]) == (224, NORMALISED.get(name, 0.485))
    assert isinstance(weights.outline(atlas.models["clip"]).blocks[0].mlp.act, QuickGELU), "as OpenAI trained it"


def test_the_environment_names_places_and_what_it_names_must_be_there(monkeypatch):
    for name, value in {"IMAGENET": "/data/val", "SAM": "sam-images", "WEIGHTS": ""}.items():
        monkeypatch.setenv(name, value)
    paper = load_profile("paper")
    assert paper.images.folder == "/data/val"
    assert Path(paper.second_images.folder) == ROOT / "sam-images"
    assert not paper.second_images.optional
    assert paper.imagenet_c.optional
    assert Path(paper.models["mae_finetuned"].checkpoint).parent == ROOT / "weights", "empty is as good as not set"


def test_ones_own_profile_loads_with_paths_from_its_own_folder_and_the_papers_defaults(tmp_path, monkeypatch):
    path = write(tmp_path, second_images={"source": "flat", "folder": "/elsewhere/sam"})
    monkeypatch.chdir(tmp_path)
    for given in (path, str(path), "mine.yaml"):
        mine = load_profile(given)
        assert Path(mine.images.folder) == tmp_path.resolve() / "pictures"
        assert Path(mine.models["mae_pretrained"].checkpoint) == tmp_path.resolve() / "weights" / "mae.pth"
        assert mine.second_images.folder == "/elsewhere/sam"
        assert mine.path == path.resolve()
    assert mine.input.resize == "squash"
    assert mine.input.mean == [0.485, 0.456, 0.406]
    assert mine.imagenet_c is None
    assert mine.three_classes == []


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("~/pictures", "/home/me/pictures"),
        ("${PETS}/all", "/pets/all"),
        ("${PETS:-elsewhere}", "/pets"),
        ("${CATS:-/elsewhere}", "/elsewhere"),
        ("hf:ILSVRC/imagenet-1k", "hf:ILSVRC/imagenet-1k"),
    ],
)
def test_home_variables_and_names_of_the_hub_in_a_place(tmp_path, monkeypatch, written, meant):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("PETS", "/pets")
    mine = load_profile(write(tmp_path, images={"source": "auto", "folder": written, "classes": "all"}))
    assert mine.images.folder == meant
    assert mine.images.classes == "all"


def test_a_bundled_profile_means_the_same_when_given_by_its_path(monkeypatch):
    monkeypatch.chdir(BUNDLED.parent)
    paper = load_profile("paper")
    assert load_profile("profile/paper.yaml") == load_profile(str(paper.path)) == paper


# What a profile is


def test_profiles_are_values():
    """Workers get them pickled; cells and tables are known by their JSON."""
    demo, paper = load_profile("demo"), load_profile("paper")
    for one in (demo, paper, paper.images, paper.models["mae_finetuned"]):
        sent = pickle.loads(pickle.dumps(one))
        assert sent == one
        assert hash(sent) == hash(one)
        assert sent.model_dump_json() == one.model_dump_json()
    assert len({demo, paper, load_profile("paper"), paper.model_copy(update={"title": "other"})}) == 3
    assert Profile.model_validate(demo.model_dump()) == demo
    with pytest.raises(ValueError, match="frozen"):
        demo.title = "other"
    with pytest.raises(ValueError, match="sorce"):
        Images(sorce="digits")


def test_titles_and_descriptions_decide_nothing(tiny_profile, tmp_path):
    folders = FOLDERS | {"folder": "images", "count": 12, "labels": {"bird": 0, "cat": 1, "dog": 2}}
    sets = dict.fromkeys(("images", "second_images"), folders)
    path, found = tiny_profile(**sets, shifted_images={"R": sets["images"]}), []
    for title in ("one", "two"):
        values = yaml.safe_load(path.read_text())
        for part in (values, values["images"], values["second_images"], values["shifted_images"]["R"]):
            part["title"] = title
        values["models"]["mae_finetuned"]["training"] = dict.fromkeys(("start", "augmentation", "source"), title)
        path.write_text(yaml.safe_dump(values | {"about": title}))
        here = chapter.begin(str(path), "cpu", results_folder=str(tmp_path / "results"))
        here.sweep({"mae_finetuned": here.images()}, {"clean": Clean()}, "prediction")
        cells = {cell: cell.stat().st_mtime_ns for cell in (tmp_path / "results").rglob("*.npz")}
        found.append((data_fingerprint(here.profile), here.images().state, cells))
    assert found[0] == found[1]
    assert len(found[0][2]) == 1


def test_a_profile_is_read_without_the_libraries_that_compute():
    code = (
        "import sys\nfrom mae_helpers.profile.settings import ProfileError, load_profile\n"
        "from mae_helpers.profile.parameters import check_parameter\nload_profile('demo')\ncheck_parameter('k', 3, [2])\n"
        "try:\n    load_profile('papr')\nexcept ProfileError:\n    pass\n"
        "print(sorted({'torch', 'timm', 'numpy', 'pandas', 'scipy', 'sklearn', 'PIL'} & {*sys.modules}))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT) == "[]\n"


# What is refused


def model(**entries):
    return {"models": {"mae": {"checkpoint": "x"} | entries}}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"images": {"sorce": "bundled"}}, ["images", "'sorce'; did you mean 'source'?"]),
        ({"imput": {"size": 32}}, ["'imput'; did you mean 'input'?"]),
        ({3: 4}, ["unknown setting 3"]),
        ({"input": {"size": 32, "zzzz": 1}}, ["input", "'zzzz'", "size, resize, mean, std"]),
        ({"compute": {"presicion": "bf16"}}, ["compute", "did you mean 'precision'"]),
        (model(checkpoints="x"), ["models.mae", "'checkpoints'", "did you mean 'checkpoint'"]),
        ({"shifted_images": {"R": FOLDERS | {"cout": 3}}}, ["shifted_images.R", "'cout'", "did you mean 'count'"]),
        ({"images": FOLDERS | {"source": "floders"}}, ["images.source is 'floders'; use ", "'folders'"]),
        ({"second_images": {"source": "web"}}, ["second_images.source is 'web'; use "]),
        ({"images": {"source": "folders"}}, ["images.folder is missing; add it"]),
        ({"images": {"source": "flat", "folder": "${UNSET}"}}, ["images.folder is missing; add it"]),
        ({"second_images": {"source": "flat"}}, ["second_images.folder is missing"]),
        ({"imagenet_c": {"source": "folders"}}, ["imagenet_c.folder is missing"]),
        ({"shifted_images": {"R": FOLDERS | {"source": "web"}}}, ["shifted_images.R.source is 'web'"]),
        ({"shifted_images": ["R"]}, ["shifted_images is ['R']; use a mapping"]),
        ({"images": {"source": "digits", "count": "many"}}, ["images.count is 'many'; use a whole number"]),
        ({"images": {"source": "digits", "count": 5.0}}, ["images.count is 5.0; use a whole number"]),
        ({"images": {"source": "digits", "count": True}}, ["images.count is True; use a whole number"]),
        ({"images": {"source": "digits", "count": 0}}, ["images.count is 0; use a whole number above 0"]),
        ({"images": {"source": "digits", "optional": 1}}, ["images.optional is 1; use true or false"]),
        ({"images": FOLDERS | {"classes": "some"}}, ["images.classes is 'some'; use a list of names", "or all"]),
        ({"images": FOLDERS | {"classes": ["a", 3]}}, ["images.classes is ['a', 3]; use a list of names (in quotes"]),
        ({"images": FOLDERS | {"classes": ["a", "a"]}}, ["images.classes has ['a'] twice; name each class once"]),
        ({"images": FOLDERS | {"classes": None}, "three_classes": ["cat"]}, ["images.classes is None; use a list"]),
        ({"images": ["cat"]}, ["images is ['cat']; use a mapping"]),
        ({"title": "x" * 2001}, ["title is 'xxx", "use at most 2000 characters"]),
        ({"title": 2024}, ["title is 2024; use text (in quotes"]),
        ({"name": "../up"}, ["name is '../up'; folders are called by it"]),
        ({"name": "x" * 101}, ["name is ", "up to 100"]),
        ({"path": "x"}, ["path is 'x'; use null"]),
        ({"input": None}, ["input is missing; add it"]),
        ({"input": {}}, ["input.size is missing; add it"]),
        (
            {"input": {"size": 5000}},
            ["input.size is 5000; use a whole number of pixels from 1 to 4096, or two: [height, width]"],
        ),
        ({"input": {"size": 32, "resize": "zoom"}}, ["input.resize is 'zoom'; use 'squash' or 'crop'"]),
        ({"input": {"size": 32, "mean": [0, 0]}}, ["input.mean is [0", "use three numbers, one a channel"]),
        ({"input": {"size": 32, "mean": [0, 0, True]}}, ["input.mean.2 is True; use a number"]),
        ({"input": {"size": 32, "mean": [0, 0, float("nan")]}}, ["input.mean.2 is nan; use a finite number"]),
        ({"input": {"size": 32, "std": [1, 1, 0]}}, ["input.std is [1", "use numbers above 0"]),
        ({"three_classes": 3}, ["three_classes is 3; use a list of names"]),
        ({"three_classes": ["cat", "cow"]}, ["three_classes has ['cow'], which images.classes lacks; add"]),
        ({"three_classes": ["cat", "cat"]}, ["three_classes has ['cat'] twice"]),
        ({"models": ["mae"]}, ["models is ['mae']; use a mapping"]),
        ({"models": {"mae": "weights.pth"}}, ["models.mae is 'weights.pth'; use a mapping"]),
        ({"models": {3: {"checkpoint": "x"}}}, ["models.3 is 3; use text"]),
        ({"models": {"a\nb": {}}}, [r"models.a\nb has neither `checkpoint` nor `model`; give one"]),
        ({"models": {}}, ["models has none"]),
        (
            {"models": {"random": {"checkpoint": "x"}}},
            ["models has none, or one called 'random'", "the control's name"],
        ),
        ({"models": {"a": {"model": "x", "title": "b"}, "b": {"model": "y"}}}, ["models has ['b'] twice; give each"]),
        ({"study": {"encoder": "dino"}}, ["study.encoder is 'dino'; use one of models: mae_pretrained"]),
        ({"study": {"encodr": "mae"}}, ["study has an unknown setting 'encodr'; did you mean 'encoder'?"]),
        (model(arguments={"depth": 1001}), ["models.mae.arguments", "'depth'", "1001; use numbers from 0 to 1000"]),
        (model(arguments={"depth": 900, "embed_dim": 9000}), ["models.mae.arguments", "larger than any", "lower"]),
        (model(arguments={"drop_rate": -0.1}), ["'drop_rate'", "-0.1; use numbers from 0 to"]),
        (model(arguments={"reg_tokens": [float("inf")]}), ["'reg_tokens'", "[inf]; use numbers from 0 to"]),
        (model(arguments={"pretrained": True}), ["models.mae.arguments", "'pretrained'", "leave it out"]),
        (model(arguments={1: 2}), ["models.mae.arguments.1 is 1; use text"]),
        (model(checkpoint="bundled:../x"), ["models.mae.checkpoint is 'bundled:../x'", "a file's name alone"]),
        (model(model="hf-hub:a/b"), ["models.mae.model is 'hf-hub:a/b'; use a name of timm's"]),
        (model(url="file:///etc/passwd"), ["models.mae.url is 'file:///etc/passwd'; use an address"]),
        (model(url="https://a/.."), ["models.mae.url is 'https://a/..'; use an address"]),
        (model(std=[1, 1, -1]), ["models.mae.std is [1", "use numbers above 0"]),
        ({"compute": {"precision": "fp8"}}, ["compute.precision is 'fp8'; use 'float32', 'tf32' or 'bf16'"]),
        ({"compute": {"workers": "many"}}, ["compute.workers is 'many'; use a whole number"]),
        ({"compute": {"batch_size": 0}}, ["compute.batch_size is 0; use a whole number above 0"]),
    ],
    ids=str,
)
def test_a_wrong_entry_is_named_with_its_file_its_value_and_a_remedy(tmp_path, changes, told):
    path = write(tmp_path, changes)
    message = error_of(path)
    for text in [f"{path}: ", *told]:
        assert text in message
