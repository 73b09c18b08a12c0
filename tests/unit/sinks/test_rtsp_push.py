"""What is pushed to a server that is too slow."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.sinks.kinds import rtsp_push
from pipeline.sinks.kinds.rtsp_push import HOLD_OFF_S, QUEUED_MAX, Config
from pipeline.sinks.sink import Packet, SinkContext, Stream, Wish
from pipeline.types import Layout

FPS = 25


def packet(seq: int, *, keyframe: bool) -> Packet:
    return Packet(b"", keyframe, seq, seq * 3600, seq / FPS, 0)


def test_a_server_that_is_too_slow_does_not_make_every_frame_a_keyframe(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(rtsp_push, "time", SimpleNamespace(monotonic=lambda: now_s))
    config = Config.model_validate({"url": "rtsp://127.0.0.1:1/gate"})
    sink = rtsp_push.create(config, SinkContext("out", "run-1", Path(), source_id="gate"))
    sink.start(Stream(Layout(64, 48), b""))  # nothing takes packets out: no thread runs
    keyframes = []
    for seq in range(4 * QUEUED_MAX):
        keyframe = sink.wish(seq / FPS) is Wish.KEYFRAME
        keyframes += [seq] * keyframe
        sink.write(packet(seq, keyframe=keyframe))
        now_s += 1 / FPS
    assert keyframes[0] == 0
    assert all(later - earlier >= HOLD_OFF_S * FPS + QUEUED_MAX for earlier, later in pairwise(keyframes))
    first = sink._queue.get_nowait()
    assert first is not None
    assert (first[1].keyframe, first[1].seq) == (True, keyframes[-1]), "what was waiting is not sent any more"
