"""Where clients come in: whoever has nothing to ask does not stay."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from asyncio.trsock import TransportSocket
from typing import Any

from pipeline.errors import StartupError

REQUEST_WITHIN_S = 10.0
"""A client that has not sent a whole request by then is let go: behind connecting, and behind each answer."""
SILENT_MAX = 256
"""So many may be about to ask, over TLS with their handshake or without; of more, the one that came first goes."""
AT_ONCE_MAX = 16
"""Clients that come in before the loop does anything else, such as closing the connections of those who are let go."""
SEND_BUFFER_BYTES = 256 << 10
"""In the kernel, for each connection: what a slow viewer can be behind, and what it can hold."""


class Door(socket.socket):
    """A socket that listens. Used, but for its making, in one event loop."""

    def __init__(self, host: str, port: int) -> None:
        """Raises ``StartupError`` where the address is not to be had."""
        super().__init__(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        self._silent: dict[int, tuple[socket.socket | TransportSocket, asyncio.TimerHandle]] = {}
        self._at_once = 0
        try:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)  # what is accepted inherits it
            self.bind((host, port))
            self.listen(128)
        except OSError as error:
            self.close()
            raise StartupError(f"cannot serve the page on {host}:{port}: {error.strerror}") from error

    def accept(self) -> tuple[socket.socket, Any]:
        """The event loop calls it, before any protocol knows of the client, until it raises ``BlockingIOError``."""
        if self._at_once == AT_ONCE_MAX:
            raise BlockingIOError
        client, address = super().accept()
        self._at_once += 1
        if self._at_once == 1:
            asyncio.get_running_loop().call_soon(self._go_on)
        self.expects(client)
        return client, address

    def _go_on(self) -> None:
        self._at_once = 0

    def expects(self, client: socket.socket | TransportSocket) -> None:
        """It may ask something now, and has to do so soon."""
        self.has_asked(client)
        number = client.fileno()
        late = asyncio.get_running_loop().call_later(REQUEST_WITHIN_S, self._let_go, number)
        self._silent[number] = client, late
        while len(self._silent) > SILENT_MAX:
            self._let_go(next(iter(self._silent)))

    def has_asked(self, client: socket.socket | TransportSocket) -> None:
        """It has time now."""
        _, late = self._silent.pop(client.fileno(), (None, None))
        if late is not None:
            late.cancel()

    def _let_go(self, number: int) -> None:
        client, late = self._silent.pop(number)
        late.cancel()
        with contextlib.suppress(OSError):  # it has gone already
            client.shutdown(socket.SHUT_RDWR)  # which the loop sees, also in the middle of a handshake
