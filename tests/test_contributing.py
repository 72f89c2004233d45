"""CONTRIBUTING.md is true: its blocks of code run and do what the text says, and what it and the README name exists."""

import ast
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import FrozenInstanceError
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import test_notebooks
import timm
import torch
import yaml
from conftest import make_vit
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from mae_helpers.encoder import weights as checkpoints
from mae_helpers.encoder.walk import walk
from mae_helpers.measures import attention
from mae_helpers.measures.accuracy import accuracy_table
from mae_helpers.perturbations import levels as perturbations
from mae_helpers.perturbations.levels import Clean
from mae_helpers.profile.settings import ROOT, load_profile
from mae_helpers.run import chapter, notebooks
from mae_helpers.run import command as run
from mae_helpers.run import tables as results
from mae_helpers.sweep import cells, current
from mae_helpers.verdicts import scorecard as claims
from mae_helpers.verdicts.finding import Finding

PAGES = ("CONTRIBUTING.md", "README.md")
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
PLACE = re.compile(
    r"# (\S+\.\w+)(?:, (?:at the )?(after \S+|end))?\n"
)  # the first line of a block that belongs in a file


def blocks(section):
    """The texts of a section's blocks, in order; a heading inside a block is none of the page's."""
    heading, found = None, []
    for match in re.finditer(rf"^## (?:\d\. )?(?P<heading>[^\n]+)$|{FENCE.pattern}", TEXT, FENCE.flags):
        heading = match["heading"] or heading
        found += [match[3]] if heading == section and match[3] else []
    return found


def block(section, beginning):
    """The one block of a section that begins so."""
    [found] = [text for text in blocks(section) if text.startswith(beginning)]
    return found


def assigned(node):
    """The name that a statement of a module gives a value to, if it is such a one."""
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    return getattr(target, "id", None) if not isinstance(node, ast.AugAssign) else None


def written(text, folder):
    """Put a block into the file that its first line names, as that line says."""
    name, how = PLACE.match(text).groups()
    path, content = folder / name, text.partition("\n")[2]
    if how is None:
        assert not (ROOT / name).exists(), f"{name} would be overwritten"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        return path
    lines = path.read_text().splitlines(keepends=True)
    if how == "end":
        place, content = len(lines), ("" if path.suffix == ".yaml" else "\n\n") + content
    elif path.suffix == ".py":
        [place] = [node.end_lineno for node in ast.parse("".join(lines)).body if assigned(node) == how.split()[1]]
    else:
        [place] = [number for number, line in enumerate(lines, 1) if line.rstrip().endswith(how.split()[1])]
    path.write_text("".join([*lines[:place], content, *lines[place:]]))
    return path


@pytest.fixture
def house(tmp_path):
    """A copy of what the examples change, with all their blocks for files put in; the weights are linked."""
    copy = tmp_path / "house"
    shutil.copytree(ROOT / "mae_helpers", copy / "mae_helpers", ignore=shutil.ignore_patterns("__pycache__", "weights"))
    (copy / "mae_helpers" / "demo" / "weights").symlink_to(ROOT / "mae_helpers" / "demo" / "weights")
    (copy / "notebooks").mkdir()
    for name in ("_toc.yml", "notebooks/04_masking_invariance.ipynb", "notebooks/10_scorecard.ipynb"):
        shutil.copy(ROOT / name, copy / name)
    for _, text in FENCE.findall(TEXT):
        if PLACE.match(text):
            written(text, copy)
    return copy


@pytest.fixture
def tiny_demo(tiny_profile, tmp_path, monkeypatch):
    """The examples' `chapter.begin("demo")` opens the tiny profile, with a folder of results of its own."""
    path, begin = tiny_profile(), chapter.begin
    tables = str(tmp_path / "results")
    monkeypatch.setattr(chapter, "begin", lambda name: begin({"demo": path}[name], "cpu", results_folder=tables))


def imported(name, path, monkeypatch):
    """The module of that name from a file, where `import` finds it too."""
    spec = spec_from_file_location(name, path)
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def executed(text):
    """What a pasted block leaves behind."""
    module = ModuleType("pasted")
    exec(compile(text, "CONTRIBUTING.md", "exec"), module.__dict__)
    return SimpleNamespace(**{name: value for name, value in vars(module).items() if not name.startswith("__")})


