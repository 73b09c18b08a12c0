"""``kind: webhook``: every event as a POST request with JSON, signed as https://www.standardwebhooks.com asks for."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
import ssl
import time
from typing import Any, ClassVar
from urllib.parse import urlsplit

import msgspec
import urllib3
from pydantic import Field, SecretStr, field_validator

from pipeline.errors import Disconnected
from pipeline.sinks.sink import Accepts, SinkConfig, SinkContext
from pipeline.sinks.tls import CaFile

SECRET_PREFIX = "whsec_"  # noqa: S105  a prefix is no secret
SECRET_BYTES_MIN = 24
ANSWER_BYTES_MAX = 64 << 10
REFUSED = (400, 413, 422)
"""What a receiver answers that understood the request and will never take this very event: the next ones go on."""

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t -~\xa0-\xff]*")
"""Latin-1 without control characters."""

log = logging.getLogger(__name__)


class Config(SinkConfig):
    """url: ``https://…`` (or ``http://…``). secret: ``whsec_`` and base64, as ``openssl rand -base64 32`` makes it.

    headers: sent with each request; ``${TOKEN}`` takes a value from the environment. timeout_s: for each answer.
    ca_file: whose certificates are believed, instead of the system's authorities.
    """

    accepts: ClassVar[Accepts] = "events"

    url: SecretStr
    secret: SecretStr | None = None
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    timeout_s: float = Field(default=10, gt=0, le=300)
    ca_file: CaFile | None = None

    @field_validator("url")
    @classmethod
    def _is_a_url(cls, url: SecretStr) -> SecretStr:
        try:
            parts = urlsplit(url.get_secret_value())
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), 0
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise ValueError("is not an address like https://example.org/events")
        if parts.username or parts.password:
            raise ValueError('holds a login; put it into headers, like {Authorization: "Basic ${LOGIN}"}')
        return url

    @field_validator("secret")
    @classmethod
    def _is_a_secret(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            key(secret)
        return secret

    @field_validator("headers")
    @classmethod
    def _can_be_sent(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not the name of a header")
            if not _HEADER_VALUE.fullmatch(value.get_secret_value()):
                raise ValueError(f"the value of {name} holds a line break, another control character or one that is "
                                 "not Latin-1")  # fmt: skip
        return headers


class Webhook:
    """One connection that is kept; whatever is not answered by 2xx is sent again."""

    accepts: ClassVar[Accepts] = "events"

    def __init__(self, config: Config, context: SinkContext) -> None:
        self.refused = 0
        self._config = config
        self._name = context.name
        self._pool: urllib3.PoolManager | None = None
        parts = urlsplit(config.url.get_secret_value())
        self._where = f"{parts.scheme}://{parts.netloc}"  # the path of many a webhook is a secret

    def open(self, log_id: str) -> None:  # noqa: ARG002  a receiver does not tell what it has had
        self.close()
        logging.getLogger("urllib3").setLevel(logging.CRITICAL)  # it tells whole addresses
        self._pool = urllib3.PoolManager(
            num_pools=1,
            timeout=self._config.timeout_s,
            retries=False,
            ssl_context=ssl.create_default_context(cafile=self._config.ca_file),
        )

    def write(self, event: dict[str, Any]) -> None:
        status = self._post(msgspec.json.encode(event), f"{event['id']}.{event['phase']}.{event['seq']}")
        if status in REFUSED:
            self.refused += 1
            log.warning("sink %s: %s refuses event %d (%d)", self._name, self._where, event["seq"], status)
        elif not 200 <= status < 300:
            raise Disconnected(f"{self._where} answers {status}")

    def _post(self, body: bytes, message_id: str) -> int:
        assert self._pool is not None, "open comes before write"
        url = self._config.url.get_secret_value()
        headers = self._headers(body, message_id, int(time.time()))
        try:
            response = self._pool.request(
                "POST", url, body=body, headers=headers, redirect=False, preload_content=False
            )
            try:
                whole = len(response.read(ANSWER_BYTES_MAX)) < ANSWER_BYTES_MAX
            finally:
                response.release_conn()
        except urllib3.exceptions.HTTPError as error:
            raise Disconnected(f"{self._where}: {_words(error)}") from error
        except ValueError as error:  # its text holds what cannot be sent, which may be a secret
            raise Disconnected(f"{self._where}: the request cannot be sent ({type(error).__name__})") from None
        if not whole:
            self._pool.clear()  # it goes on talking; the next event gets another connection
        return response.status

    def _headers(self, body: bytes, message_id: str, timestamp_s: int) -> dict[str, str]:
        headers = {
            "content-type": "application/json",
            "user-agent": "facemask-pipeline",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp_s),
            "idempotency-key": message_id,
        }
        if self._config.secret is not None:
            signature = sign(key(self._config.secret), message_id, timestamp_s, body)
            headers["webhook-signature"] = signature
        return headers | {name: value.get_secret_value() for name, value in self._config.headers.items()}

    def beat(self, seq: int) -> None: ...

    def close(self) -> None:
        if self._pool is not None:
            self._pool.clear()
            self._pool = None


def key(secret: SecretStr) -> bytes:
    """The bytes that ``whsec_…`` stands for; raises ``ValueError``."""
    text = secret.get_secret_value()
    try:
        found = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        found = b""
    if not text.startswith(SECRET_PREFIX) or len(found) < SECRET_BYTES_MIN:
        raise ValueError(f"is not {SECRET_PREFIX} and base64 of at least {SECRET_BYTES_MIN} bytes; make one by: "
                         f"echo {SECRET_PREFIX}$(openssl rand -base64 32)")  # fmt: skip
    return found


def sign(key: bytes, message_id: str, timestamp_s: int, body: bytes) -> str:
    """The signature of a request, which its time is part of: an old one cannot be sent again for a new one."""
    told = b".".join([message_id.encode(), str(timestamp_s).encode(), body])
    return "v1," + base64.b64encode(hmac.new(key, told, hashlib.sha256).digest()).decode()


def _words(error: urllib3.exceptions.HTTPError) -> str:
    """Why it failed, without the address: that may be a secret."""
    match error:
        case urllib3.exceptions.NewConnectionError():
            return "nobody is there"
        case urllib3.exceptions.TimeoutError():
            return "no answer in time"
        case urllib3.exceptions.SSLError():
            return f"its certificate is not believed ({getattr(error.args[0], 'verify_message', 'no TLS')})"
    return "the connection broke"


def create(config: Config, context: SinkContext) -> Webhook:
    return Webhook(config, context)
