"""Train the demo's models: `python -m mae_helpers.demo.train pretrain`, then its classifiers, a stage each.

The classifiers are two by two: from the pre-trained encoder (`finetune`) or from scratch (`supervised`), with the
augmentations of MAE's official fine-tuning or with crops and mirroring alone (`_plain`). A stage is resumed where it was
stopped, to the same weights: every step draws from its own seed. It ends with `<out>/<model>.safetensors` in float16.
After each epoch `<out>/<stage>` has weights and history so far, from which another machine goes on by `--start`.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import timm.layers
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file, save
from timm.data import Mixup, auto_augment, create_transform
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import random_seed
from torch import Tensor, nn
from tqdm import tqdm

from mae_helpers.demo.data import MEAN, STD, enlarge, load_split, random_crop_and_flip, to_rgb
from mae_helpers.demo.model import GRID, IMAGE_SIZE, MaskedAutoencoder, PatchDroppingClassifier, masked_loss
from mae_helpers.profile.files import write_whole

MODEL_NAMES = {
    "pretrain": "mae_pretrained",
    "finetune": "mae_finetuned",
    "supervised": "vit_supervised",
    "finetune_plain": "mae_finetuned_plain",
    "supervised_plain": "vit_supervised_plain",
}
MONITORED = 1000  # test images behind the accuracy of each epoch; the card's accuracies are those of evaluate.py
CHUNK = {"cpu": 64, "cuda": 4096}  # images whose gradients are computed at a time: on a CPU, what its caches take
SAVED_EVERY = 300  # seconds
PROGRESS = ("step", "seconds", "losses", "history")  # of a stage, beside its weights and its optimizer


@dataclass(frozen=True)
class Recipe:
    """One stage's settings; `kept` is the share of patches that the encoder sees, but for the last `whole` of an epoch.

    The learning rate falls along one cosine a cycle, each with a warm-up and an optimizer of its own; cycles begin at
    epoch 0 and at each of `restarts`.
    """

    epochs: int
    batch: int
    learning_rate: float
    kept: float
    whole: float = 0.0
    restarts: tuple[int, ...] = ()
    weight_decay: float = 0.05
    warmup: float = 0.1
    layer_decay: float | None = None
    drop_path: float = 0.0
    smoothing: float = 0.1
    official: bool = False  # erasing, cutmix, mixup and RandAugment as in MAE's FINETUNE.md; else crops and mirroring
    precision: str = "float32"  # of the passes; bfloat16 halves the time where a CPU has AMX and is slow elsewhere

    def cycle(self, epoch: int) -> tuple[int, int]:
        """First epoch and length of the cycle that an epoch belongs to."""
        first = max(edge for edge in (0, *self.restarts) if edge <= epoch)
        return first, min([edge for edge in self.restarts if edge > epoch], default=self.epochs) - first


def _stages(precision: str, pretrain: Recipe, **starts: Recipe) -> dict[str, Recipe]:
    """Pre-training and the four classifiers: both starts, with official augmentations and without."""
    official = {stage: replace(recipe, official=True) for stage, recipe in starts.items()}
    stages = {"pretrain": pretrain} | official | {f"{stage}_plain": recipe for stage, recipe in starts.items()}
    return {stage: replace(recipe, precision=precision) for stage, recipe in stages.items()}


RECIPES = {
    "cpu": _stages(
        "float32",
        pretrain=Recipe(15, batch=128, learning_rate=1.2e-3, kept=0.25, restarts=(4, 7, 11)),
        finetune=Recipe(4, batch=128, learning_rate=1e-3, kept=0.25, whole=0.25, layer_decay=0.65, drop_path=0.1),
        supervised=Recipe(4, batch=128, learning_rate=8e-4, kept=0.25, whole=0.25, drop_path=0.1),
    ),
    "gpu": _stages(
        "bfloat16",
        pretrain=Recipe(400, batch=1024, learning_rate=2.4e-3, kept=0.25),
        finetune=Recipe(100, batch=512, learning_rate=1e-3, kept=1.0, layer_decay=0.65, drop_path=0.1),
        supervised=Recipe(100, batch=512, learning_rate=1e-3, kept=1.0, drop_path=0.1),
    ),
}


def random_patches(batch: int, kept: float, generator: torch.Generator) -> Tensor | None:
    """Uniformly random patches to keep, (B, N_v), one permutation an image; None where all are kept."""
    if kept == 1:
        return None
    return torch.rand(batch, GRID**2, generator=generator).argsort(1)[:, : round(kept * GRID**2)]


def posterize(image: Image.Image, bits: int, **_) -> Image.Image:
    """RandAugment's posterizing with 0 bits too, which Pillow 13 refuses: all black, as Pillow gave before."""
    return ImageOps.posterize(image, bits) if bits else Image.new(image.mode, image.size)


