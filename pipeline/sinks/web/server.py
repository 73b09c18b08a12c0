"""The server around the application: one thread with an event loop, bounded in all that clients can use up."""

from __future__ import annotations

import asyncio
import ssl
import threading
from asyncio.trsock import TransportSocket
from collections.abc import Callable
from pathlib import Path
from socket import socket
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from pipeline.errors import RuntimeFailure, StartupError
from pipeline.sinks.web.door import Door

CONNECTIONS_MAX = 512
PATIENCE_S = 10.0
"""A client that leaves in our buffer what we send for so long is let go."""
CLOSE_WITHIN_S = 3


class _Patient(asyncio.Protocol):
    """Lets go of whoever does not read: a transport that is only closed waits for its buffer for ever."""

    loop: asyncio.AbstractEventLoop
    transport: Any
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # paused is: the kernel's buffer is full, and all of ours has to go; over TLS it may be so from the beginning
        transport.set_write_buffer_limits(1, 0)

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
    """Tells the door when it waits for a request, and when it has one."""

    door: Door
    cycle: Any  # None before the first request
    _client: TransportSocket

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._client = transport.get_extra_info("socket")  # TLS forgets it before we hear that the client has gone

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._has_asked()

    def on_response_complete(self) -> None:
        self.door.expects(self._client)
        super().on_response_complete()  # the next request may have come before
        self._has_asked()

    def _has_asked(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.door.has_asked(self._client)

    def handle_websocket_upgrade(self, event: Any) -> None:
        self.door.has_asked(self._client)
        super().handle_websocket_upgrade(event)


class _Server(uvicorn.Server):
    """Tells the streams that they have come to their end, before it waits for them."""

    closing: asyncio.Event

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        self.closing.set()
        await super().shutdown(sockets)


class Server:
    """Runs until ``close``. The application is built inside its event loop, and told by ``closing`` that it ends."""

    def __init__(
        self,
        create: Callable[[], ASGIApp],
        closing: asyncio.Event,
        where: Door,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._door = where

        class Connection(_Connection):
            door = where

        config = uvicorn.Config(
            create,
            factory=True,
            http=Connection,
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
            asyncio.run(self._server.serve([self._door]))
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