def options_of(chapters):
    """The arguments that the page's command on these chapters gives to `mae_helpers.run`."""
    [arguments] = re.findall(rf"-m mae_helpers\.run ({chapters} [^`]+)`", TEXT)
    return shlex.split(arguments)


@pytest.fixture
def pages(monkeypatch):
    """Chapters run in this process, not in kernels of their own; the value of each one's last cell, by its file's name."""
    shown = {}

    def execute(source, target, parameters, mark, environment, tables):
        names = {}
        for cell in nbformat.read(source, 4).cells:
            if cell.cell_type == "code":
                *before, last = ast.parse(cell.source).body
                kind = "eval" if isinstance(last, ast.Expr) else "exec"
                last = ast.Expression(last.value) if kind == "eval" else ast.Module([last], [])
                exec(compile(ast.Module(before, []), str(source), "exec"), names)
                value = eval(compile(last, str(source), kind), names)
            names |= parameters if "parameters" in cell.metadata.get("tags", []) else {}
        shown[source.name] = value
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("{}")

    monkeypatch.setattr(notebooks, "execute", execute)
    monkeypatch.setattr(notebooks, "is_current", lambda *_: False)
    with matplotlib.rc_context({"backend": "agg"}):
        yield shown
        plt.close("all")


# 1. Add a model


def test_a_model_of_timm_by_name_is_opened_with_its_own_normalisation(tmp_path, monkeypatch):
    [entry, settings] = re.findall(r"of timm by name: (\{.+\}), and input: (\{.+\})\n", TEXT)[0]
    values = {"name": "dino", "images": {"source": "digits", "count": 100}, "input": yaml.safe_load(settings)}
    path = tmp_path / "dino.yaml"
    path.write_text(yaml.safe_dump(values | {"models": {"mae_pretrained": yaml.safe_load(entry)}}))
    model = load_profile(path).models["mae_pretrained"]
    assert model.model in timm.list_pretrained("vit_*")
    weights, asked = tmp_path / "weights.safetensors", []
    save_file(timm.create_model(model.model, **model.arguments).state_dict(), weights)
    monkeypatch.setattr(checkpoints, "from_hub", lambda name: asked.append(name) or weights)
    here = chapter.begin(str(path), "cpu", results_folder=str(tmp_path / "results"))
    seen = here.seen_by("mae_pretrained", here.images()).take(range(1))
    states = list(walk(here.model("mae_pretrained"), seen.tensor([0])))
    assert set(asked) == {model.model}
    assert states[-1].tokens.shape == (1, 1 + 14 * 14, 384)
    assert list(seen.input.mean) == list(timm.get_pretrained_cfg(model.model).mean)


def test_a_model_of_ones_own_goes_through_the_chapter(tmp_path, monkeypatch, pages):
    monkeypatch.chdir(tmp_path)
    path = written(block("Add a model", "# data/own.yaml"), tmp_path)
    arguments = yaml.safe_load(path.read_text())["models"]["mae_pretrained"]["arguments"]
    model = VisionTransformer(**arguments)
    save_file(model.state_dict(), tmp_path / "data" / "own.safetensors")
    out = ["--out", str(tmp_path / "_build"), "--results", str(tmp_path / "results"), "--device", "cpu"]
    assert run.main([*options_of("04"), *out]) == 0
    [named] = re.findall(r"`(_build/executed/\S+)`", TEXT)
    assert (tmp_path / named).exists()
    assert list(pages) == [Path(named).name]
    table = pd.read_csv(tmp_path / "results" / "own" / "masking_invariance.csv")
    assert table["mask"].max() == 20
    assert set(table["model"]) == {"mae_pretrained", "random"}
    opened = checkpoints.load_model(load_profile("data/own.yaml"), "mae_pretrained")
    assert all(torch.equal(value, opened.state_dict()[name]) for name, value in model.state_dict().items())


# 2. Add a perturbation


@pytest.fixture
def posterise(house, monkeypatch):
    place = "mae_helpers/perturbations/posterise.py"
    return imported("mae_helpers.perturbations.posterise", house / place, monkeypatch)


