"""Real videos from many hands, where there are any: ``FACEMASK_SHARED`` (``../shared``) ``/videos``."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import av
import pytest

from pipeline.capture.sources.file import Config, create

VIDEOS = Path(os.environ.get("FACEMASK_SHARED", "../shared")) / "videos"
SAMPLES = sorted(VIDEOS.iterdir()) if VIDEOS.is_dir() else []


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_every_frame_comes_out_and_the_end_is_good(path: Path) -> None:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        stamps = sorted((packet.dts if path.suffix == ".avi" else packet.pts) or 0 for packet in packets)
        time_base = stream.time_base
    assert time_base is not None
    source = create(Config(path=str(path)), "gate")
    source.open()
    times = [picture.time_s for picture in iter(source.read, None)]
    expected = source.expected_frames
    source.close()
    assert len(times) == len(stamps)
    assert all(before < after for before, after in pairwise(times))
    assert times == pytest.approx([float((stamp - stamps[0]) * time_base) for stamp in stamps])
    assert expected == pytest.approx(len(times), rel=0.05)
