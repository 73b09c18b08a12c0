"""``kind: zeromq``: publishes every event on a socket of this machine, for any number of subscribers."""

from __future__ import annotations

import ipaddress
import re
import time
from typing import Any, ClassVar

import msgspec
import zmq
from pydantic import field_validator

from pipeline.errors import RuntimeFailure, StartupError
from pipeline.sinks.sink import Accepts, SinkConfig, SinkContext

DEFAULT_ADDRESS = "tcp://127.0.0.1:5556"
QUEUED_EVENTS_MAX = 10_000
"""For each subscriber; about 4 MB. A subscriber that does not read loses what comes after."""
FAREWELL_S = 1.0
"""How long ``close`` waits for subscribers to take the last events."""
BIND_PATIENCE_S = 1.0
"""After kill -9 the port is free again within a fraction of a second."""

_TCP = re.compile(r"tcp://(?P<host>[^:\[\]*/]+|\[[^\]]+\]):(?P<port>\d{1,5})")


class Config(SinkConfig):
    """bind: ``tcp://127.0.0.1:PORT``, or another address of the loopback interface."""

    accepts: ClassVar[Accepts] = "events"

    bind: str = DEFAULT_ADDRESS

    @field_validator("bind")
    @classmethod
    def _stays_on_this_machine(cls, bind: str) -> str:
        bind = bind.replace("//localhost:", "//127.0.0.1:")
        match = _TCP.fullmatch(bind)
        if match is None or not 0 < int(match["port"]) < 65536:
            raise ValueError(f"{bind!r} is not an address like {DEFAULT_ADDRESS}")
        if not _is_loopback(match["host"]):
            raise ValueError(
                f"{bind!r} can be reached from other machines, which needs keys: not supported yet; "
                f"use an address like {DEFAULT_ADDRESS}"
            )
        return bind

    def claims(self) -> frozenset[tuple[str, str]]:
        return frozenset([("tcp", self.bind.rpartition(":")[2])])

    @property
    def publishes(self) -> tuple[str, ...]:
        return (self.bind,)


class Publisher:
    """Two frames a message: the topic ``event.<kind>.<source>.`` and the event as JSON.

    Subscribers that come late ask nobody: they get what is published from then on.
    """

    accepts: ClassVar[Accepts] = "events"

    def __init__(self, config: Config, context: SinkContext) -> None:
        self._bind = config.bind
        self._name = context.name
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None

    def open(self, log_id: str) -> None:  # noqa: ARG002  a publisher cannot know who has had what
        """Raises ``StartupError`` where the port is in use."""
        self.close()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        self._socket.set_hwm(QUEUED_EVENTS_MAX)
        self._socket.linger = round(FAREWELL_S * 1000)
        if "[" in self._bind:
            self._socket.ipv6 = True
        self._bind_patiently(self._socket)

    def write(self, event: dict[str, Any]) -> None:
        """Never waits."""
        assert self._socket is not None, "open comes before write"
        topic = f"event.{event['kind']}.{event['source']}."
        try:
            self._socket.send_multipart([topic.encode(), msgspec.json.encode(event)], zmq.DONTWAIT)
        except zmq.ZMQError as error:
            raise RuntimeFailure(f"sink {self._name}: cannot publish on {self._bind}: {error}") from error

    def beat(self, seq: int) -> None: ...

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._context is not None:
            self._context.term()
            self._context = None

    def _bind_patiently(self, socket: zmq.Socket[bytes]) -> None:
        give_up = time.monotonic() + BIND_PATIENCE_S
        while True:
            try:
                socket.bind(self._bind)
                return
            except zmq.ZMQError as error:
                if error.errno == zmq.EADDRINUSE and time.monotonic() < give_up:
                    time.sleep(0.05)
                    continue
                reason = "the port is in use" if error.errno == zmq.EADDRINUSE else str(error)
                raise StartupError(f"sink {self._name}: cannot publish on {self._bind}: {reason}") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def create(config: Config, context: SinkContext) -> Publisher:
    return Publisher(config, context)
