"""Configuration + stage name → a built stage: the only file that knows every part.

A site becomes these stages, from the sinks to the captures:

``viewer/<sink>``        one for each sink that watches
``events``               one, where events are kept or shown or any event sink is configured
``annotator/<source>``   one for each source with a packet sink, or a sink that watches its packets
``inference/<pipeline>`` one for each pipeline
``capture/<source>``     one for each source
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zmq

from pipeline import resources
from pipeline.errors import ConfigError, StartupError
from pipeline.specs import Part, PipelineSpec, Site
from pipeline.stage import Stage
from pipeline.transport import shared
from pipeline.transport.channel import Bell, BellListener, ipc
from pipeline.transport.head import DETACHED, LOSSLESS, SKIPPABLE, Head
from pipeline.transport.packet_ring import PacketRing
from pipeline.transport.results import EVENTS_WAITING, OUTBOX, ResultLog
from pipeline.transport.ring import Reader
from pipeline.types import Layout

if TYPE_CHECKING:
    from pipeline.capture.tap import PacketTap
    from pipeline.inference.model_card import ModelCard
    from pipeline.inference.weights import RuntimeFiles
    from pipeline.sinks.overlay import Overlay

HEALTH_SOCKET = "health"
EVENT_LOG = "events.sqlite"
LOGGED = ("events", "log")
"""The bell that says that the event log has something new."""
SPOOL = "spool"
PACKET_BYTES = 8_000_000
"""Room for a source's own packets on their way to the disk: eight seconds at 8 Mbit/s."""
CAPTURE, INFERENCE, ANNOTATOR, VIEWER = "capture", "inference", "annotator", "viewer"

Context = zmq.Context[zmq.Socket[bytes]]


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One stage of a site. sources: whose data goes through it. runtime: in which it loads a model, if it does."""

    name: str
    sources: tuple[str, ...]
    runtime: str | None = None

    @property
    def job(self) -> str:
        return self.name.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stage runs. told: the stage's sources, each time they have changed since; else None."""

    run_id: str
    run_dir: Path
    context: Context
    restarted: bool = False
    models_dir: Path | None = None
    told: Callable[[], list[str] | None] = lambda: None

    def state_dir(self, *names: str) -> Path:
        """A directory of its own for a part, which outlives the part's process but not the run."""
        path = self.run_dir.joinpath("state", *names)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def bell_path(self, source: str, what: str) -> Path:
        return self.run_dir / f"{source}.{what}-bell"

    def bell(self, source: str, what: str) -> Bell:
        return Bell(self.context, self.bell_path(source, what))

    def listener(self, source: str, what: str) -> BellListener:
        return BellListener(self.context, self.bell_path(source, what))


def _sinks(site: Site, pipeline: PipelineSpec, accepts: str) -> dict[str, Part]:
    parts = {name: site.sinks[name] for name in pipeline.sinks}
    return {name: part for name, part in parts.items() if getattr(part.config, "accepts", None) == accepts}


def _watched(site: Site) -> dict[str, list[str]]:
    """The sinks that watch: name → the sources of all pipelines that name it."""
    watched: dict[str, list[str]] = {}
    for pipeline in site.pipelines.values():
        for name in _sinks(site, pipeline, "views"):
            watched.setdefault(name, []).extend(pipeline.sources)
    return watched


def _has_live_packets(site: Site, pipeline: PipelineSpec) -> bool:
    """Whether somebody may want to take this pipeline's packets while they look."""
    return any(getattr(part.config, "takes_packets", False) for part in _sinks(site, pipeline, "views").values())


def stages(site: Site) -> list[StageSpec]:
    """The stages of a site, sinks first."""
    watched = _watched(site)
    events = [source for p in site.pipelines.values() if _sinks(site, p, "events") for source in p.sources]
    for name, its in watched.items():
        events += its if getattr(site.sinks[name].config, "shows_events", False) else []
    if site.events.retention_days:
        events = list(site.sources)
    specs = [StageSpec(f"{VIEWER}/{name}", tuple(its)) for name, its in watched.items()]
    specs += [StageSpec("events", tuple(dict.fromkeys(events)))] if events else []
    for pipeline in site.pipelines.values():
        if _sinks(site, pipeline, "packets") or _has_live_packets(site, pipeline):
            specs += [StageSpec(f"{ANNOTATOR}/{source}", (source,)) for source in pipeline.sources]
    specs += [
        StageSpec(f"{INFERENCE}/{name}", tuple(p.sources), site.backends[p.detector].kind)
        for name, p in site.pipelines.items()
    ]
    specs += [StageSpec(f"{CAPTURE}/{source}", (source,)) for p in site.pipelines.values() for source in p.sources]
    return specs


