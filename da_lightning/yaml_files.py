"""YAML files as strangers write them: bounded before anything in them is expanded, plain values only."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from da_lightning.reading import UnreadableFile, read_text

LARGEST = 2**22
"""Bytes of a file."""

_DEEPEST = 50
_MOST_VALUES = 200_000  # once all aliases are expanded
_LENGTH_OF_A_VALUE = 64  # longer texts count as several

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlError(Exception):
    """A file that cannot be read as YAML, or is larger than it looks; the message is the reason, without its name."""


class _WrittenKeys(_Base):
    """Keys stay the words that are written: ``no``, ``1`` and ``null`` are none of YAML's values there."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        is_merge = "tag:yaml.org,2002:merge"
        words = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != is_merge]
        if twice := next((word for word in words if words.count(word) > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"found the key {twice} twice", node.start_mark)
        self.flatten_mapping(node)
        if any(not isinstance(key, yaml.ScalarNode) for key, _ in node.value):
            raise yaml.constructor.ConstructorError(None, None, "found a key that is no word", node.start_mark)
        return {key.value: self.construct_object(value, deep=True) for key, value in node.value}


_WrittenKeys.add_constructor("tag:yaml.org,2002:map", _WrittenKeys.construct_mapping)


def read_yaml(path: str | Path) -> Any:
    """Read a file's plain values; keys are the words that are written.

    Raises:
        YamlError: It is no regular file, no YAML, holds a tag of Python, a key twice, or what `check_yaml` refuses.
    """
    text = checked_text(path)
    try:
        return yaml.load(text, Loader=_WrittenKeys)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise YamlError(" ".join(str(error).split())) from None


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by their dotted keys; a list is a value, and so is a mapping without entries."""
    if isinstance(node, Mapping) and node:
        for name, value in node.items():
            yield from leaves(value, f"{key}.{name}".lstrip("."))
    else:
        yield key, node


def checked_text(path: str | Path) -> str:
    """The text of a YAML file that is safe to expand with any loader.

    Raises:
        YamlError: It is no regular file, no YAML, or what :func:`check_yaml` refuses.
    """
    try:
        text = read_text(path, LARGEST)
        text.encode()
    except UnreadableFile as error:
        raise YamlError(str(error)) from None
    except UnicodeEncodeError:
        raise YamlError("it is no text in UTF-8") from None
    check_yaml(text)
    return text


def check_yaml(text: str) -> None:
    """Count what aliases would make of ``text``, without expanding them: a kilobyte can stand for a terabyte.

    Raises:
        YamlError: Too many values, nested too deep, an alias within itself, or no YAML.
    """
    sizes: dict[str, int] = {}
    unfinished: list[tuple[str | None, int]] = []
    try:
        for event in yaml.parse(text, Loader=_Base):
            anchor = getattr(event, "anchor", None)
            if isinstance(event, yaml.AliasEvent):
                if anchor in (name for name, _ in unfinished):
                    raise YamlError(f"*{anchor} stands within &{anchor} itself")
                size = sizes.get(anchor or "", 1)
            elif isinstance(event, yaml.CollectionStartEvent):
                unfinished.append((anchor, 1))
                if len(unfinished) > _DEEPEST:
                    raise YamlError(f"it is nested more than {_DEEPEST} deep")
                continue
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, size = unfinished.pop()
            elif isinstance(event, yaml.ScalarEvent):
                size = 1 + len(event.value) // _LENGTH_OF_A_VALUE
            else:
                continue
            if anchor and not isinstance(event, yaml.AliasEvent):
                sizes[anchor] = size
            if unfinished:
                name, before = unfinished[-1]
                unfinished[-1] = name, (size := before + size)
            if size > _MOST_VALUES:
                raise YamlError(f"it stands for more than {_MOST_VALUES:,} values once its aliases are expanded")
    except (yaml.YAMLError, ValueError) as error:
        raise YamlError(" ".join(str(error).split())) from None
