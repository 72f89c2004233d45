"""Train the demo's three models: `python -m mae_helpers.demo.train pretrain|finetune|supervised`.

Each stage writes a checkpoint every epoch and resumes from it; the same seed gives the same batches, crops and masks
whether or not a run was interrupted. The end of a stage is `<out>/<model>.safetensors` (float16) and its history.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import timm.layers
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from tqdm import tqdm

from mae_helpers.demo.data import enlarge, load_split, random_crop_and_flip, to_rgb
from mae_helpers.demo.model import GRID, MaskedAutoencoder, PatchDroppingClassifier, masked_loss

MODEL_NAMES = {"pretrain": "mae_pretrained", "finetune": "mae_finetuned", "supervised": "vit_supervised"}
MONITORED = 1000  # test images behind the accuracy of each epoch; the card's accuracies are those of evaluate.py


@dataclass(frozen=True)
class Recipe:
    """One stage's settings; `kept` is the share of patches that the encoder sees while training.

    The learning rate falls along a cosine over `schedule` epochs, by default all of them; a longer schedule ends early.
    """

    epochs: int
    batch: int
    learning_rate: float
    kept: float
    weight_decay: float = 0.05
    warmup: float = 0.1
    layer_decay: float | None = None
    smoothing: float = 0.1
    schedule: int | None = None


RECIPES = {
    "cpu": {
        "pretrain": Recipe(epochs=4, schedule=5, batch=128, learning_rate=1.2e-3, kept=0.25),
        "finetune": Recipe(epochs=3, batch=128, learning_rate=1e-3, kept=0.25, layer_decay=0.8),
        "supervised": Recipe(epochs=5, batch=128, learning_rate=8e-4, kept=0.25),
    },
    "gpu": {
        "pretrain": Recipe(epochs=400, batch=1024, learning_rate=2.4e-3, kept=0.25),
        "finetune": Recipe(epochs=50, batch=512, learning_rate=1e-3, kept=1.0, layer_decay=0.75),
        "supervised": Recipe(epochs=100, batch=512, learning_rate=1e-3, kept=1.0),
    },
}


def random_patches(batch: int, kept: float, generator: torch.Generator) -> Tensor | None:
    """Uniformly random patches to keep, (B, N_v), one permutation an image; None where all are kept."""
    if kept == 1:
        return None
    return torch.rand(batch, GRID**2, generator=generator).argsort(1)[:, : round(kept * GRID**2)]


def build(stage: str, out: Path) -> nn.Module:
    """The stage's model; fine-tuning starts from the pre-trained encoder in `out`."""
    if stage == "pretrain":
        return MaskedAutoencoder()
    model = PatchDroppingClassifier(stage)
    if stage == "finetune":
        start = out / "mae_pretrained.safetensors"
        if not start.exists():
            raise FileNotFoundError(f"{start}: run the stage `pretrain` with the same --out first")
        mismatch = model.encoder.load_state_dict(load_file(start), strict=False)
        strange = [key for key in mismatch.missing_keys if not key.startswith(("fc_norm.", "head."))]
        if strange or set(mismatch.unexpected_keys) != {"norm.weight", "norm.bias"}:
            raise ValueError(f"{start}: not the demo's encoder: missing {strange}, {mismatch.unexpected_keys}")
    return model


def save_atomically(write, path: Path) -> None:
    """Call `write(temporary path)`, then rename it to `path`, so that no half-written file is ever found there."""
    temporary = path.with_name(path.name + ".part")
    write(temporary)
    temporary.replace(path)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, batch: int = 250) -> float:
    """Top-1 accuracy in percent of byte images (n, 56, 56), all patches visible."""
    model.eval()
    with torch.inference_mode():
        hits = [
            (model(to_rgb(x)).argmax(1) == y).sum()
            for x, y in zip(images.split(batch), labels.split(batch), strict=True)
        ]
    return 100 * float(sum(hits)) / len(labels)