def _is_logged(site: Site, source: str) -> bool:
    """Whether the source's events go into the event log."""
    return any(spec.name == "events" and source in spec.sources for spec in stages(site))


def _is_tapped(site: Site, source: str) -> bool:
    """Whether somebody stores what the source sends, untouched."""
    sinks = _sinks(site, site.pipelines[site.pipeline_of(source)], "packets")
    return any(getattr(part.config, "untouched", False) for part in sinks.values())


def _packets(run_dir: Path, source: str) -> Path:
    return run_dir / f"{source}.originals"


def check(site: Site, models_dir: Path | None) -> None:
    """What can be known to be wrong beside the configuration's own text, before anything starts.

    Raises ``ConfigError`` for a model without a card or without that runtime, ``StartupError`` for missing weights
    and for a processor whose memory order this program does not know.
    """
    if not shared.ORDERED:
        raise StartupError(shared.NOT_ORDERED)
    for name in {pipeline.detector for pipeline in site.pipelines.values()}:
        _model(site, name, models_dir)


def _model(site: Site, detector: str, models_dir: Path | None) -> tuple[ModelCard, RuntimeFiles]:
    """The model of this detector, and the files that it loads; raises as ``check`` does."""
    from pipeline import resources
    from pipeline.inference import weights
    from pipeline.inference.model_card import read_card

    backend = site.backends[detector]
    path = resources.card_path(site.detectors[detector].model, models_dir)
    card = read_card(path)
    precision = getattr(backend.config, "precision", "fp32")
    return card, weights.locate(card, path, weights.runtime_of(card, path, backend.kind, precision), models_dir)


def _rules_of(site: Site, source: str) -> int:
    """How many rules look at this source, one that names zones once for each of them."""
    pipeline = site.pipelines[site.pipeline_of(source)]
    return sum(len(getattr(site.rules[rule].config, "zones", ())) or 1 for rule in pipeline.rules)


def prepare(site: Site, run_dir: Path) -> None:
    """Makes what the stages of a run share; called by the supervisor, before any of them starts."""
    for source in site.sources:
        prepare_source(site, source, run_dir)


