"""Bells and health over ZeroMQ on this machine's ipc sockets.

A bell says "look at shared memory": it is empty, the newest one is enough, and a lost one costs at most the interval
at which everybody looks anyway. Health is pushed to the supervisor; when nobody takes it, it is dropped, never waited
for.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import zmq

from pipeline.errors import StartupError
from pipeline.transport import wire
from pipeline.types import Health

IPC_PATH_MAX = 107
RINGS_MAX = 1000
"""ZeroMQ looks only every millisecond or so which rings have been taken; with room for fewer, quick rings get lost."""

log = logging.getLogger(__name__)


def ipc(path: Path) -> str:
    """The address of a socket file; raises ``StartupError`` when the path is too long for the system."""
    if len(str(path)) > IPC_PATH_MAX:
        raise StartupError(f"{path}: a socket's path may have {IPC_PATH_MAX} characters, this has {len(str(path))}")
    return f"ipc://{path}"


class Bell:
    """Rung by the one process that owns it."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], path: Path) -> None:
        self._socket = context.socket(zmq.PUB)
        self._socket.setsockopt(zmq.SNDHWM, RINGS_MAX)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(ipc(path))

    def ring(self) -> None:
        with contextlib.suppress(zmq.Again):
            self._socket.send(b"", zmq.NOBLOCK)

    def close(self) -> None:
        self._socket.close()


class BellListener:
    """Readable when one of its bells has been rung since the last ``clear``."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], *paths: Path) -> None:
        self.socket = context.socket(zmq.SUB)
        self.socket.setsockopt(zmq.CONFLATE, 1)
        self.socket.setsockopt(zmq.SUBSCRIBE, b"")
        self.socket.setsockopt(zmq.RECONNECT_IVL, 20)
        self.socket.setsockopt(zmq.LINGER, 0)
        for path in paths:
            self.listen(path)

    def listen(self, path: Path) -> None:
        """To this bell as well; whoever rings it need not be there yet."""
        self.socket.connect(ipc(path))

    def ignore(self, path: Path) -> None:
        """This bell from now on."""
        self.socket.disconnect(ipc(path))

    def clear(self) -> None:
        with contextlib.suppress(zmq.Again):
            self.socket.recv(zmq.NOBLOCK)

    def close(self) -> None:
        self.socket.close()


class HealthSender:
    """A stage's end of the health channel."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], path: Path) -> None:
        self._socket = context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, 16)
        self._socket.setsockopt(zmq.LINGER, 100)
        self._socket.connect(ipc(path))

    def send(self, health: Health) -> None:
        with contextlib.suppress(zmq.Again):
            self._socket.send(wire.encode_health(health), zmq.NOBLOCK)

    def close(self) -> None:
        self._socket.close()


class HealthReceiver:
    """The supervisor's end; malformed messages are thrown away and told, ever more rarely the more there are."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], path: Path) -> None:
        self.socket = context.socket(zmq.PULL)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.MAXMSGSIZE, 1 << 20)
        self.socket.bind(ipc(path))
        self._malformed = 0

    def take(self) -> list[Health]:
        """Everything that has arrived."""
        messages: list[Health] = []
        while True:
            try:
                raw = self.socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return messages
            try:
                messages.append(wire.decode_health(raw))
            except wire.MalformedError as error:
                self._malformed += 1
                if self._malformed.bit_count() == 1:  # the first, second, fourth, eighth …
                    log.warning("%d health messages are none that this version knows: %s", self._malformed, error)

    def close(self) -> None:
        self.socket.close()
