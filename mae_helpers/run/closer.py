"""The page "Look closer": pictures and numbers of a few images in, one piece of HTML that needs no server out."""

import itertools
from base64 import b64encode
from collections.abc import Hashable, Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import jinja2
import matplotlib as mpl
import numpy as np
import pandas as pd
from PIL import Image

from mae_helpers.figures.style import MODEL_NAMES, class_title
from mae_helpers.images.labels import wordnet_ids
from mae_helpers.images.pixels import patch_grid
from mae_helpers.images.sets import ImageSet
from mae_helpers.measures.accuracy import ByLevel, Sets
from mae_helpers.measures.alignment import alignment
from mae_helpers.perturbations.levels import Perturbation, pictures

PARTS = Path(__file__).parent / "look_closer"  # the page's HTML, CSS and JavaScript
BUDGET = 2_500_000  # bytes of pictures: with code, text and numbers the page stays below 3 MB
EXACT_SIDE, LARGEST_SIDE, QUALITY = 64, 224, 60  # pixels, pixels, WebP's quality from 0 to 100
WORDS = {  # of a perturbation: its name, its first level, any other level in a sentence, and on an axis
    "gaussian_blur": ("Gaussian blur", ("clean", "without blur"), "at blur level {}", "{}"),
    "occlusion": ("Occlusion", ("0 %", "with nothing masked"), "with {:g} % of the patches masked", "{:g} %"),
}
Levels = Mapping[str, Mapping[Hashable, Perturbation]]  # by perturbation; the first of each leaves images as they are


def class_names(images: ImageSet, count: int) -> list[str]:
    """The titles of a model's `count` classes: those of the images, ImageNet's where these are, else `class 7`."""
    known = dict(zip(images.labels.tolist(), images.classes.tolist(), strict=True))
    table = wordnet_ids()
    if count == len(table) and all(table[label] == name for label, name in known.items()):
        known = dict(enumerate(table))
    return [class_title(known[label]) if label in known else f"class {label}" for label in range(count)]


def per_image(
    embeddings: ByLevel, predictions: ByLevel, probabilities: ByLevel, sets: Sets, perturbation: str
) -> pd.DataFrame:
    """`alignment` of one perturbation, clean at its first level; also columns perturbation, predicted, probability."""
    first = next(iter(next(iter(embeddings.values()))))
    table = alignment(embeddings, predictions, sets, clean=first)
    answers = {
        name: np.concatenate([values[model][level] for model, levels in embeddings.items() for level in levels])
        for name, values in (("predicted", predictions), ("probability", probabilities))
    }
    return table.assign(perturbation=perturbation, **answers)


def first_rows(images: ImageSet, per_class: int) -> list[int]:
    """The rows of the first image of each class, then of the second, up to `per_class`; ValueError for fewer than 1."""
    if per_class < 1:
        raise ValueError(f"shown_per_class {per_class}: use 1 or more")
    numbers = pd.Series(range(len(images))).groupby(images.classes, sort=False).cumcount()
    return numbers[numbers < per_class].sort_values(kind="stable").index.tolist()


def overlay(pixels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """An image (H, W, 3) in [0, 1] under a heatmap, 65 % opaque, of its patches' scores (N,) from lowest to highest."""
    (height, width), grid = pixels.shape[:2], patch_grid(len(scores), pixels.shape[:2])
    scaled = (scores - scores.min()) / (np.ptp(scores) or 1)
    rows, columns = np.arange(height) * grid[0] // height, np.arange(width) * grid[1] // width
    heat = mpl.colormaps["inferno"](scaled.reshape(grid)[np.ix_(rows, columns)])[..., :3]
    return 0.35 * np.clip(pixels, 0, 1) + 0.65 * heat


def data_uri(pixels: np.ndarray) -> str:
    """An image (H, W, 3) in [0, 1] as a WebP data URI: lossless up to EXACT_SIDE, reduced beyond LARGEST_SIDE."""
    image = Image.fromarray(np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8))
    exact = max(image.size) <= EXACT_SIDE
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    file = BytesIO()
    image.save(file, "WEBP", lossless=exact, quality=100 if exact else QUALITY)
    return "data:image/webp;base64," + b64encode(file.getvalue()).decode()


