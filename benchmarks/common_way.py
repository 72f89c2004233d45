"""The same statistics the common way: an analysis script with a batch of one, hooks, maps in NumPy, loops over heads."""

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from benchmarks.harness import Pair, Row, largest_difference
from benchmarks.inputs import noise_images, vit_b
from benchmarks.statistics import all_statistics
from mae_helpers.encoder.passes import one_pass
from mae_helpers.images.sets import ImageSet
from mae_helpers.measures.attention import patch_distances
from mae_helpers.profile.machine import Compute


def seen_by_hooks(model: VisionTransformer, image: Tensor) -> dict[str, list[np.ndarray]]:
    """One image through the model: the attention, the head outputs and the tokens of every layer, and the logits."""
    seen: dict[str, list[np.ndarray]] = {"attention": [], "outputs": [], "tokens": []}
    hooks = []
    for block in model.blocks:
        block.attn.fused_attn = False  # or there is no map to read
        for module, name in ((block.attn.attn_drop, "attention"), (block.attn.proj, "outputs")):
            keep = seen[name].append
            hooks.append(module.register_forward_pre_hook(lambda _, x, keep=keep: keep(x[0][0].cpu().numpy())))
        keep = seen["tokens"].append
        hooks.append(block.register_forward_hook(lambda _, __, y, keep=keep: keep(y[0].cpu().numpy())))
    with torch.no_grad():
        logits = model(image[None])
    for hook in hooks:
        hook.remove()
    for block in model.blocks:
        block.attn.fused_attn = True
    return seen | {"logits": [logits[0].cpu().numpy()]}


def head_distance(attention: np.ndarray, distances: np.ndarray) -> float:
    """Mean distance that one head's attention among the patches spans."""
    patches = attention[1:, 1:]
    patches = patches / patches.sum(-1, keepdims=True)
    return (patches * distances).sum(-1).mean()


def rollouts(maps: list[np.ndarray]) -> np.ndarray:
    """The whole product of attention matrices with the residual connection."""
    product = np.eye(maps[0].shape[-1], dtype=np.float32)
    for attention in maps:
        mixed = attention.mean(0) + np.eye(attention.shape[-1], dtype=np.float32)
        product = (mixed / mixed.sum(-1, keepdims=True)) @ product
    return product


def common_way(model: VisionTransformer, images: ImageSet) -> dict[str, np.ndarray]:
    """What `one_pass` gives with `all_statistics`, image by image."""
    embed, heads = model.patch_embed, model.blocks[0].attn.num_heads
    distances = patch_distances(embed.grid_size[0], embed.patch_size[0]).numpy()
    found = {
        name: []
        for name in ["cls", "patches", "distance", "cls_rollout", "patch_rollout", "prediction", "embedding", "heads"]
    }
    tokens: dict[tuple[str, int], list[np.ndarray]] = {}
    for row in range(len(images)):
        seen = seen_by_hooks(model, images.tensor([row])[0].to(model.pos_embed.device))
        found["cls"].append([layer[0] for layer in seen["tokens"]])
        found["patches"].append([layer[1:].mean(0) for layer in seen["tokens"]])
        found["embedding"].append(seen["tokens"][-1][1:].mean(0))
        found["prediction"].append(seen["logits"][0].argmax())
        found["distance"].append(
            [[head_distance(layer[head], distances) for head in range(heads)] for layer in seen["attention"]]
        )
        product = rollouts(seen["attention"])
        found["cls_rollout"].append(product[0, 1:])
        found["patch_rollout"].append(product[1:, 1:].mean(0))
        outputs = [layer.reshape(len(layer), heads, -1) for layer in seen["outputs"]]
        found["heads"].append([[layer[1:, head].mean(0) for head in range(heads)] for layer in outputs])
        for number, layer in enumerate(seen["tokens"], 1):
            tokens.setdefault((images.classes[row], number), []).append(layer[1:])
    stacked = {key: np.concatenate(parts).astype(np.float64) for key, parts in tokens.items()}
    moments = {key: (rows.T @ rows, rows.sum(0), len(rows)) for key, rows in stacked.items()}
    return {name: np.array(values) for name, values in found.items()} | {"moments": moments}


def flat(found: dict) -> dict[str, np.ndarray]:
    """The same with the moments beside the other arrays, X^T X as the covariance that the rows' number gives."""
    arrays = {name: values for name, values in found.items() if name != "moments"}
    for (name, layer), (gram, total, rows) in found["moments"].items():
        arrays |= {f"{name} {layer} gram": gram / rows, f"{name} {layer} mean": total / rows}
    return arrays


def pair(device: torch.device, model: VisionTransformer, images: ImageSet, batch: int) -> Pair:
    """Both ways on the same images."""
    return Pair(
        ours=lambda: one_pass(model, images, all_statistics(model, images), compute=Compute(batch_size=batch)),
        other=lambda: common_way(model, images),
        difference=lambda ours, other: largest_difference(flat(ours), flat(other)),
        tolerance=1e-4,
        setting=f"{len(images)} images, batches of {batch} against 1, no singular values on either side",
    )


def vit_b_pair(device: torch.device) -> Pair:
    """At the paper's size."""
    count, batch = (8, 8) if device.type == "cpu" else (256, 256)
    made = pair(device, vit_b(device), noise_images(count), batch)
    return Pair(**vars(made) | {"setting": f"ViT-B/16, 224 px; {made.setting}"})


ROWS = [
    Row(
        name="common_way",
        measured="the same statistics by the common way (batch of one, hooks, maps to NumPy, loops over heads)",
        against="ours",
        goals={"cpu": ">= 1.3", "cuda": ">= 15"},
        pair=vit_b_pair,
    )
]
