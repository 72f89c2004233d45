"""Fetch a checkpoint once: into the usual cache folder, with progress, resumed where a download broke off."""

import shutil
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import huggingface_hub
import torch
from filelock import FileLock
from timm.models import PretrainedCfg, get_pretrained_cfg

from mae_helpers.encoder.vit import CheckpointError, in_short
from mae_helpers.profile.progress import progress

PIECE = 1 << 20
OTHERWISE = "put it where `checkpoint` in the profile says"


def cached(url: str) -> Path:
    """Where PyTorch keeps what was fetched from `url`: `$TORCH_HOME/hub/checkpoints`, usually below `~/.cache/torch`."""
    return Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])


def _continue(url: str, part: Path) -> None:
    """Append what is missing to a partly fetched file; OSError or HTTPException where the connection breaks."""
    have = part.stat().st_size if part.exists() else 0
    with urlopen(Request(url, headers={"Range": f"bytes={have}-"} if have else {}), timeout=60) as answer:
        have = have if answer.status == 206 else 0  # a server that cannot resume sends the file from its start
        missing = int(answer.headers.get("Content-Length") or 0)
        if missing > shutil.disk_usage(part.parent).free:
            raise CheckpointError(f"{url}: {missing >> 20} MB are missing, and {part.parent} has no room for them")
        with part.open("ab" if have else "wb") as file:
            pieces = iter(lambda: answer.read(PIECE), b"")
            got = sum(map(file.write, progress(pieces, f"download {part.stem} (MB)", -(-missing // PIECE))))
        if got < missing:
            raise OSError(f"the connection closed after {have + got} of {have + missing} bytes")


def download(url: str, tries: int = 5) -> Path:
    """The file behind `url` in the cache folder, fetched if it is not there; a broken download goes on where it stopped.

    Half-fetched, its name ends in `.part`. CheckpointError where it cannot be had; its hash is the caller's to check.
    """
    path = cached(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with FileLock(f"{path}.lock"):  # chapters that run side by side fetch it once
        while not path.exists():
            tries -= 1
            try:
                _continue(url, part)
                part.replace(path)
            except (OSError, HTTPException) as error:
                status = error.code if isinstance(error, HTTPError) else None
                if status == 416:
                    part.unlink()  # longer than the file itself: not a part of it
                if status in (401, 403, 404) or tries < 1:
                    raise CheckpointError(f"{url}: {error}; fetch it by other means and {OTHERWISE}") from error
    return path


def timm_settings(name: str) -> PretrainedCfg:
    """What timm knows of its own weights of this name with tag: origin, normalisation; CheckpointError if nothing."""
    try:
        known = get_pretrained_cfg(name)
    except RuntimeError:  # the architecture is known, the tag is not
        known = None
    if known is None or not known.hf_hub_id:
        raise CheckpointError(f"{name}: timm has no weights of that name; name one with its tag, or give `checkpoint`")
    return known


def from_hub(name: str) -> Path:
    """The weights of a model of timm's by its name with tag, from the Hugging Face hub's cache or fetched into it."""
    known = timm_settings(name)
    try:
        return Path(huggingface_hub.hf_hub_download(known.hf_hub_id, known.hf_hub_filename or "model.safetensors"))
    except Exception as error:  # no network, no such file, no access: each has a kind of its own
        reason = f"{known.hf_hub_id}: {type(error).__name__}: {in_short(error)}"
        raise CheckpointError(f"{reason}; fetch its model.safetensors by other means and {OTHERWISE}") from error