def entry(row: int, seen: Mapping[str, ImageSet], levels: Levels, rollouts: Mapping[str, np.ndarray]) -> dict:
    """One image's pictures, each stored once, and where each model has them: id, truth, pictures, clean, models.

    `seen` holds the same images for each model with its own normalisation, `rollouts` the CLS rows (images, N) of each.
    """
    stored, models = {}, {}
    for model, images in seen.items():
        one, held = images.take([row]), {"cls_rollout": rollouts[model][[row]]}
        place = {"overlay": stored.setdefault(data_uri(overlay(one.pixels(0), held["cls_rollout"][0])), len(stored))}
        for name, chosen in levels.items():
            uris = map(data_uri, pictures(one, chosen, held)[0])
            place[name] = [stored.setdefault(uri, len(stored)) for uri in uris]
        models[model] = place
    clean = stored.setdefault(data_uri(one.pixels(0)), len(stored))
    number = int((images.classes[: row + 1] == images.classes[row]).sum())
    about = {"id": images.ids[row], "class": str(images.classes[row]), "number": number}
    return about | {"pictures": list(stored), "clean": clean, "models": models}


def within_budget(found: Iterable[dict], budget: int = BUDGET) -> list[dict]:
    """As many entries as `budget` bytes of pictures hold, by class; whole rounds of one image a class where one fits.

    `found` comes in the order of `first_rows`. ValueError where not even the first fits.
    """
    kept, size = [], 0
    for one in found:
        size += sum(map(len, one["pictures"]))
        if size > budget:
            if not kept:
                raise ValueError(f"one image's pictures take {size} bytes, the budget is {budget}; use fewer levels")
            kept = [other for other in kept if other["number"] < max(2, one["number"])]
            break
        kept.append(one)
    order = list(dict.fromkeys(one["class"] for one in kept))
    return sorted(kept, key=lambda one: (order.index(one["class"]), one["number"]))


def size_sentence(shown: Sequence[dict], wanted: int, side: int, budget: int = BUDGET) -> str:
    """How many images the page shows of how many it was to, how their pictures are stored, and what they take."""
    taken = sum(len(uri) for one in shown for uri in one["pictures"])
    stored = "without loss" if side <= EXACT_SIDE else f"as WebP of quality {QUALITY}"
    reduced = f", reduced to {LARGEST_SIDE} px" if side > LARGEST_SIDE else ""
    count = f"{len(shown)} image{'s' if len(shown) > 1 else ''}"
    fewer = "" if len(shown) == wanted else f" of the {wanted} asked for: more would not fit"
    return (
        f"The page shows {count}{fewer}. Their pictures, {side} px wide and stored {stored}{reduced}, take "
        f"{taken / 1e6:.2f} MB of the {budget / 1e6:g} MB that this page allows for them."
    )


def page_data(shown: Sequence[dict], table: pd.DataFrame, levels: Levels, names: Sequence[str]) -> dict:
    """All that the page's script needs: models, perturbations, class names, and each image with its numbers by level.

    `table` comes from `per_image`; `names` are the classes' titles. KeyError where it lacks an image or a level.
    """
    numbers = table.set_index(["image", "model", "perturbation", "level"])
    numbers = numbers[["cosine", "predicted", "probability", "correct"]].astype({"probability": float})
    numbers = numbers.round({"cosine": 4, "probability": 4})
    images, perturbations = [], []
    for one in shown:
        placed = {model: {"overlay": places["overlay"]} for model, places in one["models"].items()}
        for model, name in itertools.product(placed, levels):
            rows = numbers.loc[[(one["id"], model, name, level) for level in levels[name]]]
            placed[model][name] = rows.to_dict("list") | {"pictures": one["models"][model][name]}
        truth = class_title(one["class"])
        about = {"title": f"{truth} {one['number']}", "id": one["id"], "truth": truth}
        images.append(about | {"pictures": one["pictures"], "clean": one["clean"], "models": placed})
    for name, chosen in levels.items():
        title, first, sentence, tick = WORDS[name]
        rest = [(tick.format(level), sentence.format(level)) for level in list(chosen)[1:]]
        ticks, words = map(list, zip(first, *rest, strict=True))
        perturbations.append({"key": name, "name": title, "levels": ticks, "words": words})
    models = [{"key": model, "name": MODEL_NAMES.get(model, model)} for model in shown[0]["models"]]
    return {"models": models, "perturbations": perturbations, "names": list(names), "images": images}


def page(data: Mapping) -> str:
    """The page's piece of HTML, with its style, script and data inside: nothing is fetched from anywhere.

    Jinja escapes each text, and in the data each `<`, so that no name can end an element.
    """
    parts = jinja2.Environment(loader=jinja2.FileSystemLoader(PARTS), autoescape=True, trim_blocks=True)
    parts.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    style, script = ((PARTS / name).read_text() for name in ("closer.css", "closer.js"))
    return parts.get_template("closer.html").render(data, data=data, style=style, script=script)
