"""What is private is black in the ring already, whoever captures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.areas import Area, Curtain
from pipeline.capture.live_stage import LiveCaptureStage
from pipeline.capture.stage import CaptureStage
from pipeline.transport.ring import Reader
from tests.runs import wait_until
from tests.unit.stages.fakes import FakeBell, FakeSource, as_bell, film, head_in
from tests.unit.stages.test_live_stage import FakeLive, finish

LEFT = Curtain([Area(polygon=[(0, 0), (0.4, 0), (0.4, 1), (0, 1)])])


@pytest.mark.parametrize("live", [False, True])
def test_no_reader_ever_sees_what_is_private(tmp_path: Path, live: bool) -> None:
    head = head_in(tmp_path)
    if live:
        camera = FakeLive([("...", "hangs")])
        stage = LiveCaptureStage("capture/gate", camera, head, as_bell(FakeBell()), curtain=LEFT)
        stage.open()
        wait_until(lambda: stage.step() is not None and head.next_seq == 3, "three frames", 30)
        finish(stage, camera)
    else:
        files = CaptureStage("capture/gate", FakeSource(film(3), "lossless"), head, as_bell(FakeBell()), curtain=LEFT)
        files.open()
        while files.step() is not None:
            pass
    image = Reader(head, "inference").frame(1).image
    assert np.all(image.y[:, : int(0.4 * image.layout.width)] == 16)
    assert np.all(image.y[:, image.layout.width // 2 :] == (50 if live else 21)), "the rest is as it was"
