"""YAML as plain values: no tag builds an object, no key stands twice, no alias grows without bound."""

from collections import Counter

import yaml

LARGEST = 20_000  # values of one document, aliases counted as often as they are used


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which looks at each node of the document before any value is made of it."""

    def compose_node(self, parent: yaml.Node, index: object) -> yaml.Node:
        again = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if again and not hasattr(node, "size"):
            raise _refused(node, "it holds itself through an alias")
        if not again:
            node.size = 1 + sum(part.size for part in _parts(node))
        if node.size > LARGEST:
            raise _refused(node, f"more than {LARGEST} values, aliases written out")
        return node


def _parts(node: yaml.Node) -> list[yaml.Node]:
    """What a node holds; YAMLError where it is a text or a mapping that is refused."""
    if isinstance(node, yaml.SequenceNode):
        return node.value
    if isinstance(node, yaml.MappingNode):
        keys = Counter((key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for (_, key), times in keys.items():
            if times > 1:
                raise _refused(node, f"the key {key[:40]!r} stands twice in one mapping")
        return [part for pair in node.value for part in pair]
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in node.value):
        raise _refused(node, "a character that no file name and no page can hold (NUL, or half of a pair)")
    return []


def _refused(node: yaml.Node, why: str) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=why, problem_mark=node.start_mark)


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
