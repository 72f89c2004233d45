"""Shared fixtures: a tiny random Vision Transformer, a tiny image set, and a tiny profile with files of its own."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm.layers
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from mae_helpers.images.sets import ImageSet
from mae_helpers.profile.settings import Input, load_profile
from mae_helpers.run import command as run
from mae_helpers.run import pdf
from mae_helpers.run import site as book
from mae_helpers.sweep.subjects import Subject

SLOW = (  # what runs chapters, a browser or many processes, trains, or goes through hundreds of cases
    *("any_vit", "benchmarks", "claims", "contributing", "corruptions", "decoded", "demo_training", "files", "killed"),
    *("malformed", "odd_sets", "official_layout", "paper_profile", "parameters", "run", "untrained", "warm", "workers"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of several processes, one has a file's tests, and one all that look at the tiny book, so that it is made once."""
    for item in items:
        book = bool({"tiny_run", "browser"}.intersection(item.fixturenames))
        item.add_marker(pytest.mark.xdist_group("book" if book else item.path.stem))
        if book or item.path.stem.removeprefix("test_") in SLOW:
            item.add_marker("slow")


# Four layers are the fewest that every rule in claims/ can read (thirds, quarters, three-layer climbs).
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 4}
CLASSES = ["bird", "cat", "dog"]
HEADS = {
    "mae_pretrained": {"num_classes": 0},
    "mae_finetuned": {"num_classes": 5, "global_pool": "avg"},
    "vit_supervised": {"num_classes": 5, "global_pool": "token"},
}


def make_vit(seed: int, **arguments: object) -> VisionTransformer:
    """A tiny ViT whose weights are large enough for attention to be far from uniform."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vit = VisionTransformer(**TINY | {"num_classes": 5} | arguments)
        with torch.no_grad():
            for parameter in vit.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return vit.eval()


def seen(models: Iterable[str], labels: Sequence[int]) -> dict[str, SimpleNamespace]:
    """The same images for every model, where only ids and labels count."""
    return dict.fromkeys(models, SimpleNamespace(ids=[str(row) for row in range(len(labels))], labels=np.array(labels)))


@pytest.fixture
def tiny_vit() -> VisionTransformer:
    """4 layers x 4 heads, 24 features, 16 patches of 8 px, 5 classes."""
    return make_vit(0)


@pytest.fixture
def tiny_images() -> ImageSet:
    """Twelve 32-px images of noise, four each of three classes, all different."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    ids = [f"tiny/{row:02d}" for row in range(12)]
    labels = np.repeat(range(3), 4)
    settings = Input(size=32, mean=[0.5, 0.4, 0.3], std=[0.3, 0.25, 0.2])
    names = np.array(CLASSES)[labels]
    return ImageSet.of_pictures(ids, labels, names, lambda row: Image.fromarray(pixels[row]), settings)


def write_tiny(folder: Path, per_class: int = 4, name: str = "tiny", **entries: object) -> Path:
    """Write a profile's images, checkpoints and YAML into a folder, and return the YAML's path.

    `per_class` images of each class; other arguments replace whole entries of the YAML, or remove them where None.
    """
    generator = np.random.default_rng(1)
    for colour, label in zip(np.eye(3) * 60, CLASSES, strict=True):
        (folder / "images" / label).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            pixels = np.clip(generator.normal(120 + colour, 40, (40, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / label / f"{number:03d}.png")
    (folder / "weights").mkdir(exist_ok=True)
    for seed, (model, head) in enumerate(HEADS.items()):
        save_file(make_vit(seed, **head).state_dict(), folder / "weights" / f"{model}.safetensors")
    values = {
        "name": name,
        "title": "Tiny",
        "images": {
            **{"source": "folders", "folder": "images", "classes": CLASSES, "count": 3 * per_class},
            "labels": {name: number for number, name in enumerate(CLASSES)},  # among the head's five
        },
        "three_classes": CLASSES,
        "input": {"size": 32},
        "models": {
            model: {"checkpoint": f"weights/{model}.safetensors", "arguments": TINY | head}
            for model, head in HEADS.items()
        },
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in (values | entries).items() if v is not None}, sort_keys=False))
    return path


