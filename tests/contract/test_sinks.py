"""What every sink keeps to, whoever wrote it."""

from __future__ import annotations

import inspect
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline import plugins
from pipeline.errors import ConfigError, StartupError
from pipeline.sinks.sink import SinkConfig, SinkContext
from pipeline.sinks.view import SiteView
from tests.servers import PASSWORD, USER, Broker, receiving
from tests.unit.sinks.events import LOG_ID, numbered
from tests.unit.sinks.recordings import encode_with, new_encoder

KINDS = plugins.kinds("sink")

OPTIONS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "recorder": lambda place: {"path": str(place / "out.mp4")},
    "clips": lambda place: {"directory": str(place / "evidence")},
    "jsonl": lambda place: {"path": str(place / "events.jsonl")},
    "zeromq": lambda place: {"bind": f"tcp://127.0.0.1:{_free_port()}"},
    "command": lambda place: {"command": ["true"]},
    "mqtt": lambda place: {"host": "127.0.0.1", "username": USER, "password": PASSWORD},
    "webhook": lambda place: {"url": "http://127.0.0.1"},
    "hls": lambda place: {"directory": str(place / "hls")},
    "rtsp_push": lambda place: {"url": f"rtsp://127.0.0.1:{_free_port()}/in"},
    "frames": lambda place: {"bind": f"tcp://127.0.0.1:{_free_port()}"},
    "window": lambda place: {},
    "web": lambda place: {"bind": f"127.0.0.1:{_free_port()}"},
}
"""The least that makes each kind work in a directory."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def far_side(kind: str, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """What a kind that needs a server must know of it."""
    if kind == "mqtt":
        (tmp_path / "broker").mkdir()
        with Broker(tmp_path / "broker") as broker:
            yield {"port": broker.port}
    elif kind == "webhook":
        with receiving() as receiver:
            yield {"url": f"http://127.0.0.1:{receiver.port}/"}
    else:
        yield {}


@pytest.fixture
def config(kind: str, tmp_path: Path, far_side: dict[str, Any]) -> Any:
    return plugins.load("sink", kind).config.model_validate(OPTIONS[kind](tmp_path) | far_side)


@pytest.fixture
def make(kind: str, config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    monkeypatch.setenv("DISPLAY", ":0")  # a window without pictures does not ask it for anything
    state = tmp_path / "state"
    state.mkdir()
    context = SinkContext("out", "run-1", state, "gate")
    return lambda: plugins.load("sink", kind).create(config, context)


def opened(sink: Any) -> Any:
    if sink.accepts == "views":
        return sink.open(SiteView("site", {}))
    return sink.open() if sink.accepts == "packets" else sink.open(LOG_ID)


def feed(sink: Any, count: int) -> None:
    if sink.accepts == "packets":
        encoder = new_encoder()
        sink.start(encoder.stream)
        for packet in encode_with(encoder, range(count)):
            sink.write(packet)
        sink.finish()
    elif sink.accepts == "views":
        for _ in range(count):
            assert sink.step() >= 0
    else:
        for seq in range(1, count + 1):
            sink.write(numbered(seq))
        sink.beat(count)


def test_every_kind_is_tried_here() -> None:
    assert sorted(OPTIONS) == KINDS


def test_it_says_what_it_takes_before_and_after_it_is_built(config: Any, make: Callable[[], Any]) -> None:
    sink = make()
    assert isinstance(config, SinkConfig)
    assert config.accepts == sink.accepts
    assert sink.accepts in ("packets", "events", "views")
    assert sink.accepts != "packets" or isinstance(sink.lossless, bool)


def test_building_it_touches_nothing(make: Callable[[], Any], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    make()
    assert sorted(tmp_path.rglob("*")) == before


def test_unknown_keys_are_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        plugins.load("sink", kind).config.model_validate({**OPTIONS[kind](tmp_path), "colour": "blue"})


def test_it_works_opened_twice_and_closed_twice(make: Callable[[], Any]) -> None:
    sink = make()
    opened(sink)
    sink.close()
    opened(sink)
    feed(sink, 3)
    sink.close()
    sink.close()


def test_it_can_be_closed_without_being_opened(make: Callable[[], Any]) -> None:
    make().close()


def test_two_in_one_place_are_refused_and_the_second_can_be_closed(config: Any, make: Callable[[], Any]) -> None:
    if not any(what != "stream" for what, _ in config.claims()):
        pytest.skip("it has no place of its own on this machine: two may do the same")
    first, second = make(), make()
    opened(first)
    if first.accepts == "packets":  # it holds its place from the first frame on
        encoder = new_encoder()
        first.start(encoder.stream)
        first.write(next(iter(encode_with(encoder, [0]))))
    with pytest.raises((ConfigError, StartupError), match="out"):
        opened(second)
    second.close()
    first.close()


def test_a_restarted_one_knows_what_was_delivered(make: Callable[[], Any]) -> None:
    sink = make()
    opened(sink)
    feed(sink, 3)
    sink.close()
    again = make()
    delivered = opened(again)
    again.close()
    assert delivered in (None, 3, 2 / 25)


def test_the_module_has_one_class_beside_its_configuration(kind: str) -> None:
    module = inspect.getmodule(plugins.load("sink", kind).create)
    assert module is not None
    own = [
        name for name, value in vars(module).items() if inspect.isclass(value) and value.__module__ == module.__name__
    ]
    assert len(own) == 2
    assert "Config" in own
