"""Which kind of value a setting takes, told by its annotation; what a profile and a command line are checked with."""

from collections.abc import Sequence
from dataclasses import is_dataclass
from math import isfinite
from reprlib import Repr
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

# A parameter that is measured, not counted: fractions are allowed though its default is a whole number.
MEASURED = ("perplexity", "patch_perplexity", "occlusion_percents")
ALL_WHERE_NONE = "images_per_class"  # how the parameters end of which None takes all images
LARGEST_SEED = 2**32 - 1  # the largest that scikit-learn and openTSNE take
LARGEST_COUNT = 1_000_000

_short = Repr()
_short.maxstring = _short.maxother = 80
_short.maxlong = 40


def shown(value: object) -> str:
    """A value in a message: its repr in one line, cut where it is long or deep."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"a number of {len(hex(value)) - 2} hexadecimal digits"  # repr() itself refuses the largest
    return _short.repr(value)


def fits(value: object, kind: Any) -> bool:
    """Whether a value is of a kind: None, bool, str, int, float (finite), list[...], dict[str, ...], or a union.

    A whole number is a float too, but true and false are no numbers. A dataclass stands for what is built later.
    """
    if kind is Any or is_dataclass(kind):
        return True
    if isinstance(kind, UnionType):
        return any(fits(value, one) for one in get_args(kind))
    if get_origin(kind) is list:
        return isinstance(value, list) and all(fits(one, get_args(kind)[0]) for one in value)
    if get_origin(kind) is dict:
        key, entry = get_args(kind)
        return isinstance(value, dict) and all(fits(k, key) and fits(v, entry) for k, v in value.items())
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 and isfinite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def words(kind: Any) -> str:
    """A kind in words, as in `use a whole number, or null`."""
    if isinstance(kind, UnionType):
        return ", or ".join(words(one) for one in get_args(kind))
    if get_origin(kind) is list:
        return {str: "a list of names", int: "a list of whole numbers", float: "a list of numbers"}[get_args(kind)[0]]
    simple = {bool: "true or false", int: "a whole number", float: "a number", NoneType: "null"}
    text = "text (in quotes where YAML sees a number, a date, or yes and no)"
    return simple.get(kind, text if kind is str else "a mapping of settings, with names for keys")


def parameter_kind(name: str, defaults: Sequence[object]) -> Any:
    """The kind of a notebook's parameter, from its `defaults` in all notebooks that have it.

    Where all of these are None, it is a name. None is allowed where it is one of them, and for numbers of images.
    """
    if name == "scheduler":
        return int | str | None  # see workers.py
    some = next((default for default in defaults if default is not None), "")
    kind = type(some)
    if kind is list:
        kind = list[float if name in MEASURED else type(some[0])]
    elif kind is int and name in MEASURED:
        kind = float
    return kind | None if None in defaults or name.endswith(ALL_WHERE_NONE) else kind


def check_parameter(name: str, value: object, defaults: Sequence[object], who: str = "parameter") -> None:
    """ValueError where a notebook's parameter is not of its kind, or is a count that nothing can be counted by.

    Whether it fits the images and models is for whoever takes it.
    """
    kind = parameter_kind(name, defaults)
    if not fits(value, kind):
        raise ValueError(f"{who} {name!r} is {shown(value)}; use {words(kind)}")
    if fits(value, int) or (fits(value, list[int]) and name not in MEASURED):
        low, high = (0, LARGEST_SEED) if name == "seed" else (1, LARGEST_COUNT)
        numbers = value if isinstance(value, list) else [value]
        if kind is not float and not all(low <= number <= high for number in numbers):
            raise ValueError(f"{who} {name!r} is {shown(value)}; use whole numbers from {low} to {high}")
