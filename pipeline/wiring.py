"""Configuration + stage name → a built stage: the only file that knows every part."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import StartupError
from pipeline.place import Place
from pipeline.plan import (
    ANNOTATOR,
    INFERENCE,
    LOGGED,
    SPOOL,
    VIEWER,
    event_log_path,
    has_live_packets,
    is_logged,
    is_tapped,
    labels_of,
    model_of,
    packets_path,
    processors,
    sinks_of,
    stages,
    watched,
)
from pipeline.specs import Site
from pipeline.stage import Stage
from pipeline.transport.channel import BellListener, ipc
from pipeline.transport.head import DETACHED, Head
from pipeline.transport.packet_ring import PacketRing
from pipeline.transport.results import ResultLog
from pipeline.transport.ring import Reader
from pipeline.types import Layout

if TYPE_CHECKING:
    from pipeline.capture.tap import PacketTap
    from pipeline.sinks.overlay import Overlay


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
    if is_tapped(site, source_id):
        source.tap = _tap(head, PacketRing.attach(packets_path(place.run_dir, source_id)), source.pacing)
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

    return PacketTap(ring, origin_s=origin_ns / 1e9, wall_ns=wall_ns, next_frame=lambda: head.next_seq)


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
    card, files = model_of(site, pipeline.detector, place.models_dir)
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
    labels = labels_of(site, pipeline, place.models_dir)
    encoder = EncoderConfig.model_validate(pipeline.encode.model_dump())
    spool = Spool(place.run_dir / SPOOL, source_id)
    logged = is_logged(site, source_id)
    sinks: list[Any] = []
    if has_live_packets(site, pipeline):
        sinks.append(LivePackets(place.context, live.address(place.run_dir, source_id)))
    for name, part in sinks_of(site, pipeline, "packets").items():
        state_dir = place.state_dir(name, source_id)
        context = SinkContext(name, place.run_id, state_dir, source_id, place.restarted, labels)
        if logged:
            context = replace(context, tell=spool.tell)
        if getattr(part.config, "untouched", False):
            context = replace(context, packets=packets_path(place.run_dir, source_id))
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
    labels = labels_of(site, pipeline, models_dir)
    return lambda layout: Overlay(layout, source_id, labels, pipeline.blur)


def _viewer(site: Site, name: str, place: Place) -> Stage:
    from pipeline.sinks import live
    from pipeline.sinks.sink import SinkContext
    from pipeline.sinks.view import SiteView, View
    from pipeline.sinks.view_stage import ViewStage

    sources = watched(site)[name]

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


def _events(site: Site, place: Place) -> Stage:
    from pipeline.sinks.delivery import Delivery
    from pipeline.sinks.event_log import EventLog
    from pipeline.sinks.events_stage import EventsStage, Inlet, OutboxInlet
    from pipeline.sinks.sink import SinkContext
    from pipeline.sinks.spool import SpoolInlet

    path = event_log_path(site, place.run_dir)
    sources: dict[str, set[str]] = {}
    for pipeline in site.pipelines.values():
        for name in sinks_of(site, pipeline, "events"):
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
        lambda: EventLog(
            path, place.run_id, cursors=path.parent / "cursors", sync_every_event=site.events.durability == "full"
        ),
        retention_s=kept_s or None,
        restarted=place.restarted,
        bell=place.bell(*LOGGED),
    )


def _is_gone(head: Head) -> bool:
    """Whether the source's annotator has failed for good."""
    return head.part(ANNOTATOR) == DETACHED
