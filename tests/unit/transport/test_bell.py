from __future__ import annotations

from contextlib import closing
from pathlib import Path

import zmq

from pipeline.transport.channel import Bell, BellListener

PATIENCE_MS = 1000


def test_every_ring_is_heard_however_quickly_they_follow(run_base: Path) -> None:
    ringing: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    hearing: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with (
        ringing,
        hearing,
        closing(Bell(ringing, run_base / "bell")) as bell,
        closing(BellListener(hearing, run_base / "bell")) as ear,
    ):
        while not ear.socket.poll(1):  # until it is connected
            bell.ring()
        unheard = 0
        for _ in range(300):
            ear.clear()
            bell.ring()
            unheard += not ear.socket.poll(PATIENCE_MS)
        assert unheard == 0
