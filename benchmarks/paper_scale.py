"""Time the whole profile `paper` at its real size without its data: `python benchmarks/paper_scale.py --device cuda`.

Writes random ViT-B checkpoints in MAE's official layout and crops of scikit-image's photographs under ImageNet's names
(ImageNet-C's too: the same crops, darkened), runs every chapter on them, and prints seconds and peak memory of each.
Accuracies mean nothing here.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import yaml
from joblib import Parallel, delayed
from PIL import Image
from skimage import data
from timm.models.vision_transformer import VisionTransformer

from mae_helpers.perturbations.corruptions import GROUP_OF, SEVERITIES
from mae_helpers.profile.settings import BUNDLED, ROOT

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "retina")
HEADS = {
    "mae_pretrained": {"num_classes": 0},
    "mae_finetuned": {"num_classes": 1000, "global_pool": "avg"},
    "vit_supervised": {"num_classes": 1000},
}


def write_image(number: int, path: Path) -> Image.Image:
    """A crop of a photograph as large as ImageNet's usually are, another one for each number."""
    whole = Image.fromarray(getattr(data, PHOTOGRAPHS[number % len(PHOTOGRAPHS)])()).resize((1000, 800))
    left, top = 7 * number % 500, 13 * number % 425
    image = whole.crop((left, top, left + 500, top + 375))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=90)
    return image


def write_corrupted(image: Image.Image, root: Path, name: str) -> None:
    """Seventy-five files of 224 pixels in the published layout."""
    small = image.resize((224, 224))
    for severity in SEVERITIES:
        darker = small.point(lambda value, severity=severity: value // severity)
        for corruption in GROUP_OF:
            path = root / corruption / str(severity) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            darker.save(path, quality=85)


def write_inputs(root: Path, per_class: int) -> Path:
    """Images, ImageNet-C, 100 images for SAM's place, weights, and the profile; what is there already is kept."""
    values = yaml.safe_load((BUNDLED / "paper.yaml").read_text())
    names = [f"{name}/ILSVRC2012_val_{n:08d}.JPEG" for name in values["images"]["classes"] for n in range(per_class)]

    def write(number: int, name: str) -> None:
        if not (root / "val" / name).exists():
            write_corrupted(write_image(number, root / "val" / name), root / "c", name)

    Parallel(n_jobs=-1)(delayed(write)(number, name) for number, name in enumerate(names))
    for number in range(100):
        write_image(number, root / "sam" / f"{number:03d}.jpg")
    for seed, (name, head) in enumerate(HEADS.items()):
        torch.manual_seed(seed)
        state = {"model": VisionTransformer(**head).state_dict(), "args": argparse.Namespace(model=name)}
        torch.save(state, root / f"{name}.pth")
    models = {name: {"checkpoint": f"{name}.pth", "arguments": head} for name, head in HEADS.items()}
    values |= {"name": "paper_scale", "models": models, "same_as_paper": False}
    values["images"] |= {"count": per_class * 10}
    path = root / "paper_scale.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def main() -> None:
    """Write the inputs, run the chapters one after the other, and print what each took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapters", nargs="*", help="chapters by number; default: all")
    parser.add_argument("--folder", type=Path, default=ROOT / "_build" / "paper_scale")
    parser.add_argument("--per-class", type=int, default=50)
    parser.add_argument("--device", default="auto")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    options = parser.parse_args()
    folder = options.folder.resolve()
    profile = write_inputs(folder, options.per_class)
    places = {"IMAGENET": str(folder / "val"), "IMAGENET_C": str(folder / "c"), "SAM": str(folder / "sam")}
    per_class = min(options.per_class, 30)  # chapters 01 and 02 take 30 images a class
    call = [sys.executable, "-m", "mae_helpers.run", *options.chapters, "--profile", str(profile), "--jobs", "1"]
    call += ["--no-book", "--device", options.device, "--out", str(folder), "--results", str(folder / "results")]
    call += ["-p", "images_per_class", str(per_class)] if per_class < 30 else []
    call += [word for name, value in options.p for word in ("-p", name, value)]
    subprocess.run(call, env=os.environ | places, check=True)
    ran = json.loads((folder / "results" / "paper_scale" / "run.json").read_text())["notebooks"]
    for name, entry in sorted(ran.items()):
        gpu = f", {entry['peak_gpu_memory_mb']:.0f} MB on the GPU" if "peak_gpu_memory_mb" in entry else ""
        print(f"{name}: {entry['seconds']:.0f} s, {entry['peak_memory_mb']:.0f} MB{gpu}")


if __name__ == "__main__":
    main()
