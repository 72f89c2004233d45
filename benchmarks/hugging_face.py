"""The same statistics from the outputs of `transformers`' ViTMAEModel, all attentions and hidden states returned."""

from functools import partial

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from benchmarks.harness import Pair, Row, largest_difference
from benchmarks.inputs import noise_images, vit_b
from mae_helpers.encoder.passes import PerImage, one_pass
from mae_helpers.encoder.walk import cls_token, mean_patch
from mae_helpers.images.sets import ImageSet
from mae_helpers.measures.attention import Rollout, attention_distance, patch_distances
from mae_helpers.profile.machine import Compute

RENAMED = {  # of a block: timm's names, and those of transformers
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def converted(model: VisionTransformer) -> torch.nn.Module:
    """The same encoder as a ViTMAEModel that masks nothing and computes its attention explicitly."""
    from transformers import ViTMAEConfig, ViTMAEModel

    block, patches = model.blocks[0], model.patch_embed
    settings = {"mask_ratio": 0.0, "layer_norm_eps": block.norm1.eps, "attn_implementation": "eager"}
    settings |= {"hidden_size": model.embed_dim, "intermediate_size": block.mlp.fc1.out_features}
    settings |= {"num_hidden_layers": len(model.blocks), "num_attention_heads": block.attn.num_heads}
    settings |= {"image_size": patches.img_size[0], "patch_size": patches.patch_size[0]}
    theirs, weights = ViTMAEModel(ViTMAEConfig(**settings)), model.state_dict()
    named = {
        "embeddings.cls_token": weights["cls_token"],
        "embeddings.position_embeddings": weights["pos_embed"],
        "embeddings.patch_embeddings.projection.weight": weights["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": weights["patch_embed.proj.bias"],
    }
    layers = next(name for name in theirs.state_dict() if "layernorm_before" in name).split("0.")[0]
    for number in range(len(model.blocks)):
        for kind in ("weight", "bias"):
            for ours, other in RENAMED.items():
                named[f"{layers}{number}.{other}.{kind}"] = weights[f"blocks.{number}.{ours}.{kind}"]
            for part, name in zip(weights[f"blocks.{number}.attn.qkv.{kind}"].chunk(3), "qkv", strict=True):
                named[f"{layers}{number}.attention.{name}_proj.{kind}"] = part
    missing, surplus = theirs.load_state_dict(named, strict=False)
    if surplus or {name.split(".")[0] for name in missing} - {"layernorm"}:
        raise ValueError(
            f"the weights do not fit: {[*missing, *surplus][:5]}; benchmarks/requirements.txt has the version"
        )
    return theirs.eval().to(model.pos_embed.device)


@torch.no_grad()
def outputs(theirs: torch.nn.Module, batch: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The residual stream after each layer and the attention of each, the patches in their own order."""
    noise = torch.arange(theirs.embeddings.patch_embeddings.num_patches, device=batch.device).float()
    noise = noise.expand(len(batch), -1)
    found = theirs(batch, noise=noise, output_attentions=True, output_hidden_states=True)
    return list(found.hidden_states[1:]), list(found.attentions)


def from_outputs(theirs: torch.nn.Module, images: ImageSet, batch: int) -> dict[str, np.ndarray]:
    """Tokens, attention distances and rollouts of all images, from what the model returned for a batch."""
    device, patches = theirs.device, theirs.embeddings.patch_embeddings
    grid = int(patches.num_patches**0.5)
    distances = patch_distances(grid, patches.image_size[0] // grid).to(device)
    parts = []
    for _, _, pixels in images.batches(batch):
        hidden, maps = outputs(theirs, pixels.to(device))
        maps, hidden = torch.stack(maps, 1), torch.stack(hidden, 1)
        among = maps[..., 1:, 1:] / maps[..., 1:, 1:].sum(-1, keepdim=True)
        identity = torch.eye(maps.shape[-1], device=device)
        product = identity.expand(len(maps), -1, -1)
        for attention in maps.mean(2).unbind(1):
            product = (attention + identity) / 2 @ product
        found = {"cls": hidden[:, :, 0], "patches": hidden[:, :, 1:].mean(2)}
        found |= {"distance": (among * distances).sum(-1).mean(-1)}
        found |= {"cls_rollout": product[:, 0, 1:], "patch_rollout": product[:, 1:, 1:].mean(1)}
        parts.append({name: values.cpu().numpy() for name, values in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def in_one_pass(model: VisionTransformer, images: ImageSet, batch: int) -> dict[str, np.ndarray]:
    """The same from `one_pass`."""
    depth, patches = len(model.blocks), model.patch_embed
    distances = patch_distances(patches.grid_size[0], patches.patch_size[0])
    statistics = {
        "cls": PerImage(cls_token),
        "patches": PerImage(mean_patch),
        "distance": PerImage(partial(attention_distance, distances=distances)),
        "cls_rollout": Rollout("cls", depth),
        "patch_rollout": Rollout("patches", depth),
    }
    return one_pass(model, images, statistics, compute=Compute(batch_size=batch))


def pair(device: torch.device, model: VisionTransformer, images: ImageSet, batch: int) -> Pair:
    """Both models on the same batches."""
    theirs = converted(model)
    return Pair(
        ours=lambda: in_one_pass(model, images, batch),
        other=lambda: from_outputs(theirs, images, batch),
        difference=largest_difference,
        tolerance=1e-4,
        setting=f"{len(images)} images, batches of {batch}, nothing masked, the same weights; tokens, attention "
        "distances and rollouts on both sides",
    )


def vit_b_pair(device: torch.device) -> Pair:
    """At the paper's size."""
    count, batch = (8, 8) if device.type == "cpu" else (512, 64)
    made = pair(device, vit_b(device), noise_images(count), batch)
    return Pair(**vars(made) | {"setting": f"ViT-B/16, 224 px; {made.setting}"})


ROWS = [
    Row(
        name="transformers",
        measured="`transformers`' ViTMAEModel with output_attentions and output_hidden_states",
        against="ours",
        goals={"cpu": ">= 2", "cuda": ">= 5"},
        pair=vit_b_pair,
    )
]
