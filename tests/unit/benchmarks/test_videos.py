from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import av
import numpy as np

from pipeline.benchmarks import videos
from pipeline.types import Layout

SMALL = Layout(320, 180, "bt709")


def luma(frames: int) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    return [image.y.copy() for image in videos.scene(SMALL, frames)]


def test_pictures_are_the_same_every_time_and_all_different() -> None:
    first, second = luma(12), luma(12)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(np.abs(a.astype(int) - b).mean() > 0.5 for a, b in pairwise(first))
    assert min(picture.std() for picture in first) > 15


def test_a_video_is_made_once_and_holds_what_was_asked_for(tmp_path: Path) -> None:
    videos.SIZES["tiny"] = (320, 180)
    try:
        path = videos.bench_video("tiny", 30, tmp_path)
        written = path.stat()
        assert videos.bench_video("tiny", 30, tmp_path) == path
    finally:
        del videos.SIZES["tiny"]
    assert path.stat().st_mtime_ns == written.st_mtime_ns
    assert list(tmp_path.iterdir()) == [path]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.codec_context.name) == (320, 180, "h264")
        assert sum(1 for _ in container.decode(stream)) == 30
