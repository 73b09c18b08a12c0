"""Cameras recorded in segments, drawn on or as they send it: through an outage, and with their place in time."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path

import av
import pytest

from pipeline.sinks.archive import Archive
from tests.cameras import await_frames, await_state, check_recorded, gaps, site
from tests.numbered import complaints
from tests.rtsp_server import RtspServer, film
from tests.runs import Program, kill, wait_until

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
    assert len(kept) >= 3  # a segment ends with the first key frame behind its boundary
    numbers = [number for file in kept for number in check_recorded(directory / file.path, 1)]
    assert gaps(numbers, COUNT) <= 1
    assert len(numbers) == sum(file.frames for file in kept) >= 150
    starts = [file.start_ns for file in kept]
    assert all(after - before > 0.1e9 for before, after in pairwise(starts))
    for before, after in pairwise(kept):
        hole = any(before.end_ns <= gap.start_ns + 5e8 and gap.end_ns - 5e8 <= after.start_ns for gap in missing)
        assert hole or 0 < after.start_ns - before.end_ns < 0.5e9
    bare_program.assert_nothing_left()


@pytest.mark.parametrize("codec", ["h264"])
@pytest.mark.parametrize("change", ["size", "annotator", "capture"])
def test_packets_are_stored_whole_whatever_happens(
    bare_program: Program, tmp_path: Path, codec: str, change: str
) -> None:
    """Another size, and a death: what is told as written can be decoded, in order, and FFmpeg has nothing to say."""
    films = [film(tmp_path / f"{size[0]}.mp4", 1, COUNT, codec=codec, size=size) for size in ((640, 360), (352, 288))]
    with RtspServer({"one": films}, codec=codec) as server:
        path = site(bare_program.cwd, {"gate": {"url": server.url("one")}})
        text = json.loads(path.read_text())
        text["sinks"]["recordings"] |= {"segment_s": 2, "overlay": "track"}
        path.write_text(json.dumps(text))
        run = bare_program.start("run", "--json", path)
        with run.head("gate") as head:
            await_state(head, "live")
            await_frames(head, 75)
            if change == "size":
                server.show("one", 1)
                wait_until(lambda: head.generation == 1, "pictures of another size")
            else:
                pid = run.await_stage(change)
                kill(pid)
                wait_until(lambda: run.stage_pid(change) not in (pid, None), f"another {change}")
            await_frames(head, 75)
            run.signal(signal.SIGINT)
            outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    directory = bare_program.cwd / "recordings"
    with contextlib.closing(Archive(directory, read_only=True)) as archive:
        kept = [directory / file.path for file in archive.files()]
    assert [complaints(path) for path in kept] == [""] * len(kept)
    stored = [check_recorded(path, 1) for path in kept]
    numbers = [number for segment in stored for number in segment]
    assert gaps(numbers, COUNT) <= (change != "annotator")
    frames = outcome.report["frames"]
    assert 0 <= len(numbers) - frames["written"] <= 1  # a packet whose picture came with the end
    assert outcome.report["sources"]["gate"]["missing_count"] == frames["decoded"] - frames["written"] <= 25
    if change == "size":
        heights = [height_of(path) for path in kept]
        assert [height for height, _ in groupby(heights)] == [392, 320]
        assert frames["written"] == frames["decoded"]
    bare_program.assert_nothing_left()


def height_of(path: Path) -> int:
    """Of all pictures, as of what the file says."""
    with av.open(str(path)) as file:
        said = file.streams.video[0].codec_context.height
        assert {frame.height for frame in file.decode(video=0)} == {said}
    return said
