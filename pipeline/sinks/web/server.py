"""The server around the application: one thread with an event loop, bounded in all that clients can use up."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from pipeline.errors import RuntimeFailure, StartupError

CONNECTIONS_MAX = 512
REQUEST_WITHIN_S = 10.0
"""A client that has not sent a whole request by then is let go: behind connecting (over TLS behind the handshake, which
the event loop gives a minute), and behind each answer."""
PATIENCE_S = 10.0
"""A client that leaves in our buffer what we send for so long is let go."""
SEND_BUFFER_BYTES = 256 << 10
"""In the kernel, for each connection: what a slow viewer can be behind, and what it can hold."""
CLOSE_WITHIN_S = 3


class _Patient(asyncio.Protocol):
    """Lets go of whoever does not read: a transport that is only closed waits for its buffer for ever."""

    loop: asyncio.AbstractEventLoop
    transport: Any
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        transport.set_write_buffer_limits(1, 0)  # paused is: the kernel's buffer is full, and all of ours has to go
        super().connection_made(transport)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._patience = self.loop.call_later(PATIENCE_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._end_patience()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_patience()
        super().connection_lost(exc)

    def _end_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()


class _Viewer(_Patient, WebSocketsSansIOProtocol):
    pass


class _Connection(_Patient, H11Protocol):
    """Lets go of whoever does not ask, too."""

    cycle: Any  # None before the first request

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._deadline = self.loop.call_later(REQUEST_WITHIN_S, self._let_go)

    def on_response_complete(self) -> None:
        self._deadline.cancel()
        self._deadline = self.loop.call_later(REQUEST_WITHIN_S, self._let_go)
        super().on_response_complete()

    def _let_go(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._deadline.cancel()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        super().connection_lost(exc)


class _Server(uvicorn.Server):
    """Tells the streams that they have come to their end, before it waits for them."""

    closing: asyncio.Event

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.closing.set()
        await super().shutdown(sockets)


def listening(host: str, port: int) -> socket.socket:
    """Raises ``StartupError`` where the address is not to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)  # what is accepted inherits it
        found.bind((host, port))
        found.listen(128)
    except OSError as error:
        found.close()
        raise StartupError(f"cannot serve the page on {host}:{port}: {error.strerror}") from error
    return found


class Server:
    """Runs until ``close``. The application is built inside its event loop, and told by ``closing`` that it ends."""

    def __init__(
        self,
        create: Callable[[], ASGIApp],
        closing: asyncio.Event,
        where: socket.socket,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._socket = where
        config = uvicorn.Config(
            create,
            factory=True,
            http=_Connection,
            ws=_Viewer,
            ws_max_size=4096,
            ws_max_queue=4,
            ws_per_message_deflate=False,
            ws_ping_interval=20.0,
            ws_ping_timeout=20.0,
            lifespan="on",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=CLOSE_WITHIN_S,
            h11_max_incomplete_event_size=32 << 10,
            ssl_context_factory=(lambda *_: tls) if tls else None,
        )
        self._server = _Server(config)
        self._server.closing = closing
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def check(self) -> None:
        """Raises ``RuntimeFailure`` where it has ended by itself."""
        if not self._thread.is_alive():
            raise RuntimeFailure(f"the web server has ended: {self._error or 'nobody knows why'}")

    def _run(self) -> None:
        try:
            asyncio.run(self._server.serve([self._socket]))
        except BaseException as error:  # noqa: BLE001  a thread cannot raise; ``check`` does
            self._error = error

    def close(self) -> None:
        """Safe twice."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(CLOSE_WITHIN_S + 5)


def tls_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """None without files. Raises ``StartupError`` where they do not serve."""
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise StartupError(f"{certificate}, {key}: not a certificate and its key: {error}") from error
    return context
