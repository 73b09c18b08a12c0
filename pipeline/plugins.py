"""``kind:`` in the configuration → the file of that name → its ``Config`` and its ``create``.

A plug-in is one module with three names: ``Config`` (a ``PluginConfig``), one class that does the work, and
``create(config, ...)`` that builds it. The module's name is its kind. A kind with a dot names a module outside this
package. Listing kinds reads file names only; a plug-in's module is imported when its kind is asked for.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.errors import ConfigError
from pipeline.options import Options

Group = Literal["source", "backend", "rule", "sink"]

_PACKAGES: dict[Group, str] = {
    "source": "pipeline.capture.sources",
    "backend": "pipeline.inference.backends",
    "rule": "pipeline.analytics.rules",
    "sink": "pipeline.sinks.kinds",
}
_OUTSIDE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


class PluginConfig(Options):
    """What a plug-in reads from the configuration."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """One loaded plug-in; ``create`` takes the checked ``Config`` first and what its group defines after it."""

    group: Group
    kind: str
    config: type[PluginConfig]
    create: Callable[..., Any]


def kinds(group: Group) -> list[str]:
    """The kinds that this package ships for ``group``, sorted; imports none of them."""
    package = importlib.import_module(_PACKAGES[group])
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))


def load(group: Group, kind: str) -> Plugin:
    """The plug-in of that kind; raises ``ConfigError`` with the alternatives where there is none."""
    if kind in kinds(group):
        module = importlib.import_module(f"{_PACKAGES[group]}.{kind}")
    elif _OUTSIDE.fullmatch(kind):
        try:
            module = importlib.import_module(kind)
        except ImportError as error:
            raise ConfigError(f"{kind!r} is not a {group} that can be imported: {error}") from error
    else:
        raise ConfigError(f"{kind!r} is not a {group} here; there are: {', '.join(kinds(group))}")
    try:
        plugin = Plugin(group, kind, module.Config, module.create)
    except AttributeError as error:
        raise ConfigError(f"{kind!r} is not a {group}: it has no Config or no create") from error
    return plugin
