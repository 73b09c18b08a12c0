"""Metrics and probes over HTTP, out of a run directory."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from http import HTTPStatus
from http.client import RemoteDisconnected
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.errors import StartupError
from pipeline.metrics import REQUEST_S_MAX, MetricsServer
from pipeline.transport.results import ResultLog
from pipeline.types import FrameRef, Result
from tests.unit.stages.fakes import head_in
from tests.unit.test_status import describe, entry


class Loop:
    """How long a supervisor has not come round."""

    silent_s = 0.1


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def server(tmp_path: Path, loop: Loop) -> Iterator[MetricsServer]:
    head_in(tmp_path).close()
    ResultLog.create(tmp_path, "gate").close()
    describe(tmp_path, entry("inference/all"), entry("capture/gate"))
    with closing(MetricsServer(tmp_path, 0, lambda: loop.silent_s)) as server:
        server.open()
        yield server


def get(server: MetricsServer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(server.address + path, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def values(text: str) -> dict[tuple[str, ...], float]:
    """Name and label values → value."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(s.name, *(label for _, label in sorted(s.labels.items()))): s.value for s in samples}


def test_metrics_are_what_the_run_directory_says(server: MetricsServer, tmp_path: Path) -> None:
    results = ResultLog.attach(tmp_path, "gate")
    for seq, (reason, latency_ms) in enumerate([(None, 15), (None, 80), ("rate", 0)]):
        result = Result(FrameRef("gate", seq, 0, seq / 25, 1, 0), (), reason is None, reason)
        results.commit(result, [], None, (2, 1))
        results.note_latency(result, 1 + latency_ms * 1_000_000)
    status, text = get(server, "/metrics")
    assert status == 200
    found = values(text)
    assert found["facemask_detected_frames_total", "gate"] == 2
    assert found["facemask_skipped_frames_total", "rate", "gate"] == 1
    assert found["facemask_faces_total", "mask", "gate"] == 4
    assert found["facemask_source_state", "gate", "connecting"] == 1
    assert found["facemask_source_state", "gate", "live"] == 0
    assert found["facemask_stage_up", "capture/gate"] == 1
    assert found["facemask_stage_memory_bytes", "capture/gate"] > 5e6
    buckets = [found["facemask_latency_seconds_bucket", edge, "gate"] for edge in ("0.01", "0.02", "0.1", "+Inf")]
    assert buckets == [0, 1, 2, 2]
    assert found["facemask_latency_seconds_sum", "gate"] == pytest.approx(0.095, rel=0.05)


def test_a_site_is_ready_when_every_stage_runs_and_well_until_one_fails(
    server: MetricsServer, tmp_path: Path, loop: Loop
) -> None:
    assert (get(server, "/healthz")[0], get(server, "/readyz")[0]) == (200, 200)
    describe(tmp_path, entry("inference/all", state="starting"), entry("capture/gate"))
    status, body = get(server, "/readyz")
    assert (status, json.loads(body)["not_running"]) == (503, ["inference/all"])
    assert get(server, "/healthz")[0] == 200
    describe(tmp_path, entry("inference/all", state="failed", pid=None), entry("capture/gate"))
    status, body = get(server, "/healthz")
    assert (status, json.loads(body)["failed"]) == (503, ["inference/all"])
    describe(tmp_path, entry("inference/all"), entry("capture/gate"))
    loop.silent_s = 60
    assert (get(server, "/healthz")[0], get(server, "/readyz")[0]) == (503, 503)


def test_another_path_says_which_there_are(server: MetricsServer) -> None:
    assert get(server, "/") == (404, "there are: /metrics /healthz /readyz\n")
    assert get(server, "/metrics?x=1")[0] == 200


def test_who_says_nothing_holds_nobody_up_for_long(server: MetricsServer) -> None:
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
    status, _ = get(server, "/healthz")
    assert status == 200
    for connection in silent:
        connection.settimeout(REQUEST_S_MAX * 10)
        assert connection.recv(1) == b""
        connection.close()


@pytest.mark.parametrize(("error", "logged"), [(ZeroDivisionError("our fault"), True), (BrokenPipeError(), False)])
def test_a_fault_of_ours_is_logged_and_somebody_who_went_is_not(
    server: MetricsServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    logged: bool,
) -> None:
    def answer(path: str) -> tuple[HTTPStatus, str, bytes]:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(server, "answer", answer)
        with pytest.raises(RemoteDisconnected):
            get(server, "/metrics")
    assert ("our fault" in caplog.text) is logged
    assert get(server, "/healthz")[0] == 200


def test_a_port_that_is_taken_is_said_in_one_line(server: MetricsServer, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=rf"operation.metrics_port: {server.port} is taken on 127.0.0.1"):
        MetricsServer(tmp_path, server.port, lambda: 0)


def test_after_the_end_there_is_nothing_to_tell(server: MetricsServer, tmp_path: Path) -> None:
    (tmp_path / "site.json").unlink()
    assert get(server, "/healthz") == (503, "the run has ended\n")
