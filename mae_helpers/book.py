"""Build the site from executed notebooks and prose pages with Jupyter Book, warnings being errors."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from mae_helpers.profiles import ROOT


class BookError(RuntimeError):
    """The site could not be built: the message holds Jupyter Book's complaints and the log's place."""


def stage(executed: Path, source: Path, root: Path = ROOT) -> str:
    """Gather configuration, prose and executed notebooks in `source`; returns a digest of what is there now.

    Unchanged files keep their times, so that the build redoes only what changed.
    """
    files = {Path(name): root / name for name in ("_config.yml", "_toc.yml")}
    files |= {path.relative_to(root): path for path in (root / "book").rglob("*") if path.is_file()}
    files |= {Path("notebooks") / path.name: path for path in executed.glob("[0-9]*.ipynb")}
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        content, target = path.read_bytes(), source / name
        digest.update(str(name).encode() + hashlib.sha256(content).digest())
        if not target.exists() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    for stray in [path for path in source.rglob("*") if path.is_file() and path.relative_to(source) not in files]:
        stray.unlink()
    return digest.hexdigest()


def build(executed: Path, out: Path) -> bool:
    """Build `out/html/index.html`; returns False where it was up to date. BookError where Jupyter Book complains."""
    source, stamp, log = out / "source", out / "html" / ".built-from", out / "book.log"
    digest = stage(executed, source)
    if stamp.exists() and stamp.read_text() == digest:
        return False
    stamp.unlink(missing_ok=True)
    work = out / "sphinx"
    program = "from jupyter_book.cli.main import main; main()"  # it has no __main__; its script may not be on PATH
    call = [sys.executable, "-c", program, "build", str(source), "--path-output", str(work)]
    done = subprocess.run([*call, "-W", "-n", "--keep-going"], capture_output=True, text=True)
    log.write_text(done.stdout + done.stderr)
    if done.returncode:
        lines = [
            line for line in log.read_text().splitlines() if "WARNING" in line or "ERROR" in line or "rror:" in line
        ]
        raise BookError("\n".join(["Jupyter Book did not accept the pages:", *lines[:20], f"the whole log: {log}"]))
    shutil.copytree(work / "_build" / "html", out / "html", dirs_exist_ok=True)
    stamp.write_text(digest)
    return True
