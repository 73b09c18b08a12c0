"""What is sent on to others: an HLS folder and an RTSP server, fed by an encoder as the annotator does it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import av
import pytest

from pipeline.sinks.encoder import Encoder
from pipeline.sinks.kinds import hls, rtsp_push
from pipeline.sinks.sink import Packet, SinkContext, Wish
from pipeline.types import FrameRef, Layout
from tests.runs import free_port, wait_until
from tests.shared_data import ROOT

LAYOUT = Layout(160, 96)


def ref(number: int) -> FrameRef:
    return FrameRef("gate", number, 0, number / 25, number, 10**18 + number * 40_000_000)


def packets(encoder: Encoder, numbers: range, sink: hls.Hls | rtsp_push.RtspPush) -> Iterator[Packet]:
    """As the annotator makes them: a keyframe where the sink wants one."""
    for number in numbers:
        encoder.frame().y[:] = 16 + number % 200
        wanted = sink.wish(number / 25)
        yield from encoder.encode(ref(number), keyframe=wanted is Wish.KEYFRAME)


def context(directory: Path) -> SinkContext:
    return SinkContext("out", "run-1", directory, "gate")


def decoded(playlist: Path) -> list[float]:
    with av.open(str(playlist)) as container:
        stream = container.streams.video[0]
        return [float((frame.pts or 0) * stream.time_base) for frame in container.decode(stream) if stream.time_base]


def test_a_folder_plays_and_old_segments_go(tmp_path: Path) -> None:
    sink = hls.create(hls.Config(directory=tmp_path / "hls", segment_s=1, segments=3), context(tmp_path))
    sink.open()
    encoder = Encoder(LAYOUT)
    sink.start(encoder.stream)
    folder = tmp_path / "hls/gate"
    for packet in packets(encoder, range(250), sink):
        sink.write(packet)
        if (folder / "index.m3u8").exists():
            named = [line for line in (folder / "index.m3u8").read_text().splitlines() if not line.startswith("#")]
            assert all((folder / name).is_file() for name in named)
    assert "#EXT-X-ENDLIST" not in (folder / "index.m3u8").read_text()
    sink.finish()
    text = (folder / "index.m3u8").read_text()
    assert text.splitlines()[-1] == "#EXT-X-ENDLIST"
    assert "#EXT-X-MEDIA-SEQUENCE:8\n" in text
    times = decoded(folder / "index.m3u8")
    assert len(times) == 75
    assert times[-1] - times[0] == pytest.approx(74 / 25, abs=0.001)
    assert len(list(folder.glob("segment-*"))) == 5
    sink.close()


def test_a_new_size_is_a_new_header_and_a_restart_goes_on_counting(tmp_path: Path) -> None:
    config = hls.Config(directory=tmp_path, segment_s=0.4, segments=10)
    sink = hls.create(config, context(tmp_path))
    sink.open()
    for layout, numbers in ((LAYOUT, range(20)), (Layout(96, 160), range(20, 40))):
        encoder = Encoder(layout)
        sink.start(encoder.stream)
        for packet in packets(encoder, numbers, sink):
            sink.write(packet)
    sink.finish()
    text = (tmp_path / "gate/index.m3u8").read_text()
    assert text.count("#EXT-X-MAP") == 2
    assert text.count("#EXT-X-DISCONTINUITY\n") == 1
    assert len(decoded(tmp_path / "gate/index.m3u8")) == 40
    sink.close()
    again = hls.create(config, context(tmp_path))
    again.open()
    encoder = Encoder(LAYOUT)
    again.start(encoder.stream)
    for packet in packets(encoder, range(20), again):
        again.write(packet)
    again.finish()
    assert "#EXT-X-MEDIA-SEQUENCE:5\n" in (tmp_path / "gate/index.m3u8").read_text()
    again.close()


class Recorder:
    """The server of ``tests/rtsp_recorder.py``."""

    def __init__(self, port: int, file: Path) -> None:
        command = ["/usr/bin/python3", str(ROOT / "tests/rtsp_recorder.py"), str(port), str(file)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            _, said = self._process.communicate()
            pytest.skip(f"no GStreamer RTSP server here: {said.splitlines()[-1] if said else 'it says nothing'}")

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def frames_in(file: Path) -> int:
    """How many pictures can be decoded of what was stored so far."""
    try:
        with av.open(str(file), format="h264") as container:
            return sum(1 for _ in container.decode(video=0))
    except (av.error.FFmpegError, OSError):
        return 0


def test_a_server_gets_the_stream_and_again_after_it_was_killed(tmp_path: Path) -> None:
    port = free_port()
    config = rtsp_push.Config(url=f"rtsp://127.0.0.1:{port}/in", timeout_s=2)
    sink = rtsp_push.create(config, context(tmp_path))
    sink.open()
    encoder = Encoder(LAYOUT)
    sink.start(encoder.stream)
    numbers = count()

    def send_until_stored(file: Path) -> None:
        def more() -> bool:
            number = next(numbers)
            started_s = time.monotonic()
            for packet in packets(encoder, range(number, number + 1), sink):
                sink.write(packet)
            assert time.monotonic() - started_s < 1  # nobody waits for the server
            time.sleep(0.01)  # the rate of a camera, not a condition
            return number % 25 == 0 and frames_in(file) >= 25

        wait_until(more, f"25 frames in {file.name}")

    for name in ("first.h264", "second.h264"):
        server = Recorder(port, tmp_path / name)
        send_until_stored(tmp_path / name)
        server.kill()
    sink.close()
    sink.close()
