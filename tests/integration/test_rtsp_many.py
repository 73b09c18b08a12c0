"""Several cameras in one site: nobody waits for another, and nobody is taken for another."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

from tests.cameras import await_state, check_recorded, gaps, now_ns, recordings, site
from tests.rtsp_server import RtspServer, film
from tests.runs import Program, free_port, wait_until

COUNT, SECONDS = 100, 6


def test_a_dead_and_a_hung_camera_slow_nobody(bare_program: Program, tmp_path: Path) -> None:
    """Two that work, of different sizes and rates, beside one that nobody has ever seen and one that falls silent."""
    small, large = film(tmp_path / "1.mp4", 1, COUNT), film(tmp_path / "2.mp4", 2, COUNT, size=(640, 360))
    with contextlib.ExitStack() as stack:
        good = stack.enter_context(RtspServer({"one": [small]}, fps=25))
        other = stack.enter_context(RtspServer({"two": [large]}, fps=10))
        silent = stack.enter_context(RtspServer({"three": [film(tmp_path / "3.mp4", 3, COUNT)]}))
        sources: dict[str, dict[str, object]] = {
            "one": {"url": good.url("one")},
            "two": {"url": other.url("two")},
            "silent": {"url": silent.url("three"), "stall_s": 2},
            "dead": {"url": f"rtsp://127.0.0.1:{free_port()}/none"},
        }
        run = bare_program.start("run", "--json", site(bare_program.cwd, sources))
        heads = {name: stack.enter_context(run.head(name)) for name in sources}
        for name in ("one", "two", "silent"):
            await_state(heads[name], "live")
        await_state(heads["dead"], "backing_off")
        silent.freeze()
        before = {name: head.next_seq for name, head in heads.items()}
        began_ns = now_ns()
        wait_until(lambda: now_ns() - began_ns > SECONDS * 1e9, "some seconds")
        seconds = (now_ns() - began_ns) / 1e9
        fps = {name: (head.next_seq - before[name]) / seconds for name, head in heads.items()}
        await_state(heads["silent"], "stalled")
        run.signal(signal.SIGINT)
        outcome = run.finish()
    print({name: round(value, 1) for name, value in fps.items()})
    assert outcome.code == 0, outcome.stderr
    assert fps["one"] > 0.9 * 25
    assert fps["two"] > 0.9 * 10
    assert outcome.report["restarts"] == {}
    for recording in recordings(bare_program.cwd):
        camera = {"one": 1, "two": 2, "silent": 3}[recording.name.split("-")[0]]
        numbers = check_recorded(recording, camera)
        missing = outcome.report["sources"][recording.name.split("-")[0]]["missing_count"]
        assert gaps(numbers, COUNT) <= missing
    assert len(recordings(bare_program.cwd)) == 3
    bare_program.assert_nothing_left()