def test_the_perturbation_does_what_its_docstrings_say(posterise, tiny_images):
    pixels = tiny_images.pixels(0)
    by_bits = {bits: posterise.Posterise(bits).change(tiny_images, {})(pixels, "") for bits in range(1, 9)}
    np.testing.assert_allclose(by_bits[8], pixels, atol=1e-7)
    np.testing.assert_array_equal(by_bits[1], pixels > 0.5)
    for bits, changed in by_bits.items():
        assert changed.shape == pixels.shape
        assert changed.dtype == np.float32
        assert len(np.unique(changed)) <= 2**bits
        np.testing.assert_array_equal(posterise.Posterise(bits).change(tiny_images, {})(changed, ""), changed)
    errors = [np.abs(changed - pixels).mean() for changed in by_bits.values()]
    assert all(fewer > more for fewer, more in pairwise(errors))


def test_the_perturbation_meets_the_protocol(posterise):
    one = posterise.Posterise(3)
    protocol = perturbations.Perturbation
    members = {name for name in [*vars(protocol), *protocol.__annotations__] if not name.startswith("_")}
    assert members == {"guided", "in_processes", "name", "measures", "change"}
    assert all(hasattr(one, name) for name in members)
    with pytest.raises(FrozenInstanceError):
        one.bits = 4


def test_an_edit_of_the_perturbations_module_is_noticed_and_one_of_a_figure_is_not(house, posterise):
    current.code_behind.cache_clear()
    before = cells.code_of(posterise.Posterise(3))
    reached = {"perturbations.posterise", "sweep.recorded", "measures.attention"}
    assert {f"mae_helpers.{name}" for name in reached} <= set(before.files)
    assert not [name for name in before.files if "figures" in name]
    path = house / "mae_helpers" / "perturbations" / "posterise.py"
    for edit, noticed in (("# edited\n", ""), ("EDITED = 1\n", "another mae_helpers.perturbations.posterise")):
        path.write_text(path.read_text() + edit)
        current.code_behind.cache_clear()
        assert before.difference(cells.code_of(posterise.Posterise(3))) == noticed


def test_the_sweep_gives_a_row_a_model_and_level(posterise, tiny_demo):
    here = chapter.begin("demo")
    sets = here.classifiers(per_class=4, supervised_per_class=4)
    levels = {"clean": Clean()} | {f"{bits} bits": posterise.Posterise(bits) for bits in (8, 3, 1)}
    table = accuracy_table(here.sweep(sets, levels, "prediction"), sets)
    assert list(table["model"].unique()) == ["mae_finetuned", "vit_supervised"]
    assert (table.groupby("model")["level"].agg(list).map(tuple) == tuple(levels)).all()
    assert (table["images"] == 12).all()
    level = table.set_index(["model", "level"])["top1_percent"].unstack()
    pd.testing.assert_series_equal(level["8 bits"], level["clean"], check_names=False)  # bytes already
    again = here.sweep(sets, levels, "embedding")["mae_finetuned"]
    np.testing.assert_allclose(again["8 bits"], again["clean"], rtol=1e-4, atol=1e-4)
    assert not np.allclose(again["1 bits"], again["clean"], atol=1e-2)


# 3. Add a measure


@pytest.fixture
def entropy(house, monkeypatch):
    copy = imported("attention_of_the_copy", house / "mae_helpers" / "measures" / "attention.py", monkeypatch)
    monkeypatch.setattr(attention, "attention_entropy", copy.attention_entropy, raising=False)
    return copy.attention_entropy


def test_entropy_of_uniform_attention_is_log_n_and_of_attention_to_one_token_zero(entropy, tiny_images):
    uniform = SimpleNamespace(attention=lambda: torch.full((2, 3, 7, 7), 1 / 7))
    torch.testing.assert_close(entropy(uniform), torch.full((2, 3), 7.0).log())
    one = SimpleNamespace(attention=lambda: torch.eye(7).expand(2, 3, 7, 7))
    assert torch.equal(entropy(one), torch.zeros(2, 3))
    halves = torch.tensor([[0.5, 0.5], [1.0, 0.0]])  # log 2 and 0
    by_hand = entropy(SimpleNamespace(attention=lambda: halves[None, None]))
    torch.testing.assert_close(by_hand, torch.tensor([[np.log(2) / 2]], dtype=torch.float32))
    vit = make_vit(0)
    with torch.no_grad():
        for layer in vit.blocks:
            layer.attn.qkv.weight.zero_()
            layer.attn.qkv.bias.zero_()
    for state in walk(vit, tiny_images.tensor(range(3))):
        torch.testing.assert_close(entropy(state), torch.full((3, 4), 17.0).log())


