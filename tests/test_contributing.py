"""CONTRIBUTING.md is true: its blocks of code run and do what the text says, and what it and the README name exists."""

import ast
import re
import shlex
import shutil
import sys
from dataclasses import FrozenInstanceError
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import test_notebooks
import timm
import torch
import yaml
from conftest import make_vit
from processes import copied, python
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from mae_helpers.encoder import weights as checkpoints
from mae_helpers.encoder.walk import visible_count, walk
from mae_helpers.measures import attention
from mae_helpers.measures.accuracy import accuracy_table
from mae_helpers.perturbations import levels as perturbations
from mae_helpers.perturbations.levels import Clean
from mae_helpers.profile.parameters import parse_value
from mae_helpers.profile.settings import ROOT, load_profile
from mae_helpers.run import chapter, notebooks
from mae_helpers.run import command as run
from mae_helpers.sweep import cells, current
from mae_helpers.verdicts import rules_pretrained
from mae_helpers.verdicts.finding import Finding

PAGES = ("CONTRIBUTING.md", "README.md")
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
PLACE = re.compile(
    r"# (\S+\.\w+)(?:, (?:at the )?(after \S+|end))?\n"
)  # of a block that belongs in a file: its first line


def block(beginning):
    """The one block that begins so."""
    [found] = [text for _, text in FENCE.findall(TEXT) if text.startswith(beginning)]
    return found


def written(text, folder):
    """Put a block into the file that its first line names, as that line says."""
    name, how = PLACE.match(text).groups()
    path, content = folder / name, text.partition("\n")[2]
    if how is None:
        assert not (ROOT / name).exists(), f"{name} would be overwritten"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        return
    lines = path.read_text().splitlines(keepends=True)
    if how == "end":
        place, content = len(lines), ("" if path.suffix == ".yaml" else "\n\n") + content
    else:
        given = [node for node in ast.parse("".join(lines)).body if isinstance(node, ast.Assign)]
        [place] = [node.end_lineno for node in given if ast.unparse(node.targets[0]) == how.split()[1]]
    path.write_text("".join([*lines[:place], content, *lines[place:]]))


def defined(module, beginning):
    """What a block defines where it stands at the end of a module."""
    names = dict(vars(module))
    exec(compile(block(beginning), "CONTRIBUTING.md", "exec"), names)
    return SimpleNamespace(**names)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of what the examples change, with all their blocks for files put in."""
    copy = copied(tmp_path_factory.mktemp("house"))
    for name in ("_toc.yml", "notebooks/04_masking_invariance.ipynb", "notebooks/10_scorecard.ipynb"):
        shutil.copy(ROOT / name, copy / name)
    for _, text in FENCE.findall(TEXT):
        if PLACE.match(text):
            written(text, copy)
    return copy


def succeeds(house, *arguments):
    """Python with these arguments in the copy."""
    process = python(house, *arguments)
    told = process.communicate(timeout=400)
    assert process.returncode == 0, "".join(told)


def options_of(chapters):
    """The arguments that the page's command on these chapters gives to `mae_helpers.run`."""
    [arguments] = re.findall(rf"-m mae_helpers\.run ({chapters} [^`]+)`", TEXT)
    return shlex.split(arguments)


# 1. Add a model


def test_a_model_of_timm_by_name_is_opened_with_its_own_normalisation(tmp_path, monkeypatch):
    [entry] = re.findall(r"of timm by name: (\{.+\})\n", TEXT)
    values = {"name": "dino", "images": {"source": "digits", "count": 100}, "input": {"size": 32}}
    path = tmp_path / "dino.yaml"
    path.write_text(yaml.safe_dump(values | {"models": {"dino": yaml.safe_load(entry)}}))
    model = load_profile(path).models["dino"]
    assert model.model in timm.list_pretrained("vit_*")
    weights, asked = tmp_path / "weights.safetensors", []
    save_file(timm.create_model(model.model, **model.arguments).state_dict(), weights)
    monkeypatch.setattr(checkpoints, "from_hub", lambda name: asked.append(name) or weights)
    here = chapter.begin(str(path), "cpu", results_folder=str(tmp_path / "results"))
    seen = here.seen_by("dino", here.images()).take(range(1))
    states = list(walk(here.model("dino"), seen.tensor([0])))
    assert set(asked) == {model.model}
    assert states[-1].tokens.shape == (1, 1 + 14 * 14, 384)
    assert seen.input.size == 224, "the model's own, whatever the profile's pictures have"
    assert list(seen.input.mean) == list(timm.get_pretrained_cfg(model.model).mean)


