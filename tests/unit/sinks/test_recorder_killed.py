"""Recorders killed with SIGKILL: in a frame, between frames, and at every step of joining."""

from __future__ import annotations

import os
import random
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.sinks.kinds.recorder import Config, Recorder
from tests.unit.sinks.recordings import context, encode_with, frames, new_encoder, numbers, record


def in_process(work: Callable[[], None]) -> int:
    """Starts ``work`` in a process of its own and returns its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def outcome(pid: int) -> int:
    """The exit status, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die_at(call: int) -> None:
    """From now on, the ``call``-th time that a step of joining is taken kills this process, before it is taken."""
    taken = 0

    def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal taken
            taken += 1
            if taken == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return step

    for name in ("fsync", "pwrite", "ftruncate", "replace", "rename", "unlink"):
        setattr(os, name, deadly(getattr(os, name)))


def go_on(tmp_path: Path, config: Config, count: int) -> None:
    """What a restarted annotator does: the frames that are not safe yet, then the end."""
    sink = Recorder(config, context(tmp_path, restarted=True))
    stored_s = sink.open()
    rest = [number for number in range(count) if stored_s is None or number / 25 > stored_s]
    if rest:
        record(sink, rest)
    sink.finish()
    sink.close()


@pytest.mark.parametrize("place", ["path", "directory"])
def test_killed_at_every_step_of_finish(tmp_path: Path, place: str) -> None:
    calls = 0
    while True:
        calls += 1
        run = tmp_path / str(calls)
        run.mkdir()
        config = Config(path=run / "out.mp4") if place == "path" else Config(directory=run / "recordings")
        sink = Recorder(config, context(run))
        sink.open()
        record(sink, range(4))
        sink.close()

        def finish(config: Config = config, run: Path = run, call: int = calls) -> None:
            die_at(call)
            go_on(run, config, 8)

        killed = outcome(in_process(finish))
        more = 10 if killed and not list(run.rglob("*[tZ].mp4")) else 8  # unnamed, it can still grow
        go_on(run, config, more)
        files = [path for path in run.rglob("*") if path.is_file() and "state" not in path.parts]
        assert [path.suffix for path in files] == [".mp4"], f"left over after step {calls}"
        assert numbers(files[0]) == list(range(more)), f"after step {calls}"
        if killed == 0:
            break
    assert calls > 5, "finish was not interrupted where it matters"


def test_killed_while_it_writes_no_frame_is_lost_or_doubled(tmp_path: Path) -> None:
    count, rng = 60, random.Random(3)
    config = Config(path=tmp_path / "out.mp4")
    deaths = 0
    while True:
        read_end, write_end = os.pipe()

        def work(write_end: int = write_end) -> None:
            sink = Recorder(config, context(tmp_path, restarted=True))
            stored_s = sink.open()
            for number in range(count):
                if stored_s is None or number / 25 > stored_s:
                    record_slowly(sink, number, write_end)
            sink.finish()
            sink.close()

        pid = in_process(work)
        os.close(write_end)
        select.select([read_end], [], [], 5)
        time.sleep(rng.uniform(0, 0.03))
        os.kill(pid, signal.SIGKILL)
        said = _last_said(read_end)
        if outcome(pid) == 0 or (tmp_path / "out.mp4").exists():
            break
        deaths += 1
        sink = Recorder(config, context(tmp_path, restarted=True))
        stored_s = sink.open()
        sink.close()
        assert stored_s is not None
        assert round(stored_s * 25) in (said, said + 1), "more is stored than was said, by one frame at most"
    assert deaths > 3
    go_on(tmp_path, config, count)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "state"]
    assert numbers(tmp_path / "out.mp4") == list(range(count))
    assert [pts for pts, _ in frames(tmp_path / "out.mp4")] == [number * 3600 for number in range(count)]


def record_slowly(sink: Recorder, number: int, told: int) -> None:
    record(sink, [number])
    os.write(told, number.to_bytes(4, "big"))


def _last_said(read_end: int) -> int:
    said = b""
    while piece := os.read(read_end, 65536):
        said += piece
    os.close(read_end)
    return int.from_bytes(said[len(said) // 4 * 4 - 4 : len(said) // 4 * 4], "big")


def test_whatever_stands_half_written_at_the_end_is_ignored(tmp_path: Path) -> None:
    sink = Recorder(Config(path=tmp_path / "whole.mp4"), context(tmp_path))
    sink.open()
    encoder = new_encoder()
    sink.start(encoder.stream)
    ends = []
    for packet in encode_with(encoder, range(3)):
        sink.write(packet)
        ends.append((tmp_path / "whole.part-1.mp4").stat().st_size)
    sink.close()
    whole = (tmp_path / "whole.part-1.mp4").read_bytes()
    for size in sorted({0, 1, 40, 100, 500, *range(ends[0] - 3, ends[-1], 41), *ends}):
        run = tmp_path / f"cut-{size}"
        run.mkdir()
        (run / "out.part-1.mp4").write_bytes(whole[:size])
        stored = sum(end <= size for end in ends)
        again = Recorder(Config(path=run / "out.mp4"), context(tmp_path, restarted=True))
        assert again.open() == ((stored - 1) / 25 if stored else None), size
        record(again, range(stored, 5))
        again.finish()
        again.close()
        assert [path.name for path in run.iterdir()] == ["out.mp4"]
        assert numbers(run / "out.mp4") == list(range(5))


def test_frames_that_come_again_are_stored_once(tmp_path: Path) -> None:
    """Another sink of the source was two frames behind, so that encoding starts there again."""
    config = Config(path=tmp_path / "out.mp4")
    sink = Recorder(config, context(tmp_path))
    sink.open()
    record(sink, range(6))
    sink.close()
    sink.open()
    record(sink, range(4, 9), safe_s=5 / 25)
    sink.finish()
    sink.close()
    assert numbers(tmp_path / "out.mp4") == list(range(9))