def train_epoch(
    stage: str, recipe: Recipe, model, optimizer, scheduler, images, labels, epoch: int, seed: int
) -> list[float]:
    """One pass over the shuffled images; returns the loss of every batch."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    order = torch.randperm(len(images), generator=generator).split(recipe.batch)
    device, losses = images.device, []
    model.train()
    bar = tqdm(order, desc=f"{stage} epoch {epoch + 1}/{recipe.epochs}", mininterval=20, file=sys.stderr)
    for step, index in enumerate(bar):
        index = index.to(device)
        batch = random_crop_and_flip(to_rgb(images[index]), generator)
        visible = random_patches(len(index), recipe.kept, generator)
        visible = None if visible is None else visible.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            output = model(batch, visible)
        if stage == "pretrain":
            loss = masked_loss(output, batch, visible)
        else:
            loss = F.cross_entropy(output.float(), labels[index], label_smoothing=recipe.smoothing)
        scheduler.step_update(epoch * len(order) + step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    return losses


def hardware(device: str) -> str:
    """What a stage was trained on, in words."""
    return (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else f"CPU, {torch.get_num_threads()} threads"
    )


def history_rows(stage: str, epoch: int, losses: list[float], seconds: float, device: str) -> list[dict]:
    """An epoch in at most ten rows: `epoch` counts from 0 to where a row ends, `loss` is the mean within the row."""
    parts = np.array_split(losses, min(10, len(losses)))
    ends = epoch + np.cumsum([len(part) for part in parts]) / len(losses)
    share = [seconds * len(part) / len(losses) for part in parts]
    return [
        {"stage": stage, "epoch": float(end), "loss": float(part.mean()), "seconds": took, "device": device}
        for end, part, took in zip(ends, parts, share, strict=True)
    ]


def export(stage: str, recipe: Recipe, model: nn.Module, out: Path, seed: int) -> None:
    """Write the encoder, and after pre-training the decoder, as float16 safetensors with the recipe as metadata."""
    metadata = {"stage": stage, "recipe": json.dumps(asdict(recipe)), "seed": str(seed)}
    parts = {MODEL_NAMES[stage]: model.encoder}
    if stage == "pretrain":
        parts["mae_decoder"] = model.decoder
    for name, part in parts.items():
        tensors = {key: value.half().cpu().contiguous() for key, value in part.state_dict().items()}
        save_atomically(lambda path, tensors=tensors: save_file(tensors, path, metadata), out / f"{name}.safetensors")


def train(stage: str, recipe: Recipe, out: Path, data: str | None, device: str, seed: int) -> None:
    """Run one stage from its last checkpoint to its end; refuses to touch a finished one."""
    final, state_path = out / f"{MODEL_NAMES[stage]}.safetensors", out / f"{stage}.state.pt"
    if final.exists():
        raise FileExistsError(f"{final} is finished; move it away, or choose another --out, to train again")
    out.mkdir(parents=True, exist_ok=True)
    if device == "cpu":
        timm.layers.set_fused_attn(False)  # its backward pass is three times slower on a CPU; read while building
    torch.manual_seed(seed)
    model = build(stage, out).to(device)
    optimizer = create_optimizer_v2(
        model if stage == "pretrain" else model.encoder,  # timm knows the layers of its own class, for layer decay
        "adamw",
        recipe.learning_rate,
        recipe.weight_decay,
        layer_decay=recipe.layer_decay,
        betas=(0.9, 0.95),
    )
    images, labels = (torch.from_numpy(array.copy()) for array in load_split("train", data))
    tests, test_labels = (torch.from_numpy(array.copy())[:MONITORED] for array in load_split("t10k", data))
    images, tests = (torch.from_numpy(enlarge(array.numpy())).to(device) for array in (images, tests))
    labels, test_labels = labels.long().to(device), test_labels.long().to(device)
    steps = (recipe.schedule or recipe.epochs) * -(-len(images) // recipe.batch)
    scheduler = CosineLRScheduler(optimizer, steps, warmup_t=int(recipe.warmup * steps), t_in_epochs=False)
    history: list[dict] = []
    finished = 0
    if state_path.exists():
        state = torch.load(state_path, map_location=device, weights_only=True)
        if state["recipe"] != asdict(recipe) or state["seed"] != seed:
            raise ValueError(f"{state_path} holds another recipe or seed ({state['recipe']}); choose another --out")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        history = state["history"]
        finished = state.get("finished", len(history))
    for epoch in range(finished, recipe.epochs):
        began = time.perf_counter()
        losses = train_epoch(stage, recipe, model, optimizer, scheduler, images, labels, epoch, seed)
        seconds = time.perf_counter() - began
        history += history_rows(stage, epoch, losses, seconds, hardware(device))
        if stage != "pretrain":
            history[-1]["top1_percent"] = accuracy(model, tests, test_labels)
        left = (recipe.epochs - epoch - 1) * seconds / 60
        print(f"{stage} {epoch + 1}/{recipe.epochs}: {history[-1]}; {left:.0f} min left", flush=True)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "history": history}
        state |= {"recipe": asdict(recipe), "seed": seed, "finished": epoch + 1}
        save_atomically(lambda path, state=state: torch.save(state, path), state_path)
    save_atomically(lambda path: pd.DataFrame(history).to_csv(path, index=False), out / f"{stage}.csv")
    export(stage, recipe, model, out, seed)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train one stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=list(MODEL_NAMES))
    parser.add_argument("--budget", choices=list(RECIPES), help="default: gpu where there is one, else cpu")
    parser.add_argument("--epochs", type=int, help="another number of epochs than the budget's")
    parser.add_argument("--out", type=Path, default=Path("training"))
    parser.add_argument("--data", help="folder of the four Fashion-MNIST files")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    budget = options.budget or ("gpu" if options.device.startswith("cuda") else "cpu")
    recipe = RECIPES[budget][options.stage]
    if options.epochs:
        recipe = Recipe(**asdict(recipe) | {"epochs": options.epochs})
    train(options.stage, recipe, options.out, options.data, options.device, options.seed)


if __name__ == "__main__":
    try:
        main()
    except (FileExistsError, FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
