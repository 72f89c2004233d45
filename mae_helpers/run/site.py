"""The site: executed notebooks and prose as pages, built with Jupyter Book, warnings being errors.

A notebook's cell names its data in its metadata: `"mae_helpers": {"data": ["table1_blur.csv"]}`, files of
`results/<profile>/`. Under each figure and table stand links to its drawing and its data. The cell below it begins with
its number, as in `**Fig. 5.2.** Accuracy by blur level.`, and becomes its caption.
"""

import copy
import csv
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from urllib.parse import urlencode

import yaml

from mae_helpers.profile.settings import ROOT, Profile
from mae_helpers.run import findings, notebooks

DOWNLOADS = "downloads"  # beside the notebooks' folder of the staged book
SVG = "image/svg+xml"
PICTURED = {"pictured_blur.csv": "gaussian_blur", "pictured_occlusion.csv": "occlusion"}  # and what perturbed them
CAPTION = re.compile(r"\*\*((?:Fig\.|Table) \d+\.\d+)\.\*\* ")  # how the cell below a figure or table begins


def drawing(cell: dict) -> str | None:
    """The SVG that a cell drew, or None where it drew nothing."""
    return next(("".join(output["data"][SVG]) for output in cell["outputs"] if SVG in output.get("data", {})), None)


def captioned(cells: Iterable[dict]) -> list[dict]:
    """The cells without captions: each is in the metadata of the cell above, or gone where that one shows nothing."""
    kept = []
    for cell in cells:
        if not CAPTION.match(cell["source"]):
            kept.append(cell)
        elif kept[-1]["outputs"]:
            about = copy.deepcopy(kept[-1]["metadata"])
            about["mystnb"]["figure"]["caption"] = cell["source"]
            kept[-1] = kept[-1] | {"metadata": about}
    return kept


def folded_together(cells: Iterable[dict]) -> list[dict]:
    """The cells, where folded ones that show nothing stand in one fold with the next: parameters, imports, a figure."""
    kept, empty = [], False  # whether the last is a folded one that shows nothing
    for cell in cells:
        folded = cell["cell_type"] == "code" and "hide-input" in notebooks.tags(cell)
        if empty and folded:
            cell = cell | {"source": f"{kept.pop()['source']}\n\n{cell['source']}"}
        kept.append(cell)
        empty = folded and not cell["outputs"]
    return kept


def closer_link(data: Iterable[str], tables: Path) -> str:
    """Where a figure shows perturbed images: a link to the first of them, on the page that shows single ones."""
    for file in data:
        if file in PICTURED:
            image = next(csv.DictReader((tables / file).read_text(encoding="utf-8").splitlines()))["image"]
            place = escape(urlencode({"image": image, "kind": PICTURED[file]}))
            return f' · <a href="12_look_closer.html#{place}">look closer</a>'
    return ""


def without_code(cells: Iterable[dict]) -> None:
    """Show of folded cells only what they show: the first page begins with findings, not with bars."""
    for cell in cells:
        if "hide-input" in notebooks.tags(cell):
            cell["metadata"] = cell["metadata"] | {"tags": ["remove-input"]}


def page(notebook: dict, tables: Path, findings: Mapping[str, list[str]]) -> tuple[dict, dict[Path, bytes]]:
    """The notebook with captions, links and findings below each figure and table, and the files that the links lead to.

    `tables` is the run's folder of CSV files, `findings` has texts by their places, such as `below Fig. 5.2`. The
    files' places count from the staged book's root.
    """
    cells, files = folded_together(captioned(notebook["cells"])), {}
    for name, cell, data in notebooks.figures({"cells": list(cells)}):
        picture, texts = drawing(cell), {"above": [], "below": []}
        linked = {f"{name}.svg": picture.encode()} if picture else {}
        linked |= {file: (tables / file).read_bytes() for file in data}
        if linked:
            line = " · ".join(f"{{download}}`{file} <../{DOWNLOADS}/{file}>`" for file in linked)
            texts["below"].append(f"{{.downloads}}\nDownload: {line}{closer_link(data, tables)}")
        number = CAPTION.match(cell["metadata"]["mystnb"]["figure"].get("caption", ""))
        for where, here in texts.items():
            said = findings.get(f"{where} {number[1]}", []) if number else []
            here += [f":::{{admonition}} What this run shows\n{text}\n:::" for text in said]
            place = cells.index(cell) + (where == "below")
            cells[place:place] = [
                {"cell_type": "markdown", "id": f"{name}-{where}-{count}", "metadata": {}, "source": text}
                for count, text in enumerate(here)
            ]
        files |= {Path(DOWNLOADS) / file: content for file, content in linked.items()}
    return notebook | {"cells": cells}, files


