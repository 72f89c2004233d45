"""A linear head for an encoder without one: against scikit-learn on tokens taken by timm alone, and what is refused."""

import numpy as np
import pytest
import torch
from conftest import TINY
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mae_helpers.encoder.head import fitted
from mae_helpers.encoder.vit import CheckpointError
from mae_helpers.images.pixels import ImageError
from mae_helpers.perturbations.levels import Clean
from mae_helpers.profile.settings import load_profile
from mae_helpers.run import chapter

ENCODER = {"checkpoint": "weights/mae_pretrained.safetensors", "arguments": TINY | {"num_classes": 0}}


@pytest.fixture
def here(tiny_profile, tmp_path):
    """A function that opens a profile of one encoder with this head, ten images a class."""

    def opened(head, **model):
        path = tiny_profile(per_class=10, models={"mine": ENCODER | model | {"head": head}})
        return chapter.begin(str(path), "cpu", results_folder=str(tmp_path / "results"))

    return opened


def predictions(here, per_class):
    images = here.images(per_class=per_class)
    return here.sweep({"mine": images}, {"clean": Clean()}, "prediction")["mine"]["clean"], images


@pytest.mark.parametrize("classes", [[2, 5, 7], [0, 1], [3, 4]])
def test_scores_are_scikit_learns(classes):
    generator = np.random.default_rng(0)
    labels = np.repeat(classes, 20)
    features = generator.normal(labels[:, None], 3, (len(labels), 6)) * np.arange(1, 7) + 5
    head = fitted("mean_patch", features, labels)
    tokens = torch.from_numpy(np.float32(features))[:, None].expand(-1, 4, -1)  # four patches that are all alike
    scores = head(torch.cat([0 * tokens[:, :2], tokens], 1), 2)
    assert head.num_classes == scores.shape[1] == classes[-1] + 1
    assert (scores.isfinite().all(0).nonzero()[:, 0] == torch.tensor(classes)).all()
    reference = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(features, labels)
    probabilities = scores.softmax(1)[:, classes]
    if len(classes) > 2:
        np.testing.assert_allclose(probabilities, reference.predict_proba(features), atol=1e-4)
    assert (scores.argmax(1).numpy() == reference.predict(features)).all()


@pytest.mark.parametrize("token", ["mean_patch", "cls"])
def test_an_encoder_is_tested_with_a_head_that_was_fitted_to_other_images(here, token):
    opened = here({"per_class": 6, "token": token})
    assert opened.classifiers == ["mine"]
    assert opened.study == {"encoder": "mine", "classifier": "mine"}
    assert opened.profile.titles == {"mine": "mine, linear head"}
    found, images = predictions(opened, 4)
    seen = opened.seen_by("mine", opened.images())
    with torch.no_grad():
        tokens = opened.model("mine").forward_features(seen.tensor(range(30)))
    points = (tokens[:, 0] if token == "cls" else tokens[:, 1:].mean(1)).double().numpy()
    last = np.arange(30) % 10 >= 4
    reference = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(points[last], seen.labels[last])
    np.testing.assert_array_equal(found, reference.predict(points[~last]))
    np.testing.assert_array_equal(images.labels, seen.labels[~last])


def test_a_head_is_not_tested_on_the_images_that_it_was_fitted_to(here):
    with pytest.raises(
        ValueError, match=r"mine: its head is fitted to 9 of the images .* bird/004\.png; give it others"
    ):
        predictions(here({"per_class": 6}), 7)


@pytest.mark.parametrize(
    "fit", [("folders", "images/../images"), ("auto", "images"), ("folders", "link")], ids=["spelled", "auto", "link"]
)
def test_the_same_folder_by_another_name_is_no_other_folder(here, tmp_path, fit):
    opened = here({"per_class": 6, "fit": dict(zip(("source", "folder"), fit, strict=True))})
    (tmp_path / "link").symlink_to(tmp_path / "images")
    with pytest.raises(ValueError, match="its head is fitted to 9 of the images that it is tested on"):
        predictions(opened, 7)


def test_images_of_another_folder_fit_a_head_and_other_ones_another(here, tiny_profile, tmp_path):
    tiny_profile(per_class=10)
    source = {"source": "folders", "folder": "images"}
    by_itself = predictions(here({"per_class": 6}), 4)[0]
    (tmp_path / "images").rename(tmp_path / "others")
    opened = here({"per_class": 6, "fit": source | {"folder": "others"}})
    np.testing.assert_array_equal(predictions(opened, 4)[0], by_itself)
    assert len(predictions(opened, 10)[0]) == 30, "all can be tested"
    first, second = (
        opened._subject("mine").showing(opened.images()).digest,
        here({"per_class": 5, "fit": source | {"folder": "others"}})._subject("mine").showing(opened.images()).digest,
    )
    assert first != second


@pytest.mark.parametrize(
    ("head", "model", "error", "told"),
    [
        (
            {"per_class": 11},
            {},
            ImageError,
            r"models\.mine\.head: class 'bird' has 10 images, 11 were asked for; lower",
        ),
        (
            {"per_class": 3},
            {"checkpoint": "weights/mae_finetuned.safetensors", "arguments": TINY | {"num_classes": 5}},
            CheckpointError,
            r"models\.mine has a head of 5 classes; leave `head` out",
        ),
    ],
)
def test_a_head_that_cannot_be_is_refused(here, head, model, error, told):
    with pytest.raises(error, match=told):
        predictions(here(head, **model), 2)


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ({}, "models.mine.head.per_class is missing; add it"),
        ({"per_class": 0}, "models.mine.head.per_class is 0; use a whole number above 0"),
        ({"per_class": 5, "token": "register"}, "models.mine.head.token is 'register'; use 'mean_patch' or 'cls'"),
        ({"per_class": 5, "fit": {"source": "folders"}}, "models.mine.head.fit.folder is missing; add it"),
    ],
)
def test_a_wrong_entry_is_named(tiny_profile, head, told):
    with pytest.raises(ValueError, match=told):
        load_profile(tiny_profile(models={"mine": ENCODER | {"head": head}}))
