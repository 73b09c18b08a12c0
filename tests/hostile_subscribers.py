"""A hundred connections that mean no good: they never read, ask without end, and talk nonsense; until killed.

It paces itself, so that what suffers is the site and not the processor that both share.
"""

from __future__ import annotations

import socket
import sys
import time
from typing import Any
from urllib.parse import urlsplit

import zmq

QUESTIONS = (b'{"after": 0}', b'{"after": -1}', b"\xff" * 100, b"[" * 3000, b"x" * 100_000)
PAUSE_S = 0.05


def main(address: str, replay: str) -> None:
    context: zmq.Context[Any] = zmq.Context()
    deaf = [_connected(context, zmq.SUB, address) for _ in range(30)]
    askers = [_connected(context, zmq.DEALER, replay) for _ in range(30)]
    for peer in deaf:
        peer.subscribe("")
    raw: list[socket.socket | None] = [None] * 40
    while True:
        for number, peer in enumerate(askers):
            if peer.poll(0, zmq.POLLOUT):
                peer.send(QUESTIONS[number % len(QUESTIONS)], zmq.NOBLOCK)
        for number, connection in enumerate(raw):
            raw[number] = _still_there(connection) or _raw((address, replay)[number % 2])
        time.sleep(PAUSE_S)


def _connected(context: zmq.Context[Any], kind: int, address: str) -> Any:
    peer = context.socket(kind)
    peer.rcvhwm = 1
    peer.linger = 0
    peer.connect(address)
    return peer


def _raw(address: str) -> socket.socket | None:
    parts = urlsplit(address)
    try:
        connection = socket.create_connection((parts.hostname or "", parts.port or 0))
    except OSError:
        return None  # the site is not there yet
    connection.setblocking(False)
    return connection


def _still_there(connection: socket.socket | None) -> socket.socket | None:
    """Half of them talk before any handshake; None when the site has had enough of one."""
    if connection is None:
        return None
    try:
        if connection.fileno() % 2:
            connection.send(b"GET / HTTP/1.1\r\n\r\n" * 10)
    except OSError:
        connection.close()
        return None
    return connection


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
