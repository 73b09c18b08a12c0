"""The YAML of a site as plain data, or one line with the place where it is wrong.

More is refused than YAML refuses: a key that stands twice (the second would silently replace the first, and a camera
be gone), one that YAML does not take for text (``1``, ``yes``), and aliases that lead back to themselves or multiply
into more than anybody writes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import ConfigError

_BYTES_MAX = 1 << 20
_NODES_MAX = 100_000
_DIGITS_MAX = 100
_TEXT, _MERGE, _INT = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge", "tag:yaml.org,2002:int"
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")


def read(path: Path) -> Any:
    """What the file holds; raises ``ConfigError``."""
    text = _text(path)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _Check(path, loader).look(node)
        return loader.construct_document(node)
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise ConfigError(
            f"{path}:{line}: is not YAML: holds the control character {chr(error.character)!r}"
        ) from error
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{_place(path, error.problem_mark)}: is not YAML: {error.problem}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deeply for a site") from error


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_BYTES_MAX + 1)
    except FileNotFoundError as error:
        beside = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        there = f"; in {path.parent} there are: {', '.join(beside)}" if beside else ""
        raise ConfigError(f"{path}: there is no such file{there}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > _BYTES_MAX:
        raise ConfigError(f"{path}: is larger than {_BYTES_MAX} bytes, which no site is")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8 (byte 0x{raw[error.start]:02x}); save it as UTF-8") from error


class _Check:
    """Looks at every node once for each way that leads to it."""

    def __init__(self, path: Path, loader: yaml.SafeLoader) -> None:
        self._path = path
        self._loader = loader
        self._above: set[int] = set()
        self._seen = 0

    def look(self, node: yaml.Node) -> None:
        self._seen += 1
        if id(node) in self._above:
            self._refuse(node, "refers to itself")
        if self._seen > _NODES_MAX:
            raise ConfigError(f"{self._path}: its aliases (*) multiply into more than {_NODES_MAX} parts")
        self._above.add(id(node))
        if isinstance(node, yaml.MappingNode):
            self._look_at_keys(node)
        if isinstance(node, yaml.ScalarNode):
            self._look_at_value(node)
        else:
            for part in node.value:
                for one in part if isinstance(part, tuple) else (part,):
                    self.look(one)
        self._above.remove(id(node))

    def _look_at_keys(self, node: yaml.MappingNode) -> None:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in (_TEXT, _MERGE):
                written = key.value if isinstance(key, yaml.ScalarNode) else "a list"
                self._refuse(key, f"{written} is no name for YAML; put it in quotes: {str(written)!r}")
            if key.value in lines:
                self._refuse(key, f"{key.value!r} is there twice, in line {lines[key.value]} as well")
            lines[key.value] = key.start_mark.line + 1

    def _look_at_value(self, node: yaml.ScalarNode) -> None:
        if _NO_TEXT.search(node.value):
            self._refuse(node, f"{node.value!r} holds a character that no text has")
        if node.tag == _INT and len(node.value) > _DIGITS_MAX:
            self._refuse(node, f"is a number of more than {_DIGITS_MAX} digits")
        if node.tag not in (_TEXT, _MERGE):
            try:
                self._loader.construct_object(node)
            except ValueError as error:
                self._refuse(node, f"{node.value!r}: {error}; is it text? Put it in quotes")
            except (LookupError, AttributeError, OverflowError):  # PyYAML trips over it, and does not say why
                kind = node.tag.rpartition(":")[2]
                self._refuse(node, f"{node.value!r} is not a value of the type {kind}; is it text? Put it in quotes")

    def _refuse(self, node: yaml.Node, why: str) -> None:
        raise ConfigError(f"{_place(self._path, node.start_mark)}: {why}")


def _place(path: Path, mark: yaml.Mark | None) -> str:
    return f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
