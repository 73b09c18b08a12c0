"""How a running site is doing, for anybody who can read its run directory: the status command, metrics, probes.

Sources are told from shared memory, stages from /proc and from what the supervisor describes in the run directory
(which processes there are, how often they were started again). Nothing is asked of anyone, so nothing is slowed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline import procfs
from pipeline.errors import FrameExpired
from pipeline.plan import CAPTURE
from pipeline.process import StageEntry
from pipeline.report import QUANTILES, Gauges, SourceFigures
from pipeline.transport.head import Head
from pipeline.transport.results import latency_quantiles_ms
from pipeline.transport.run_directory import description_in


class SourceReport(msgspec.Struct, frozen=True, kw_only=True):
    """One source now. Counts are of the whole run; rates are since the report before, None in the first.

    state, reason: as ``SourceStatus``, unless its capture does not run: then ``backing_off`` where that waits for its
    next start, else ``connecting``, and why it was started again. since_s: for how long, where that is known.
    newest_s: age of the newest frame. skipped: by cause.
    losses: how often it was live and then lost; reconnects: how often it came back from that. latency_ms: capture to
    result; begun_ms: age of a frame when a look at it begins.
    """

    state: str
    reason: str
    since_s: float | None
    fps: float | None
    detected_fps: float | None
    newest_s: float | None
    frames: int
    detected: int
    skipped: Mapping[str, int]
    corrupt: int
    undecoded: int
    missing: int
    faces_mask: int
    faces_no_mask: int
    events: int
    losses: int
    reconnects: int
    latency_ms: Mapping[str, float | None]
    begun_ms: Mapping[str, float | None]


class StageReport(msgspec.Struct, frozen=True, kw_only=True):
    """One stage now. cpu: processors that it keeps busy since the report before; cpu_s: since its process began.

    reason: why it failed, or was started again last. restart_in_s: of one that is left alone for a while.
    """

    state: str
    pid: int | None
    restarts: int
    reason: str | None
    restart_in_s: float | None
    cpu: float | None
    cpu_s: float | None
    memory_mb: float | None


class SiteReport(msgspec.Struct, frozen=True, kw_only=True):
    """A running site now. ready: every stage runs. failed: the stages that are not started again."""

    name: str
    run_id: str
    pid: int
    ready: bool
    failed: list[str]
    sources: Mapping[str, SourceReport]
    stages: Mapping[str, StageReport]


class Monitor:
    """Reads the reports of one run; not for several threads at a time."""

    def __init__(self, run_dir: Path, *, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._run_dir = run_dir
        self._clock_ns = clock_ns
        self._gauges: Gauges | None = None
        self._run_id = ""
        self._counts: dict[str, tuple[int, int, int]] = {}
        self._cpu: dict[tuple[str, int], tuple[int, float]] = {}

    def read(self) -> SiteReport:
        """The site now; raises ``FileNotFoundError`` where it runs no more."""
        description = description_in(self._run_dir)
        stages = {
            entry.name: self._stage(entry) for entry in msgspec.convert(description["processes"], list[StageEntry])
        }
        names = [name.partition("/")[2] for name in stages if name.startswith(f"{CAPTURE}/")]
        gauges = self._attached(description["run_id"], names)
        return SiteReport(
            name=description["name"],
            run_id=description["run_id"],
            pid=description["pid"],
            ready=all(stage.state in ("running", "done") for stage in stages.values()),
            failed=[name for name, stage in stages.items() if stage.state == "failed"],
            sources={
                source: self._source(gauges, source, figures, stages[f"{CAPTURE}/{source}"])
                for source, figures in gauges.read().items()
            },
            stages=stages,
        )

    def latency_counts(self) -> dict[str, NDArray[np.int64]]:
        """Of each source of the report before, see ``ResultLog``."""
        return {source: log.latency_counts for source, log in self._gauges.results.items()} if self._gauges else {}

    def begun_counts(self) -> dict[str, NDArray[np.int64]]:
        """The same of the ages of frames when a look at them began."""
        return {source: log.age_counts for source, log in self._gauges.results.items()} if self._gauges else {}

    def _attached(self, run_id: str, sources: list[str]) -> Gauges:
        """Sources may come and go while a site runs, and another run of the site may have taken its place."""
        if self._gauges is None or self._run_id != run_id or list(self._gauges.heads) != sources:
            self.close()
            if self._run_id != run_id:
                self._run_id = run_id
                self._counts.clear()
            self._gauges = Gauges(sources, self._run_dir)
        return self._gauges

    def _source(self, gauges: Gauges, source: str, figures: SourceFigures, capture: StageReport) -> SourceReport:
        head, results = gauges.heads[source], gauges.results[source]
        now_ns = self._clock_ns()
        before = self._counts.get(source)
        self._counts[source] = now_ns, figures.decoded, figures.detected
        since_s = (now_ns - before[0]) / 1e9 if before else 0.0
        newest_s = None
        with contextlib.suppress(FrameExpired):
            if figures.decoded:
                newest_s = (now_ns - head.ref(figures.decoded - 1).captured_ns) / 1e9
        state, reason, changed_s = _state(head, capture, now_ns)
        return SourceReport(
            state=state,
            reason=reason,
            since_s=changed_s,
            fps=round((figures.decoded - before[1]) / since_s, 1) if before and since_s else None,
            detected_fps=round((figures.detected - before[2]) / since_s, 1) if before and since_s else None,
            newest_s=newest_s if newest_s is None else round(newest_s, 3),
            frames=figures.decoded,
            detected=figures.detected,
            skipped=figures.skipped,
            corrupt=figures.corrupt,
            undecoded=head.undecoded,
            missing=figures.missing,
            faces_mask=figures.faces_mask,
            faces_no_mask=figures.faces_no_mask,
            events=figures.events,
            losses=head.losses,
            reconnects=_reconnects(head),
            latency_ms=_quantiles(results.latency_counts),
            begun_ms=_quantiles(results.age_counts),
        )

    def _stage(self, entry: StageEntry) -> StageReport:
        now_ns = self._clock_ns()
        cpu_s = memory_mb = cpu = None
        if entry.pid is not None:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                cpu_s = procfs.times(entry.pid).own_s
                before = self._cpu.get((entry.name, entry.pid))
                self._cpu[entry.name, entry.pid] = now_ns, cpu_s
                if before and now_ns > before[0]:
                    cpu = round((cpu_s - before[1]) / ((now_ns - before[0]) / 1e9), 3)
                memory_mb = round(procfs.pss_mb(entry.pid), 1)
        waits = entry.state == "waiting" and entry.start_at_s > now_ns / 1e9
        return StageReport(
            state=entry.state,
            pid=entry.pid,
            restarts=entry.restarts,
            reason=entry.reason,
            restart_in_s=round(entry.start_at_s - now_ns / 1e9, 1) if waits else None,
            cpu=cpu,
            cpu_s=cpu_s,
            memory_mb=memory_mb,
        )

    def close(self) -> None:
        """Safe twice."""
        if self._gauges is not None:
            self._gauges.close()
            self._gauges = None


def _state(head: Head, capture: StageReport, now_ns: int) -> tuple[str, str, float | None]:
    """How a source stands, why, and for how many seconds; a file says so only by its frames and its end."""
    if head.end_seq is not None:
        return "ended", head.end_reason, None
    if capture.state in ("waiting", "starting"):  # what the source says of itself is of its capture's former life
        return "connecting" if capture.restart_in_s is None else "backing_off", capture.reason or "", None
    status = head.status
    if status is not None:
        return status.state, status.reason, round((now_ns - status.since_ns) / 1e9, 1)
    return ("live" if head.next_seq else "connecting"), "", None


def _reconnects(head: Head) -> int:
    status = head.status
    return head.losses - int(head.losses > 0 and status is not None and status.state not in ("live", "ended"))


def _quantiles(counts: NDArray[np.int64]) -> dict[str, float | None]:
    return dict(zip(QUANTILES, latency_quantiles_ms(counts, list(QUANTILES.values())), strict=True))
