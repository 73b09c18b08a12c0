"""Bytes that mean nothing, on every socket there is, from somebody who may open them."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from tests.numbered import read_numbered
from tests.runs import Program, Told, free_port, told_in, wait_until

GREETING = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL" + b"\0" * 48
READY = b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x04PUSH"


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as context:
        yield context


def payloads(chance: random.Random) -> Iterator[bytes]:
    """Nothing, noise, msgpack of other things, a health report with wrong types, and a very long one."""
    health = {"stage": "inference/quick", "pid": 1, "state": "running", "beat": 1, "counters": {}, "note": None}
    yield from (b"", b"\x01", b"\0" * 64, b"\xc1", b"\x92\x01", b"\xdd\xff\xff\xff\xff", b"\x91" * 5000)
    yield from (msgspec.msgpack.encode(value) for value in (None, [], [2, health], [1, {**health, "pid": "x"}]))
    yield from (msgspec.msgpack.encode([1, {**health, "stage": stage}]) for stage in ("nobody", "x" * 100_000))
    yield msgspec.msgpack.encode([1, health]).replace(b"running", b"\xed\xa0\xbd\xff\xc0\x80\xfe")  # not UTF-8
    yield from (chance.randbytes(chance.randrange(1, 400)) for _ in range(200))


def noise(chance: random.Random) -> Iterator[bytes]:
    """What a connection may begin with: noise, half a handshake, a good handshake with frames of absurd lengths."""
    yield from (chance.randbytes(chance.randrange(1, 2000)) for _ in range(20))
    yield GREETING[:30]
    yield GREETING + chance.randbytes(200)
    yield GREETING + READY + b"\x02" + struct.pack(">Q", 1 << 62)
    yield GREETING + READY + b"\x00\xff" + chance.randbytes(255)


def test_garbage_on_every_socket_harms_nobody(
    program: Program, short_video: Path, short_events: list[Told], context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    chance = random.Random(7)
    run = program.start(
        "run", "--json", "--source", short_video, "--record", "out.mp4", "--events", "events.jsonl",
        "--publish", f"tcp://127.0.0.1:{free_port()}",
    )  # fmt: skip
    with run.results("short") as results:
        wait_until(lambda: results.published >= 5, "some results")
        directory = run.directory()
        assert directory is not None
        sockets = [path for path in directory.rglob("*") if path.is_socket()]
        assert {path.name for path in sockets} >= {
            "health",
            "short.frame-bell",
            "short.result-bell",
            "short.event-bell",
        }
        for path in sockets:
            for kind in (zmq.PUSH, zmq.SUB, zmq.PUB, zmq.DEALER):
                with context.socket(kind) as client:
                    client.setsockopt(zmq.LINGER, 0)
                    client.setsockopt(zmq.SNDTIMEO, 20)
                    client.connect(f"ipc://{path}")
                    for payload in payloads(chance):
                        if kind == zmq.SUB:
                            client.setsockopt(zmq.SUBSCRIBE, payload[:200])
                        else:
                            with contextlib.suppress(zmq.Again):
                                client.send_multipart([payload, payload] if len(payload) % 2 else [payload])
            for start in noise(chance):
                with socket.socket(socket.AF_UNIX) as raw, contextlib.suppress(OSError):
                    raw.connect(str(path))
                    raw.sendall(start)
    outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    assert outcome.report["restarts"] == {}
    assert [frame.number for frame in read_numbered(program.cwd / "out.mp4")] == list(range(60))
    assert told_in(program.cwd / "events.jsonl") == short_events
    program.assert_nothing_left()
