"""The configuration of a site and its checks.

Everything that can be refused is refused here, before a process starts: each error is one line with the file, the
path in it, the offending value and what would be right.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline import crosschecks, plugins, site_file
from pipeline.errors import ConfigError
from pipeline.refusals import VARIABLE, explain, refuse, shown
from pipeline.specs import Part, Site, SiteFile


def load(path: Path, detector: Mapping[str, Any] | None = None) -> Site:
    """Reads and checks a YAML file; what ``detector`` says goes before every detector's own. Raises ``ConfigError``."""
    raw = site_file.read(path)
    if not isinstance(raw, dict):
        found = "the file is empty" if raw is None else f"not {shown(raw)}"
        raise ConfigError(f"{path}: must be a mapping with sources, detectors and pipelines; {found}")
    specs = raw.get("detectors")
    if detector and isinstance(specs, dict):
        merged = {name: {**spec, **detector} if isinstance(spec, dict) else spec for name, spec in specs.items()}
        raw = {**raw, "detectors": merged}
    values = expand(raw, str(path), {"CONFIG_DIR": str(path.parent.resolve())})
    return check(values, str(path), raw)


def expand(raw: Mapping[str, Any], origin: str, variables: Mapping[str, str]) -> dict[str, Any]:
    """``raw`` with every ``${NAME}`` replaced; ``variables`` go before the environment's."""
    errors: list[str] = []
    values: dict[str, Any] = _expand(dict(raw), "", {**os.environ, **variables}, errors)
    refuse(errors, origin)
    return values


def check(values: Mapping[str, Any], origin: str, raw: Mapping[str, Any] | None = None) -> Site:
    """A site out of expanded plain data; errors name ``origin`` and show values as ``raw``, unexpanded, has them."""
    raw = values if raw is None else raw
    errors: list[str] = []
    try:
        file = SiteFile.model_validate(values)
    except ValidationError as error:
        refuse([explain(e, "", SiteFile, (), raw) for e in error.errors()], origin, raw)
        raise
    sources = _parts("source", "sources", file.sources, raw, errors)
    rules = _parts("rule", "rules", file.rules, raw, errors)
    sinks = _parts("sink", "sinks", file.sinks, raw, errors)
    backends: dict[str, Part] = {}
    for name, detector in file.detectors.items():
        part = _part("backend", f"detectors.{name}.backend", detector.backend, raw, errors)
        if part:
            backends[name] = part
    crosschecks.wiring(file, errors)
    refuse(errors, origin, raw)
    site = Site(
        file.name, sources, file.detectors, backends, rules, sinks, file.pipelines, values, origin, file.events,
        file.operation,
    )  # fmt: skip
    crosschecks.zones(site, errors)
    crosschecks.untouched(site, errors)
    crosschecks.claims(site, errors)
    crosschecks.limits(site, errors)
    refuse(errors, origin, raw)
    return site


def source(values: Mapping[str, Any], origin: str) -> Part:
    """One entry of ``sources:`` by itself. Raises ``ConfigError``."""
    errors: list[str] = []
    part = _part("source", "source", values, values, errors)
    refuse(errors, origin, values)
    assert part is not None
    return part


def _expand(value: Any, path: str, variables: Mapping[str, str], errors: list[str]) -> Any:
    """``${NAME}`` → the variable's value, ``$$`` → ``$``, in every string."""
    if isinstance(value, dict):
        return {k: _expand(v, f"{path}.{k}" if path else str(k), variables, errors) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand(v, f"{path}[{i}]", variables, errors) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        if match[2] in variables:
            return variables[match[2]]
        errors.append(f"{path}: ${{{match[2]}}} is not set in the environment")
        return ""

    return VARIABLE.sub(replace, value)


def _parts(
    group: plugins.Group, section: str, specs: Mapping[str, dict[str, Any]], raw: Mapping[str, Any], errors: list[str]
) -> dict[str, Part]:
    parts = {name: _part(group, f"{section}.{name}", spec, raw, errors) for name, spec in specs.items()}
    return {name: part for name, part in parts.items() if part}


def _part(
    group: plugins.Group, path: str, spec: Mapping[str, Any], raw: Mapping[str, Any], errors: list[str]
) -> Part | None:
    options = dict(spec)
    kind = options.pop("kind", None)
    if not isinstance(kind, str):
        errors.append(f"{path}.kind: is missing; there are: {', '.join(plugins.kinds(group))}")
        return None
    try:
        plugin = plugins.load(group, kind)
    except ConfigError as error:
        errors.append(f"{path}.kind: {error}")
        return None
    try:
        return Part(plugin, plugin.config.model_validate(options))
    except ValidationError as error:
        errors += [explain(e, path, plugin.config, ["kind"], raw) for e in error.errors()]
        return None
