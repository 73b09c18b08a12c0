from __future__ import annotations

import gc
from pathlib import Path

from av.sidedata.sidedata import SideDataContainer

from pipeline.benchmarks.videos import write
from pipeline.capture.sources.file import Config, FileSource
from pipeline.types import Layout

KEYFRAME_EVERY = 50


def test_key_frames_are_not_left_to_the_garbage_collector(tmp_path: Path) -> None:
    path = tmp_path / "three-key-frames.mp4"
    write(path, Layout(320, 180), 2 * KEYFRAME_EVERY + 10)
    source = FileSource(Config(path=str(path)))
    source.open()
    gc.collect()
    gc.disable()
    try:
        while source.read() is not None:
            pass
        held = sum(type(thing) is SideDataContainer for thing in gc.get_objects())  # isinstance asks foreign objects
    finally:
        gc.enable()
        source.close()
    assert held <= 1