def banner(profile: Profile) -> str:
    """The line above every page that says whose numbers these are."""
    return f"<strong>Profile {escape(profile.title or profile.name)}:</strong> {escape(profile.about)}".strip()


def names(entry: dict) -> list[str]:
    """The authors of an entry of `CITATION.cff`: each a name of its own, or given and family names."""
    return [one.get("name") or f"{one['given-names']} {one['family-names']}" for one in entry["authors"]]


def cited(about: dict) -> str:
    """How to cite the book and the paper, from `CITATION.cff` with `year` and `commit`: the end of the About page."""
    text = f"*{about['title']}*, by {', '.join(names(about))}: version {about['version']}, commit `{about['commit']}`."
    entries = []
    for entry in (about, *about.get("references", [])):
        authors = " and ".join(f"{{{name}}}" if {"name": name} in entry["authors"] else name for name in names(entry))
        values = {"author": authors, "title": f"{{{entry['title']}}}", "year": entry["year"]}
        values |= {"url": entry.get("url", entry.get("repository-code"))}
        values |= {"note": f"version {entry['version']}, commit {entry['commit']}"} if entry is about else {}
        lines = [f"  {name:6} = {{{value}}}" for name, value in values.items() if value]
        key = f"{names(entry)[0].split()[-1].lower()}{entry['year']}"
        entries.append(",\n".join([f"@misc{{{key}", *lines]) + "\n}")
    return "\n\n".join(["", "## How to cite", text, "```bibtex\n" + "\n\n".join(entries) + "\n```", ""])


def to_download(notebook: dict, address: str | None) -> dict:
    """The notebook, which says in its first cell how to get the package that it needs: from `address`, or a copy."""
    first, *others = notebook["cells"]
    how = f"`pip install git+{address}`" if address else "`pip install .` in a copy of this book's repository"
    return notebook | {"cells": [first | {"source": f"{first['source']}\n\n*Needs `mae_helpers`:* {how}."}, *others]}


def sources(profile: Profile, executed: Path, tables: Path, root: Path = ROOT) -> dict[Path, bytes]:
    """The files that Jupyter Book builds from, by their places: settings, prose, executed notebooks, downloads."""
    from mae_helpers.run.tables import commit  # brings torch

    settings, about = (yaml.safe_load((root / name).read_text()) for name in ("_config.yml", "CITATION.cff"))
    settings |= {"title": about["title"], "author": ", ".join(names(about))}
    settings.setdefault("html", {})["announcement"] = banner(profile)
    if not settings["repository"]["url"]:
        settings.pop("launch_buttons", None)  # there is nowhere that they could lead to
    toc = yaml.safe_load((root / "_toc.yml").read_text())
    ours = {path.stem for path in notebooks.find([], root / "notebooks", profile.name)}
    for part in toc.get("parts", []):
        places = [Path(chapter["file"]) for chapter in part["chapters"]]
        part["chapters"] = [{"file": str(place)} for place in places if place.parts[0] == "book" or place.stem in ours]
    files = {Path("_config.yml"): yaml.safe_dump(settings).encode(), Path("_toc.yml"): yaml.safe_dump(toc).encode()}
    prose = [path for path in (root / "book").rglob("*") if root / findings.FOLDER not in path.parents]
    files |= {path.relative_to(root): path.read_bytes() for path in prose if path.is_file()}
    about |= {"year": settings["copyright"], "commit": commit(tables)}
    files[Path("book/about.md")] = files.get(Path("book/about.md"), b"") + cited(about).encode()
    texts, parted = findings.findings(profile.name, tables, root)
    for path in parted:
        print(f"{path}: left out, because the tables do not bear it out", file=sys.stderr)
    for path in sorted(path for path in executed.glob("[0-9]*.ipynb") if path.stem in ours):
        notebook, linked = page(notebooks.read(path), tables, texts)
        if path.stem == Path(toc["root"]).stem:
            without_code(notebook["cells"])
        files |= linked | {Path("notebooks") / path.name: notebooks.written(notebook).encode()}
    return files


