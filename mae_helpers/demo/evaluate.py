"""Measure the bundled models for the model card: `python -m mae_helpers.demo.evaluate`.

Writes `evaluation.json` (accuracy on the test images, linear probe by layer) and `per_class.csv` beside the
weights, and copies the training histories there. Needs Fashion-MNIST (see `mae_helpers.demo.data.find_folder`).
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from timm.models.vision_transformer import VisionTransformer

from mae_helpers.demo import WEIGHTS
from mae_helpers.demo.data import CLASSES, enlarge, load_split, to_rgb
from mae_helpers.demo.train import MODEL_NAMES
from mae_helpers.encoder.walk import mean_patch, walk
from mae_helpers.encoder.weights import load_model
from mae_helpers.profile.files import write_whole
from mae_helpers.profile.machine import pick_device
from mae_helpers.profile.progress import progress
from mae_helpers.profile.settings import load_profile

BATCH = 250


def predictions(model: VisionTransformer, images: np.ndarray, device: torch.device) -> np.ndarray:
    """Predicted classes (n,) of grey images (n, 28, 28), all patches visible."""
    batches = torch.from_numpy(enlarge(images)).split(BATCH)
    with torch.inference_mode():
        found = [model(to_rgb(batch.to(device))).argmax(1).cpu() for batch in progress(batches, "test", len(batches))]
    return torch.cat(found).numpy()


def layer_features(model: VisionTransformer, images: np.ndarray, device: torch.device) -> np.ndarray:
    """Mean patch tokens of every layer, (layers, n, D), all patches visible."""
    batches = torch.from_numpy(enlarge(images)).split(BATCH)
    parts = []
    for batch in progress(batches, "features", len(batches)):
        states = walk(model, to_rgb(batch.to(device)))
        parts.append(np.stack([mean_patch(state).float().cpu().numpy() for state in states]))
    return np.concatenate(parts, axis=1)


def probe_by_layer(train: np.ndarray, labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray) -> list[float]:
    """Test accuracy in percent of a ridge classifier on each layer's features."""
    found = []
    for features, test_features in zip(train, test, strict=True):
        probe = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=(1.0, 10.0, 100.0, 1000.0)))
        found.append(100 * float(probe.fit(features, labels).score(test_features, test_labels)))
    return found


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
    images, labels = (array[: options.test_images] for array in load_split("t10k", options.data))
    trains, train_labels = (array[: options.probe_images] for array in load_split("train", options.data))
    summary: dict[str, object] = {"test_images": len(images), "probe_images": len(trains)}
    rows = []
    for name in ("mae_finetuned", "vit_supervised"):
        hits = predictions(load_model(profile, name, device), images, device) == labels
        summary[f"{name}_top1_percent"] = 100 * float(hits.mean())
        rows += [
            {"model": name, "class": CLASSES[label], "top1_percent": 100 * float(hits[labels == label].mean())}
            for label in range(10)
        ]
    model = load_model(profile, "mae_pretrained", device)
    features = [layer_features(model, part, device) for part in (trains, images)]
    summary["probe_percent_by_layer"] = probe_by_layer(features[0], train_labels, features[1], labels)
    write_whole(WEIGHTS / "per_class.csv", pd.DataFrame(rows).to_csv(index=False, float_format="%.2f"))
    histories = [pd.read_csv(options.training / f"{stage}.csv") for stage in MODEL_NAMES]
    write_whole(WEIGHTS / "history.csv", pd.concat(histories).to_csv(index=False, float_format="%.6g"))
    write_whole(WEIGHTS / "evaluation.json", json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
