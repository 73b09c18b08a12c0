"""``kind: zeromq``: publishes every event, and gives again what a subscriber has missed.

Two sockets: subscribers listen on one (PUB), and ask on the other (ROUTER) for what lies behind a number. Beyond this
machine both demand CURVE keys.
"""

from __future__ import annotations

import ipaddress
import re
import time
from typing import Any, ClassVar, Self

import msgspec
import zmq
from pydantic import field_validator, model_validator

from pipeline.errors import RuntimeFailure, StartupError
from pipeline.sinks import curve
from pipeline.sinks.keyed import KeyedConfig
from pipeline.sinks.replay import ReplayServer
from pipeline.sinks.schema import Position
from pipeline.sinks.sink import Accepts, SinkContext

DEFAULT_ADDRESS = "tcp://127.0.0.1:5556"
QUEUED_EVENTS_MAX = 10_000
"""For each subscriber. One that does not read loses what comes after, and asks for it when it reads again."""
HEARD_BYTES_MAX = 4096
"""Whoever sends more at once is disconnected: subscriptions and questions are short."""
FAREWELL_S = 1.0
"""How long ``close`` waits for subscribers to take the last events."""
BIND_PATIENCE_S = 1.0
"""After kill -9 the port is free again within a fraction of a second."""

_TCP = re.compile(r"tcp://(?P<host>[^:\[\]/]+|\[[^\]]+\]):(?P<port>\d{1,5})")


class Config(KeyedConfig):
    """bind: ``tcp://127.0.0.1:PORT``. replay_bind: where to ask for what was missed; by default the next port.

    secret_key_file, client_keys: ours, and the public keys (or their files) of those who may connect; see
    ``run_pipeline.py keys``. An address that other machines can reach demands them.
    """

    accepts: ClassVar[Accepts] = "events"

    bind: str = DEFAULT_ADDRESS
    replay_bind: str = ""

    @field_validator("bind", "replay_bind")
    @classmethod
    def _is_an_address(cls, bind: str) -> str:
        bind = bind.replace("//localhost:", "//127.0.0.1:").replace("//*:", "//0.0.0.0:")
        match = _TCP.fullmatch(bind)
        if match is None or not 0 < int(match["port"]) < 65536 or _ip(match["host"]) is None:
            raise ValueError(f"{bind!r} is not an address like {DEFAULT_ADDRESS}")
        return bind

    @model_validator(mode="after")
    def _beyond_this_machine_only_with_keys(self) -> Self:
        if not self.replay_bind and int(self.bind.rpartition(":")[2]) == 65535:
            raise ValueError("replay_bind: is needed, because there is no port behind 65535")
        for bind in (self.bind, self.replay):
            self.demand_keys(bind, loopback=_is_loopback(bind), like=DEFAULT_ADDRESS)
        return self

    @property
    def replay(self) -> str:
        """Where to ask for what was missed."""
        host, _, port = self.bind.rpartition(":")
        return self.replay_bind or f"{host}:{int(port) + 1}"

    def claims(self) -> frozenset[tuple[str, str]]:
        return frozenset(("tcp", bind.rpartition(":")[2]) for bind in (self.bind, self.replay))

    @property
    def publishes(self) -> tuple[str, ...]:
        return (self.bind,)


class Publisher:
    """Two frames a message: the topic ``event.<kind>.<source>.`` and the event as JSON.

    Between them, on the topic ``cursor.``, which numbers are not for this publisher and where it stands
    (``schema.Position``), so that a subscriber knows of the last event that it missed as well.
    """

    accepts: ClassVar[Accepts] = "events"

    def __init__(self, config: Config, context: SinkContext) -> None:
        self._config = config
        self._its = context
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._doorkeeper: curve.Doorkeeper | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._replay: ReplayServer | None = None
        self._log_id = ""
        self._told: int | None = None

    def open(self, log_id: str) -> None:
        """Raises ``StartupError`` where a port is in use."""
        self.close()
        self._log_id, self._told = log_id, None
        self._context = zmq.Context()
        self._doorkeeper = self._config.doorkeeper(self._context)
        self._socket = self._bound(self._context, zmq.PUB, self._config.bind)
        if self._its.event_log is not None:
            router = self._bound(self._context, zmq.ROUTER, self._config.replay)
            self._replay = ReplayServer(router, self._its.event_log, self._its.sources)
            self._replay.start()

    def write(self, event: dict[str, Any]) -> None:
        """Never waits."""
        if self._told is not None and event["seq"] > self._told + 1:
            self.beat(event["seq"] - 1)
        topic = f"event.{event['kind']}.{event['source']}."
        self._send([topic.encode(), msgspec.json.encode(event)])
        self._told = event["seq"]

    def beat(self, seq: int) -> None:
        since = seq if self._told is None else self._told
        self._send([b"cursor.", msgspec.json.encode(Position(self._log_id, since, seq))])
        self._told = seq

    def _send(self, frames: list[bytes]) -> None:
        assert self._socket is not None, "open comes before write"
        try:
            self._socket.send_multipart(frames, zmq.DONTWAIT)
        except zmq.ZMQError as error:
            raise RuntimeFailure(f"sink {self._its.name}: cannot publish on {self._config.bind}: {error}") from error

    def close(self) -> None:
        if self._replay is not None:
            self._replay.close()
            self._replay = None
        if self._socket is not None:
            self._socket.close(round(FAREWELL_S * 1000))
            self._socket = None
        if self._doorkeeper is not None:
            self._doorkeeper.close()
            self._doorkeeper = None
        if self._context is not None:
            self._context.term()
            self._context = None

    def _bound(self, context: zmq.Context[zmq.Socket[bytes]], kind: int, address: str) -> zmq.Socket[bytes]:
        socket = context.socket(kind)
        socket.linger = 0
        socket.set_hwm(QUEUED_EVENTS_MAX)
        socket.maxmsgsize = HEARD_BYTES_MAX
        # whoever is gone without a word is forgotten
        socket.heartbeat_ivl, socket.heartbeat_timeout = 2000, 10_000
        socket.ipv6 = "[" in address
        self._config.guard(socket)
        give_up_s = time.monotonic() + BIND_PATIENCE_S
        while True:
            try:
                socket.bind(address)
            except zmq.ZMQError as error:
                if error.errno == zmq.EADDRINUSE and time.monotonic() < give_up_s:
                    time.sleep(0.05)
                    continue
                socket.close()
                reason = "the port is in use" if error.errno == zmq.EADDRINUSE else str(error)
                raise StartupError(f"sink {self._its.name}: cannot publish on {address}: {reason}") from error
            return socket


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _is_loopback(address: str) -> bool:
    match = _TCP.fullmatch(address)
    ip = _ip(match["host"]) if match else None
    return ip is not None and ip.is_loopback


def create(config: Config, context: SinkContext) -> Publisher:
    return Publisher(config, context)
