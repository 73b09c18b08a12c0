"""What lies between the camera and us fails in the middle of a stream: everything vanishes, or turns to garbage."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

import pytest

from pipeline.capture.source import SourceLost
from pipeline.capture.sources.rtsp import Config, RtspSource, create
from pipeline.types import Picture
from tests.rtsp_server import RtspServer, film
from tests.runs import PATIENCE_S

Mode = Literal["passes", "gone", "trickles", "floods"]
STALL_S = 1.0


class Way:
    """A TCP relay to a server; what the server sends vanishes or is replaced by garbage when it is told so."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._chance = random.Random(2026)
        self.port = int(self._listening.getsockname()[1])
        self.mode: Mode = "passes"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                thread = threading.Thread(target=self._relay, args=(client,))
                thread.start()
                self._threads.append(thread)

    def _relay(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._server_port))
        with client, server, contextlib.suppress(OSError):
            while True:
                for ready in select.select([client, server], [], [], 0.02)[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    if ready is client:
                        server.sendall(data)
                    elif self.mode == "passes":
                        client.sendall(data)
                if self.mode in ("trickles", "floods"):
                    client.sendall(self._chance.randbytes(3 if self.mode == "trickles" else 65536))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture
def way(tmp_path: Path) -> Iterator[Way]:
    with RtspServer({"one": [film(tmp_path / "one.mp4", 1)]}) as server, Way(server.port) as way:
        yield way


def read_until_lost(source: RtspSource, way: Way, mode: Mode) -> None:
    for _ in range(20):
        source.read()
    way.mode = mode
    while True:
        source.read()


def read_again(source: RtspSource) -> Picture:
    """As often as it takes: the server has to find out first that its last client has left."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            source.open()
            return source.read()
        except SourceLost:
            assert time.monotonic() < deadline_s
            source.close()


@pytest.mark.parametrize("mode", ["gone", "trickles", "floods"])
def test_a_stream_that_fails_in_the_middle_is_lost_in_time_and_comes_back(way: Way, mode: Mode) -> None:
    source = create(Config.model_validate({"url": f"rtsp://127.0.0.1:{way.port}/one", "stall_s": STALL_S}), "gate")
    with contextlib.closing(source):
        source.open()
        with pytest.raises(SourceLost) as caught:
            read_until_lost(source, way, mode)
        silent_s = time.monotonic() - source.heard_s
        print(f"{mode}: {caught.value.reason}, {silent_s:.2f} s after the last packet")
        assert silent_s < 3 * STALL_S
        if mode == "gone":
            assert caught.value.reason == "timeout"
        way.mode = "passes"
        assert not read_again(source).corrupt
