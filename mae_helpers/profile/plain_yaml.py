"""YAML as plain values: no tag builds an object, no key stands twice, no alias grows without bound."""

from collections import Counter

import yaml

LARGEST = 20_000  # values of one document, aliases counted as often as they are used


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader behind a look at the document before any value is made of it."""

    def get_single_data(self) -> object:
        node = self.get_single_node()
        if node is None:
            return None
        _values_in(node, {})
        return self.construct_document(node)


def _refused(node: yaml.Node, why: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, why, node.start_mark)


def _values_in(node: yaml.Node, known: dict[int, int | None]) -> int:
    """How many values a node stands for with its aliases written out; YAMLError where that or a key is refused."""
    if id(node) in known:
        if known[id(node)] is None:
            raise _refused(node, "it holds itself through an alias")
        return known[id(node)]
    known[id(node)] = None
    if isinstance(node, yaml.ScalarNode):
        if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in node.value):
            raise _refused(node, "a character that no file name and no page can hold (NUL, or half of a pair)")
        parts = []
    elif isinstance(node, yaml.MappingNode):
        keys = Counter((key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = [key for (_, key), times in keys.items() if times > 1]
        if twice:
            raise _refused(node, f"the key {twice[0][:40]!r} stands twice in one mapping")
        parts = [part for pair in node.value for part in pair]
    else:
        parts = node.value
    known[id(node)] = found = 1 + sum(_values_in(part, known) for part in parts)
    if found > LARGEST:
        raise _refused(node, f"more than {LARGEST} values, aliases written out")
    return found


def read(text: str | bytes) -> object:
    """The one document in `text`; YAMLError, with line and column where they are known, for whatever else it is."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except Exception as error:  # PyYAML lets through what int(), date() and the like say of `!!int x` or 2024-02-31
        raise yaml.YAMLError(f"a value that is not what it looks like ({type(error).__name__}: {error})") from None
