"""What a site becomes: its stages, and what they share before any of them runs.

A site becomes these stages, from the sinks to the captures:

``viewer/<sink>``        one for each sink that watches
``events``               one, where events are kept or shown or any event sink is configured
``annotator/<source>``   one for each source with a packet sink, or a sink that watches its packets
``inference/<pipeline>`` one for each pipeline
``capture/<source>``     one for each source
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import resources
from pipeline.errors import StartupError
from pipeline.specs import Part, PipelineSpec, Site
from pipeline.transport import shared
from pipeline.transport.channel import ipc
from pipeline.transport.head import LOSSLESS, SKIPPABLE, Head
from pipeline.transport.packet_ring import PacketRing
from pipeline.transport.results import EVENTS_WAITING, OUTBOX, ResultLog

if TYPE_CHECKING:
    from pipeline.inference.model_card import ModelCard
    from pipeline.inference.weights import RuntimeFiles

HEALTH_SOCKET = "health"
EVENT_LOG = "events.sqlite"
LOGGED = ("events", "log")
"""The bell that says that the event log has something new."""
SPOOL = "spool"
PACKET_BYTES = 8_000_000
"""Room for a source's own packets on their way to the disk: eight seconds at 8 Mbit/s."""
CAPTURE, INFERENCE, ANNOTATOR, VIEWER = "capture", "inference", "annotator", "viewer"


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One stage of a site. sources: whose data goes through it. runtime: in which it loads a model, if it does.

    lasting: it serves cameras alone, which do not wait for it: it is started again for ever. That is its supervisor's
    affair: a stage that differs in it alone has not changed.
    """

    name: str
    sources: tuple[str, ...]
    runtime: str | None = None
    lasting: bool = field(default=False, compare=False)

    @property
    def job(self) -> str:
        return self.name.partition("/")[0]


def sinks_of(site: Site, pipeline: PipelineSpec, accepts: str) -> dict[str, Part]:
    parts = {name: site.sinks[name] for name in pipeline.sinks}
    return {name: part for name, part in parts.items() if getattr(part.config, "accepts", None) == accepts}


def watched(site: Site) -> dict[str, list[str]]:
    """The sinks that watch: name → the sources of all pipelines that name it."""
    found: dict[str, list[str]] = {}
    for pipeline in site.pipelines.values():
        for name in sinks_of(site, pipeline, "views"):
            found.setdefault(name, []).extend(pipeline.sources)
    return found


def has_live_packets(site: Site, pipeline: PipelineSpec) -> bool:
    """Whether somebody may want to take this pipeline's packets while they look."""
    return any(getattr(part.config, "takes_packets", False) for part in sinks_of(site, pipeline, "views").values())


def stages(site: Site) -> list[StageSpec]:
    """The stages of a site, sinks first."""
    viewers = watched(site)
    events = [source for p in site.pipelines.values() if sinks_of(site, p, "events") for source in p.sources]
    for name, its in viewers.items():
        events += its if getattr(site.sinks[name].config, "shows_events", False) else []
    if site.events.retention_days:
        events = list(site.sources)
    specs = [StageSpec(f"{VIEWER}/{name}", tuple(its)) for name, its in viewers.items()]
    specs += [StageSpec("events", tuple(dict.fromkeys(events)))] if events else []
    for pipeline in site.pipelines.values():
        if sinks_of(site, pipeline, "packets") or has_live_packets(site, pipeline):
            specs += [StageSpec(f"{ANNOTATOR}/{source}", (source,)) for source in pipeline.sources]
    specs += [
        StageSpec(f"{INFERENCE}/{name}", tuple(p.sources), site.backends[p.detector].kind)
        for name, p in site.pipelines.items()
    ]
    specs += [StageSpec(f"{CAPTURE}/{source}", (source,)) for p in site.pipelines.values() for source in p.sources]
    return [replace(spec, lasting=all(is_camera(site, source) for source in spec.sources)) for spec in specs]


def is_camera(site: Site, source: str) -> bool:
    """Whether it is lost and comes back, instead of coming to an end."""
    return getattr(site.sources[source].config, "comes_back", False)


def is_logged(site: Site, source: str) -> bool:
    """Whether the source's events go into the event log."""
    return any(spec.name == "events" and source in spec.sources for spec in stages(site))


def is_tapped(site: Site, source: str) -> bool:
    """Whether somebody stores what the source sends, untouched."""
    sinks = sinks_of(site, site.pipelines[site.pipeline_of(source)], "packets")
    return any(getattr(part.config, "untouched", False) for part in sinks.values())


def packets_path(run_dir: Path, source: str) -> Path:
    return run_dir / f"{source}.originals"


def check(site: Site, models_dir: Path | None) -> None:
    """What can be known to be wrong beside the configuration's own text, before anything starts.

    Raises ``ConfigError`` for a model without a card or without that runtime, ``StartupError`` for missing weights
    and for a processor whose memory order this program does not know.
    """
    if not shared.ORDERED:
        raise StartupError(shared.NOT_ORDERED)
    for name in {pipeline.detector for pipeline in site.pipelines.values()}:
        model_of(site, name, models_dir)


def model_of(site: Site, detector: str, models_dir: Path | None) -> tuple[ModelCard, RuntimeFiles]:
    """The model of this detector, and the files that it loads; raises as ``check`` does."""
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
    """The same for one source that has not been here in this run."""
    ipc(run_dir / f"{source}.result-bell")  # the longest of a source's sockets, refused here and not by each stage
    Head.create(run_dir, source, _readers(site, source)).close()
    if is_tapped(site, source):
        PacketRing.create(packets_path(run_dir, source), PACKET_BYTES).close()
    outbox = max(OUTBOX, -(-EVENTS_WAITING // len(site.sources)))
    results = ResultLog.create(run_dir, source, outbox, rules=_rules_of(site, source))
    if is_logged(site, source):
        (run_dir / SPOOL).mkdir(exist_ok=True)
    else:
        results.detach_events()
    results.close()


def end_path(run_dir: Path, source: str) -> Path:
    """What says that a source's annotator will tell no more events; gone before the source is opened again."""
    return run_dir / SPOOL / f"{source}.end"


def reopen_source(site: Site, source: str, head: Head) -> None:
    """The same for one that has been here, treated as now (``treatment``): its frames and events are counted on."""
    head.begin()
    head.reopen(_readers(site, source))


def discard_source(source: str, run_dir: Path) -> None:
    """Undoes ``prepare_source``, also a half of it."""
    for path in (run_dir / f"{source}.head", run_dir / f"{source}.results", packets_path(run_dir, source)):
        path.unlink(missing_ok=True)


def _readers(site: Site, source: str) -> list[tuple[str, int]]:
    readers = [(INFERENCE, LOSSLESS)]
    if any(spec.name == f"{ANNOTATOR}/{source}" for spec in stages(site)):
        kept = sinks_of(site, site.pipelines[site.pipeline_of(source)], "packets")
        readers.append((ANNOTATOR, LOSSLESS if kept else SKIPPABLE))  # who only watches holds nobody up
    return readers


def labels_of(site: Site, pipeline: PipelineSpec, models_dir: Path | None) -> tuple[str, ...]:
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


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
