"""Cameras for a long time: many losses one after the other, the default deadline, half an hour with four cameras."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.transport.head import Head
from tests.cameras import await_frames, await_state, check_recorded, now_ns, outages, recordings, since_s, site
from tests.rtsp_server import RtspServer, film
from tests.runs import Program, Run, processes_with, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]

KILLS = 50
SOAK_S = float(os.environ.get("FACEMASK_SOAK_S", "1800"))
"""How long the soak takes; a slope is worth more the longer it is watched."""
KILL_EVERY_S = 20.0


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def belongings(run: Run, pid: int) -> tuple[int, int, int]:
    """Open files and threads of a process, and the files of the whole run in shared memory."""
    directory = run.directory()
    assert directory is not None
    files = len(list(directory.rglob("*")))
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), len(list(Path(f"/proc/{pid}/task").iterdir())), files


def test_fifty_kills_in_a_row(bare_program: Program, tmp_path: Path) -> None:
    """Every loss is noticed within a second and over within three of the server's return, and nothing grows."""
    with RtspServer({"one": [film(tmp_path / "one.mp4", 1)]}) as server:
        run = bare_program.start(
            "run", "--json", site(bare_program.cwd, {"gate": {"url": server.url("one")}}, record=False)
        )
        noticed, back, owned, memory = [], [], [], []
        with run.head("gate") as head:
            status = await_state(head, "live")
            pid = run.stage_pid("capture")
            assert pid is not None
            for _ in range(KILLS):
                await_frames(head, 5)
                killed_ns = now_ns()
                server.kill()
                status = await_state(head, "backing_off", "stalled", after=status.number + 1)
                noticed.append(since_s(status, killed_ns))
                server.start()
                started_ns = now_ns()
                status = await_state(head, "live", after=status.number)
                back.append(since_s(status, started_ns))
                owned.append(belongings(run, pid))
                memory.append(resident_mb(pid))
            assert run.stage_pid("capture") == pid
            assert head.losses == KILLS
            run.signal(signal.SIGINT)
            outcome = run.finish()
    print(f"noticed: median {statistics.median(noticed):.3f} s, longest {max(noticed):.3f} s")
    print(f"back: median {statistics.median(back):.2f} s, longest {max(back):.2f} s")
    print(f"files, threads, shared files {owned[5]} → {owned[-1]}; memory {memory[5]:.1f} → {memory[-1]:.1f} MB")
    assert outcome.code == 0, outcome.stderr
    assert outages(bare_program.cwd) == [("source_lost", "ended"), ("source_live", None)] * KILLS
    assert max(noticed) < 3
    assert statistics.median(back) < 3
    assert max(back) < 9
    assert owned[-1] == owned[5]
    assert memory[-1] < memory[5] * 1.05 + 5


def test_a_server_that_hangs_is_noticed_within_six_seconds(bare_program: Program, tmp_path: Path) -> None:
    """With the default deadline, over TCP and UDP."""
    with RtspServer({"one": [film(tmp_path / "one.mp4", 1)]}) as server:
        sources = {name: {"url": server.url("one"), "transport": name} for name in ("tcp", "udp")}
        run = bare_program.start("run", "--json", site(bare_program.cwd, sources, record=False))
        with run.head("tcp") as tcp, run.head("udp") as udp:
            live = {head: await_state(head, "live").number for head in (tcp, udp)}
            frozen_ns = now_ns()
            server.freeze()
            for head, number in live.items():
                lost = await_state(head, "stalled", after=number)
                print(f"{head.source_id}: noticed after {since_s(lost, frozen_ns):.2f} s")
                assert since_s(lost, frozen_ns) < 6.5
            server.thaw()
            for head in (tcp, udp):
                await_state(head, "live", after=await_state(head, "stalled").number)
            run.signal(signal.SIGINT)
            assert run.finish().code == 0


def test_half_an_hour_with_four_cameras(bare_program: Program, tmp_path: Path) -> None:
    """A kill every 20 s: memory stays flat, and no frame ever lies under another camera's name."""
    names = [f"cam{number}" for number in range(1, 5)]
    chance = random.Random(2026)
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(RtspServer({name: [film(tmp_path / f"{name}.mp4", number)]}))
            for number, name in enumerate(names, 1)
        }
        sources = {name: {"url": servers[name].url(name)} for name in names}
        run = bare_program.start("run", "--json", site(bare_program.cwd, sources))
        heads: dict[str, Head] = {name: stack.enter_context(run.head(name)) for name in names}
        for head in heads.values():
            await_state(head, "live")
        pids = processes_with(bare_program.run_base)
        began_s = time.monotonic()
        samples: list[tuple[float, dict[int, float]]] = []
        kills = 0
        while time.monotonic() - began_s < SOAK_S and processes_with(bare_program.run_base) == pids:
            name = chance.choice(names)
            servers[name].kill()
            await_state(heads[name], "backing_off", "stalled", after=heads[name].changes.count)
            servers[name].start()
            await_state(heads[name], "live", after=heads[name].changes.count - 1)
            kills += 1
            due_s = began_s + kills * KILL_EVERY_S
            wait_until(lambda: time.monotonic() >= due_s, "the next kill")  # noqa: B023
            if processes_with(bare_program.run_base) == pids:
                samples.append((time.monotonic() - began_s, {pid: resident_mb(pid) for pid in pids}))
        run.signal(signal.SIGINT)
        outcome = run.finish(600)
    assert outcome.code == 0, outcome.stderr
    assert outcome.report["restarts"] == {}, outcome.stderr
    assert samples[-1][0] >= SOAK_S
    later = samples[len(samples) // 4 :]
    hours = np.array([at_s for at_s, _ in later]) / 3600
    for pid, stage in pids.items():
        memory = np.array([sample[pid] for _, sample in later])
        growth_mb = float(np.polyfit(hours, memory, 1)[0] * (hours[-1] - hours[0]))
        print(f"{stage}: {memory[0]:.1f} → {memory[-1]:.1f} MB, {growth_mb:+.1f} MB by its slope")
        assert growth_mb < 0.05 * memory[0] + 3
    print(f"{kills} kills; frames {outcome.report['frames']}")
    for recording in recordings(bare_program.cwd):
        check_recorded(recording, names.index(recording.name.split("-")[0]) + 1)
