"""Findings: what people say of the figures of one profile, each on its page while its stated conditions hold.

A file of `book/findings/<profile>/` has, between lines of `---`, `place`, such as `below Fig. 5.2` or `above Table 6.1`;
`let`: values by name, expressions on the run's tables, which are there by theirs; and `holds`: conditions on the values.
In the text behind, `{name:.0f}` is a value, so that every number is the run's own.
"""

import builtins
import re
from collections import ChainMap
from pathlib import Path
from typing import Any

import yaml

from mae_helpers.run.notebooks import NotebookError

FOLDER = Path("book/findings")


class Tables(dict):
    """The tables in a folder by name, each read once, when it is asked for."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            raise KeyError(name)
        import pandas as pd  # the command line answers without

        return self.setdefault(name, pd.read_csv(self.folder / f"{name}.csv", low_memory=False))


def finding(path: Path, tables: Tables) -> tuple[str, str | None]:
    """Where a finding stands, and its text: None where the tables do not bear it out.

    NotebookError where the file or one of its expressions is wrong, FileNotFoundError for a table that is not there.
    """
    values, expression = ChainMap({}, tables), ""
    try:
        _, head, text = path.read_text(encoding="utf-8").split("---\n", 2)
        about = yaml.safe_load(head)
        for name, expression in about["let"].items():
            values[name] = eval(expression, {}, values)
        for expression in about["holds"]:
            if not eval(expression, {}, values):
                return about["place"], None
        return about["place"], re.sub(r"(\d) %", "\\1\u00a0%", text.strip().format(**values))
    except FileNotFoundError:
        raise
    except Exception as problem:  # whatever else an expression can raise
        where = f"{path}: {expression!r}" if expression else path
        raise NotebookError(f"{where}: {type(problem).__name__}: {problem}") from problem


def findings(profile: str, tables: Path, root: Path) -> tuple[dict[str, list[str]], list[Path]]:
    """The texts of a profile's findings by their places, and the files of those that the tables do not bear out."""
    texts, parted, read = {}, [], Tables(tables)
    for path in sorted((root / FOLDER / profile).glob("*.md")):
        try:
            place, text = finding(path, read)
        except FileNotFoundError:  # not every run has every table
            text = None
        if text is None:
            parted.append(path)
        else:
            texts.setdefault(place, []).append(text)
    return texts, parted
