"""A camera at the end of an RTSP address: it comes, goes and comes back, and everybody can see why."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.capture.sources.rtsp import Config, create
from tests.cameras import (
    await_frames,
    await_state,
    check_recorded,
    events,
    gaps,
    now_ns,
    outages,
    recordings,
    since_s,
    site,
)  # fmt: skip
from tests.rtsp_server import RtspServer, film
from tests.runs import Program, kill, processes_with, wait_until

COUNT = 100


@pytest.fixture(scope="module")
def camera_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("film") / "one.mp4", 1, COUNT)


@pytest.fixture
def server(camera_film: Path) -> Iterator[RtspServer]:
    with RtspServer({"one": [camera_film]}) as server:
        yield server


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_stream_is_opened_within_a_second(server: RtspServer, transport: str) -> None:
    """Once is enough, because the machine may be busy: what makes FFmpeg slow makes it so every time."""
    took_s: list[float] = []

    def quick() -> bool:
        source = create(Config.model_validate({"url": server.url("one"), "transport": transport}), "gate")
        began_ns = now_ns()
        with contextlib.closing(source):
            source.open()
            took_s.append((now_ns() - began_ns) / 1e9)
            assert not source.read().corrupt
        return took_s[-1] < 1

    wait_until(quick, "a stream that is opened within a second")
    print("opened in", ", ".join(f"{one_s:.2f} s" for one_s in took_s))


def test_a_killed_server_comes_back(bare_program: Program, server: RtspServer) -> None:
    """Noticed within a second, live again within three of the server; one recording, with both halves in it."""
    run = bare_program.start("run", "--json", site(bare_program.cwd, {"gate": {"url": server.url("one")}}))
    with run.head("gate") as head:
        live = await_state(head, "live")
        capture = run.stage_pid("capture")
        await_frames(head, 30)
        killed_ns = now_ns()
        server.kill()
        lost = await_state(head, "stalled", "backing_off", after=live.number + 1)
        assert lost.reason == "ended"
        assert since_s(lost, killed_ns) < 3
        wait_until(lambda: head.changes.count > lost.number + 4, "some attempts in vain")
        server.start()
        started_ns = now_ns()
        back = await_state(head, "live", after=lost.number)
        assert since_s(back, started_ns) < 9
        await_frames(head, 30)
        assert head.losses == 1
        assert run.stage_pid("capture") == capture
        run.signal(signal.SIGINT)
        outcome = run.finish()
    print(f"noticed {since_s(lost, killed_ns):.2f} s, live again {since_s(back, started_ns):.2f} s")
    assert outcome.code == 0, outcome.stderr
    assert outcome.report["restarts"] == {}
    assert outages(bare_program.cwd) == [("source_lost", "ended"), ("source_live", None)]
    assert outcome.report["sources"]["gate"]["missing"] == []
    [recording] = recordings(bare_program.cwd)
    numbers = check_recorded(recording, 1)
    assert len(numbers) == outcome.report["frames"]["written"] == outcome.report["frames"]["decoded"]
    assert gaps(numbers, COUNT) <= 1
    bare_program.assert_nothing_left()


def test_a_server_that_hangs_is_noticed(bare_program: Program, server: RtspServer) -> None:
    path = site(bare_program.cwd, {"gate": {"url": server.url("one"), "stall_s": 2}}, record=False)
    run = bare_program.start("run", "--json", path)
    with run.head("gate") as head:
        live = await_state(head, "live")
        frozen_ns = now_ns()
        server.freeze()
        lost = await_state(head, "stalled", after=live.number)
        assert lost.reason == "timeout"
        assert 1.8 < since_s(lost, frozen_ns) < 6
        again = await_state(head, "backing_off", after=lost.number)
        assert again.reason == "timeout"
        server.thaw()
        thawed_ns = now_ns()
        back = await_state(head, "live", after=again.number)
        assert since_s(back, thawed_ns) < 9
        run.signal(signal.SIGINT)
        outcome = run.finish()
    print(f"noticed {since_s(lost, frozen_ns):.2f} s, live again {since_s(back, thawed_ns):.2f} s")
    assert outcome.code == 0, outcome.stderr
    assert outages(bare_program.cwd) == [("source_lost", "timeout"), ("source_live", None)]


def test_a_camera_that_is_down_at_the_start_is_the_same_case(bare_program: Program, server: RtspServer) -> None:
    server.kill()
    path = site(bare_program.cwd, {"gate": {"url": server.url("one")}}, record=False)
    run = bare_program.start("run", "--json", path)
    with run.head("gate") as head:
        down = await_state(head, "backing_off")
        assert down.reason == "refused"
        wait_until(lambda: bool(events(bare_program.cwd)), "the event that says so")
        server.start()
        started_ns = now_ns()
        back = await_state(head, "live")
        assert since_s(back, started_ns) < 9
        run.signal(signal.SIGINT)
        outcome = run.finish()
    print(f"live {since_s(back, started_ns):.2f} s")
    assert outcome.code == 0, outcome.stderr
    assert outages(bare_program.cwd) == [("source_lost", "refused"), ("source_live", None)]


def test_a_killed_capture_connects_again_and_nobody_calls_it_an_outage(
    bare_program: Program, server: RtspServer
) -> None:
    run = bare_program.start("run", "--json", site(bare_program.cwd, {"gate": {"url": server.url("one")}}))
    with run.head("gate") as head:
        await_state(head, "live")
        await_frames(head, 20)
        seen = head.changes.count
        kill(run.await_stage("capture"))
        await_state(head, "live", after=seen)
        await_frames(head, 20)
        run.signal(signal.SIGINT)
        outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    assert outcome.report["restarts"] == {"capture/gate": 1}
    assert outages(bare_program.cwd) == []
    [recording] = recordings(bare_program.cwd)
    assert len(check_recorded(recording, 1)) == outcome.report["frames"]["decoded"]
    bare_program.assert_nothing_left()


IMPATIENT = """
import sys
from pipeline import budget, cli
budget.RESTARTS_MAX, budget.RESTART_DELAY_S = 1, 1.5
sys.exit(cli.main())
"""
"""The program itself, with less patience for what crashes."""


def test_a_camera_whose_capture_goes_on_crashing_is_told_as_lost_and_never_given_up(
    bare_program: Program, server: RtspServer
) -> None:
    here = site(bare_program.cwd, {"gate": {"url": server.url("one")}}, record=False)
    run = bare_program.start("run", "--json", here, command=(sys.executable, "-c", IMPATIENT))
    with run.head("gate") as head:
        for _ in range(3):
            await_frames(head, 10)
            seen = head.changes.count
            kill(run.await_stage("capture"))
            assert await_state(head, "backing_off", after=seen).reason == "crashed"
            await_state(head, "live", after=seen)
        await_frames(head, 10)
        run.signal(signal.SIGINT)
        outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    told = outages(bare_program.cwd)
    assert told[::2].count(("source_lost", "crashed")) == 3  # a busy server may stall besides
    assert told[1::2] == [("source_live", None)] * (len(told) // 2)
    assert len(told) % 2 == 0


@pytest.mark.parametrize("frozen", [False, True])
def test_ctrl_c_ends_a_camera_that_is_away_at_once(bare_program: Program, server: RtspServer, frozen: bool) -> None:
    if frozen:
        server.freeze()
    else:
        server.kill()
    path = site(bare_program.cwd, {"gate": {"url": server.url("one")}}, record=False)
    run = bare_program.start("run", "--json", path)
    with run.head("gate") as head:
        await_state(head, "connecting" if frozen else "backing_off")
        wait_until(lambda: not head.held, "the start")
        asked_ns = now_ns()
        run.signal(signal.SIGINT)
        outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    assert (now_ns() - asked_ns) / 1e9 < 5
    bare_program.assert_nothing_left()


@pytest.mark.parametrize("method", ["basic", "digest"])
def test_a_wrong_login_is_told_and_corrected(
    bare_program: Program, camera_film: Path, tmp_path: Path, method: str
) -> None:
    """By the file that holds it, read again at every attempt; it appears nowhere."""
    password = "p@ss:/%wörd"
    login_file = tmp_path / "login"
    login_file.write_text("us er:wrong\n")
    with RtspServer({"one": [camera_film]}, login=(method, "us er", password)) as server:
        source = {"url": server.url("one"), "login_file": str(login_file)}
        run = bare_program.start("-v", "run", "--json", site(bare_program.cwd, {"gate": source}, record=False))
        with run.head("gate") as head:
            refused = await_state(head, "backing_off")
            assert refused.reason == "unauthorised"
            login_file.write_text(f"us er:{password}\n")
            corrected_ns = now_ns()
            back = await_state(head, "live")
            assert since_s(back, corrected_ns) < 9
            arguments = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes_with(bare_program.run_base)]
            run.signal(signal.SIGINT)
            outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    told = outcome.stderr + outcome.stdout + (bare_program.cwd / "events.jsonl").read_text() + repr(arguments)
    assert "p@ss" not in told
    assert "p%40ss" not in told


def test_a_wrong_login_is_corrected_in_the_site(bare_program: Program, camera_film: Path) -> None:
    """Its file is changed and taken up by SIGHUP, long before the next attempt would be due."""
    with RtspServer({"one": [camera_film]}, login=("digest", "me", "right")) as server:
        path = site(bare_program.cwd, {"gate": {"url": server.url("one", "me:wrong")}}, record=False)
        run = bare_program.start("run", "--json", path)
        with run.head("gate") as head:
            assert await_state(head, "backing_off").reason == "unauthorised"
            site(bare_program.cwd, {"gate": {"url": server.url("one", "me:right")}}, record=False)
            os.kill(run.pid, signal.SIGHUP)
            corrected_ns = now_ns()
            back = await_state(head, "live")
            run.signal(signal.SIGINT)
            outcome = run.finish()
    print(f"live {since_s(back, corrected_ns):.2f} s after the correction")
    assert outcome.code == 0, outcome.stderr
    assert outages(bare_program.cwd) == [("source_lost", "unauthorised"), ("source_live", None)]


def test_another_resolution_is_taken_up(bare_program: Program, camera_film: Path, tmp_path: Path) -> None:
    larger = film(tmp_path / "larger.mp4", 1, COUNT, size=(640, 360))
    with RtspServer({"one": [camera_film, larger]}) as server:
        run = bare_program.start("run", "--json", site(bare_program.cwd, {"gate": {"url": server.url("one")}}))
        with run.head("gate") as head:
            await_state(head, "live")
            await_frames(head, 10)
            asked_ns = now_ns()
            server.show("one", 1)
            wait_until(lambda: head.generation == 1, "frames of another size")
            took_s = (now_ns() - asked_ns) / 1e9
            await_frames(head, 10)
            assert head.status is not None
            assert head.status.state == "live"
            run.signal(signal.SIGINT)
            outcome = run.finish()
    print(f"other size after {took_s:.2f} s")
    assert outcome.code == 0, outcome.stderr
    assert took_s < 6
    assert len(recordings(bare_program.cwd)) == 2
    for recording in recordings(bare_program.cwd):
        check_recorded(recording, 1)


def test_another_codec_after_a_restart_is_taken_up(bare_program: Program, server: RtspServer, tmp_path: Path) -> None:
    """H.264 before, H.265 behind it; the recording does not care."""
    run = bare_program.start("run", "--json", site(bare_program.cwd, {"gate": {"url": server.url("one")}}))
    with run.head("gate") as head:
        live = await_state(head, "live")
        await_frames(head, 10)
        server.kill()
        lost = await_state(head, "backing_off", after=live.number)
        server.change({"one": [film(tmp_path / "h265.mp4", 1, COUNT, codec="h265")]}, "h265")
        server.start()
        await_state(head, "live", after=lost.number)
        await_frames(head, 40)
        run.signal(signal.SIGINT)
        outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    [recording] = recordings(bare_program.cwd)
    numbers = check_recorded(recording, 1)
    assert len(numbers) == outcome.report["frames"]["decoded"]
    assert gaps(numbers, COUNT) <= 1
