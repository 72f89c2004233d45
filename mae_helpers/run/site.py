"""Build the site from executed notebooks and prose pages with Jupyter Book, warnings being errors."""

import hashlib
import shutil
import subprocess
import sys
from html import escape
from pathlib import Path

import nbformat
import yaml

from mae_helpers.profile.settings import ROOT, Profile
from mae_helpers.run import pages


class BookError(RuntimeError):
    """The site could not be built: the message holds Jupyter Book's complaints and the log's place."""


def banner(profile: Profile) -> str:
    """The line above every page that says whose numbers these are."""
    return f"<strong>Profile {escape(profile.title or profile.name)}:</strong> {escape(profile.about)}".strip()


def sources(profile: Profile, executed: Path, tables: Path, root: Path = ROOT) -> dict[Path, bytes]:
    """The files that Jupyter Book builds from, by their places: settings, prose, executed notebooks, downloads."""
    settings = yaml.safe_load((root / "_config.yml").read_text())
    settings.setdefault("html", {})["announcement"] = banner(profile)
    if not settings["repository"]["url"]:
        settings.pop("launch_buttons", None)  # there is nowhere that they could lead to
    files = {Path("_config.yml"): yaml.safe_dump(settings).encode(), Path("_toc.yml"): (root / "_toc.yml").read_bytes()}
    files |= {path.relative_to(root): path.read_bytes() for path in (root / "book").rglob("*") if path.is_file()}
    for path in sorted(executed.glob("[0-9]*.ipynb")):
        notebook, linked = pages.page(nbformat.read(path, 4), tables)
        files |= linked | {Path("notebooks") / path.name: nbformat.writes(notebook).encode()}
    return files


def stage(files: dict[Path, bytes], source: Path) -> str:
    """Write files by their places in `source`, and remove all others; returns a digest of what is there now.

    Unchanged files keep their times, so that none is parsed again in vain.
    """
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        target = source / name
        digest.update(str(name).encode() + hashlib.sha256(content).digest())
        if not target.exists() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    for stray in [path for path in source.rglob("*") if path.is_file() and path.relative_to(source) not in files]:
        stray.unlink()
    return digest.hexdigest()


def build(profile: Profile, executed: Path, tables: Path, out: Path, root: Path = ROOT) -> bool:
    """Build `out/html/index.html`; returns False where it was up to date. BookError where Jupyter Book complains."""
    source, stamp, log = out / "source", out / "html" / ".built-from", out / "book.log"
    digest = stage(sources(profile, executed, tables, root), source)
    if stamp.exists() and stamp.read_text() == digest:
        return False
    stamp.unlink(missing_ok=True)
    work = out / "sphinx"
    program = "from jupyter_book.cli.main import main; main()"  # it has no __main__; its script may not be on PATH
    call = [sys.executable, "-c", program, "build", str(source), "--path-output", str(work)]
    # --all: Sphinx alone would leave a page as it was where only the style, a script or the menu around it changed
    done = subprocess.run([*call, "--all", "-W", "-n", "--keep-going"], capture_output=True, text=True)
    log.write_text(done.stdout + done.stderr)
    if done.returncode:
        lines = [
            line for line in log.read_text().splitlines() if "WARNING" in line or "ERROR" in line or "rror:" in line
        ]
        raise BookError("\n".join(["Jupyter Book did not accept the pages:", *lines[:20], f"the whole log: {log}"]))
    shutil.rmtree(out / "html", ignore_errors=True)
    shutil.copytree(work / "_build" / "html", out / "html")
    for path in executed.glob("[0-9]*.ipynb"):  # what a page's button downloads is the notebook as it was run
        shutil.copy(path, out / "html" / "_sources" / "notebooks")
    stamp.write_text(digest)
    return True