def test_a_model_of_ones_own_goes_through_the_chapter(house):
    arguments = yaml.safe_load((house / "data" / "own.yaml").read_text())["models"]["own"]["arguments"]
    model = VisionTransformer(**arguments)
    save_file(model.state_dict(), house / "data" / "own.safetensors")
    succeeds(house, "-m", "mae_helpers.run", *options_of("04"), "--device", "cpu")
    [named] = re.findall(r"`(_build/executed/\S+)`", TEXT)
    assert (house / named).exists()
    table = pd.read_csv(house / "results" / "own" / "masking_invariance.csv")
    assert table["mask"].max() == 20
    assert set(table["model"]) == {"own", "random"}
    opened = checkpoints.load_model(load_profile(house / "data" / "own.yaml"), "own")
    assert all(torch.equal(value, opened.state_dict()[name]) for name, value in model.state_dict().items())


# 2. Add a perturbation


@pytest.fixture
def posterise(house, monkeypatch):
    """The module, where `import` finds it too."""
    name = "mae_helpers.perturbations.posterise"
    spec = spec_from_file_location(name, house / "mae_helpers" / "perturbations" / "posterise.py")
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


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


def test_an_edit_of_the_perturbations_module_is_noticed_and_one_of_a_figure_is_not(posterise):
    current.code_behind.cache_clear()
    before = cells.code_of(posterise.Posterise(3))
    reached = {"perturbations.posterise", "sweep.recorded", "measures.attention"}
    assert {f"mae_helpers.{name}" for name in reached} <= set(before.files)
    assert not [name for name in before.files if "figures" in name]
    path = Path(posterise.__file__)
    kept = path.read_text()
    for edit, noticed in (("# edited\n", ""), ("EDITED = 1\n", "another mae_helpers.perturbations.posterise")):
        path.write_text(kept + edit)
        current.code_behind.cache_clear()
        assert before.difference(cells.code_of(posterise.Posterise(3))) == noticed
    path.write_text(kept)


def test_the_sweep_gives_a_row_a_model_and_level(posterise, tiny_profile, tmp_path):
    here = chapter.begin(str(tiny_profile()), "cpu", results_folder=str(tmp_path / "results"))
    sets = dict.fromkeys(here.classifiers, here.images(per_class=4))
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


def test_entropy_of_uniform_attention_is_log_n_and_of_attention_to_one_token_zero(tiny_images):
    entropy = defined(attention, "# mae_helpers/measures/attention.py").attention_entropy
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


def test_the_rule_judges_as_the_claim_says():
    rule = defined(rules_pretrained, "# mae_helpers/verdicts/rules_pretrained.py").attention_is_spread
    for entropies, full, partly in (([9.0, 9.5], True, True), ([8.9, 9.5], False, True), ([8.0, 8.9], False, False)):
        table = pd.DataFrame({"model": "encoder", "layer": [1, 2], "entropy_nats": entropies})
        table = table.assign(uniform_nats=10.0)
        found = rule(table)
        assert isinstance(found, Finding)
        assert (found.full, found.partly) == (full, partly)
    assert "50% of layers" in rule(table.assign(entropy_nats=[8.9, 9.5])).here


