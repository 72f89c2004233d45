"""Attention rollout as a vector from the last layer down, against the full product of the layers' matrices."""

import torch
from torch import Tensor

from benchmarks.harness import Pair, Row, largest_difference
from mae_helpers.measures.attention import rollout


def full_product(head_means: Tensor) -> Tensor:
    """A_L ... A_1 of (A + I) / 2, rows normalised: (B, layers, 1 + N, 1 + N) -> (B, 1 + N, 1 + N)."""
    identity = torch.eye(head_means.shape[-1], device=head_means.device)
    product = identity.expand(len(head_means), -1, -1)
    for attention in head_means.unbind(1):
        mixed = attention + identity
        product = (mixed / mixed.sum(-1, keepdim=True)) @ product
    return product


def pair(device: torch.device, images: int = 16, layers: int = 12, patches: int = 196) -> Pair:
    """The CLS row and the mean of the patch rows, from the same head means."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(images, layers, 1 + patches, 1 + patches, generator=generator)
    head_means = torch.softmax(logits, -1).to(device)
    cls, mean = torch.zeros(2, 1 + patches, device=device)
    cls[0], mean[1:] = 1, 1 / patches

    def ours() -> dict:
        each = head_means.unbind(1)
        return {"cls": rollout(each, cls).cpu().numpy(), "patches": rollout(each, mean).cpu().numpy()}

    def other() -> dict:
        product = full_product(head_means).cpu().numpy()
        return {"cls": product[:, 0, 1:], "patches": product[:, 1:, 1:].mean(1)}

    setting = f"both rows of {images} images, {layers} layers, {patches} patches, from the head means"
    return Pair(ours, other, largest_difference, tolerance=1e-6, setting=setting)


ROWS = [
    Row(
        name="rollout",
        measured="rollout for occlusion",
        against="full matrix product over layers",
        goals={"cpu": ">= 4"},
        pair=pair,
        repeats=15,
    )
]
