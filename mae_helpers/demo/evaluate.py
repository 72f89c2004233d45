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

from mae_helpers.demo.data import CLASSES, load_split
from mae_helpers.demo.train import MODEL_NAMES
from mae_helpers.encoder.passes import PerImage, one_pass
from mae_helpers.encoder.walk import classify, mean_patch
from mae_helpers.encoder.weights import WEIGHTS, load_model
from mae_helpers.images.sets import ImageSet
from mae_helpers.profile.files import write_whole
from mae_helpers.profile.machine import Compute, pick_device
from mae_helpers.profile.settings import Profile, load_profile

COMPUTE = Compute(batch_size=250)


def fashion_mnist(profile: Profile, split: str, count: int, folder: str | None = None) -> ImageSet:
    """The first `count` images of a split of Fashion-MNIST, as the profile's models see them."""
    images, labels = (array[:count] for array in load_split(split, folder))
    ids, names = [f"{split}/{row}" for row in range(len(images))], np.array(CLASSES)[labels]
    return ImageSet.of_pictures(ids, labels, names, lambda row: Image.fromarray(images[row]), profile.input)


def probe_percent(train: np.ndarray, labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray) -> float:
    """Test accuracy in percent of a ridge classifier on features (n, D)."""
    probe = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=(1.0, 10.0, 100.0, 1000.0)))
    return 100 * float(probe.fit(train, labels).score(test, test_labels))


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
    tests = fashion_mnist(profile, "t10k", options.test_images, options.data)
    trains = fashion_mnist(profile, "train", options.probe_images, options.data)
    summary: dict[str, object] = {"test_images": len(tests), "probe_images": len(trains)}
    rows = []
    for name in ("mae_finetuned", "vit_supervised"):
        model = load_model(profile, name, device)
        own = {"class": PerImage(partial(classify, model), only=len(model.blocks))}
        hits = one_pass(model, tests, own, compute=COMPUTE, label=name)["class"] == tests.labels
        summary[f"{name}_top1_percent"] = 100 * float(hits.mean())
        rows += [(name, title, 100 * float(hits[tests.classes == title].mean())) for title in CLASSES]
    model, means = load_model(profile, "mae_pretrained", device), []
    for images in (trains, tests):
        found = one_pass(model, images, {"mean": PerImage(mean_patch)}, compute=COMPUTE, label="features")["mean"]
        means.append(np.ascontiguousarray(found.swapaxes(0, 1)))  # [layer, image, feature]
    layers = zip(*means, strict=True)
    summary["probe_percent_by_layer"] = [probe_percent(fit, trains.labels, test, tests.labels) for fit, test in layers]
    per_class = pd.DataFrame(rows, columns=["model", "class", "top1_percent"])
    write_whole(WEIGHTS / "per_class.csv", per_class.to_csv(index=False, float_format="%.2f"))
    histories = [pd.read_csv(options.training / f"{stage}.csv") for stage in MODEL_NAMES]
    write_whole(WEIGHTS / "history.csv", pd.concat(histories).to_csv(index=False, float_format="%.6g"))
    write_whole(WEIGHTS / "evaluation.json", json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
