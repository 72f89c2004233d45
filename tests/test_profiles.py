"""Profiles: the bundled ones load, and each thing that can be wrong in one's own is named with its file."""

from pathlib import Path

import pytest
import yaml

from mae_helpers.profile.settings import BUNDLED, ROOT, ProfileError, load_profile


def write(folder, **changes):
    """A small valid profile with some entries changed, or removed where None."""
    values = {
        "name": "mine",
        "images": {"source": "folders", "folder": "pictures", "classes": ["cat", "dog"]},
        "input": {"size": 32},
        "models": {"mae_pretrained": {"checkpoint": "weights/mae.pth"}},
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in (values | changes).items() if v is not None}))
    return path


def error_of(path):
    with pytest.raises(ProfileError) as caught:
        load_profile(path)
    return str(caught.value)


def test_demo_loads():
    demo = load_profile("demo")
    assert demo.name == "demo"
    assert demo.images.source == "bundled"
    assert len(demo.images.classes) == 10
    assert set(demo.models) == {"mae_pretrained", "mae_decoder", "mae_finetuned", "vit_supervised"}
    assert demo.models["mae_finetuned"].arguments["depth"] == 12
    assert demo.models["mae_pretrained"].checkpoint.startswith("bundled:")
    assert demo.second_images.source == "digits"


VARIABLES = ("IMAGENET", "IMAGENET_LABELS", "IMAGENET_C", "IMAGENET_R", "IMAGENET_A", "SAM", "WEIGHTS")


