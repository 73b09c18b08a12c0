"""Packets that get lost on the way: what is looked at is whole, what is not is marked, and everybody is told."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.capture.sources.rtsp import Config, create
from tests.cameras import await_state, outages, recordings, site
from tests.numbered import number_in
from tests.rtsp_server import FRAMES, RtspServer, film
from tests.runs import Program, wait_until

COUNT, SIZE = 100, (640, 360)
PSNR_MIN_DB = 25.0


class Lossy(NamedTuple):
    """What came of some hundred pictures."""

    clean: int
    damaged: int
    worst_db: float


@pytest.fixture(scope="module")
def camera_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About ten packets a picture."""
    return film(tmp_path_factory.mktemp("film") / "one.mp4", 1, COUNT, size=SIZE, options={"crf": "10"})


@pytest.fixture(scope="module")
def sent(camera_film: Path) -> list[NDArray[np.uint8]]:
    """The luma of the film's pictures as every loss-free decoder gives them."""
    with av.open(str(camera_film)) as container:
        return [luma.copy() for luma in map(luma_of, container.decode(video=0))]


def luma_of(frame: av.VideoFrame) -> NDArray[np.uint8]:
    plane = frame.planes[0]
    whole: NDArray[np.uint8] = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return whole[: frame.height, : frame.width]


def psnr_db(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    error = float(np.mean((one.astype(np.float64) - other) ** 2))
    return 99.0 if error == 0 else 10 * float(np.log10(255**2 / error))


def look(server: RtspServer, sent: list[NDArray[np.uint8]], count: int, transport: str = "udp") -> Lossy:
    """Reads ``count`` pictures; every one that is not marked must be one that was sent, as it was sent."""
    source = create(Config.model_validate({"url": server.url("one"), "transport": transport}), "gate")
    clean = damaged = 0
    worst_db = 99.0
    with contextlib.closing(source):
        source.open()
        for _ in range(count):
            picture = source.read()
            if picture.corrupt:
                damaged += 1
                continue
            clean += 1
            number = number_in(picture.image.y) - FRAMES
            worst_db = min(worst_db, psnr_db(picture.image.y, sent[number]))
    print(f"{clean} clean, {damaged} damaged, worst {worst_db:.1f} dB")
    return Lossy(clean, damaged, worst_db)


@pytest.mark.parametrize(("lost", "count"), [(0.001, 200), (0.005, 150), (0.05, 100)])
def test_what_is_looked_at_is_whole(camera_film: Path, sent: list[NDArray[np.uint8]], lost: float, count: int) -> None:
    with RtspServer({"one": [camera_film]}, lost=lost) as server:
        seen = look(server, sent, count)
    assert seen.worst_db >= PSNR_MIN_DB
    assert seen.damaged > 0
    if lost == 0.001:
        assert seen.clean >= count / 2


def test_wrong_bytes_are_noticed(camera_film: Path, sent: list[NDArray[np.uint8]]) -> None:
    """They arrive in order, over TCP, and only the decoder can tell."""
    with RtspServer({"one": [camera_film]}) as server:
        server.damage("one", 0.05)
        seen = look(server, sent, 100, "tcp")
    assert seen.damaged > 0
    assert seen.clean > 0
    assert seen.worst_db >= PSNR_MIN_DB


@pytest.fixture
def lossy_server(camera_film: Path) -> Iterator[RtspServer]:
    with RtspServer({"one": [camera_film]}, lost=0.05) as server:
        yield server


def test_a_lossy_camera_is_live_and_says_so(bare_program: Program, lossy_server: RtspServer) -> None:
    """Damaged pictures are recorded, not looked at, and counted; nobody calls it an outage."""
    source = {"url": lossy_server.url("one"), "transport": "udp"}
    run = bare_program.start("run", "--json", site(bare_program.cwd, {"gate": source}))
    with run.head("gate") as head, run.results("gate") as results:
        await_state(head, "live")
        wait_until(lambda: head.status is not None and head.status.reason == "packet_loss", "loss that is told")
        wait_until(lambda: head.corrupt >= 20 and results.published >= 60, "some damaged pictures")
        assert head.status is not None
        assert head.status.state == "live"
        run.signal(signal.SIGINT)
        outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    frames = outcome.report["frames"]
    assert frames["skipped"]["corrupt"] == outcome.report["sources"]["gate"]["corrupt"] >= 20
    assert frames["written"] == frames["decoded"]
    assert "transport: tcp" in outcome.stderr
    assert outages(bare_program.cwd) == []
    assert recordings(bare_program.cwd)
