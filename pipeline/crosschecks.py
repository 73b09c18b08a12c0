"""What must fit together in a configuration beyond each part's own options; every misfit is one line in ``errors``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline import plugins
from pipeline.specs import Site, SiteFile


def wiring(file: SiteFile, errors: list[str]) -> None:
    """Every name that a pipeline uses is there, and every source is used, once."""
    seen: dict[str, str] = {}
    for name, pipeline in file.pipelines.items():
        path = f"pipelines.{name}"
        references: list[tuple[str, str, str, Mapping[str, Any]]] = []
        references += [(f"sources[{i}]", source, "source", file.sources) for i, source in enumerate(pipeline.sources)]
        references += [("detector", pipeline.detector, "detector", file.detectors)]
        references += [(f"rules[{i}]", rule, "rule", file.rules) for i, rule in enumerate(pipeline.rules)]
        references += [(f"sinks[{i}]", sink, "sink", file.sinks) for i, sink in enumerate(pipeline.sinks)]
        for where, reference, what, known in references:
            if reference not in known:
                there = ", ".join(sorted(known)) or "none"
                errors.append(f"{path}.{where}: {reference!r} is not a {what} here; there are: {there}")
        for i, source in enumerate(pipeline.sources):
            if source in seen:
                where = f"pipelines.{seen[source]}" if seen[source] != name else "the same list"
                errors.append(
                    f"{path}.sources[{i}]: {source!r} is in {where} already; a source belongs to one pipeline"
                )
            seen[source] = name
    if not errors:
        errors.extend(f"sources.{source}: no pipeline uses it" for source in file.sources if source not in seen)


def zones(site: Site, errors: list[str]) -> None:
    """Zones lie in sources of their pipeline, and rules look where there are zones."""
    for name, pipeline in site.pipelines.items():
        areas = [("zones", pipeline.zones), ("privacy", pipeline.privacy)]
        for section, zone, area in [(section, zone, area) for section, named in areas for zone, area in named.items()]:
            if area.source not in (None, *pipeline.sources):
                there = ", ".join(pipeline.sources)
                path = f"pipelines.{name}.{section}.{zone}.source"
                errors.append(f"{path}: {area.source!r} is not a source of this pipeline; there are: {there}")
        for i, rule in enumerate(pipeline.rules):
            for zone in getattr(site.rules[rule].config, "zones", ()):
                if zone not in pipeline.zones:
                    there = ", ".join(pipeline.zones) or "none"
                    errors.append(
                        f"pipelines.{name}.rules[{i}]: {rule} looks at zone {zone!r}, which this pipeline has not; "
                        f"there are: {there}"
                    )


def untouched(site: Site, errors: list[str]) -> None:
    """What is stored as the source sends it needs a source that sends something, and hides nothing."""
    for name, pipeline in site.pipelines.items():
        for i, sink in enumerate(pipeline.sinks):
            if not getattr(site.sinks[sink].config, "untouched", False):
                continue
            path = f"pipelines.{name}.sinks[{i}]: {sink} stores what a source sends, as it is"
            hides = [key for key, on in (("privacy", pipeline.privacy), ("blur", pipeline.blur != "none")) if on]
            errors.extend(f"{path}, and that {key} cannot change; use overlay: burn" for key in hides)
            errors.extend(
                f"{path}, and {source} (kind {site.sources[source].kind}) sends nothing; use overlay: burn"
                for source in pipeline.sources
                if not getattr(site.sources[source].config, "sends_packets", False)
            )


def claims(site: Site, errors: list[str]) -> None:
    """No two sinks may claim the same file or port, nor one sink for two sources, nor a sink what a source reads."""
    owners: dict[Any, str] = {}
    read = {what: f"sources.{name}" for name, source in site.sources.items() for what in _told(source.config, "reads")}
    for name, pipeline in site.pipelines.items():
        for sink in dict.fromkeys(pipeline.sinks):
            config = site.sinks[sink].config
            claims = _told(config, "claims")
            errors.extend(
                f"sinks.{sink}: would write to {_claimed(claim)}, which {read[claim]} reads; name another file"
                for claim in claims
                if claim in read
            )
            users = pipeline.sources if getattr(config, "accepts", None) == "packets" else [""]
            for user in users:
                for claim in claims:
                    owner = f"sinks.{sink}" + (f" (for source {user})" if user else "")
                    if owners.setdefault(claim, owner) != owner:
                        errors.append(
                            f"pipelines.{name}.sinks: {owner} and {owners[claim]} both want {_claimed(claim)}"
                        )


def limits(site: Site, errors: list[str]) -> None:
    """No two sinks keep files in one directory: what one removes by its limits would be the other's."""
    owners: dict[str, str] = {}
    for name in dict.fromkeys(sink for pipeline in site.pipelines.values() for sink in pipeline.sinks):
        for place in _told(site.sinks[name].config, "keeps_in"):
            owner = owners.setdefault(place, name)
            if owner != name:
                errors.append(
                    f"sinks.{name}.directory: {owner} keeps its files in {place}, and each would remove the other's; "
                    "name another directory"
                )


def _told(config: plugins.PluginConfig, method: str) -> list[Any]:
    """What a plug-in's configuration says by a method that it need not have."""
    return sorted(getattr(config, method)()) if hasattr(config, method) else []


def _claimed(claim: Any) -> str:
    return ":".join(map(str, claim)) if isinstance(claim, tuple) else str(claim)
