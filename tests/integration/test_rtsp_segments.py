"""Cameras recorded in segments, drawn on or as they send it: through an outage, and with their place in time."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.sinks.archive import Archive
from tests.cameras import await_frames, await_state, check_recorded, gaps, site
from tests.rtsp_server import RtspServer, film
from tests.runs import Program, wait_until

COUNT = 100


@pytest.fixture
def server(codec: str, tmp_path: Path) -> Iterator[RtspServer]:
    with RtspServer({"one": [film(tmp_path / "one.mp4", 1, COUNT, codec=codec)]}, codec=codec) as server:
        yield server


@pytest.mark.parametrize(("overlay", "codec"), [("burn", "h264"), ("track", "h264"), ("track", "h265")])
def test_an_outage_is_a_gap_in_the_index_and_nothing_else_is_missing(
    bare_program: Program, server: RtspServer, overlay: str
) -> None:
    path = site(bare_program.cwd, {"gate": {"url": server.url("one")}})
    text = json.loads(path.read_text())
    text["sinks"]["recordings"] |= {"segment_s": 2, "overlay": overlay}
    path.write_text(json.dumps(text))
    run = bare_program.start("run", "--json", path)
    with run.head("gate") as head:
        live = await_state(head, "live")
        await_frames(head, 75)
        server.kill()
        lost = await_state(head, "stalled", "backing_off", after=live.number + 1)
        wait_until(lambda: head.changes.count > lost.number + 4, "some attempts in vain")
        server.start()
        await_state(head, "live", after=lost.number)
        await_frames(head, 75)
        run.signal(signal.SIGINT)
        outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    directory = bare_program.cwd / "recordings"
    with contextlib.closing(Archive(directory, read_only=True)) as archive:
        kept, missing = list(archive.files()), archive.gaps()
    assert [gap.reason for gap in missing] == ["source_lost"]
    assert 0.5 < (missing[0].end_ns - missing[0].start_ns) / 1e9 < 60
    assert len(kept) > 3
    numbers = [number for file in kept for number in check_recorded(directory / file.path, 1)]
    assert gaps(numbers, COUNT) <= 1
    assert len(numbers) == sum(file.frames for file in kept) >= 150
    starts = [file.start_ns for file in kept]
    assert all(after - before > 0.1e9 for before, after in pairwise(starts))
    for before, after in pairwise(kept):
        hole = any(before.end_ns <= gap.start_ns + 5e8 and gap.end_ns - 5e8 <= after.start_ns for gap in missing)
        assert hole or 0 < after.start_ns - before.end_ns < 0.5e9
    bare_program.assert_nothing_left()
