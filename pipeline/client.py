"""Events of a running site for programs of one's own::

    from pipeline.client import subscribe

    for event in subscribe("tcp://127.0.0.1:5556"):
        print(event.t_start, event.source, event.kind, event.phase, event.id)

``subscribe_async`` does the same for ``async for``. Both connect again by themselves, ask for what they have missed,
and hand out every event once, in the order of ``seq``. Who keeps ``(event.log_id, event.seq)`` of the last one that it
is done with, and gives it as ``cursor`` the next time, misses nothing between two lives either.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import zmq
import zmq.asyncio

from pipeline.errors import ConfigError
from pipeline.sinks import curve
from pipeline.sinks.follower import Follower, Gap
from pipeline.sinks.schema import EventRecord, EvidenceRecord

__all__ = ["DEFAULT_ADDRESS", "EventRecord", "EvidenceRecord", "Gap", "Keys", "subscribe", "subscribe_async"]

DEFAULT_ADDRESS = "tcp://127.0.0.1:5556"
_MESSAGE_MAX = 4 << 20
_POLL_MS = 100
SILENT_S = 5.0
"""A site says every second where it is: who is not heard of for so long is said to be away."""

P = TypeVar("P", bound=zmq.Poller)

log = logging.getLogger(__name__)


class Keys(NamedTuple):
    """Needed beyond this machine. secret_key_file: one's own (``keys new``). server_key: the site's public key or its
    file.
    """

    secret_key_file: Path
    server_key: str


def log_gap(gap: Gap) -> None:
    """What becomes of a gap where nobody asks for it: a warning in the log."""
    log.warning("events are missing before number %d of log %s (%s)", gap.oldest, gap.log_id, gap.reason)


class _Subscription:
    """The two connections to one site, and what is made of what comes. It never waits: that is the caller's."""

    def __init__(
        self,
        context: zmq.Context[Any],
        follower: Follower,
        on_gap: Callable[[Gap], None],
        address: str,
        replay: str | None,
        keys: Keys | None,
    ) -> None:
        self.heard_s = time.monotonic()
        """When there was something to hand out last."""
        self._context = context
        self._follower = follower
        self._on_gap = on_gap
        self._address = address
        self._answered_s, self._away = self.heard_s, False
        self._sockets = context.socket(zmq.SUB), context.socket(zmq.DEALER)
        # the same two, but with nothing to be awaited
        self._events: zmq.Socket[Any] = zmq.Socket.shadow(self._sockets[0])
        self._replay: zmq.Socket[Any] = zmq.Socket.shadow(self._sockets[1])
        try:
            for socket, where in zip(self._sockets, (address, replay or _next_port(address)), strict=True):
                socket.linger = 0
                socket.maxmsgsize = _MESSAGE_MAX
                # a site that is gone without a word (a cable, a frozen process) is noticed within two seconds
                socket.heartbeat_ivl, socket.heartbeat_timeout = 500, 1500
                socket.reconnect_ivl, socket.reconnect_ivl_max = 100, 1000
                socket.ipv6 = "[" in where
                socket.immediate = True  # a question is for somebody who is there
                if keys is not None:
                    curve.introduce(socket, curve.read_pair(keys.secret_key_file), curve.public_key(keys.server_key))
                _connect(socket, where)
            self._events.subscribe("event.")
            self._events.subscribe("cursor.")
        except ValueError as error:
            self.close()
            raise ConfigError(str(error)) from error
        except ConfigError:
            self.close()
            raise

    def watched_by(self, poller: P) -> P:
        """Becomes ready when there is something to take."""
        for socket in self._sockets:
            poller.register(socket, zmq.POLLIN)
        return poller

    def take(self) -> Iterator[EventRecord]:
        """What is there now; asks for what is missing."""
        for socket, feed in ((self._events, self._follower.published), (self._replay, self._follower.answered)):
            with contextlib.suppress(zmq.Again):
                feed(socket.recv_multipart(zmq.NOBLOCK))
                self._answered_s = time.monotonic()
        self._tell_who_is_away()
        if question := self._follower.question(time.monotonic()):
            try:
                self._replay.send(question, zmq.NOBLOCK)
            except zmq.Again:
                self._follower.not_asked()
        for item in self._follower.take(time.monotonic()):
            if isinstance(item, Gap):
                self._on_gap(item)
            else:
                yield item
            self.heard_s = time.monotonic()

    def _tell_who_is_away(self) -> None:
        away = time.monotonic() - self._answered_s > SILENT_S
        if away != self._away:
            self._away = away
            log.warning("nobody answers at %s yet" if away else "%s answers", self._address)

    def close(self) -> None:
        """Safe twice."""
        for socket in self._sockets:
            socket.close()
        self._context.term()


def _connect(socket: Any, address: str) -> None:
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        raise ConfigError(f"{address!r} is not an address to connect to, like {DEFAULT_ADDRESS}") from error


def _next_port(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        raise ConfigError(f"{address!r} is not an address to connect to, like {DEFAULT_ADDRESS}")
    return f"{host}:{int(port) + 1}"


def subscribe(
    address: str = DEFAULT_ADDRESS,
    *,
    kinds: Collection[str] | None = None,
    sources: Collection[str] | None = None,
    cursor: tuple[str | None, int] | None = None,
    keys: Keys | None = None,
    replay: str | None = None,
    on_gap: Callable[[Gap], None] = log_gap,
    idle_timeout_s: float | None = None,
) -> Iterator[EventRecord]:
    """The events published at ``address``, until the caller stops; from now on, or behind ``cursor``.

    kinds, sources: of these alone. cursor: ``(log_id, seq)`` of the last event that was dealt with. replay: where to
    ask for what was missed; by default the next port. on_gap: called where events cannot be had any more, before the
    first that can. idle_timeout_s: ends when no event came for so long.
    Raises ``ConfigError`` where an address or a key is none. A site that is not there is waited for, which the log
    says.
    """
    follower = Follower(cursor, kinds=kinds, sources=sources)
    with contextlib.closing(_Subscription(zmq.Context(), follower, on_gap, address, replay, keys)) as subscription:
        poller = subscription.watched_by(zmq.Poller())
        while idle_timeout_s is None or time.monotonic() - subscription.heard_s <= idle_timeout_s:
            yield from subscription.take()
            poller.poll(_POLL_MS)


async def subscribe_async(
    address: str = DEFAULT_ADDRESS,
    *,
    kinds: Collection[str] | None = None,
    sources: Collection[str] | None = None,
    cursor: tuple[str | None, int] | None = None,
    keys: Keys | None = None,
    replay: str | None = None,
    on_gap: Callable[[Gap], None] = log_gap,
) -> AsyncIterator[EventRecord]:
    """``subscribe`` for ``async for``; ends when its task is cancelled or the iterator is closed."""
    context = zmq.asyncio.Context()
    follower = Follower(cursor, kinds=kinds, sources=sources)
    with contextlib.closing(_Subscription(context, follower, on_gap, address, replay, keys)) as subscription:
        poller = subscription.watched_by(zmq.asyncio.Poller())
        while True:
            for event in subscription.take():
                yield event
            await poller.poll(_POLL_MS)
