"""What the comparisons are made on: a ViT-B/16 of random weights, the demo's model, and images."""

import numpy as np
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from mae_helpers.encoder import weights as checkpoints
from mae_helpers.images import sets as images
from mae_helpers.images.sets import ImageSet
from mae_helpers.profile.settings import Input, load_profile

CLASSES = 2


def vit_b(device: torch.device | str = "cpu", **arguments: object) -> VisionTransformer:
    """The paper's size: 12 layers x 12 heads, 768 features, 196 patches of 224 pixels, in timm's initialisation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VisionTransformer(**{"global_pool": "avg"} | arguments).eval().to(device)


def noise_images(count: int, size: int = 224) -> ImageSet:
    """Images of noise in memory, the first half of one class and the second of another."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    labels = np.arange(count) * CLASSES // count
    ids, names = [f"noise/{row:04d}" for row in range(count)], np.array(["first", "second"])[labels]
    settings = Input(size=size, mean=[0.5] * 3, std=[0.25] * 3)
    return ImageSet.of_pictures(ids, labels, names, lambda row: Image.fromarray(pixels[row]), settings)


def demo(name: str = "mae_pretrained", device: torch.device | str = "cpu") -> VisionTransformer:
    """A model of the demo: 12 layers x 12 heads, 192 features, 196 patches of 56 pixels."""
    return checkpoints.load_model(load_profile("demo"), name, device)


def demo_images() -> ImageSet:
    """The demo's 500 images, 50 each of ten classes."""
    return images.first_images(load_profile("demo"))
