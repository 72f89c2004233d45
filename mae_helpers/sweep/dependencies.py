"""The code behind a result: the source files that modules reach by import, and the versions of the libraries they use."""

import ast
import hashlib
import sys
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec, resolve_name
from pathlib import Path

INSTALLED = {"site-packages", "dist-packages"}  # folders of libraries: their versions count, not their files


@dataclass(frozen=True)
class Dependencies:
    """Of `modules` and all that they reach: digests of source files by module, versions of libraries by distribution."""

    modules: tuple[str, ...]
    code: dict[str, str]
    libraries: dict[str, str]

    @property
    def digest(self) -> str:
        """One digest of all."""
        return hashlib.sha256(repr((sorted(self.code.items()), sorted(self.libraries.items()))).encode()).hexdigest()

    def difference(self, other: "Dependencies") -> str:
        """In what `other` differs, in words: `torch 2.11 instead of 2.15, another encoder.py`; empty where in nothing."""
        parts = []
        for name in sorted({*self.libraries, *other.libraries}):
            here, there = self.libraries.get(name, "none"), other.libraries.get(name, "none")
            parts += [f"{name} {there} instead of {here}"] if here != there else []
        names = sorted({*self.code, *other.code})
        parts += [f"another {name}" for name in names if self.code.get(name) != other.code.get(name)]
        return ", ".join(parts)


def imports(source: str, package: str) -> set[str]:
    """The dotted names that a module's source imports anywhere, submodules or not; `package` is that of the module."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def _spec(name: str) -> ModuleSpec | None:
    """Where a module comes from, found without importing it; None for what is no module, is not there, or has no file."""
    parent = name.rpartition(".")[0]
    try:
        if name in sys.modules or not parent:
            found = find_spec(name)
        else:
            above = _spec(parent)  # none of it where `images.ImageSet` is a name in a module
            places = above.submodule_search_locations if above else None
            found = PathFinder.find_spec(name, places) if places else None
    except ValueError:  # `__main__` of a notebook
        return None
    return found if found is not None and found.has_location and found.origin else None


@cache
def _libraries_of() -> dict[str, list[str]]:
    return dict(packages_distributions())


@cache
def dependencies(*modules: str) -> Dependencies:
    """All that these modules reach by import, taken once a process: own code by content, installed libraries by version.

    ValueError for a module without a file, such as a notebook.
    """
    own = {name.partition(".")[0] for name in (*modules, __name__)}
    for name in modules:
        if _spec(name) is None:
            raise ValueError(
                f"module {name!r} has no file here, so a change of its code would go unnoticed; put what it defines "
                "into a module of its own, where `import` finds it"
            )
    waiting, code, libraries = list(modules), {}, {}
    while waiting:
        name = waiting.pop()
        top, parent = name.partition(".")[0], name.rpartition(".")[0]
        if name in code or top in sys.stdlib_module_names or (spec := _spec(top if top not in own else name)) is None:
            continue
        if top not in own and INSTALLED & set(Path(spec.origin).parts):
            libraries |= {found: version(found) for found in _libraries_of().get(top, [])}
            continue
        if (spec := _spec(name)) is None:
            continue
        content = Path(spec.origin).read_bytes()
        code[name] = hashlib.sha256(content).hexdigest()
        package = name if spec.submodule_search_locations else parent
        waiting += [parent] if parent else []
        waiting += imports(content.decode(), package) if spec.origin.endswith(".py") else []
    return Dependencies(modules, code, libraries)
