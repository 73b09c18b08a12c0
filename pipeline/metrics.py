"""``/metrics`` for Prometheus, ``/healthz`` and ``/readyz``: how a site is doing, over HTTP on this machine only.

A thread of the supervisor answers, one request at a time, out of the run directory (``status``): a scrape costs what
reading shared memory and /proc costs, and no stage takes notice.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StartupError
from pipeline.status import Monitor, SiteReport
from pipeline.transport.results import latency_edges_s
from pipeline.types import SKIP_CAUSES, SourceState

LOOPBACK = "127.0.0.1"
REQUEST_S_MAX = 2.0
"""Whoever has not said by then what they want is not answered."""
LATENCY_BUCKETS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
UNRESPONSIVE_S = 10.0
"""A supervisor that has not come round for so long is not well."""

log = logging.getLogger(__name__)


class MetricsServer:
    """Answers from ``open`` to ``close``. port: 0 takes any that is free; ``port`` then says which."""

    def __init__(self, run_dir: Path, port: int, silent_s: Callable[[], float]) -> None:
        """silent_s: for how many seconds the supervisor's loop has not come round.

        Raises ``StartupError`` where the port is taken.
        """
        self._monitor = Monitor(run_dir)
        self._silent_s = silent_s
        owner = self

        class Handler(BaseHTTPRequestHandler):
            timeout = REQUEST_S_MAX

            def do_GET(self) -> None:
                status, kind, body = owner.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        try:
            self._server = _Server((LOOPBACK, port), Handler)
        except OSError as error:
            raise StartupError(f"operation.metrics_port: {port} is taken on {LOOPBACK}: {error.strerror}") from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.5,), name="metrics", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def open(self) -> None:
        self._thread.start()

    def answer(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        """Status, content type and body for one request."""
        path = path.partition("?")[0]
        if path not in ("/metrics", "/healthz", "/readyz"):
            return HTTPStatus.NOT_FOUND, "text/plain", b"there are: /metrics /healthz /readyz\n"
        try:
            report = self._monitor.read()
        except FileNotFoundError:
            return HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b"the run has ended\n"
        if path == "/metrics":
            return HTTPStatus.OK, *exposition(report, self._monitor.latency_counts())
        silent_s = self._silent_s()
        healthy = not report.failed and silent_s < UNRESPONSIVE_S
        good = healthy if path == "/healthz" else healthy and report.ready
        body = {
            "ok": good,
            "failed": report.failed,
            "not_running": [name for name, stage in report.stages.items() if stage.state not in ("running", "done")],
            "silent_s": round(silent_s, 1),
            "sources": {name: source.state for name, source in report.sources.items()},
        }
        status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
        return status, "application/json", msgspec.json.encode(body) + b"\n"

    def close(self) -> None:
        """Safe twice."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._monitor.close()


class _Server(HTTPServer):
    allow_reuse_address = True

    def handle_error(self, *_: Any) -> None:
        """An ``OSError``: whoever asked has gone, or never said what they want. Anything else is a fault of ours."""
        if not isinstance(sys.exception(), OSError):
            log.exception("a request for metrics could not be answered")


def exposition(report: SiteReport, latency_counts: Mapping[str, NDArray[np.int64]]) -> tuple[str, bytes]:
    """Content type and text of the report in Prometheus' format; latency_counts: of each source (``ResultLog``)."""
    from prometheus_client import generate_latest
    from prometheus_client.exposition import CONTENT_TYPE_LATEST
    from prometheus_client.registry import Collector

    class Report(Collector):
        def collect(self) -> Iterator[Any]:
            yield from _of_sources(report, latency_counts)
            yield from _of_stages(report)

    return CONTENT_TYPE_LATEST, generate_latest(Report())


def _of_sources(report: SiteReport, latency_counts: Mapping[str, NDArray[np.int64]]) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    sources = report.sources.items()
    state = GaugeMetricFamily("facemask_source_state", "1 for the state the source is in", labels=["source", "state"])
    skipped = CounterMetricFamily("facemask_skipped_frames", "Frames not looked at", labels=["source", "cause"])
    faces = CounterMetricFamily("facemask_faces", "Faces found, once a look", labels=["source", "class"])
    latency = HistogramMetricFamily("facemask_latency_seconds", "Capture to result", labels=["source"])
    for name, source in sources:
        for known in get_args(SourceState):
            state.add_metric([name, known], float(known == source.state))
        for cause in SKIP_CAUSES:
            skipped.add_metric([name, cause], source.skipped.get(cause, 0))
        faces.add_metric([name, "mask"], source.faces_mask)
        faces.add_metric([name, "no_mask"], source.faces_no_mask)
        latency.add_metric([name], *_histogram(latency_counts[name]))
    yield from (state, skipped, faces, latency)
    for what, help_, field in _SOURCE_COUNTERS:
        counter = CounterMetricFamily(f"facemask_{what}", help_, labels=["source"])
        for name, source in sources:
            counter.add_metric([name], getattr(source, field))
        yield counter
    age = GaugeMetricFamily("facemask_newest_frame_age_seconds", "Age of the newest frame", labels=["source"])
    for name, source in sources:
        if source.newest_s is not None:
            age.add_metric([name], source.newest_s)
    yield age


_SOURCE_COUNTERS = (
    ("frames", "Frames captured", "frames"),
    ("detected_frames", "Frames looked at", "detected"),
    ("damaged_frames", "Frames that came damaged", "corrupt"),
    ("undecoded_frames", "Frames that were not decoded because decoding could not keep up", "undecoded"),
    ("unrecorded_frames", "Frames that were gone before they could be recorded", "missing"),
    ("episodes", "Episodes begun", "events"),
    ("source_losses", "How often a live source was lost", "losses"),
)


def _of_stages(report: SiteReport) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    up = GaugeMetricFamily("facemask_stage_up", "Whether the stage's process is at work", labels=["stage"])
    restarts = CounterMetricFamily("facemask_stage_restarts", "How often it was started again", labels=["stage"])
    cpu = CounterMetricFamily("facemask_stage_cpu_seconds", "Processor time of its process", labels=["stage"])
    memory = GaugeMetricFamily("facemask_stage_memory_bytes", "Its share of memory (PSS)", labels=["stage"])
    for name, stage in report.stages.items():
        up.add_metric([name], float(stage.state == "running"))
        restarts.add_metric([name], stage.restarts)
        if stage.cpu_s is not None:
            cpu.add_metric([name], stage.cpu_s)
        if stage.memory_mb is not None:
            memory.add_metric([name], stage.memory_mb * 1e6)
    yield from (up, restarts, cpu, memory)


def _histogram(counts: NDArray[np.int64]) -> tuple[list[tuple[str, float]], float]:
    """Cumulative buckets, and the sum of all as near as the finer buckets tell it."""
    edges_s = latency_edges_s(len(counts))
    cumulative = counts.cumsum()
    below = [int(cumulative[i - 1]) if i else 0 for i in np.searchsorted(edges_s, LATENCY_BUCKETS_S, "right").tolist()]
    buckets = [(str(edge_s), float(count)) for edge_s, count in zip(LATENCY_BUCKETS_S, below, strict=True)]
    return [*buckets, ("+Inf", float(cumulative[-1]))], float((counts * edges_s).sum())
