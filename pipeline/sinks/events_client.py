"""The other end of ``kind: zeromq``: events as they are published, checked before anyone sees them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import zmq

from pipeline.errors import ConfigError
from pipeline.sinks.schema import parse

_MESSAGE_MAX = 1 << 20
_POLL_S = 0.2


class Subscription:
    """Iterates over the events of one publisher; connects by itself, now and whenever the publisher comes back.

    What is no event is skipped and counted in ``malformed``. After a restart of the publisher an event may come again,
    with the same number.
    """

    def __init__(
        self,
        address: str,
        *,
        topic: str = "event.",
        stop: Callable[[], bool] = lambda: False,
        idle_timeout_s: float | None = None,
    ) -> None:
        """topic: only events whose topic begins so, ``event.<kind>.<source>.``. stop: asked several times a second.

        idle_timeout_s: ends when no event came for so long. Raises ``ConfigError`` where ``address`` is none.
        """
        self.malformed = 0
        self._stop = stop
        self._idle_timeout_s = idle_timeout_s
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.linger = 0
        self._socket.maxmsgsize = _MESSAGE_MAX
        # a publisher that is gone without a word (a cable, a frozen process) is noticed within two seconds
        self._socket.heartbeat_ivl, self._socket.heartbeat_timeout = 500, 1500
        self._socket.reconnect_ivl, self._socket.reconnect_ivl_max = 100, 1000
        self._socket.subscribe(topic)
        if "[" in address:
            self._socket.ipv6 = True
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(f"{address!r} is not an address to connect to, like tcp://127.0.0.1:5556") from error

    def __iter__(self) -> Iterator[dict[str, Any]]:
        heard = time.monotonic()
        while not self._socket.closed and not self._stop():
            if self._socket.poll(round(_POLL_S * 1000)):
                event = self._take(self._socket.recv_multipart())
                if event is not None:
                    heard = time.monotonic()
                    yield event
            elif self._idle_timeout_s is not None and time.monotonic() - heard > self._idle_timeout_s:
                return

    def _take(self, frames: list[bytes]) -> dict[str, Any] | None:
        try:
            topic, body = frames
            event = parse(body)
            if topic != f"event.{event['kind']}.{event['source']}.".encode():
                raise ValueError("the topic is another event's")
        except ValueError:
            self.malformed += 1
            return None
        return event

    def close(self) -> None:
        """Safe twice."""
        self._socket.close()
        self._context.term()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def subscribe(address: str, **options: Any) -> Iterator[dict[str, Any]]:
    """The events published at ``address`` from now on, until the caller stops; options are ``Subscription``'s."""
    with Subscription(address, **options) as subscription:
        yield from subscription
