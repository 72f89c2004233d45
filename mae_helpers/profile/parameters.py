"""Parameters of notebooks: read from the command line, checked against their defaults, shown in messages."""

import ast
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from reprlib import Repr
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from mae_helpers.profile import plain_yaml

# A parameter that is measured, not counted: fractions are allowed though its default is a whole number.
MEASURED = ("perplexity", "patch_perplexity", "occlusion_percents", "masked_percent")
ALL_WHERE_NONE = "images_per_class"  # how the parameters end of which None takes all images
LARGEST_SEED = 2**32 - 1  # the largest that scikit-learn and openTSNE take
LARGEST_COUNT = 1_000_000
TEXT = "text (in quotes where YAML sees a number, a date, or yes and no)"
WORDS = {bool: "true or false", float: "a number", str: TEXT}
WORDS |= {list[str]: "a list of names", list[float]: "a list of numbers"}
WHOLE = BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value)
SMALL = Field(ge=0, le=LARGEST_COUNT)
STRICT = ConfigDict(strict=True, allow_inf_nan=False)

_short = Repr()
_short.maxstring = _short.maxother = 80
_short.maxlong = 40


def shown(value: object) -> str:
    """A value in a message: its repr in one line, cut where it is long or deep."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"a number of {len(hex(value)) - 2} hexadecimal digits"  # repr() itself refuses the largest
    return _short.repr(value)


def parse_value(text: str) -> object:
    """A parameter's value from the command line, read as YAML: `10`, `0.75`, `true`, `[1, 2]`, `null` or `None`, `text`.

    What is no YAML is text, and so are nothing at all and what YAML knows and a parameter is not, such as a date.
    """
    try:
        said = str(int(text)) if text.isdecimal() else text  # 010 is 10, not YAML's 8
        value = None if text == "None" else plain_yaml.read(said) if text.strip() else text
        json.dumps(value)
        return value
    except (yaml.YAMLError, TypeError, ValueError):
        return text


def _kind(name: str, defaults: Sequence[object]) -> tuple[Any, str]:
    """The kind of a parameter by its defaults in all notebooks that have it, a name where all are None; and in words."""
    low, high = (0, LARGEST_SEED) if name == "seed" else (1, LARGEST_COUNT)
    count, counts = Annotated[int, WHOLE, Field(ge=low, le=high)], f"whole numbers from {low} to {high}"
    if name == "scheduler":  # a number of local workers, or the address of others: see sweep.workers
        return count | str | None, f"{counts}, {TEXT}, or null"
    if name == "models":  # some of a profile's
        return list[str] | None, f"{WORDS[list[str]]}, or null"
    some = next((default for default in defaults if default is not None), 1 if name.endswith(ALL_WHERE_NONE) else "")
    one = type(some[0] if isinstance(some, list) else some)
    one = float if one is int and name in MEASURED else one
    words = counts if one is int else WORDS[list[one] if isinstance(some, list) else one]
    kind = {int: count, float: Annotated[int, SMALL] | float}.get(one, one)  # what is whole stays so
    kind = list[kind] if isinstance(some, list) else kind
    optional = None in defaults or name.endswith(ALL_WHERE_NONE)
    return (kind | None, f"{words}, or null") if optional else (kind, words)


def check_parameter(name: str, value: object, defaults: Sequence[object], who: str = "parameter") -> Any:
    """A notebook's parameter as it is meant: 5 for 5.0 where it counts something, what text says of another kind, [3] for 3.

    ValueError where it is not of its kind. Whether it fits the images and models is for whoever takes it.
    """
    kind, words = _kind(name, defaults)
    read = [value, parse_value(value)] if isinstance(value, str) else [value]  # text itself, then what it says
    for meant in (*read, *([one] for one in read)):
        with suppress(ValidationError):
            return TypeAdapter(kind, config=STRICT).validate_python(meant)
    raise ValueError(f"{who} {name!r} is {shown(value)}; use {words}")


def parameters_of(path: Path) -> dict[str, object]:
    """The names in the notebook's `parameters` cell with their defaults."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    lines = [node for node in ast.parse("\n".join(sources)).body if isinstance(node, ast.Assign)]
    return {name.id: ast.literal_eval(line.value) for line in lines for name in line.targets}


def defaults_in(folder: Path) -> dict[str, list[object]]:
    """The parameters of all notebooks in a folder, each with its default in every one that has it."""
    found = [pair for path in sorted(folder.glob("[0-9]*.ipynb")) for pair in parameters_of(path).items()]
    return {name: [default for other, default in found if other == name] for name, _ in found}
