"""The tables that a run writes: `results/<profile>/<name>.csv`, tidy, whole or not at all, with what made them."""

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import pandas as pd

from mae_helpers.encoder.weights import WEIGHTS, checkpoint_hashes, identity
from mae_helpers.images import sets as images
from mae_helpers.perturbations import imagenet_c
from mae_helpers.profile.files import WAIT, claim, write_whole
from mae_helpers.profile.machine import pick_device
from mae_helpers.profile.settings import ROOT, Profile
from mae_helpers.sweep.current import LIBRARIES

COLUMNS = {
    name: columns.split()
    for name, columns in {
        "fig1_fig2_tsne": "model token layer image class x y",
        "fig1_fig2_separability": "model token layer silhouette silhouette_low silhouette_high knn_percent knn_low knn_high "
        "neighbours probe_percent probe_low probe_high chance_percent",
        "fig3_attention_distance": "model images layer head distance_px uniform_px",
        "fig4_principal_angles": "model control k centred layer class_a class_b theta1_deg",
        "fig4_singular_values": "model layer class index singular_value",
        "masking_invariance": "model image mask norm cosine_to_mean",
        "masking_cosines": "model pair pairs cosine_p05 cosine_median",
        "masking_histogram": "model pair cosine_from cosine_to pairs density",
        "table1_blur": "model level kernel_size sigma images top1_percent top1_low top1_high psnr_db ssim right",
        "fig5_occlusion": "model ranking occlusion_percent images top1_percent top1_low top1_high right",
        "fig5_rollout": "image patch cls_rollout patch_rollout",
        "fig5_fills": "model fill occlusion_percent images top1_percent top1_low top1_high",
        "table2_imagenet_c": "model source group corruption severity images top1_percent top1_low top1_high right",
        "distribution_shift": "model dataset images top1_percent class_mean_percent subset_top1_percent",
        "table3_cosine": "model perturbation level images mean_cosine cosine_correct cosine_wrong norm_difference",
        "table3_images": "model perturbation level image cosine norm_difference correct others norm_deviation",
        "fig6_fig7_features": "model perturbation level class layer head clean_count retained_count shared_count",
        "fig6_fig7_comparison": "perturbation level class layer head clean_count retained_count "
        "released_clean_count released_retained_count",
        "fig8_feature_drop": "model perturbation level mean_drop low high",
        "fig8_one_class": "model perturbation level mean_drop low high",
        "factors_accuracy": "model condition images top1_percent top1_low top1_high",
        "factors_effects": "effect condition of points low high",
        "factors_inside": "model condition mean_cosine cosine_low cosine_high mean_drop low high",
        "cka": "model_a model_b token control layer_a layer_b cka",
        "notes_pairing": "pairing level mean_cosine above_099 in_place",
        "notes_checkpoint": "model layer knn_percent chance_percent",
        "notes_blurs": "images level psnr_db ssim kernel_size sigma spread_px",
        "notes_cosines": "level kernel_size sigma table3a released_mean_500",
        "notes_shares": "corruption severity top1_percent nearest_count nearest_percent deviation fits",
        "notes_rises": "corruption from to rise images",
        "notes_uniform": "grid patches_a_side patch_px uniform_px",
        "notes_spread": "by images class level clean_count mean_drop low high",
        "notes_steps": "perturbation level mean_drop step",
        "demo_training": "stage epoch loss seconds device",
        "demo_accuracy": "model class top1_percent",
        "demo_probe": "model layer top1_percent",
        "benchmarks": "name measured against device goal",
        "how_far": "on",
        "scorecard": "claim where paper here difference tolerance verdict note untrained by_the_paper",
    }.items()
}
# Text whatever it looks like: a class may be called NA, None or 3, a model 100:
NAMES = ("class", "class_a", "class_b", "model", "model_a", "model_b", "dataset")
PICTURED = ("blur", "occlusion", "corruptions", "reconstructions")
COLUMNS |= {f"pictured_{what}": ["image", "class", "label"] for what in PICTURED}
PACKAGES = (*LIBRARIES, "matplotlib", "seaborn")


def folder(profile: Profile, results: str | Path | None = None) -> Path:
    """Where the profile's tables lie: `results`, by default the repository's folder of that name, / the profile's name.

    Where the package is installed without the repository, as on Colab, the folder is made where one works.
    """
    home = ROOT if (ROOT / "_toc.yml").exists() else Path.cwd()
    return (Path(results) if results else home / "results") / profile.name


def data_fingerprint(profile: Profile) -> str:
    """A digest of the profile's input and models, of its images and checkpoints, and of what lies beside the bundled ones."""
    parts = {"input", "same_as_paper", "compute", "models"}
    elsewhere = {"models": {"__all__": {"checkpoint", "title", "training"}}}  # the file counts, wherever it lies
    digest = hashlib.sha256(profile.model_dump_json(include=parts, exclude=elsewhere).encode())
    for source in (profile.images, profile.second_images, *profile.shifted_images.values()):
        digest.update(b"" if images.left_out(source) else images.fingerprint(source).encode())
    digest.update(repr(imagenet_c.file_levels(profile.imagenet_c, profile.images.classes)).encode())
    for path in sorted(WEIGHTS.glob("*.[cj]s*")):
        digest.update(path.read_bytes())
    for name, model in profile.weights.items():
        digest.update(f"{name} {identity(model)}\n".encode())
    return digest.hexdigest()


