"""Events of a running site for programs of one's own::

    from pipeline.client import subscribe

    for event in subscribe("tcp://127.0.0.1:5556"):
        print(event.t_start, event.source, event.kind, event.phase, event.id)

``subscribe_async`` does the same for ``async for``. Both connect again by themselves, ask for what they have missed,
and hand out every event once, in the order of ``seq``. Who keeps ``(event.log_id, event.seq)`` of the last one that it
is done with, and gives it as ``cursor`` the next time, misses nothing between two lives either.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import zmq
import zmq.asyncio

from pipeline.errors import ConfigError
from pipeline.sinks import curve
from pipeline.sinks.follower import Follower, Gap
from pipeline.sinks.schema import EventRecord, EvidenceRecord

__all__ = ["DEFAULT_ADDRESS", "EventRecord", "EvidenceRecord", "Gap", "Keys", "subscribe", "subscribe_async"]

DEFAULT_ADDRESS = "tcp://127.0.0.1:5556"
_MESSAGE_MAX = 4 << 20
_POLL_S = 0.1

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


class _Sockets:
    """The two connections to one site."""

    def __init__(self, context: zmq.Context[Any], address: str, replay: str | None, keys: Keys | None) -> None:
        self.context = context
        self.events = context.socket(zmq.SUB)
        self.replay = context.socket(zmq.DEALER)
        try:
            for socket, where in ((self.events, address), (self.replay, replay or _next_port(address))):
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
            self.events.subscribe("event.")
            self.events.subscribe("cursor.")
        except ValueError as error:
            self.close()
            raise ConfigError(str(error)) from error
        except ConfigError:
            self.close()
            raise

    def close(self) -> None:
        """Safe twice."""
        self.events.close()
        self.replay.close()
        self.context.term()


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
    Raises ``ConfigError`` where an address or a key is none. A site that is not there is waited for.
    """
    sockets = _Sockets(zmq.Context(), address, replay, keys)
    try:
        follower = Follower(cursor, kinds=kinds, sources=sources)
        poller = zmq.Poller()
        for socket in (sockets.events, sockets.replay):
            poller.register(socket, zmq.POLLIN)
        heard_s = time.monotonic()
        while idle_timeout_s is None or time.monotonic() - heard_s <= idle_timeout_s:
            if question := follower.question(time.monotonic()):
                try:
                    sockets.replay.send(question, zmq.NOBLOCK)
                except zmq.Again:
                    follower.not_asked()
            for socket, _ in poller.poll(round(_POLL_S * 1000)):
                _hear(follower, socket is sockets.events, socket.recv_multipart())
            for item in follower.take(time.monotonic()):
                if isinstance(item, Gap):
                    on_gap(item)
                else:
                    yield item
                heard_s = time.monotonic()
    finally:
        sockets.close()


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
    sockets = _Sockets(zmq.asyncio.Context(), address, replay, keys)
    try:
        follower = Follower(cursor, kinds=kinds, sources=sources)
        poller = zmq.asyncio.Poller()
        for socket in (sockets.events, sockets.replay):
            poller.register(socket, zmq.POLLIN)
        while True:
            if question := follower.question(time.monotonic()):
                try:
                    await sockets.replay.send(question, zmq.NOBLOCK)
                except zmq.Again:
                    follower.not_asked()
            for socket, _ in await poller.poll(round(_POLL_S * 1000)):
                _hear(follower, socket is sockets.events, await socket.recv_multipart())
            for item in follower.take(time.monotonic()):
                if isinstance(item, Gap):
                    on_gap(item)
                else:
                    yield item
    finally:
        sockets.close()


def _hear(follower: Follower, published: bool, frames: list[bytes]) -> None:
    if published:
        follower.published(frames)
    else:
        follower.answered(frames)
