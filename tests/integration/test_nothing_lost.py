"""Whoever dies, is away or has no room: in the end every subscriber has every event, in order.

One site tells events at a known rate. A subscriber of ours, an MQTT subscriber behind mosquitto, a webhook receiver
and a file listen, while subscribers and the events process are killed, the broker is down and the log's disk is full.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.numbered import write_numbered
from tests.runs import ROOT, Program, Run, free_port, kill, wait_until
from tests.servers import PASSWORD, USER, Broker, MqttListener, receiving
from tests.telling import Every, Heard, heard_in

PREFIX = "facemask/telling"
RATE = 25
UNTIRING = """
import sys
from pipeline import budget, cli
budget.RESTARTS_MAX, budget.RESTART_DELAY_MAX_S = 1000, 0.05
sys.exit(cli.main())
"""
"""The program itself, with a budget for more restarts than anybody should need."""


@dataclass(frozen=True)
class Plan:
    """events: in all. per_second: at that rate. lasts_s: how long the source plays; the events come first.

    The subscriber is killed every ``subscriber_s``, the events process ``kills`` times, the broker is away for
    ``broker_s``, the log's disk is full for about ``full_s``.
    """

    events: int
    per_second: int
    lasts_s: float
    subscriber_s: float
    kills: int
    broker_s: float
    full_s: float


SHORT = Plan(events=1000, per_second=250, lasts_s=10, subscriber_s=1.5, kills=2, broker_s=2, full_s=1)


@contextmanager
def small_disk(directory: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own, which can be filled without harm to anybody."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(directory)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small disk to fill needs the right to mount one")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)  # also while a failed run ends


class Site:
    """The site, its subscribers, and what happens to them."""

    def __init__(self, program: Program, plan: Plan, disk: Path, broker: Broker, hook_port: int) -> None:
        self.plan = plan
        self.disk = disk
        self.heard_path = program.cwd / "heard"
        self.address, self.replay = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
        self.killed: list[int] = []
        path = program.cwd / "telling.yaml"
        path.write_text(yaml.safe_dump(self._configuration(broker, hook_port)))
        write_numbered(program.cwd / "empty.mp4", round(plan.lasts_s * RATE))
        self.run: Run = program.start(
            "run", "--json", path, command=(sys.executable, "-c", UNTIRING), PYTHONPATH=str(ROOT), SECRET=PASSWORD
        )
        self._listener = self._listen()

    def _configuration(self, broker: Broker, hook_port: int) -> dict[str, Any]:
        mqtt = {"kind": "mqtt", "host": "127.0.0.1", "port": broker.port, "username": USER, "password": "${SECRET}"}
        pipeline = {"sources": ["gate"], "detector": "mask", "rules": ["telling"], "detect": {"max_fps": 1}}
        pipeline |= {"sinks": ["alerts", "file", "hook", "broker"]}
        telling = {"kind": "tests.telling", "per_frame": self.plan.per_second // RATE, "total": self.plan.events}
        return {
            "name": "telling",
            "sources": {"gate": {"kind": "file", "path": "empty.mp4", "realtime": True}},
            "detectors": {"mask": {"model": "facemask"}},
            "rules": {"telling": telling},
            "events": {"directory": str(self.disk)},
            "sinks": {
                "alerts": {"kind": "zeromq", "bind": self.address, "replay_bind": self.replay},
                "file": {"kind": "jsonl", "path": "events.jsonl"},
                "hook": {"kind": "webhook", "url": f"http://127.0.0.1:{hook_port}/{PASSWORD}"},
                "broker": mqtt,
            },
            "pipelines": {"all": pipeline},
        }

    def _listen(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.telling", str(self.heard_path), self.address, self.replay], cwd=ROOT
        )

    def kill_subscriber(self) -> None:
        self._listener.kill()
        self._listener.wait()
        self._listener = self._listen()

    def kill_events(self) -> None:
        """As soon as there is a process that was not killed yet."""
        wait_until(
            lambda: self.run.over or self.run.stage_pid("events") not in {None, *self.killed}, "the next process"
        )
        pid = self.run.stage_pid("events")
        if pid is not None and kill(pid):
            self.killed.append(pid)

    def fill_disk(self) -> None:
        """To the last byte, until so much waits for room as is told in ``full_s``."""
        ballast = self.disk / "ballast"
        with self.run.results("gate") as results:
            with ballast.open("wb", buffering=0) as file:
                for size in (1 << 20, 4096):
                    try:
                        while True:
                            file.write(b"x" * size)
                    except OSError:
                        continue
            enough = self.plan.full_s * self.plan.per_second
            wait_until(
                lambda: (
                    results.events_published - results.events_taken >= enough
                    or results.events_published == self.plan.events
                ),
                "events that wait for room",
            )
            ballast.unlink()

    def close(self) -> None:
        self._listener.kill()
        self._listener.wait()


def play(program: Program, plan: Plan, disk: Path, *, rng: random.Random) -> None:
    (program.cwd / "mosquitto").mkdir()
    with Broker(program.cwd / "mosquitto") as broker, receiving() as receiver:
        mqtt = MqttListener(broker)
        site = Site(program, plan, disk, broker, receiver.port)

        def broker_away() -> None:
            broker.stop()
            time.sleep(plan.broker_s)
            broker.start()

        tell_s = plan.events / plan.per_second
        wait_until(lambda: bool(heard_in(site.heard_path)), "the first event")
        disturbances = [
            Every(plan.subscriber_s, round(tell_s * 1.5 / plan.subscriber_s), site.kill_subscriber),
            Every(0.1, 1, broker_away),
        ]
        try:
            site.fill_disk()
            disturbances.append(Every(tell_s / (plan.kills + 1) * rng.uniform(0.8, 1.2), plan.kills, site.kill_events))
            outcome = site.run.finish(timeout_s=300)
            mqtt.wait_for(plan.events, PREFIX)
        finally:
            for disturbance in disturbances:
                disturbance.end()
            mqtt.close()
            site.close()
    assert outcome.code == 0, outcome.stderr
    assert outcome.report["restarts"]["events"] == len(site.killed)
    assert len(site.killed) >= plan.kills / 2
    heard = heard_in(site.heard_path)
    assert len({event.log_id for event in heard}) == 1
    check("the subscriber", [(event.seq, event.track) for event in heard], plan.events)
    assert len({event.id for event in heard}) == plan.events
    lines = [json.loads(line) for line in (program.cwd / "events.jsonl").read_text().splitlines()]
    check("the file", [(event["seq"], event["track"]) for event in lines], plan.events)
    for name, events in (("the webhook", receiver.events), ("the broker", mqtt.events(PREFIX))):
        assert all(event == lines[event["seq"] - 1] for event in events), f"{name}: a repetition is the same"
        firsts = {event["seq"]: event["track"] for event in events}
        check(name, list(firsts.items()), plan.events)
        print(f"{name}: {len(events) - plan.events} repetitions")
    assert "database or disk is full" in outcome.stderr
    assert PASSWORD not in outcome.stderr + broker.said
    print(latencies(heard), file=sys.stderr)


def check(who: str, found: Sequence[tuple[int, int]], count: int) -> None:
    """Every number once, in order, with the event that has it."""
    missing = sorted(set(range(1, count + 1)) - {seq for seq, _ in found})
    assert not missing, f"{who} lacks {len(missing)} events, the first is {missing[0]}"
    assert list(found) == [(seq, seq - 1) for seq in range(1, count + 1)], who


def latencies(heard: Sequence[Heard]) -> str:
    late_ms = np.array([event.late_s for event in heard]) * 1e3
    p50, p99 = np.percentile(late_ms, [50, 99])
    return f"capture to subscriber: p50 {p50:.1f} ms, p99 {p99:.1f} ms over {len(heard)} events"


def test_a_thousand_events_and_everybody_fails_once(program: Program, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 16) as disk:
        play(program, SHORT, disk, rng=random.Random(1))