@pytest.fixture
def tiny_profile(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a profile and what it needs into `tmp_path`: see `write_tiny`."""
    return partial(write_tiny, tmp_path)


@pytest.fixture
def pair(tiny_profile: Callable[..., Path]) -> list[Subject]:
    """Two classifiers of a tiny profile with its twelve images, the second with a normalisation of its own."""
    profile = load_profile(tiny_profile())
    half = profile.models["vit_supervised"].model_copy(update={"mean": [0.5] * 3, "std": [0.5] * 3})
    profile = profile.model_copy(update={"models": profile.models | {"vit_supervised": half}})
    return [Subject(profile, name, profile.images, tuple(range(12))) for name in ("mae_finetuned", "vit_supervised")]


@pytest.fixture
def mae(pair: list[Subject]) -> Subject:
    """The first of the pair."""
    return pair[0]


@pytest.fixture
def shallow_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's architecture with one layer, so that it trains in a moment; timm's global switch is put back."""
    monkeypatch.setattr("mae_helpers.demo.model.DEPTH", 1)
    before = timm.layers.use_fused_attn()
    yield
    timm.layers.set_fused_attn(before)


TINY_RUN = {  # parameters that make every chapter run in seconds; each notebook takes those that it knows
    "images_per_class": 6,
    "perplexity": 5,
    "patch_perplexity": 20,
    "tsne_patches": 4,
    "other_k": [2],
    "k": 3,
    "masks": 4,
    "test_images_per_class": 3,
    "corruption_images_per_class": 1,
}


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """Every notebook, run once by the book's own runner on the demo profile with tiny parameters."""
    out = tmp_path_factory.mktemp("book")
    profile = load_profile("demo")
    finished = run.Run(profile, [], TINY_RUN, "cpu", out, str(out / "results")).all(run.default_jobs("cpu"))
    tables = out / "results" / "demo"
    return SimpleNamespace(
        out=out, profile=profile, finished=finished, executed=out / "executed" / "demo", tables=tables
    )


@pytest.fixture(scope="session")
def site(tiny_run):
    """The site, built from the tiny run."""
    assert tiny_run.finished
    assert book.build(tiny_run.profile, tiny_run.executed, tiny_run.tables, tiny_run.out)
    return tiny_run.out / "html"


@pytest.fixture(scope="session")
def pages(site):
    """The pages that a reader is led to, in the book's order."""
    toc = yaml.safe_load((book.ROOT / "_toc.yml").read_text())
    files = [toc["root"]] + [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [site / f"{file}.html" for file in files]


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium, or a skip that says how to get one."""
    from playwright.sync_api import Error, sync_playwright

    installed = next(filter(None, map(shutil.which, pdf.BROWSERS)), None)
    with sync_playwright() as playwright:
        try:  # without a path, Playwright takes its own Chromium
            started = playwright.chromium.launch(executable_path=installed, args=["--no-sandbox", "--disable-gpu"])
        except Error as problem:
            if installed is None and "Executable doesn't exist" in str(problem):
                pytest.skip(
                    "no Chromium: install Debian's package, or run .venv/bin/python -m playwright install chromium"
                )
            raise
        yield started
        started.close()


class Visit:
    """A tab that notes errors, console messages, failed requests, and requests to other places than the site's own files."""

    def __init__(self, browser, width=1400, theme="light", **options):
        size = {"width": width, "height": 900}
        self.page = browser.new_page(viewport=size, color_scheme=theme, **options)
        self.trouble, self.theme = [], theme
        self.page.on("pageerror", lambda error: self.trouble.append(f"error: {error}"))
        self.page.on("console", lambda message: self.noted(message))
        self.page.on("request", lambda request: self.asked(request.url))
        self.page.on("requestfailed", lambda request: self.trouble.append(f"not found: {request.url}"))

    def noted(self, message):
        if message.type in ("error", "warning"):
            self.trouble.append(f"console: {message.text}")

    def asked(self, address):
        if not address.startswith(("file:", "data:", "blob:")):
            self.trouble.append(f"asked for: {address}")

    def open(self, path):
        self.page.goto(path.as_uri())
        if self.theme == "dark":
            self.page.evaluate("Object.assign(document.documentElement.dataset, {theme: 'dark', mode: 'dark'})")
        return self.page


@pytest.fixture
def visit(browser):
    """A function that opens a tab of some width and theme; all are closed at the end."""
    opened = []

    def new(*arguments, **options):
        opened.append(Visit(browser, *arguments, **options))
        return opened[-1]

    yield new
    for one in opened:
        one.page.close()
