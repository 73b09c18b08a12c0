"""How a configuration is refused: a line a mistake, with the file, the path in it, the value and what would be right.

Values are shown as they were written: ``${CAM_PW}``, never what the environment has for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any

from pydantic import BaseModel

from pipeline.errors import ConfigError, without_credentials, without_login

VARIABLE = re.compile(r"\$(\$|\{(\w*)\})")
_SHOWN_MAX = 60
_SHAPES = {
    "dict_type": "a mapping, like {name: value}",
    "model_type": "a mapping, like {name: value}",
    "list_type": "a list, like [one, two]",
    "tuple_type": "a list, like [one, two]",
    "string_type": "text; a number or yes and no is text in quotes",
    "path_type": "a path",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}
"""What pydantic calls by names of Python's."""


def refuse(errors: Sequence[str], origin: str, raw: Any = None) -> None:
    """Raises ``ConfigError`` where there are ``path: text`` lines; raw: the unexpanded configuration."""
    if errors:
        lines = [without_credentials(_as_written(error, raw)) for error in errors]
        raise ConfigError("\n".join(f"{origin}: {line}" for line in lines))


def explain(error: Any, path: str, model: type[BaseModel], fields: Sequence[str], raw: Any) -> str:
    """One pydantic error of ``model``, which stands at ``path``, as such a line.

    fields: what else may stand there beside the fields of the model, or of the part of it that the error is about.
    """
    parts = [part for part in error["loc"] if part != "[key]"]
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    value = error["input"]
    if len(parts) == len(error["loc"]):
        found, exact = _at(raw, path)
        value = found if exact else value
    match error["type"]:
        case "missing":
            return f"{path}: is missing"
        case "extra_forbidden":
            there = [*_fields(model, parts[:-1]), *(fields if len(parts) == 1 else ())]
            return f"{path}: {parts[-1]!r} is not a field here" + (f"; there are: {', '.join(there)}" if there else "")
        case "string_pattern_mismatch":
            return f"{path}: {shown(value)} must be lower-case letters, digits, _ and -"
        case "literal_error":
            return f"{path}: {shown(value)} is none of {error['ctx']['expected']}"
        case "value_error":
            return f"{path}: {error['ctx']['error']}"
        case kind if kind in _SHAPES:
            return f"{path}: {shown(value)} must be {_SHAPES[kind]}"
        case _:
            return f"{path}: {shown(value)}: {error['msg'][:1].lower()}{error['msg'][1:]}"


def shown(value: Any) -> str:
    text = repr(without_login(value)) if isinstance(value, str) else without_credentials(repr(value))
    return text if len(text) <= _SHOWN_MAX else f"{text[: _SHOWN_MAX - 3]}..."


def _fields(model: type[BaseModel], parts: Sequence[Any]) -> list[str]:
    """The fields of the part of ``model`` to which ``parts`` lead, through sections like ``detectors.mask``."""
    here: Any = model
    for part in parts:
        if isinstance(here, type) and issubclass(here, BaseModel):
            field = here.model_fields.get(str(part))
            here = field.annotation if field else None
        else:  # a name in a section, a place in a list
            here = next(iter(reversed(getattr(here, "__args__", ()))), None)
        if isinstance(here, UnionType):
            here = here.__args__[0]
        while getattr(here, "__metadata__", None):
            here = here.__args__[0]
    if not (isinstance(here, type) and issubclass(here, BaseModel)):
        return []
    return [field.alias or name for name, field in here.model_fields.items()]


def _as_written(error: str, raw: Any) -> str:
    """The line with the names of environment variables in the place of their values, where its path leads to them."""
    path, colon, text = error.partition(": ")
    # what is said of a pipeline may be about any part that it refers to
    node = raw if path.startswith("pipelines") else _at(raw, path)[0]
    names = {match[2] for leaf in _leaves(node) for match in VARIABLE.finditer(leaf) if match[2]}
    known = {os.environ[name]: f"${{{name}}}" for name in sorted(names) if os.environ.get(name)}
    known |= {repr(value)[1:-1]: written for value, written in known.items()}
    values = sorted(known, key=len, reverse=True)
    search = re.compile("|".join([r"\$\{\w*\}", *map(re.escape, values)]))
    return path + colon + search.sub(lambda match: known.get(match[0], match[0]), text)


def _at(raw: Any, path: str) -> tuple[Any, bool]:
    """What stands at ``path`` or, with False, at the last place on the way that there is."""
    for step in re.findall(r"[^.\[\]]+", path):
        if isinstance(raw, Mapping) and step in raw:
            raw = raw[step]
        elif isinstance(raw, list) and step.isdigit() and int(step) < len(raw):
            raw = raw[int(step)]
        else:
            return raw, False
    return raw, True


def _leaves(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping | list):
        for part in node.values() if isinstance(node, Mapping) else node:
            yield from _leaves(part)