auto_augment.NAME_TO_OP["PosterizeIncreasing"] = posterize


def official_batch(images: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """MAE's fine-tuning augmentations by timm: byte images (B, 56, 56), labels (B,) -> (B, 3, 56, 56), targets (B, 10)."""
    known = {"auto_augment": "rand-m9-mstd0.5-inc1", "interpolation": "bicubic", "re_prob": 0.25, "re_mode": "pixel"}
    known |= {"color_jitter": None, "mean": (MEAN,) * 3, "std": (STD,) * 3}
    augment = create_transform(IMAGE_SIZE, is_training=True, **known)
    mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5, label_smoothing=smoothing, num_classes=10)
    augmented = [augment(Image.fromarray(image).convert("RGB")) for image in images.cpu().numpy()]
    return mixup(torch.stack(augmented).to(images.device), labels)


def plain_batch(images: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """The same with crops of 80 to 100 % of the side and mirroring alone."""
    targets = nn.functional.one_hot(labels, 10) * (1 - smoothing) + smoothing / 10
    return random_crop_and_flip(to_rgb(images), torch.default_generator), targets


def build(stage: str, recipe: Recipe, out: Path) -> nn.Module:
    """The stage's model; fine-tuning starts from the pre-trained encoder in `out`."""
    if stage == "pretrain":
        return MaskedAutoencoder()
    model = PatchDroppingClassifier(stage, recipe.drop_path)
    if stage.startswith("finetune"):
        start = out / "mae_pretrained.safetensors"
        if not start.exists():
            raise FileNotFoundError(f"{start}: run the stage `pretrain` with the same --out first")
        mismatch = model.encoder.load_state_dict(load_file(start), strict=False)
        strange = [key for key in mismatch.missing_keys if not key.startswith(("fc_norm.", "head."))]
        if strange or set(mismatch.unexpected_keys) != {"norm.weight", "norm.bias"}:
            raise ValueError(f"{start}: not the demo's encoder: missing {strange}, {mismatch.unexpected_keys}")
    return model


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, batch: int = 250) -> float:
    """Top-1 accuracy in percent of byte images (n, 56, 56), all patches visible."""
    model.eval()
    parts = zip(images.split(batch), labels.split(batch), strict=True)
    with torch.inference_mode():
        hits = [(model(to_rgb(x)).argmax(1) == y).sum() for x, y in parts]
    return 100 * float(sum(hits)) / len(labels)


def history_rows(stage: str, epoch: int, losses: list[float], seconds: float, device: str) -> list[dict]:
    """An epoch in at most ten rows: `epoch` counts from 0 to where a row ends, `loss` is the mean within the row."""
    parts = np.array_split(losses, min(10, len(losses)))
    ends = epoch + np.cumsum([len(part) for part in parts]) / len(losses)
    share = [seconds * len(part) / len(losses) for part in parts]
    return [
        {"stage": stage, "epoch": float(end), "loss": float(part.mean()), "seconds": took, "device": device}
        for end, part, took in zip(ends, parts, share, strict=True)
    ]


def parts(stage: str, model: nn.Module) -> dict[str, nn.Module]:
    """What is kept of a stage's model, by the name of its file: the encoder, and after pre-training the decoder."""
    return {MODEL_NAMES[stage]: model.encoder} | ({"mae_decoder": model.decoder} if stage == "pretrain" else {})