@pytest.fixture
def bare_environment(monkeypatch):
    """None of the variables that name the paper's images and weights."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.usefixtures("bare_environment")
def test_paper_loads_with_folders_at_the_repositorys_root():
    paper = load_profile("paper")
    assert Path(paper.images.folder) == ROOT / "data" / "imagenet" / "val"
    assert Path(paper.second_images.folder) == ROOT / "data" / "sam"
    assert Path(paper.imagenet_c.folder) == ROOT / "data" / "imagenet-c"
    assert set(paper.shifted_images) == {"ImageNet-R", "ImageNet-A"}
    assert Path(paper.models["mae_pretrained"].checkpoint) == ROOT / "weights" / "mae_pretrain_vit_base.pth"
    assert paper.models["mae_finetuned"].arguments == {"num_classes": 1000, "global_pool": "avg"}
    assert paper.same_as_paper
    assert not load_profile("demo").same_as_paper


@pytest.mark.usefixtures("bare_environment")
def test_only_what_the_paper_can_do_without_is_optional():
    paper = load_profile("paper")
    assert not paper.images.optional
    optional = [paper.second_images, paper.imagenet_c, *paper.shifted_images.values()]
    assert all(images.optional for images in optional)


@pytest.mark.usefixtures("bare_environment")
def test_the_environment_names_places_and_what_it_names_must_be_there(monkeypatch):
    monkeypatch.setenv("IMAGENET", "/data/val")
    monkeypatch.setenv("SAM", "sam-images")
    monkeypatch.setenv("WEIGHTS", "")
    paper = load_profile("paper")
    assert paper.images.folder == "/data/val"
    assert Path(paper.second_images.folder) == ROOT / "sam-images"
    assert not paper.second_images.optional
    assert paper.imagenet_c.optional
    assert Path(paper.models["mae_finetuned"].checkpoint).parent == ROOT / "weights", "empty is as good as not set"


def test_a_variable_without_a_default(tmp_path, monkeypatch):
    monkeypatch.setenv("PETS", str(tmp_path / "pets"))
    path = write(tmp_path, images={"source": "flat", "folder": "${PETS}/all"})
    assert Path(load_profile(path).images.folder) == tmp_path / "pets" / "all"
    monkeypatch.delenv("PETS")
    path = write(tmp_path, images={"source": "flat", "folder": "${PETS}"})
    assert "images.folder is missing" in error_of(path)


def test_a_hub_name_is_no_path(tmp_path):
    path = write(tmp_path, images={"source": "auto", "folder": "hf:ILSVRC/imagenet-1k", "classes": "all"})
    assert load_profile(path).images.folder == "hf:ILSVRC/imagenet-1k"


def test_ones_own_profile_loads_with_paths_from_its_own_folder(tmp_path, monkeypatch):
    path = write(tmp_path, second_images={"source": "flat", "folder": "/elsewhere/sam"})
    monkeypatch.chdir(tmp_path)
    for given in (path, str(path), "mine.yaml"):
        mine = load_profile(given)
        assert Path(mine.images.folder) == tmp_path.resolve() / "pictures"
        assert Path(mine.models["mae_pretrained"].checkpoint) == tmp_path.resolve() / "weights" / "mae.pth"
        assert mine.second_images.folder == "/elsewhere/sam"
        assert mine.path == path.resolve()


def test_home_folder_in_a_path_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    mine = load_profile(write(tmp_path, images={"source": "flat", "folder": "~/pictures"}))
    assert Path(mine.images.folder) == tmp_path / "home" / "pictures"


def test_defaults_are_the_papers(tmp_path):
    mine = load_profile(write(tmp_path))
    assert mine.input.resize == "squash"
    assert mine.input.mean == [0.485, 0.456, 0.406]
    assert mine.second_images is None
    assert mine.three_classes == []


def test_a_bundled_profile_means_the_same_when_given_by_a_relative_path(monkeypatch):
    monkeypatch.chdir(BUNDLED.parent)
    assert load_profile("profiles/paper.yaml").images.folder == load_profile("paper").images.folder


def test_a_bundled_profile_means_the_same_when_given_by_its_full_path():
    assert load_profile(str(load_profile("paper").path)) == load_profile("paper")


def test_unknown_profile_names_the_bundled_ones():
    message = error_of("papr")
    assert "'papr'" in message
    assert "demo, paper" in message


def test_unknown_setting_suggests_the_right_one(tmp_path):
    path = write(tmp_path, images={"sorce": "bundled"})
    message = error_of(path)
    assert str(path) in message
    assert "'sorce'; did you mean 'source'?" in message


def test_unknown_setting_far_from_all_others_lists_those(tmp_path):
    path = write(tmp_path, input={"size": 32, "zzzz": 1})
    message = error_of(path)
    assert str(path) in message
    assert "'zzzz'" in message
    assert "'resize'" in message


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"images": {"source": "floders", "folder": "x"}}, ["images.source", "'floders'", "folders"]),
        ({"second_images": {"source": "web"}}, ["second_images.source", "'web'"]),
        ({"images": {"source": "folders"}}, ["images.folder is missing"]),
        ({"second_images": {"source": "flat"}}, ["second_images.folder is missing"]),
        ({"images": {"source": "digits", "count": "many"}}, ["images.count", "'many'"]),
        ({"images": {"source": "digits", "count": 0}}, ["images.count", "0"]),
        ({"input": {"size": 32, "resize": "zoom"}}, ["input.resize", "'zoom'", "squash or crop"]),
        ({"three_classes": ["cat", "cow"]}, ["three_classes", "'cow'"]),
        ({"input": {}}, ["input", "'size'"]),
        ({"input": None}, ["'input'"]),
        ({"images": ["cat"]}, ["images", "['cat']"]),
        ({"models": ["mae_pretrained"]}, ["models is ['mae_pretrained']"]),
        (
            {"models": {"mae_pretrained": {"checkpoint": "x", "arguments": {"img_size": 56}}}},
            ["models.mae_pretrained", "img_size 56", "input.size is 32"],
        ),
        ({"models": {"mae_pretrained": "weights.pth"}}, ["models.mae_pretrained", "'weights.pth'"]),
        ({"models": {"mae_pretrained": {"checkpoints": "x"}}}, ["models.mae_pretrained", "'checkpoint'"]),
        ({"models": {"mae_pretrained": {}}}, ["models.mae_pretrained", "neither `checkpoint` nor `model`"]),
        ({"compute": {"precision": "fp8"}}, ["compute.precision", "'fp8'", "float32, tf32, bf16"]),
        ({"compute": {"presicion": "bf16"}}, ["compute", "did you mean 'precision'"]),
        ({"imagenet_c": {"source": "folders"}}, ["imagenet_c.folder is missing"]),
        ({"shifted_images": {"R": {"source": "web", "folder": "x"}}}, ["shifted_images.R.source", "'web'"]),
        ({"shifted_images": ["R"]}, ["shifted_images is ['R']"]),
        ({"images": {"source": "folders", "folder": "x", "classes": "some"}}, ["images.classes", "'some'"]),
    ],
)
def test_a_wrong_entry_is_named_with_its_file(tmp_path, changes, told):
    path = write(tmp_path, **changes)
    message = error_of(path)
    for text in [str(path), *told]:
        assert text in message


@pytest.mark.parametrize(
    "changes",
    [
        {"three_classes": 3},
        {"images": {"source": "folders", "folder": "pictures", "classes": None}, "three_classes": ["cat"]},
    ],
    ids=["three_classes a number", "classes empty"],
)
def test_an_entry_of_the_wrong_type_is_named_with_its_file(tmp_path, changes):
    path = write(tmp_path, **changes)
    assert str(path) in error_of(path)


@pytest.mark.parametrize(("text", "told"), [("images: [1,", "not valid YAML"), ("", "None"), ("just words", "words")])
def test_a_file_that_is_no_profile_is_named(tmp_path, text, told):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    message = error_of(path)
    assert str(path) in message
    assert told in message


def test_the_tiny_profile_of_these_tests_loads(tiny_profile):
    tiny = load_profile(tiny_profile(parameters={"k": 3}))
    assert tiny.parameters == {"k": 3}
    assert all(Path(model.checkpoint).is_file() for model in tiny.models.values())
