"""``kind: web``: a page with the live pictures and the events of its sources, and an API behind it."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import zmq.asyncio
from pydantic import Field, field_validator, model_validator

from pipeline.errors import StartupError
from pipeline.sinks.sink import Accepts, SinkConfig, SinkContext
from pipeline.sinks.view import SiteView

DEFAULT_BIND = "127.0.0.1:8080"
CHECK_EVERY_S = 0.5
WORKERS = 4
"""Threads for pictures, passwords and files."""
_BIND = re.compile(r"(?P<host>[\d.]+|localhost|\[[0-9a-fA-F:.]+\]):(?P<port>\d{1,5})")
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")

log = logging.getLogger(__name__)


class Config(SinkConfig):
    """bind: ``ADDRESS:PORT``. hosts: names that it is reached by, beside addresses and localhost.

    users: name → what ``run_pipeline.py password`` prints. token: for programs (``Authorization: Bearer …``).
    tls_certificate, tls_key: files in PEM. Without TLS and a login only this machine's own addresses are allowed.
    """

    accepts: ClassVar[Accepts] = "views"
    takes_packets: ClassVar[bool] = True
    shows_events: ClassVar[bool] = True

    bind: str = DEFAULT_BIND
    hosts: tuple[str, ...] = ()
    users: dict[str, str] = Field(default={}, repr=False)
    token: str | None = Field(default=None, min_length=16, repr=False)
    tls_certificate: Path | None = None
    tls_key: Path | None = None

    @field_validator("bind")
    @classmethod
    def _is_an_address(cls, bind: str) -> str:
        match = _BIND.fullmatch(bind.replace("localhost:", "127.0.0.1:"))
        try:
            if match is None or not 0 < int(match["port"]) < 65536:
                raise ValueError("not that form")
            ipaddress.ip_address(match["host"].strip("[]"))
        except ValueError as error:
            raise ValueError(f"{bind!r} is not an address like {DEFAULT_BIND}, 0.0.0.0:8080 or [::1]:8080") from error
        return match[0]

    @field_validator("hosts")
    @classmethod
    def _are_names(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise ValueError(f"{host!r} is not a host's name in lower case, without a port")
        return hosts

    @field_validator("users")
    @classmethod
    def _have_hashes(cls, users: dict[str, str]) -> dict[str, str]:
        from pipeline.sinks.web.passwords import is_hash

        for user, hash_ in users.items():
            if not is_hash(hash_):
                raise ValueError(f"what stands for {user!r} is no password's hash: run_pipeline.py password makes one")
        return users

    @model_validator(mode="after")
    def _has_keys_beyond_this_machine(self) -> Config:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        if not ipaddress.ip_address(self.address[0]).is_loopback:
            needed = {"tls_certificate": self.tls_certificate, "users or token": self.users or self.token}
            missing = [what for what, there in needed.items() if not there]
            if missing:
                raise ValueError(
                    f"bind {self.bind!r} can be reached from other machines, which needs {' and '.join(missing)}; "
                    f"use {DEFAULT_BIND} to serve this machine alone"
                )
        return self

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.bind.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def url(self) -> str:
        """What to open in a browser on this machine."""
        host, port = self.address
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  compared, not bound
        return f"{'https' if self.tls_key else 'http'}://{f'[{host}]' if ':' in host else host}:{port}/"

    def claims(self) -> frozenset[tuple[str, str]]:
        return frozenset([("tcp", str(self.address[1]))])


class Web:
    """Serves from a thread of its own; what it has open is closed in the other order."""

    accepts: ClassVar[Accepts] = "views"

    def __init__(self, config: Config, context: SinkContext) -> None:
        self._config = config
        self._context = context
        self._open = ExitStack()
        self._check: Callable[[], None] = lambda: None

    def open(self, site: SiteView) -> None:
        """Raises ``StartupError`` where the address is in use, a certificate is wrong or a package is missing."""
        self.close()
        try:
            from pipeline.sinks.web.access import Access
            from pipeline.sinks.web.app import Pages, application
            from pipeline.sinks.web.door import Door
            from pipeline.sinks.web.figures import Figures
            from pipeline.sinks.web.server import Server, tls_context
        except ModuleNotFoundError as error:
            raise StartupError(
                f"sink {self._context.name}: the package {error.name} is missing: pip install '.[web]'"
            ) from error
        config, state_dir = self._config, self._context.state_dir
        try:
            door = self._open.enter_context(Door(*config.address))
            tls = tls_context(config.tls_certificate, config.tls_key)
        except StartupError as error:
            raise StartupError(f"sink {self._context.name}: {error}") from error
        executor = self._open.enter_context(ThreadPoolExecutor(WORKERS, "web"))
        messages: zmq.asyncio.Context = zmq.asyncio.Context()
        self._open.callback(messages.destroy, 0)
        access = Access(config.users, config.token, config.hosts, state_dir / "session-key", executor)
        figures = Figures(site.views, state_dir / "counts.json")
        closing = asyncio.Event()
        pages = Pages(site, figures, access, executor, closing)
        server = Server(lambda: application(pages, messages), closing, door, tls)
        self._open.callback(server.close)
        server.start()
        self._check = server.check
        log.info("sink %s: the page is at %s", self._context.name, config.url)

    def step(self) -> float:
        """Raises ``RuntimeFailure`` where the server has ended by itself."""
        self._check()
        return CHECK_EVERY_S

    @property
    def wakers(self) -> Sequence[Any]:
        return []

    def close(self) -> None:
        self._open.close()


def create(config: Config, context: SinkContext) -> Web:
    return Web(config, context)