def export(stage: str, recipe: Recipe, model: nn.Module, out: Path, seed: int) -> None:
    """Write the model's parts as float16 safetensors with the recipe as metadata."""
    metadata = {"stage": stage, "recipe": json.dumps(asdict(recipe)), "seed": str(seed)}
    for name, part in parts(stage, model).items():
        tensors = {key: value.half().cpu().contiguous() for key, value in part.state_dict().items()}
        write_whole(out / f"{name}.safetensors", save(tensors, metadata))


class Stage:
    """One stage in training: model, optimizer, schedule, and how far it is; written to `<out>/<stage>.state.pt`."""

    def __init__(self, stage: str, recipe: Recipe, out: Path, data: str | None, device: str, seed: int):
        self.stage, self.recipe, self.device, self.seed = stage, recipe, device, seed
        self.state, cuda = out / f"{stage}.state.pt", device.startswith("cuda")
        self.hardware = torch.cuda.get_device_name(device) if cuda else f"CPU, {torch.get_num_threads()} threads"
        torch.manual_seed(seed)
        self.model = build(stage, recipe, out).to(device)
        self.images, self.labels = self._split("train", data)
        self.tests, self.test_labels = self._split("t10k", data, MONITORED)
        self.steps = -(-len(self.images) // recipe.batch)  # an epoch's
        self.step, self.seconds, self.losses, self.history = 0, 0.0, [], []
        self.begin_cycle()

    def _split(self, name: str, data: str | None, count: int | None = None) -> tuple[Tensor, Tensor]:
        images, labels = (array[:count] for array in load_split(name, data))
        return torch.from_numpy(enlarge(images)).to(self.device), torch.from_numpy(labels.copy()).long().to(self.device)

    def begin_cycle(self) -> None:
        """A new optimizer and a new cosine for the cycle of the present step."""
        recipe = self.recipe
        trained = self.model if self.stage == "pretrain" else self.model.encoder  # timm knows its own class's layers
        options = {"layer_decay": recipe.layer_decay, "betas": (0.9, 0.95)}
        self.optimizer = create_optimizer_v2(trained, "adamw", recipe.learning_rate, recipe.weight_decay, **options)
        steps = recipe.cycle(self.step // self.steps)[1] * self.steps
        self.scheduler = CosineLRScheduler(
            self.optimizer, steps, warmup_t=int(recipe.warmup * steps), t_in_epochs=False
        )

    def save(self) -> None:
        """Write all that resuming needs."""
        state = {name: getattr(self, name) for name in PROGRESS}
        state |= {"seed": self.seed, "recipe": json.dumps(asdict(self.recipe))}
        state |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        buffer = BytesIO()
        torch.save(state, buffer)
        write_whole(self.state, buffer.getvalue())

    def resume(self) -> None:
        """Go on where `save` was last called; ValueError where that was another recipe or seed."""
        state = torch.load(self.state, map_location=self.device, weights_only=True)
        if state["recipe"] != json.dumps(asdict(self.recipe)) or state["seed"] != self.seed:
            raise ValueError(f"{self.state} holds another recipe or seed ({state['recipe']}); choose another --out")
        for name in PROGRESS:
            setattr(self, name, state[name])
        self.begin_cycle()
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def start_from(self, folder: Path) -> None:
        """Begin behind the epochs of this stage that another folder has weights and history of, with a new optimizer."""
        history = pd.read_csv(folder / "history.csv").query("stage == @self.stage").dropna(axis=1, how="all")
        self.history = history.to_dict("records")
        self.step = round(self.history[-1]["epoch"]) * self.steps
        for name, part in parts(self.stage, self.model).items():
            part.load_state_dict(load_file(folder / f"{name}.safetensors"))
        self.begin_cycle()

    def keep(self) -> None:
        """Write weights and history so far, smaller than what `save` writes, into a folder of the stage's name."""
        folder = self.state.with_name(self.stage)
        export(self.stage, self.recipe, self.model, folder, self.seed)
        write_whole(folder / "history.csv", pd.DataFrame(self.history).to_csv(index=False))

    def train_step(self, index: Tensor) -> float:
        """One step on the images `index` (B,), their gradients summed chunk by chunk; returns the mean loss."""
        recipe, device = self.recipe, torch.device(self.device)
        epoch, place = divmod(self.step, self.steps)
        whole = self.step >= (recipe.epochs - recipe.whole) * self.steps
        random_seed(self.seed + 1000, self.step)
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.step)
        augmented = official_batch if recipe.official else plain_batch
        batch, targets = augmented(self.images[index], self.labels[index], recipe.smoothing)
        visible = random_patches(len(index), 1 if whole else recipe.kept, generator)
        visible = None if visible is None else visible.to(device)
        self.scheduler.step_update((epoch - recipe.cycle(epoch)[0]) * self.steps + place)
        self.model.train()
        self.optimizer.zero_grad()
        total = 0.0
        for part in torch.arange(len(index), device=device).split(CHUNK[device.type]):
            kept = None if visible is None else visible[part]
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
                output = self.model(batch[part], kept)
            if self.stage == "pretrain":
                loss = masked_loss(output, batch[part], kept)
            else:
                loss = SoftTargetCrossEntropy()(output.float(), targets[part])
            loss = loss * len(part) / len(index)
            loss.backward()
            total += loss.item()
        self.optimizer.step()
        return total

    def run(self) -> None:
        """Train to the end, saving every few minutes and after each epoch."""
        recipe, before, saved = self.recipe, time.monotonic(), time.monotonic()
        for step in tqdm(range(self.step, recipe.epochs * self.steps), self.stage, mininterval=20, file=sys.stderr):
            epoch, place = divmod(step, self.steps)
            if place == 0 and epoch == recipe.cycle(epoch)[0]:
                self.begin_cycle()
            shuffle = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
            order = torch.randperm(len(self.images), generator=shuffle).split(recipe.batch)
            self.losses.append(self.train_step(order[place].to(self.device)))
            before, self.seconds = time.monotonic(), self.seconds + time.monotonic() - before
            self.step = step + 1
            if self.step % self.steps == 0:
                self.history += history_rows(self.stage, epoch, self.losses, self.seconds, self.hardware)
                if self.stage != "pretrain":
                    self.history[-1]["top1_percent"] = accuracy(self.model, self.tests, self.test_labels)
                print(f"{self.stage} {epoch + 1}/{recipe.epochs}: {self.history[-1]}", flush=True)
                self.losses, self.seconds = [], 0.0
                self.keep()
            if self.step % self.steps == 0 or before - saved > SAVED_EVERY:
                saved = before
                self.save()


def train(
    stage: str, recipe: Recipe, out: Path, data: str | None, device: str, seed: int, start: Path | None = None
) -> None:
    """Run one stage from where it was stopped to its end; refuses to touch a finished one."""
    final = out / f"{MODEL_NAMES[stage]}.safetensors"
    if final.exists():
        raise FileExistsError(f"{final} is finished; move it away, or choose another --out, to train again")
    if device == "cpu":
        timm.layers.set_fused_attn(False)  # its backward pass is three times slower on a CPU; read while building
    training = Stage(stage, recipe, out, data, device, seed)
    if training.state.exists():
        training.resume()
    elif start is not None:
        training.start_from(start)
    training.run()
    write_whole(out / f"{stage}.csv", pd.DataFrame(training.history).to_csv(index=False))
    export(stage, recipe, training.model, out, seed)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train one stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=list(MODEL_NAMES))
    parser.add_argument("--budget", choices=list(RECIPES), help="default: gpu where there is one, else cpu")
    parser.add_argument("--epochs", type=int, help="another number of epochs than the budget's, in one cycle")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], help="another than the budget's")
    parser.add_argument("--out", type=Path, default=Path("training"))
    parser.add_argument("--data", help="folder of the four Fashion-MNIST files")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="continue from a folder of weights and history.csv")
    options = parser.parse_args(arguments)
    budget = options.budget or ("gpu" if options.device.startswith("cuda") else "cpu")
    recipe = RECIPES[budget][options.stage]
    if options.epochs:
        recipe = replace(recipe, epochs=options.epochs, restarts=())
    recipe = replace(recipe, precision=options.precision or recipe.precision)
    train(options.stage, recipe, options.out, options.data, options.device, options.seed, options.start)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
