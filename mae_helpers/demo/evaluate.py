"""Measure the bundled models for the model card: `python -m mae_helpers.demo.evaluate`.

Writes `evaluation.json` (accuracy on the test images, linear probe by layer) and `per_class.csv` beside the
weights, and copies the training histories there. Needs Fashion-MNIST (see `mae_helpers.demo.data.find_folder`).
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from mae_helpers.demo.data import CLASSES, enlarge, load_split, to_rgb
from mae_helpers.demo.train import MODEL_NAMES
from mae_helpers.encoder.walk import mean_patch, walk
from mae_helpers.encoder.weights import WEIGHTS, load_model
from mae_helpers.profile.files import write_whole
from mae_helpers.profile.machine import pick_device
from mae_helpers.profile.progress import progress
from mae_helpers.profile.settings import load_profile

BATCH = 250


def batches(images: np.ndarray, device: torch.device, label: str) -> Iterator[Tensor]:
    """Grey images (n, 28, 28) as the models take them, some at a time: (B, 3, 56, 56)."""
    parts = torch.from_numpy(enlarge(images)).split(BATCH)
    return (to_rgb(part.to(device)) for part in progress(parts, label, len(parts)))


def predictions(model: VisionTransformer, images: np.ndarray, device: torch.device) -> np.ndarray:
    """Predicted classes (n,) of grey images (n, 28, 28), all patches visible."""
    with torch.inference_mode():
        return np.concatenate([model(batch).argmax(1).cpu().numpy() for batch in batches(images, device, "test")])


def layer_features(model: VisionTransformer, images: np.ndarray, device: torch.device) -> np.ndarray:
    """Mean patch tokens of every layer, (layers, n, D), all patches visible."""
    parts = [
        np.stack([mean_patch(state).float().cpu().numpy() for state in walk(model, batch)])
        for batch in batches(images, device, "features")
    ]
    return np.concatenate(parts, axis=1)


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
    images, labels = (array[: options.test_images] for array in load_split("t10k", options.data))
    trains, train_labels = (array[: options.probe_images] for array in load_split("train", options.data))
    rows, summary = [], {"test_images": len(images), "probe_images": len(trains)}
    for name in ("mae_finetuned", "vit_supervised"):
        hits = predictions(load_model(profile, name, device), images, device) == labels
        summary[f"{name}_top1_percent"] = 100 * float(hits.mean())
        rows += [(name, title, 100 * float(hits[labels == label].mean())) for label, title in enumerate(CLASSES)]
    model = load_model(profile, "mae_pretrained", device)
    layers = zip(*(layer_features(model, part, device) for part in (trains, images)), strict=True)
    summary["probe_percent_by_layer"] = [probe_percent(fit, train_labels, tested, labels) for fit, tested in layers]
    per_class = pd.DataFrame(rows, columns=["model", "class", "top1_percent"])
    write_whole(WEIGHTS / "per_class.csv", per_class.to_csv(index=False, float_format="%.2f"))
    histories = [pd.read_csv(options.training / f"{stage}.csv") for stage in MODEL_NAMES]
    write_whole(WEIGHTS / "history.csv", pd.concat(histories).to_csv(index=False, float_format="%.6g"))
    write_whole(WEIGHTS / "evaluation.json", json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