def prepare_source(site: Site, source: str, run_dir: Path) -> None:
    """The same for one source, which may come while the site runs; one that was here before goes on where it ended.

    Raises ``ConfigError`` where that one was recorded and is not to be any more, or the other way round.
    """
    ipc(run_dir / f"{source}.result-bell")  # the longest of a source's sockets, refused here and not by each stage
    readers = [(INFERENCE, LOSSLESS)]
    if any(spec.name == f"{ANNOTATOR}/{source}" for spec in stages(site)):
        kept = _sinks(site, site.pipelines[site.pipeline_of(source)], "packets")
        readers.append((ANNOTATOR, LOSSLESS if kept else SKIPPABLE))  # who only watches holds nobody up
    if (run_dir / f"{source}.head").exists():
        with closing(Head.attach(run_dir, source)) as head:
            if head.readers != [name for name, _ in readers]:
                raise ConfigError(f"{site.origin}: sources.{source}: was here in this run, and recorded differently")
            (run_dir / SPOOL / f"{source}.end").unlink(missing_ok=True)
            head.reopen()
        return
    Head.create(run_dir, source, readers).close()
    if _is_tapped(site, source):
        PacketRing.create(_packets(run_dir, source), PACKET_BYTES).close()
    results = ResultLog.create(run_dir, source, max(OUTBOX, -(-EVENTS_WAITING // len(site.sources))))
    if _is_logged(site, source):
        (run_dir / SPOOL).mkdir(exist_ok=True)
    else:
        results.detach_events()
    results.close()


def build(site: Site, name: str, place: Place) -> Stage:
    """The stage of that name, not opened yet. Only the parts that it uses are imported."""
    job, _, what = name.partition("/")
    match job:
        case "viewer":
            return _viewer(site, what, place)
        case "events":
            return _events(site, place)
        case "annotator":
            return _annotator(site, what, place)
        case "inference":
            return _inference(site, what, place)
        case "capture":
            return _capture(site, what, place)
    raise StartupError(f"{name!r} is not a stage; there are: {', '.join(spec.name for spec in stages(site))}")


def _capture(site: Site, source_id: str, place: Place) -> Stage:
    from pipeline.areas import Curtain
    from pipeline.capture.live_stage import LiveCaptureStage
    from pipeline.capture.stage import CaptureStage

    part = site.sources[source_id]
    areas = site.pipelines[site.pipeline_of(source_id)].privacy.values()
    private = [area for area in areas if area.applies_to(source_id)]
    source = part.plugin.create(part.config, source_id)
    stage = LiveCaptureStage if source.pacing == "live" else CaptureStage
    head, bell = Head.attach(place.run_dir, source_id), place.bell(source_id, "frame")
    if _is_tapped(site, source_id):
        source.tap = _tap(head, PacketRing.attach(_packets(place.run_dir, source_id)), source.pacing)
    return stage(f"capture/{source_id}", source, head, bell, curtain=Curtain(private) if private else None)


def _tap(head: Head, ring: PacketRing, pacing: str) -> PacketTap:
    from pipeline.capture.tap import PacketTap

    origin_ns = head.origin_ns(time.monotonic_ns()) if pacing == "live" else 0

    def wall_ns(time_s: float) -> int:
        match pacing:
            case "live":
                return time.time_ns() - time.monotonic_ns() + origin_ns + round(time_s * 1e9)
            case "lossless":
                return head.start_wall_ns(time.time_ns()) + round(time_s * 1e9)
        return time.time_ns()

    return PacketTap(ring, origin_s=origin_ns / 1e9, wall_ns=wall_ns)


def _inference(site: Site, name: str, place: Place) -> Stage:
    from pipeline.analytics import source as analytics
    from pipeline.inference.detector import build_detector
    from pipeline.inference.lane import Lane
    from pipeline.inference.schedule import Pace, StillScene
    from pipeline.inference.stage import InferenceStage
    from pipeline.inference.views import Looks, ViewingDetector
    from pipeline.ulid import id_factory

    pipeline = site.pipelines[name]
    spec, backend = site.detectors[pipeline.detector], site.backends[pipeline.detector]
    card, files = _model(site, pipeline.detector, place.models_dir)
    rules = {rule: (site.rules[rule].plugin, site.rules[rule].config) for rule in pipeline.rules}

    frame_bell = BellListener(place.context)

    def create_lane(source_id: str) -> Lane:
        head = Head.attach(place.run_dir, source_id)
        path = place.bell_path(source_id, "frame")
        frame_bell.listen(path)
        return Lane(
            head,
            Reader(head, INFERENCE),
            ResultLog.attach(place.run_dir, source_id),
            analytics.build(
                source_id,
                card.labels,
                rules,
                id_factory(place.run_id.encode()),
                confidence_min=spec.confidence_min,
                zones=pipeline.zones,
                schedule=pipeline.schedule,
                model=analytics.Model(card.name, files.sha256),
            ),
            place.bell(source_id, "result"),
            place.bell(source_id, "event"),
            Pace(pipeline.detect.max_fps),
            StillScene(pipeline.detect.region) if pipeline.detect.motion == "gate" else None,
            leave=lambda: frame_bell.ignore(path),
        )

    def create_detector() -> ViewingDetector:
        detector = build_detector(
            spec.model,
            backend.kind,
            backend.config.model_dump(),
            confidence_min=analytics.detector_confidence(spec.confidence_min),
            iou_max=spec.iou_max,
            nms=spec.nms,
            models_dir=place.models_dir,
        )
        detect = pipeline.detect
        return ViewingDetector(detector, Looks(detect.region, detect.tiles, detect.overlap))

    return InferenceStage(
        f"{INFERENCE}/{name}",
        pipeline.sources,
        create_lane,
        create_detector,
        frame_bell,
        in_flight=spec.in_flight or processors(),
        told=place.told,
    )


def _annotator(site: Site, source_id: str, place: Place) -> Stage:
    from pipeline.sinks import live
    from pipeline.sinks.annotator_stage import AnnotatorStage
    from pipeline.sinks.encoder import Encoder, EncoderConfig
    from pipeline.sinks.live import LivePackets
    from pipeline.sinks.sink import SinkContext
    from pipeline.sinks.spool import Spool

    pipeline = site.pipelines[site.pipeline_of(source_id)]
    labels = _labels(site, pipeline, place.models_dir)
    encoder = EncoderConfig.model_validate(pipeline.encode.model_dump())
    spool = Spool(place.run_dir / SPOOL, source_id)
    logged = _is_logged(site, source_id)
    sinks: list[Any] = []
    if _has_live_packets(site, pipeline):
        sinks.append(LivePackets(place.context, live.address(place.run_dir, source_id)))
    for name, part in _sinks(site, pipeline, "packets").items():
        state_dir = place.state_dir(name, source_id)
        context = SinkContext(name, place.run_id, state_dir, source_id, place.restarted, labels)
        if logged:
            context = replace(context, tell=spool.tell)
        if getattr(part.config, "untouched", False):
            context = replace(context, packets=_packets(place.run_dir, source_id))
        sinks.append(part.plugin.create(part.config, context))
    return AnnotatorStage(
        f"{ANNOTATOR}/{source_id}",
        Reader(Head.attach(place.run_dir, source_id), ANNOTATOR),
        ResultLog.attach(place.run_dir, source_id),
        place.listener(source_id, "result"),
        sinks,
        create_encoder=lambda layout: Encoder(layout, encoder),
        create_overlay=overlays(site, source_id, place.models_dir),
        on_finish=spool.end if logged else None,
    )


def overlays(site: Site, source_id: str, models_dir: Path | None) -> Callable[[Layout], Overlay]:
    """Whoever shows this source's pictures draws them by this."""
    from pipeline.sinks.overlay import Overlay

    pipeline = site.pipelines[site.pipeline_of(source_id)]
    labels = _labels(site, pipeline, models_dir)
    return lambda layout: Overlay(layout, source_id, labels, pipeline.blur)


def _viewer(site: Site, name: str, place: Place) -> Stage:
    from pipeline.sinks import live
    from pipeline.sinks.sink import SinkContext
    from pipeline.sinks.view import SiteView, View
    from pipeline.sinks.view_stage import ViewStage

    sources = _watched(site)[name]

    def create_site() -> SiteView:
        return SiteView(
            site.name,
            {source: View(place.run_dir, source, overlays(site, source, place.models_dir)) for source in sources},
            packets={source: live.address(place.run_dir, source) for source in sources},
            bells={source: ipc(place.run_dir / f"{source}.result-bell") for source in sources},
            event_log=event_log_path(site, place.run_dir),
            evidence=_places(site, "clips"),
            recordings=_places(site, "recorder"),
        )

    context = SinkContext(name, place.run_id, place.state_dir(name), restarted=place.restarted, site=site.name)
    part = site.sinks[name]
    return ViewStage(f"{VIEWER}/{name}", create_site, part.plugin.create(part.config, context))


def _places(site: Site, kind: str) -> list[Path]:
    """The files and folders that the site's sinks of that kind write."""
    configs = [part.config for part in site.sinks.values() if part.kind == kind]
    found = [getattr(config, "directory", None) or getattr(config, "path", None) for config in configs]
    return [place for place in found if place]


def _labels(site: Site, pipeline: PipelineSpec, models_dir: Path | None) -> tuple[str, ...]:
    """What the pipeline's model calls its classes; raises ``ConfigError`` where there is no such model."""
    from pipeline.inference.model_card import read_card

    return read_card(resources.card_path(site.detectors[pipeline.detector].model, models_dir)).labels


def event_log_path(site: Site, run_dir: Path) -> Path:
    """Where the site's event log lies: with the run, or where it outlives it."""
    if not site.events.retention_days:
        return run_dir / EVENT_LOG
    return (site.events.directory or resources.user_state_dir()) / site.name / EVENT_LOG


def shown_event_log(site: Site, run_dir: Path) -> str | None:
    """The same for other shells; None where no stage keeps events."""
    return str(event_log_path(site, run_dir)) if any(spec.name == "events" for spec in stages(site)) else None


def _events(site: Site, place: Place) -> Stage:
    from pipeline.sinks.delivery import Delivery
    from pipeline.sinks.event_log import EventLog
    from pipeline.sinks.events_stage import EventsStage, Inlet, OutboxInlet
    from pipeline.sinks.sink import SinkContext
    from pipeline.sinks.spool import SpoolInlet

    path = event_log_path(site, place.run_dir)
    sources: dict[str, set[str]] = {}
    for pipeline in site.pipelines.values():
        for name in _sinks(site, pipeline, "events"):
            sources.setdefault(name, set()).update(pipeline.sources)
    deliveries = []
    for name, its in sources.items():
        context = SinkContext(
            name,
            place.run_id,
            place.state_dir(name),
            restarted=place.restarted,
            site=site.name,
            sources=tuple(sorted(its)),
            event_log=path,
        )
        sink = site.sinks[name].plugin.create(site.sinks[name].config, context)
        deliveries.append(Delivery(name, sink, frozenset(its), path.parent / "cursors" / name))
    specs = {spec.name: spec for spec in stages(site)}
    spec = specs["events"]
    inlets: list[Inlet] = [
        OutboxInlet(source, ResultLog.attach(place.run_dir, source), place.listener(source, "event"))
        for source in sorted(spec.sources)
    ]
    annotated = {s: Head.attach(place.run_dir, s) for s in spec.sources if f"{ANNOTATOR}/{s}" in specs}
    if annotated:
        inlets.append(SpoolInlet(place.run_dir / SPOOL, {s: partial(_is_gone, head) for s, head in annotated.items()}))
    kept_s = site.events.retention_days * 86400
    return EventsStage(
        "events",
        inlets,
        deliveries,
        lambda: EventLog(path, place.run_id, sync_every_event=site.events.durability == "full"),
        retention_s=kept_s or None,
        restarted=place.restarted,
        bell=place.bell(*LOGGED),
    )


def _is_gone(head: Head) -> bool:
    """Whether the source's annotator has failed for good."""
    return head.part(ANNOTATOR) == DETACHED


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
