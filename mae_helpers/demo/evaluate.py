"""Measure the bundled models for the model card: `python -m mae_helpers.demo.evaluate`.

Writes `evaluation.json` (accuracy on the test images, linear probe by layer) and `per_class.csv` beside the
weights, and copies the training histories there. Needs Fashion-MNIST (see `mae_helpers.demo.data.find_folder`).
"""

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mae_helpers.demo.data import load_split
from mae_helpers.demo.train import MODEL_NAMES
from mae_helpers.encoder.passes import PerImage, one_pass
from mae_helpers.encoder.walk import classify, mean_patch
from mae_helpers.encoder.weights import WEIGHTS, load_model
from mae_helpers.images.sets import DEMO_CLASSES, ImageSet
from mae_helpers.profile.files import write_whole
from mae_helpers.profile.machine import pick_device
from mae_helpers.profile.settings import Input, load_profile


def first_of(split: str, count: int, folder: str | None, settings: Input) -> ImageSet:
    """The first `count` images of a split of Fashion-MNIST, as the book sees its 500."""
    pixels, labels = (array[:count] for array in load_split(split, folder))
    names = [str(row) for row in range(len(pixels))]
    classes = np.array(DEMO_CLASSES)[labels]
    return ImageSet.of_pictures(names, labels, classes, lambda row: Image.fromarray(pixels[row]), settings)


def main(arguments: list[str] | None = None) -> None:
    """Measure all three models and write what the model card shows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--training", type=Path, default=Path("training"), help="folder with the histories")
    parser.add_argument("--data", help="folder of the four Fashion-MNIST files")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--probe-images", type=int, default=10_000, help="training images behind the linear probe")
    parser.add_argument("--test-images", type=int, default=10_000, help="the first so many of the test split")
    options = parser.parse_args(arguments)
    device, profile = pick_device(options.device), load_profile("demo")
    tests = first_of("t10k", options.test_images, options.data, profile.input)
    trains = first_of("train", options.probe_images, options.data, profile.input)
    rows, summary = [], {"test_images": len(tests), "probe_images": len(trains)}
    for name in ("mae_finetuned", "vit_supervised"):
        model = load_model(profile, name, device)
        answers = {"class": PerImage(partial(classify, model), only=len(model.blocks))}
        hits = one_pass(model, tests, answers, label=name)["class"] == tests.labels
        summary[f"{name}_top1_percent"] = 100 * float(hits.mean())
        rows += [(name, title, 100 * float(hits[tests.classes == title].mean())) for title in DEMO_CLASSES]
    model, tokens = load_model(profile, "mae_pretrained", device), {"tokens": PerImage(mean_patch)}
    fit, tested = (one_pass(model, images, tokens, label="features")["tokens"] for images in (trains, tests))
    probe = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=(1.0, 10.0, 100.0, 1000.0)))
    layers = zip(fit.swapaxes(0, 1), tested.swapaxes(0, 1), strict=True)
    percent = [100 * float(probe.fit(seen, trains.labels).score(new, tests.labels)) for seen, new in layers]
    summary["probe_percent_by_layer"] = percent
    per_class = pd.DataFrame(rows, columns=["model", "class", "top1_percent"])
    write_whole(WEIGHTS / "per_class.csv", per_class.to_csv(index=False, float_format="%.2f"))
    histories = [pd.read_csv(options.training / f"{stage}.csv") for stage in MODEL_NAMES]
    write_whole(WEIGHTS / "history.csv", pd.concat(histories).to_csv(index=False, float_format="%.6g"))
    write_whole(WEIGHTS / "evaluation.json", json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
