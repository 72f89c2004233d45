"""What is current: the code of ours that modules reach by import, by its meaning, and the libraries that decide a result."""

import ast
import hashlib
import platform
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec, resolve_name
from pathlib import Path

LIBRARIES = (
    *("torch", "timm", "numpy", "scipy", "scikit-learn", "scikit-image", "opencv-python-headless"),
    *("imagecorruptions-imaug", "openTSNE", "pillow", "pandas"),
)
INSTALLED = {"site-packages", "dist-packages"}  # folders of libraries: their versions count, not their files


@dataclass(frozen=True)
class Code:
    """Of `modules` and all that they reach: digests of source files by module, versions of libraries by name."""

    modules: tuple[str, ...]
    files: dict[str, str]
    libraries: dict[str, str]

    @property
    def digest(self) -> str:
        """One digest of all."""
        return hashlib.sha256(repr((sorted(self.files.items()), sorted(self.libraries.items()))).encode()).hexdigest()

    def difference(self, other: "Code") -> str:
        """In what `other` differs, in words: `torch 2.11 instead of 2.15, another encoder.walk`; empty where in nothing."""
        here, there = self.libraries, other.libraries
        changed = [name for name in sorted({*here, *there}) if here.get(name) != there.get(name)]
        parts = [f"{name} {there.get(name, 'none')} instead of {here.get(name, 'none')}" for name in changed]
        names = sorted({*self.files, *other.files})
        return ", ".join(parts + [f"another {name}" for name in names if self.files.get(name) != other.files.get(name)])


class _Wordless(ast.NodeTransformer):
    """Code without its texts."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return ast.Constant("")

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Constant("") if isinstance(node.value, str) else node


@cache
def meaning(source: str) -> str:
    """A digest of Python code that comments, layout, docstrings and the texts inside `raise ...` do not change."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
        elif isinstance(node, ast.Raise):
            _Wordless().visit(node)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


@cache
def imports(source: str, package: str) -> frozenset[str]:
    """The dotted names that code of a `package` imports anywhere, be they modules or names in one."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def _source(name: str) -> Path | None:
    """The source file of a module, found without importing it; None for what has none, and for the module of a notebook."""
    top, *rest = name.split(".")
    if name in sys.modules or top == "__main__":
        places = [] if top == "__main__" else [getattr(sys.modules[name], "__file__", None) or ""]
    elif (spec := find_spec(top)) is None:
        return None
    elif rest:
        inside = [Path(place, *rest) for place in spec.submodule_search_locations or ()]
        places = [place for path in inside for place in (f"{path}.py", path / "__init__.py")]
    else:
        places = [spec.origin or ""]
    return next((Path(place) for place in places if str(place).endswith(".py") and Path(place).is_file()), None)


@cache
def versions() -> dict[str, str]:
    """Those of Python, which decides how `ast` writes code down, and of the libraries that are there."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@cache
def code_behind(*modules: str) -> Code:
    """What these modules, and all of ours or of the user's that they import, are made of; taken once a process.

    ValueError for a module without a source file, such as a notebook.
    """
    waiting, files = list(modules), {}
    own = {name.partition(".")[0] for name in (*modules, __name__)}
    while waiting:
        name = waiting.pop()
        top, parent = name.partition(".")[0], name.rpartition(".")[0]
        path = None if name in files or top in sys.stdlib_module_names else _source(name)
        if path is None or (top not in own and INSTALLED & set(path.parts)):
            continue
        source, package = path.read_text(encoding="utf-8"), name if path.stem == "__init__" else parent
        files[name] = meaning(source)
        waiting += {parent, *imports(source, package)} - {""}
    for name in modules:
        if name not in files:
            raise ValueError(
                f"module {name!r} has no file here, so a change of its code would go unnoticed; put what it defines "
                "into a module of its own, where `import` finds it"
            )
    return Code(modules, files, versions())
