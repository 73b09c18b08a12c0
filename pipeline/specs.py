"""What a configuration may say: the sections of its file, and the checked site that comes of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator

from pipeline import plugins
from pipeline.areas import Area, Share
from pipeline.options import Options
from pipeline.schedule import Schedule

DEFAULT_MODEL = "facemask"

Id = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=32)]


class DetectorSpec(Options):
    """Which model looks, in which runtime, and what it lets through.

    in_flight: frames that are looked at side by side; by default as many as there are processors.
    """

    model: str = DEFAULT_MODEL
    backend: dict[str, Any] = Field(default_factory=lambda: {"kind": "onnxruntime"})
    confidence_min: Share = 0.5
    iou_max: Share = 0.4
    nms: Literal["per_class", "agnostic"] = "per_class"
    in_flight: Annotated[int, Field(ge=1, le=16)] | None = None


class DetectSpec(Options):
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


class EncoderSpec(Options):
    """How annotated video is encoded, once for all sinks of a source.

    preset: x264's, from fast and large to slow and small. crf: quality, lower is better and larger.
    keyframe_interval_s: an output can start or be cut this often.
    """

    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium"] = "ultrafast"
    crf: Annotated[float, Field(ge=0, le=51)] = 23
    keyframe_interval_s: Annotated[float, Field(gt=0, le=60)] = 2.0


class PipelineSpec(Options):
    """Which sources are looked at by which detector, and where the outcome goes; every name is defined elsewhere.

    zones: parts of the picture that rules may name. schedule: when the rules look; None: always.
    privacy: parts that nobody ever sees: they are black before anything is looked at, stored or sent.
    blur: which faces cannot be made out in any picture that leaves the detector.
    """

    sources: Annotated[list[Id], Field(min_length=1)]
    detector: Id
    rules: list[Id] = Field(default=[])
    sinks: list[Id] = Field(default=[])
    zones: dict[Id, Area] = Field(default={}, max_length=32)
    privacy: dict[Id, Area] = Field(default={}, max_length=32)
    schedule: Schedule | None = None
    blur: Literal["all", "masked", "none"] = "none"
    detect: DetectSpec = DetectSpec()
    encode: EncoderSpec = EncoderSpec()


class EventsSpec(Options):
    """The event log of the site.

    directory: holds a folder for each site; by default the user's state directory. retention_days: older events are
    removed; 0: the log ends with the run. durability: what is told survives the death of any process (``normal``), or a
    power failure as well (``full``: every event is synced to the disk before it is sent).
    """

    directory: Path | None = None
    retention_days: Annotated[float, Field(ge=0, le=36500)] = 30
    durability: Literal["normal", "full"] = "normal"


class OperationSpec(Options):
    """metrics_port: /metrics, /healthz and /readyz answer there, on this machine only; 0 takes any that is free."""

    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None


class SiteFile(Options):
    """What a site's YAML says, before its plug-ins have checked their own parts."""

    name: Id
    version: Literal[1] = 1
    sources: Annotated[dict[Id, dict[str, Any]], Field(min_length=1)]
    detectors: Annotated[dict[Id, DetectorSpec], Field(min_length=1)]
    rules: dict[Id, dict[str, Any]] = Field(default={})
    sinks: dict[Id, dict[str, Any]] = Field(default={})
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
