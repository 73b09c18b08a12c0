"""The web sink's server without cameras, and a client that says exactly what it is told to."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from pipeline.sinks.kinds import web
from pipeline.sinks.sink import SinkContext
from pipeline.sinks.view import SiteView
from tests.runs import free_port, wait_until

ANNA = "correct horse battery"
"""Her password."""
Headers = dict[str, str]


class Page:
    """One server, over TLS where ``tls`` says how to check it."""

    def __init__(self, directory: Path, port: int, **options: Any) -> None:
        directory.mkdir(exist_ok=True)
        self.port = port
        config = web.Config.model_validate({"bind": f"127.0.0.1:{port}", **options})
        self.sink = web.create(config, SinkContext("page", "run-1", directory))
        self.tls: ssl.SSLContext | None = None

    def open(self, site: SiteView | None = None) -> None:
        self.sink.open(site or SiteView("site", {}))
        wait_until(self._answers, "the server")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port)).close()
            return True
        return False

    def ask(
        self, path: str, method: str = "GET", headers: Headers | None = None, body: str = ""
    ) -> tuple[int, Headers, bytes]:
        """Status, headers in lower case, body."""
        kind: Any = http.client.HTTPConnection if self.tls is None else http.client.HTTPSConnection
        options = {} if self.tls is None else {"context": self.tls}
        connection = kind("127.0.0.1", self.port, timeout=30, **options)
        with contextlib.closing(connection):
            connection.request(method, path, body or None, headers or {})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def raw(self, data: bytes) -> bytes:
        """The first bytes of the answer to these very bytes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(data)
            return connection.recv(4096)

    def log_in(self, user: str = "anna", password: str = ANNA, **headers: str) -> tuple[int, Headers, bytes]:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.ask("/login", "POST", form | headers, urlencode({"user": user, "password": password}))


@contextlib.contextmanager
def served(place: Path, site: SiteView | None = None, **options: Any) -> Iterator[Page]:
    """An open page, whose state lies in ``place``."""
    page = Page(place / "state", free_port(), **options)
    try:
        page.open(site)
        yield page
    finally:
        page.sink.close()