def made_from(profile: Profile) -> dict[str, str]:
    """What a table must have been made from to belong to this run: the profile, its images and checkpoints."""
    return {"profile": profile.name, "data": data_fingerprint(profile)}


def _record(where: Path) -> dict:
    """All that `run.json` says; nothing where it is missing or damaged, so that no table is taken for this run's."""
    try:
        record = json.loads((where / "run.json").read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


@contextmanager
def _recording(where: Path) -> Iterator[dict]:
    """What `run.json` says, to be changed; written at the end. Others, in any process, wait, so that nothing is lost."""
    with claim([where / "run.json.lock"], WAIT) or nullcontext():
        record = _record(where)
        yield record
        write_whole(where / "run.json", json.dumps(record, indent=2, default=str) + "\n")


def save_table(table: pd.DataFrame, name: str, where: Path, made_from: dict[str, str]) -> Path:
    """Write a table with its columns in the published order, and in `run.json` what it was made from and its digest.

    ValueError where a column is missing.
    """
    missing = [column for column in COLUMNS[name] if column not in table]
    if missing:
        raise ValueError(f"table {name}: the columns {missing} are missing; it has {list(table.columns)}")
    order = COLUMNS[name] + [column for column in table if column not in COLUMNS[name]]
    path, content = where / f"{name}.csv", table[order].to_csv(index=False, float_format="%.8g").encode()
    with _recording(where) as record:
        write_whole(path, content)  # if it ends here, the record has another digest: the table is refused
        entry = made_from | {"sha256": hashlib.sha256(content).hexdigest()}
        record["tables"] = dict(sorted((record.get("tables", {}) | {name: entry}).items()))
    return path


def read_table(name: str, where: Path, made_from: dict[str, str] | None = None) -> pd.DataFrame:
    """Read a table of this run. FileNotFoundError where no chapter wrote it yet.

    With `made_from`, a ValueError where `run.json` says of it that it is of another profile, other images or
    checkpoints, or where it was changed since it was written.
    """
    path = where / f"{name}.csv"
    if not path.exists():
        raise FileNotFoundError(f"{path}: not there yet; run the chapter that writes {name!r} first")
    content = path.read_bytes()
    entry = _record(where).get("tables", {}).get(name, {})
    wanted = made_from | {"sha256": hashlib.sha256(content).hexdigest()} if made_from else {}
    for key, value in wanted.items():
        if entry.get(key) != value:
            what = "not as it was written" if key == "sha256" else f"made from another {key}"
            raise ValueError(
                f"{path}: {what} ({str(entry.get(key))[:12]!r} instead of {value[:12]!r}); "
                "run the chapter that writes it again, or choose another results folder"
            )
    columns = pd.read_csv(BytesIO(content), nrows=0).columns
    if missing := [column for column in COLUMNS.get(name, []) if column not in columns]:
        raise ValueError(f"{path}: without the columns {missing}, of an earlier version; run its chapter again")
    empty = {column: ["", "nan", "NaN"] for column in columns if column not in NAMES}
    options = {"dtype": dict.fromkeys(NAMES, str), "keep_default_na": False, "na_values": empty}
    return pd.read_csv(BytesIO(content), low_memory=False, **options)  # a column has one type, however long


def git_commit() -> str:
    """The commit of the code that runs, with `+` where it was changed since; `unknown` outside a repository."""
    call = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def provenance(profile: Profile, device: str) -> dict:
    """What computes this: the device, the profile's checkpoints, and of Python, packages and code which they are."""
    code = {"python": platform.python_version(), "machine": platform.machine(), "commit": git_commit()}
    code |= {"packages": {name: version(name) for name in PACKAGES}}
    return {"device": str(pick_device(device)), "checkpoints": checkpoint_hashes(profile), "provenance": code}


def record_run(where: Path, notebook: str, entry: dict, **run: object) -> None:
    """Tell `run.json` how the tables beside it came to be: the run as a whole, and this notebook's own `entry`."""
    with _recording(where) as record:
        record |= run
        record["notebooks"] = record.get("notebooks", {}) | {notebook: entry}


def read_run(where: Path) -> dict:
    """What `run.json` says: the run as a whole, an entry a chapter under `notebooks`, one a table under `tables`.

    FileNotFoundError where no run has told it yet.
    """
    record = _record(where)
    if "notebooks" not in record:
        raise FileNotFoundError(f"{where / 'run.json'}: not there yet; `python -m mae_helpers.run` writes it")
    return record


def commit(where: Path) -> str:
    """The commit behind the tables of a run, or that of the code where no run has told it."""
    return _record(where).get("provenance", {}).get("commit") or git_commit()


def run_table(run: dict, without: str = "") -> pd.DataFrame:
    """What each chapter of a run took, from `read_run`: chapter, seconds, peak_memory_mb, peak_gpu_memory_mb, seed."""
    entries = [{"chapter": name} | entry for name, entry in sorted(run["notebooks"].items()) if name != without]
    table = pd.json_normalize(entries).rename(columns={"parameters.seed": "seed"})
    columns = ["chapter", "seconds", "peak_memory_mb", "peak_gpu_memory_mb", "seed"]
    return table[[name for name in columns if name in table]]