def order(out: Path) -> list[str]:
    """The pages of the book in `out` in their order, without the reference of the code, each without its suffix."""
    toc = yaml.safe_load((out / "source" / "_toc.yml").read_text())
    files = [toc["root"]] + [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [file for file in files if file != "book/api"]


def stage(files: dict[Path, bytes], source: Path) -> str:
    """Write files by their places in `source`, and remove all others; returns a digest of what is there now."""
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        target = source / name
        digest.update(str(name).encode() + hashlib.sha256(content).digest())
        if not target.exists() or target.read_bytes() != content:  # others keep their times, and are not parsed again
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    for stray in [path for path in source.rglob("*") if path.is_file() and path.relative_to(source) not in files]:
        stray.unlink()
    return digest.hexdigest()


def frame(files: Mapping[Path, bytes]) -> str:
    """A digest of what one page shows of the others: settings, menu, style, scripts; their titles, and their figures."""
    digest = hashlib.sha256((Path(__file__).parent / "sphinx_extension.py").read_bytes())
    for name, content in sorted(files.items()):
        if name.suffix in (".md", ".ipynb"):
            content = b"\n".join(
                re.findall(rb'(?m)^ *"?# .*|\*\*(?:Fig\.|Table) \d+\.\d+\.|"name": "(?:fig|tab)-.*', content)
            )
        if name.parts[0] != DOWNLOADS:
            digest.update(str(name).encode() + hashlib.sha256(content).digest())
    return digest.hexdigest()


def build(profile: Profile, executed: Path, tables: Path, out: Path, root: Path = ROOT) -> bool:
    """Build `out/html/index.html`; returns False where it was up to date. NotebookError where Jupyter Book complains."""
    source, work, stamp, log = out / "source", out / "sphinx", out / "html" / ".built-from", out / "book.log"
    files = sources(profile, executed, tables, root)
    digest, framed = stage(files, source), work / ".frame"
    if stamp.exists() and stamp.read_text() == digest:
        return False
    stamp.unlink(missing_ok=True)
    program = "from jupyter_book.cli.main import main; main()"  # it has no __main__; its script may not be on PATH
    call = [sys.executable, "-c", program, "build", str(source), "--path-output", str(work)]
    around = frame(files)  # Sphinx alone leaves a page as it was where only what it shows of the others changed
    again = [] if framed.exists() and framed.read_text() == around else ["--all"]
    framed.unlink(missing_ok=True)
    if again:
        shutil.rmtree(work / "_build" / "html", ignore_errors=True)  # pages that are no more among them
    with log.open("w") as file:  # line by line, for whoever follows it
        call += [*again, "-W", "-n", "--keep-going"]
        told = {"stdout": file, "stderr": subprocess.STDOUT, "env": os.environ | {"PYTHONUNBUFFERED": "1"}}
        done = subprocess.run(call, **told)
    if done.returncode:
        said = [line for line in log.read_text().splitlines() if any(w in line for w in ("WARNING", "ERROR", "rror:"))]
        raise notebooks.NotebookError(
            "\n".join(["Jupyter Book did not accept the pages:", *said[:20], f"the whole log: {log}"])
        )
    framed.write_text(around)
    shutil.rmtree(out / "html", ignore_errors=True)
    shutil.copytree(work / "_build" / "html", out / "html")
    address = yaml.safe_load((root / "CITATION.cff").read_text()).get("repository-code")
    for path in executed.glob("[0-9]*.ipynb"):  # what a page's button downloads is the notebook as it was run
        notebook = notebooks.written(to_download(notebooks.read(path), address))
        (out / "html" / "_sources" / "notebooks" / path.name).write_text(notebook, encoding="utf-8")
    stamp.write_text(digest)
    return True