# 4. Add a chapter


def test_the_rule_judges_as_the_claim_says(house):
    text = (house / "mae_helpers" / "verdicts" / "pretrained.py").read_text()
    module = ModuleType("copied")
    exec(compile(text, "pretrained.py", "exec"), module.__dict__)
    for entropies, full, partly in (([9.0, 9.5], True, True), ([8.9, 9.5], False, True), ([8.0, 8.9], False, False)):
        table = pd.DataFrame({"model": "mae_pretrained", "layer": [1, 2], "entropy_nats": entropies})
        table = table.assign(uniform_nats=10.0)
        found = module.attention_is_spread(table)
        assert isinstance(found, Finding)
        assert (found.full, found.partly) == (full, partly)
    assert "50% of layers" in module.attention_is_spread(table.assign(entropy_nats=[8.9, 9.5])).here


def test_the_claim_has_the_entries_of_the_others_and_a_section_of_the_scorecard(house):
    listed = yaml.safe_load((house / "mae_helpers" / "verdicts" / "claims.yaml").read_text())
    added = listed.pop("attention_is_spread")
    assert set(added) == set(next(iter(listed.values())))
    sections = [entry["section"] for entry in listed.values()]
    assert added["section"] in sections
    assert len(set(sections)) == 3


def test_the_chapter_is_in_style_runs_and_reaches_the_scorecard(house, tiny_profile, entropy, pages, monkeypatch):
    monkeypatch.chdir(house)
    executed(block("Add a chapter", "import nbformat"))
    [path] = (house / "notebooks").glob("20_*.ipynb")
    test_notebooks.test_source_is_clean_and_in_style(path)
    test_notebooks.test_every_figure_is_captioned_described_and_referred_to(path)
    ruff = [sys.executable, "-m", "ruff", "--config", str(ROOT / "pyproject.toml")]
    for check in (["check"], ["format", "--check"]):
        places = [str(path), "mae_helpers"]
        done = subprocess.run([*ruff[:3], *check, *ruff[3:], *places], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert subprocess.run([sys.executable, "-m", "nbstripout", "--verify", str(path)]).returncode == 0
    package = imported("pretrained_of_the_copy", house / "mae_helpers" / "verdicts" / "pretrained.py", monkeypatch)
    columns = imported("results_of_the_copy", house / "mae_helpers" / "run" / "tables.py", monkeypatch).COLUMNS
    listed = yaml.safe_load((house / "mae_helpers" / "verdicts" / "claims.yaml").read_text())
    monkeypatch.setattr(claims.pretrained, "attention_is_spread", package.attention_is_spread, raising=False)
    monkeypatch.setattr(claims, "CLAIMS", listed)
    monkeypatch.setattr(results, "COLUMNS", columns)
    find = notebooks.find
    monkeypatch.setattr(notebooks, "find", lambda names: find(names, house / "notebooks"))
    out = ["--out", str(house / "_build"), "--results", str(house / "results"), "--device", "cpu"]
    options = [*options_of("20 10"), "--profile", str(tiny_profile()), "-p", "images_per_class", "2", *out]
    assert run.main(options) == 0
    table = pd.read_csv(house / "results" / "tiny" / "attention_entropy.csv")
    assert list(table.columns) == ["model", "layer", "entropy_nats", "uniform_nats"]
    assert len(table) == 2 * 4
    np.testing.assert_allclose(table["uniform_nats"], np.log(17))
    assert (table["entropy_nats"] < table["uniform_nats"]).all()
    card = pd.read_csv(house / "results" / "tiny" / "scorecard.csv", keep_default_na=False).set_index("claim")
    row = card.loc["attention is spread over many tokens in all layers"]
    assert row["verdict"] in ("supported", "partly", "not supported")
    assert "of layers at 90 % or more" in row["here"]
    assert row["verdict"] in pages[path.name].to_html()


# What the pages name

ADDED = re.findall(r"notebooks/(\d\d)_attention_entropy\.ipynb", TEXT)  # the chapter of the example


def mentioned(page):
    """The commands and names of a page: its code spans and indented lines, without the figures' prose and YAML."""
    text = (ROOT / page).read_text()
    shell = "".join(text for kind, text in FENCE.findall(text) if kind == "sh")
    plain = FENCE.sub("", text)
    return shell + "\n".join([*re.findall(r"`([^`\n]+)`", plain), *re.findall(r"^ {4,}(.+)$", plain, re.M)])


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_and_variable_exists(page):
    makefile = (ROOT / "Makefile").read_text()
    calls = re.findall(r"\bmake((?: +(?:[a-z]+|[A-Z_]+=\S+))+)(?=[ \n]|$)", mentioned(page), re.M)
    words = {word.partition("=")[0] for call in calls for word in call.split()}
    assert {"book", "test"} <= words
    for word in words:
        pattern = rf"^{word}:" if word.islower() else rf"^(?:{word} \?=|export .*\b{word}\b)"
        assert re.search(pattern, makefile, re.M), word


@pytest.mark.parametrize("page", PAGES)
def test_every_command_exists_with_its_chapters_and_parameters(page):
    said = mentioned(page)
    programs = set(re.findall(r"\.venv/bin/([\w-]+)", said))
    assert programs
    for program in programs:
        assert (Path(sys.executable).parent / program).exists(), program
    modules = set(re.findall(r"python -m ([\w.]+)", said))
    assert "mae_helpers.run" in modules
    for module in modules:
        assert find_spec(module), module
    for arguments in re.findall(r"-m mae_helpers\.run (.+)", said):
        numbers = [word for word in re.match(r"[^-]*", arguments)[0].split() if word not in ADDED]
        chapters = notebooks.find(numbers)
        for name, value in re.findall(r"-p (\w+) (\S+)", arguments):
            notebooks.choose_parameters(chapters, {name: run.parse_value(value)})
        for option in re.findall(r"--[\w-]+", arguments):
            assert f'"{option}"' in Path(run.__file__).read_text(), option


ENDINGS = "py|md|yaml|yml|ipynb|csv|json|toml|lock|cff|txt|html"
OF_THE_READER = ("pets/", "data/", "/tmp/", "/data/")  # places that the pages invent, or that are the reader's own
OF_A_RUN = ("_build/", "results/", "scorecard.csv", "run.json", "out.ipynb")


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_folder_exists(page):
    said = mentioned(page)
    places = [
        ROOT,
        ROOT / "mae_helpers",
        ROOT / "notebooks",
        *(path for path in (ROOT / "mae_helpers").iterdir() if path.is_dir()),
    ]
    files = re.findall(
        rf"(?<![\w*<>./-])(\.?(?:/?[\w.<>-]+/)*(?:[\w-]+|\*)\.(?:{ENDINGS})|(?:/?[\w.<>-]+/)+)(?!\w)", said
    )
    named = {name for name in files if not name.startswith((*OF_THE_READER, *OF_A_RUN, "../", ".venv/", "/"))}
    assert len(named) > 5
    ignored = (ROOT / ".gitignore").read_text()
    for name in named:
        assert any(list(place.glob(name.rstrip("/"))) for place in places), f"{page} names {name}"
    for folder in ("results", "_build", "data"):
        assert f"/{folder}/" in ignored


def test_the_figure_of_the_house_names_every_room_and_its_files():
    figure = TEXT.partition("## The house in one figure")[2].partition("## Rules")[0]
    rooms = re.findall(r"^    (\w+) +(\S.*)$", figure, re.M)
    folders = {path.name for path in (ROOT / "mae_helpers").iterdir() if (path / "__init__.py").exists()}
    assert {room for room, _ in rooms} == folders - {"demo"}
    for room, files in rooms:
        for name in re.findall(r"\w+\.(?:py|yaml)", files):
            assert (ROOT / "mae_helpers" / room / name).exists(), f"{room}/{name}"


def test_the_hooks_are_those_that_the_set_up_names():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    found = " ".join(hook["id"] for entry in hooks for hook in entry["hooks"])
    [named] = re.findall(r"every commit \((.+?)\)", TEXT)
    assert named == "ruff, nbstripout, YAML, workflows"
    assert all(word.lower() in found for word in named.split(", "))


def test_the_table_of_messages_has_the_example_of_one():
    table = (ROOT / "book" / "troubleshooting.md").read_text()
    [example] = re.findall(r"`(masking ratio) 1\.5: use a share from 0 ... to below 1`", TEXT)
    assert f"`{example} ...: use a share from 0 ... to below 1`" in table
    assert "| parameter | chapters | default | meaning |" in (ROOT / "book" / "how_to_run.md").read_text()
