"""Checkpoints as people have them: told apart by their keys, translated to timm's names, every tensor accounted for.

Understood are timm's names with any prefix before them (MAE, DINO, iBOT, MoCo-v3, DINOv2, Lightning, DistributedDataParallel)
those of Hugging Face's ViT, ViTMAE, Dinov2 and Dinov2WithRegisters, and AugReg's of JAX; what timm's own filter of the
architecture understands (OpenCLIP, JAX patches, positions of another grid) is left to it.
"""

import re
import sys
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mae_helpers.encoder.vit import in_short

# What training code wraps the tensors in, the better one first: averages before the last step, teachers before students.
WRAPPERS = (
    *("model_ema", "state_dict_ema", "ema", "ema_state_dict", "teacher", "target_encoder"),
    *("model", "state_dict", "module", "shadow", "net", "encoder", "student"),
)
PATCHES = ("patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight")  # each layout has one of these
PREFERRED = ("teacher", "base_encoder")  # where one file holds two encoders
# For pre-training alone:
BESIDE = re.compile(r"mask_token|decoder[._].*|pooler\..*|.*relative_position_index|masked_embed")
JAX = "embedding/kernel"  # the patch embedding as JAX calls it
HEAD = re.compile(r"head(_dist)?\..*|classifier\..*")
QKV = {"q": "query", "k": "key", "v": "value"}
HUGGING_FACE = (
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.", ""),  # cls_token, mask_token, register_tokens
    (r"(?:encoder\.)?layers?\.(\d+)\.", r"blocks.\1."),
    (r"attention\.(?:attention\.)?(query|key|value)\.", r"attn.\1."),
    (r"attention\.(q|k|v)_proj\.", lambda found: f"attn.{QKV[found[1]]}."),
    (r"attention\.(?:output\.dense|o_proj)\.", "attn.proj."),
    (r"layernorm_before\.", "norm1."),
    (r"layernorm_after\.", "norm2."),
    (r"intermediate\.dense\.", "mlp.fc1."),
    (r"^(blocks\.\d+\.)output\.dense\.", r"\1mlp.fc2."),
    (r"mlp\.weights_in\.", "mlp.fc1."),
    (r"mlp\.weights_out\.", "mlp.fc2."),
    (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
)


class LayoutError(ValueError):
    """Tensors that are no Vision Transformer's as this module knows them."""


Translated = tuple[dict[str, Tensor], tuple[str, ...]]  # by timm's names, and what was done to get there, a phrase each


def unwrapped(content: object) -> object:
    """What lies inside the entries that training code saves, however many stand round it."""
    known = content if isinstance(content, Mapping) else {}
    inner = next((known[name] for name in WRAPPERS if isinstance(known.get(name), Mapping)), None)
    return content if inner is None else unwrapped(inner)


def _names(keys: list[str]) -> str:
    """Keys by what they begin with, each with how many there are."""
    first = Counter(re.split("[./]", key)[0] for key in keys)
    return ", ".join(f"{name} ({count})" for name, count in first.items())


def _prefix(weights: Mapping[str, Tensor]) -> str:
    """What stands before the encoder's own names; LayoutError where there is no encoder, or more than one."""
    found = {key.removesuffix(end) for end in PATCHES for key in weights if key.endswith(end)}
    found = {prefix for prefix in found if prefix == "" or prefix.endswith(".")}
    if not found:
        what = f"no patch embedding ({' or '.join(PATCHES)}) among its {len(weights)} tensors: {_names(list(weights))}"
        raise LayoutError(f"not a Vision Transformer in a known layout: {what}")
    chosen = {prefix for prefix in found if set(prefix.split(".")) & set(PREFERRED)} or found
    if len(chosen) > 1:
        raise LayoutError(f"it holds {len(chosen)} encoders, {', '.join(sorted(chosen))}; save one of them alone")
    return chosen.pop()


def _from_hugging_face(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's names -> timm's, its separate query, key and value joined to qkv in that order."""
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        for pattern, name in HUGGING_FACE:
            key = re.sub(pattern, name, key, count=1)
        renamed[key] = value
    for key in [key for key in renamed if ".attn.query." in key]:
        parts = [renamed.pop(key.replace(".query.", f".{part}."), None) for part in ("query", "key", "value")]
        if any(part is None for part in parts):
            raise LayoutError(f"{key} has no key or value beside it")
        renamed[key.replace(".query.", ".qkv.")] = torch.cat(parts)
    return renamed


def translated(weights: Mapping[str, Tensor], model: nn.Module) -> Translated:
    """The tensors of any known layout by the names of `model`, a Vision Transformer of timm's.

    What belongs to pre-training alone, and a head where `model` has none, is left aside and told; positions of another
    grid are resampled by timm. What is still missing or surplus is for the strict loading to name. LayoutError where no
    encoder is found.
    """
    prefix, told = _prefix(weights), []
    own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    outside = {key: value for key, value in weights.items() if not key.startswith(prefix)}
    if prefix:
        told.append(f"the encoder under {prefix!r}")
    if PATCHES[1] in own:
        told.append("Hugging Face's names")
        own = _from_hugging_face(own | {key: outside.pop(key) for key in list(outside) if HEAD.fullmatch(key)})
    decoder = any(key.startswith("decoder") for key in (*own, *outside))
    aside = [key for key in own if BESIDE.fullmatch(key) and (decoder or key != "mask_token")]
    if model.num_classes == 0:
        aside += [key for key in own if HEAD.fullmatch(key)]
    own = {key: value for key, value in own.items() if key not in aside}
    if aside or outside:
        told.append(f"not used: {_names([*aside, *outside])}")
    of_file, of_model = own[PATCHES[0]].shape[2:], model.patch_embed.proj.weight.shape[2:]
    if own[PATCHES[0]].ndim == 4 and of_file != of_model:  # timm would resample them
        what = f"its patches are {tuple(of_file)} pixels, the model's {tuple(of_model)}"
        raise LayoutError(f"{what}; correct `arguments`")
    places = own["pos_embed"].shape[1] if "pos_embed" in own else None
    adapt = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", dict)
    own = {key: value for key, value in adapt(own, model).items() if not BESIDE.fullmatch(key)}
    if places is not None and "pos_embed" in own and abs(own["pos_embed"].shape[1] - places) > 1:  # 1: CLS has none
        told.append(f"positions resampled by timm from {places} to {own['pos_embed'].shape[1]}")
    return own, tuple(told)


def from_jax(weights: Mapping[str, Tensor], model: nn.Module, path: Path) -> Translated:
    """The tensors of a .npz as JAX saves it (AugReg), by the names of `model`: timm itself reads the file `path` into that.

    What that did not get, such as a head of other classes, is left out. LayoutError where timm cannot, or where the file has
    more or fewer numbers than the model, but for positions, which timm resamples, and a head where the model has none.
    """
    prefix = next((key.removesuffix(JAX) for key in weights if key.endswith(JAX)), "")
    own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    aside = [key for key in own if model.num_classes == 0 and key.startswith(("head/", "pre_logits/"))]
    for value in model.parameters():
        value.data.fill_(torch.nan)  # what stays so was not in the file
    try:
        model.load_pretrained(str(path))
    except Exception as error:  # timm's functions fail in many ways where sizes do not fit
        raise LayoutError(f"timm cannot read it into this model ({in_short(error)}); correct `arguments`") from error
    held = sum(value.numel() for key, value in own.items() if key not in aside and "pos_embed" not in key)
    got = {name: value for name, value in model.state_dict().items() if not value.isnan().all()}
    taken = sum(value.numel() for name, value in got.items() if name != "pos_embed")
    if held != taken and len(got) == len(model.state_dict()):
        raise LayoutError(f"of its {held} numbers the model takes {taken}: {_names(list(own))}; correct `arguments`")
    aside += [key for key in weights if not key.startswith(prefix)]
    return got, ("JAX's names", *([f"not used: {_names(aside)}"] if aside else []))


def from_config(config: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The `model` and `arguments` that a config.json, Hugging Face's or timm's, stands for; LayoutError for others."""
    if "architecture" in config:  # as timm saves it
        return config["architecture"], {"num_classes": config.get("num_classes", 0)} | config.get("model_args", {})
    kind = config.get("model_type")
    if kind not in ("vit", "vit_mae", "dinov2", "dinov2_with_registers"):
        raise LayoutError(
            f"config.json describes a {kind!r}; vit, vit_mae, dinov2 and dinov2_with_registers are understood"
        )
    odd = {"hidden_act": config.get("hidden_act", "gelu"), "use_swiglu_ffn": config.get("use_swiglu_ffn", False)}
    if odd != {"hidden_act": "gelu", "use_swiglu_ffn": False}:
        raise LayoutError(f"config.json has {odd}; only GELU in a plain MLP is understood")
    width = config["hidden_size"]
    is_dino = kind.startswith("dinov2")
    classifies = any("ForImageClassification" in name for name in config.get("architectures") or ()) and not is_dino
    registers = config.get("num_register_tokens", 4) if kind == "dinov2_with_registers" else 0
    return None, {
        "img_size": config["image_size"],
        "patch_size": config["patch_size"],
        "embed_dim": width,
        "depth": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "mlp_ratio": config.get("mlp_ratio", 4) if is_dino else config["intermediate_size"] / width,
        "qkv_bias": config.get("qkv_bias", True),
        "num_classes": len(config.get("id2label") or [0, 1]) if classifies else 0,  # two is Hugging Face's default
        "norm_layer": partial(nn.LayerNorm, eps=config.get("layer_norm_eps", 1e-6 if is_dino else 1e-12)),
        "init_values": 1.0 if is_dino else None,
        "reg_tokens": registers,
        "no_embed_class": registers > 0,
    }