def test_the_claim_has_the_entries_of_the_others_and_a_section_of_the_scorecard(house):
    listed = yaml.safe_load((house / "mae_helpers" / "verdicts" / "claims.yaml").read_text())
    added = listed.pop("attention_is_spread")
    assert set(added) == set(next(iter(listed.values())))
    sections = {entry["section"] for entry in listed.values()}
    assert added["section"] in sections
    assert len(sections) == 3


def test_the_chapter_is_in_style_runs_and_reaches_the_scorecard(house, tiny_profile):
    succeeds(house, "-c", block("import nbformat"))
    [path] = (house / "notebooks").glob("20_*.ipynb")
    test_notebooks.test_source_is_clean_and_in_style(path)
    test_notebooks.test_every_figure_is_captioned_described_and_referred_to(path)
    for check in (["check"], ["format", "--check"]):
        succeeds(house, "-m", "ruff", *check, "--config", ROOT / "pyproject.toml", path, "mae_helpers")
    succeeds(house, "-m", "nbstripout", "--verify", path)
    options = [*options_of("20 10"), "--profile", tiny_profile(), "-p", "images_per_class", 2, "--device", "cpu"]
    succeeds(house, "-m", "mae_helpers.run", *options)
    table = pd.read_csv(house / "results" / "tiny" / "attention_entropy.csv")
    assert list(table.columns) == ["model", "layer", "entropy_nats", "uniform_nats"]
    assert len(table) == (3 + 1) * 4, "a layer of each of three models and the control"
    np.testing.assert_allclose(table["uniform_nats"], np.log(17))
    assert (table["entropy_nats"] < table["uniform_nats"]).all()
    card = pd.read_csv(house / "results" / "tiny" / "scorecard.csv", keep_default_na=False).set_index("claim")
    row = card.loc["attention is spread over many tokens in all layers"]
    assert row["verdict"] in ("supported", "partly", "not supported")
    assert "of layers at 90 % or more" in row["here"]
    shown = nbformat.read(house / "_build" / "executed" / "tiny" / path.name, 4).cells[-2].outputs
    assert row["verdict"] in str(shown)


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
            notebooks.choose_parameters(chapters, {name: parse_value(value)})
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


def test_the_example_of_a_message_is_one_and_the_tables_it_names_are_there():
    [begins, ends] = re.findall(r"`(masking ratio 1\.5: use a share from 0) \.\.\. (to below 1)`", TEXT)[0]
    with pytest.raises(ValueError, match=rf"^{re.escape(begins)} .*{ends}$"):
        visible_count(196, 1.5)
    assert "| message | remedy |" in (ROOT / "book" / "troubleshooting.md").read_text()
    assert "| parameter | chapters | default | meaning |" in (ROOT / "book" / "how_to_run.md").read_text()


def test_the_messages_with_a_remedy_are_those_of_the_code():
    rows = (ROOT / "book" / "troubleshooting.md").read_text().partition("| message | remedy |\n|---|---|\n")[2]
    code = " ".join(path.read_text() for path in (ROOT / "mae_helpers").rglob("*.py")).replace("`", "")
    code = re.sub(r'"\s+f?"', "", code)  # a text over several lines
    for message in re.findall(r"`(.+?)`", " ".join(row.split(" | ")[0] for row in rows.splitlines())):
        for words in re.findall(r"[A-Za-z][A-Za-z -]{11,}", message):
            assert words.strip() in code, message


def test_the_table_of_parameters_has_each_with_its_chapters():
    page, told = (ROOT / "book" / "how_to_run.md").read_text(), set()
    for name, chapters in re.findall(r"^\| `(\w+)` \| (\d\d[^|`]*) \| [^|]+ \| [^|]+ \|$", page, re.M):
        for first, last in re.findall(r"(\d\d)(?: to (\d\d))?", chapters):
            told |= {(name, f"{number:02}") for number in range(int(first), int(last or first) + 1)}
    taken = {(name, path.stem[:2]) for path in notebooks.find([]) for name in notebooks.parameters_of(path)}
    of_all = {"profile", "device", "seed", "results_folder"}
    assert told == {pair for pair in taken if pair[0] not in of_all}
