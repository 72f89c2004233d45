"""The tables that a run writes: `results/<profile>/<name>.csv`, tidy, whole or not at all, with what made them."""

import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from mae_helpers.profiles import ROOT, Profile

COLUMNS = {
    "fig1_fig2_tsne": ["model", "token", "layer", "image", "class", "x", "y"],
    "fig1_fig2_separability": [
        "model",
        "token",
        "layer",
        "silhouette",
        "knn_percent",
        "probe_percent",
        "chance_percent",
    ],
    "fig3_attention_distance": ["model", "images", "layer", "head", "distance_px", "uniform_px"],
    "fig4_principal_angles": ["model", "control", "k", "centred", "layer", "class_a", "class_b", "theta1_deg"],
    "fig4_singular_values": ["model", "layer", "class", "index", "singular_value"],
    "masking_invariance": ["model", "image", "mask", "norm", "cosine_to_mean"],
}
PACKAGES = ("torch", "timm", "numpy", "scipy", "scikit-learn", "openTSNE", "pandas", "matplotlib", "seaborn")


def folder(profile: Profile, results: str | Path | None = None) -> Path:
    """Where the profile's tables lie: `results`, by default the repository's own folder of that name, / its name."""
    return (Path(results) if results else ROOT / "results") / profile.name


def write_whole(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it, so that a half-written one is never found."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text)
    temporary.replace(path)


def save_table(table: pd.DataFrame, name: str, where: Path) -> Path:
    """Write a table with its columns in the published order; ValueError where one of them is missing."""
    missing = [column for column in COLUMNS[name] if column not in table]
    if missing:
        raise ValueError(f"table {name}: the columns {missing} are missing; it has {list(table.columns)}")
    order = COLUMNS[name] + [column for column in table if column not in COLUMNS[name]]
    path = where / f"{name}.csv"
    write_whole(path, table[order].to_csv(index=False, float_format="%.8g"))
    return path


def read_table(name: str, where: Path) -> pd.DataFrame:
    """Read a table of this run; FileNotFoundError says which chapter writes it."""
    path = where / f"{name}.csv"
    if not path.exists():
        raise FileNotFoundError(f"{path}: not there yet; run the chapter that writes {name!r} first")
    return pd.read_csv(path)


def git_commit() -> str:
    """The commit of the code that runs, with `+` where it was changed since; `unknown` outside a repository."""
    call = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def provenance() -> dict:
    """What computed this: Python, packages, machine and commit."""
    packages = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "machine": platform.machine(), "commit": git_commit()} | {
        "packages": packages
    }


def record_run(where: Path, notebook: str, entry: dict, **run: object) -> None:
    """Tell `run.json` how the tables beside it came to be: the run as a whole, and this notebook's own `entry`."""
    path = where / "run.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    entries = known.get("notebooks", {}) | {notebook: entry}
    write_whole(path, json.dumps(known | run | {"notebooks": entries}, indent=2, default=str) + "\n")
