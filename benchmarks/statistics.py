"""All statistics of Sections IV-A to IV-C in one pass, against the forward pass alone."""

from functools import partial

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from benchmarks.harness import Pair, Row, largest_difference
from benchmarks.inputs import noise_images, vit_b
from mae_helpers.encoder.passes import PerImage, Statistic, one_pass
from mae_helpers.encoder.walk import classify, cls_token, embed, mean_patch, visible_patches
from mae_helpers.images.sets import ImageSet
from mae_helpers.measures.attention import Rollout, attention_distance, patch_distances
from mae_helpers.measures.features import head_features
from mae_helpers.measures.subspaces import Moments
from mae_helpers.profile.machine import Compute

BATCH = 8


def all_statistics(model: VisionTransformer, images: ImageSet) -> dict[str, Statistic]:
    """Tokens, class subspaces and attention distance (IV-A), rollouts, prediction, embedding (IV-B), heads (IV-C)."""
    depth, patches = len(model.blocks), model.patch_embed
    distances = patch_distances(patches.grid_size[0], patches.patch_size[0])
    classes = {name: np.flatnonzero(images.classes == name).tolist() for name in images.names}
    return {
        "cls": PerImage(cls_token),
        "patches": PerImage(mean_patch),
        "moments": Moments(classes),
        "distance": PerImage(partial(attention_distance, distances=distances)),
        "cls_rollout": Rollout("cls", depth),
        "patch_rollout": Rollout("patches", depth),
        "prediction": PerImage(partial(classify, model), only=depth),
        "embedding": PerImage(mean_patch, only=depth),
        "heads": PerImage(head_features),
    }


@torch.no_grad()
def bare(model: VisionTransformer, batches: list[Tensor], masks: list[Tensor | None]) -> dict[str, np.ndarray]:
    """The model's own forward pass, fused attention and nothing read: the class of each image."""
    found = []
    for batch, visible in zip(batches, masks, strict=True):
        if visible is None:
            logits = model(batch)
        else:
            logits = model.forward_head(model.norm(model.blocks(embed(model, batch, visible)[0])))
        found.append(logits.argmax(1).cpu().numpy())
    return {"prediction": np.concatenate(found).astype(np.float32)}


def pair(
    device: torch.device, model: VisionTransformer, images: ImageSet, ratio: float = 0.0, batch: int = BATCH
) -> Pair:
    """One pass with everything and the bare one, on the same batches and, with `ratio`, the same masks."""
    batches = [pixels.to(device) for _, _, pixels in images.batches(batch)]
    masks = [None] * len(batches)
    if ratio:
        count, ids = model.patch_embed.num_patches, images.ids
        starts = range(0, len(images), batch)
        masks = [visible_patches(ids[start : start + batch], count, ratio, seed=0).to(device) for start in starts]
    return Pair(
        ours=lambda: one_pass(
            model, images, all_statistics(model, images), ratio=ratio, compute=Compute(batch_size=batch)
        ),
        other=lambda: bare(model, batches, masks),
        difference=lambda ours, other: largest_difference({"prediction": ours["prediction"]}, other),
        tolerance=0,
        setting=f"{len(images)} images, batches of {batch}, {ratio:.0%} masked",
    )


def vit_b_pair(device: torch.device, ratio: float = 0.0) -> Pair:
    """At the paper's size."""
    model, count = vit_b(device), 16 if device.type == "cpu" else 1024
    made = pair(device, model, noise_images(count), ratio, BATCH if device.type == "cpu" else 256)
    return Pair(**vars(made) | {"setting": f"ViT-B/16, 224 px; {made.setting}"})


ROWS = [
    Row(
        name="pass",
        measured="all statistics of Sections IV-A to IV-C in one pass",
        against="the bare fused forward pass of the same model",
        goals={"cpu": "<= 1.1", "cuda": "<= 1.3"},
        pair=vit_b_pair,
    ),
    Row(
        name="pass_masked",
        measured="the same pass with 75 % of the patches masked",
        against="the bare fused forward pass with the same masks",
        goals={"cpu": "<= 1.1", "cuda": "<= 1.3"},
        pair=partial(vit_b_pair, ratio=0.75),
    ),
]
