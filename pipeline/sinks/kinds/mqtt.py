"""``kind: mqtt``: events to an MQTT broker, a retained state for each camera, and both made known to Home Assistant.

Under the prefix (``facemask/<site>`` unless configured): ``events/<kind>/<source>`` gets every event as JSON,
``state/<source>`` keeps what is open there, ``availability`` says ``online`` or, by the last will, ``offline``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import ssl
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from pydantic import Field, SecretStr, field_validator

from pipeline import __version__
from pipeline.errors import ConfigError, Disconnected, without_credentials
from pipeline.sinks.event_reader import EventReader
from pipeline.sinks.sink import Accepts, SinkConfig, SinkContext
from pipeline.sinks.tls import CaFile

if TYPE_CHECKING:
    from paho.mqtt.client import Client

CONNECT_S, ACKNOWLEDGE_S = 5.0, 10.0
KEEPALIVE_S = 15
PORT, TLS_PORT = 1883, 8883
OUTAGE = "source_lost"
AT_LEAST_ONCE = 1
_LOOK_EVERY_S = 0.2
_HERE = ("localhost", "127.0.0.1", "::1")

log = logging.getLogger(__name__)


class Config(SinkConfig):
    """host, port: of the broker. username, password: ``${MQTT_PASSWORD}`` takes it from the environment.

    tls: encrypted, the broker's certificate checked against the system's authorities or ``ca_file``. prefix: of all
    topics. discovery_prefix: Home Assistant's; empty: nothing is made known there.
    """

    accepts: ClassVar[Accepts] = "events"

    host: str = Field(min_length=1)
    port: int | None = Field(default=None, ge=1, le=65535)
    username: str | None = None
    password: SecretStr | None = None
    tls: bool = False
    ca_file: CaFile | None = None
    prefix: str = Field(default="", pattern=r"^[^#+\x00]*$")
    discovery_prefix: str = Field(default="homeassistant", pattern=r"^[^#+\x00]*$")

    @field_validator("host")
    @classmethod
    def _is_a_host(cls, host: str) -> str:
        if "://" in host or host.count(":") == 1 or any(sign in "/@" or sign.isspace() for sign in host):
            raise ValueError(
                f"{without_credentials(host)!r} is not a name or address of a host, like broker.lan or 192.0.2.7: "
                "without mqtt://, and with the port, the username and the password in fields of their own"
            )
        return host


class Mqtt:
    """One connection, made again by whoever delivers: every event waits for the broker's acknowledgement."""

    accepts: ClassVar[Accepts] = "events"

    def __init__(self, config: Config, context: SinkContext) -> None:
        self._config = config
        self._its = context
        self._prefix = config.prefix.strip("/") or f"facemask/{context.site}"
        self._client: Client | None = None
        self._open: dict[str, dict[str, str]] = {}

    def open(self, log_id: str) -> None:  # noqa: ARG002  a broker does not tell what it has had
        """Raises ``ConfigError`` where there is a password and no name."""
        self.close()
        if self._config.password and not self._config.username:
            raise ConfigError(f"sink {self._its.name}: a password needs a username")
        if self._config.password and not self._config.tls and self._config.host not in _HERE:
            log.warning("sink %s: without tls the password can be read on its way to %s", self._its.name, self._where)
        self._open = {source: {} for source in self._its.sources}
        if self._its.event_log is not None:
            with closing(EventReader(self._its.event_log)) as reader:
                for event in reader.open_episodes():
                    self._open.get(event["source"], {})[event["id"]] = event["kind"]

    def write(self, event: dict[str, Any]) -> None:
        self._connect()
        self._publish(f"events/{event['kind']}/{event['source']}", msgspec.json.encode(event))
        episodes = self._open.setdefault(event["source"], {})
        if event["phase"] == "new":
            episodes[event["id"]] = event["kind"]
        elif event["phase"] == "end":
            episodes.pop(event["id"], None)
        if event["phase"] != "update":
            self._publish_state(event["source"])

    def beat(self, seq: int) -> None:  # noqa: ARG002
        self._connect()

    def _publish_state(self, source: str) -> None:
        kinds = sorted(kind for kind in self._open[source].values() if kind != OUTAGE)
        state = {
            "alert": "ON" if kinds else "OFF",
            "connected": "OFF" if OUTAGE in self._open[source].values() else "ON",
            "episodes": len(kinds),
            "kinds": sorted(set(kinds)),
        }
        self._publish(f"state/{source}", json.dumps(state), retain=True)

    def _publish(self, topic: str, payload: str | bytes, *, retain: bool = False) -> None:
        assert self._client is not None
        told = self._client.publish(self._topic(topic), payload, AT_LEAST_ONCE, retain)
        give_up_s = time.monotonic() + ACKNOWLEDGE_S
        try:
            while not told.is_published() and self._client.is_connected() and time.monotonic() < give_up_s:
                told.wait_for_publish(_LOOK_EVERY_S)
            acknowledged = told.is_published()
        except (ValueError, RuntimeError):
            acknowledged = False
        if not acknowledged:
            self._hang_up()
            raise Disconnected(f"the broker at {self._where} went away, or does not acknowledge")

    def _connect(self) -> None:
        """Does nothing while the connection stands; raises ``Disconnected``."""
        if self._client is not None and self._client.is_connected():
            return
        self._hang_up()
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        client = Client(CallbackAPIVersion.VERSION2, self._client_id, reconnect_on_failure=False)
        client.connect_timeout = CONNECT_S
        client.will_set(self._topic("availability"), "offline", AT_LEAST_ONCE, retain=True)
        if self._config.username:
            password = self._config.password
            client.username_pw_set(self._config.username, password.get_secret_value() if password else None)
        if self._config.tls:
            client.tls_set_context(ssl.create_default_context(cafile=self._config.ca_file))
        answered, answer = threading.Event(), []

        def on_connect(*arguments: Any) -> None:
            answer.append(arguments[3])
            answered.set()

        client.on_connect = on_connect
        self._client = client
        try:
            client.connect(self._config.host, self._port, KEEPALIVE_S)
        except (OSError, ValueError) as error:
            self._hang_up()
            raise Disconnected(f"no broker at {self._where}: {getattr(error, 'strerror', None) or error}") from error
        client.loop_start()
        if not answered.wait(ACKNOWLEDGE_S) or answer[0].is_failure:
            self._hang_up()
            raise Disconnected(f"the broker at {self._where} refuses: {answer[0] if answer else 'no answer'}")
        self._introduce()

    def _introduce(self) -> None:
        """What must stand at the broker from the first moment on."""
        for source in self._its.sources if self._config.discovery_prefix else ():
            self._make_known(source, "alert", "safety")
            self._make_known(source, "connected", "connectivity")
        for source in self._open:
            self._publish_state(source)
        self._publish("availability", "online", retain=True)

    def _make_known(self, source: str, field: str, device_class: str) -> None:
        """See Home Assistant's documentation, MQTT discovery; a ``safety`` sensor that is on is a danger."""
        device = f"facemask_{self._its.site}"
        about = {
            "name": f"{source} {'without a mask' if field == 'alert' else 'connected'}",
            "unique_id": f"{device}_{source}_{field}",
            "device_class": device_class,
            "state_topic": self._topic(f"state/{source}"),
            "value_template": f"{{{{ value_json.{field} }}}}",
            "json_attributes_topic": self._topic(f"state/{source}"),
            "availability_topic": self._topic("availability"),
            "device": {"identifiers": [device], "name": f"Face masks, {self._its.site}"},
            "origin": {"name": "facemask-pipeline", "sw_version": __version__},
        }
        topic = f"/{self._config.discovery_prefix.strip('/')}/binary_sensor/{device}/{source}_{field}/config"
        self._publish(topic, json.dumps(about), retain=True)

    def _topic(self, topic: str) -> str:
        """A topic under the prefix; one that begins with a slash is whole."""
        return topic[1:] if topic.startswith("/") else f"{self._prefix}/{topic}"

    @property
    def _client_id(self) -> str:
        """The same after a restart: the broker then ends what is left of the old connection, last will included."""
        machine = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
        return f"facemask-{self._its.site}-{self._its.name}-{machine}"

    @property
    def _port(self) -> int:
        return self._config.port or (TLS_PORT if self._config.tls else PORT)

    @property
    def _where(self) -> str:
        return f"{self._config.host}:{self._port}"

    def _hang_up(self) -> None:
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None

    def close(self) -> None:
        if self._client is not None and self._client.is_connected():
            try:
                self._publish("availability", "offline", retain=True)
            except Disconnected as error:
                log.debug("sink %s: %s", self._its.name, error)
        self._hang_up()


def create(config: Config, context: SinkContext) -> Mqtt:
    return Mqtt(config, context)
