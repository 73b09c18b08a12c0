"""Processor time and memory of other processes, as Linux tells them in /proc."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# counted behind the command's name, which may hold anything (man 5 proc_pid_stat)
_PARENT, _OWN, _REAPED, _STARTED = 1, slice(11, 13), slice(13, 15), 19


@dataclass(frozen=True, slots=True)
class Times:
    """One process. own_s: user and system time of all its threads; reaped_s: of the children it has waited for.

    started: ticks since the machine's start.
    """

    parent: int
    own_s: float
    reaped_s: float
    started: int


def parse_stat(text: str) -> Times:
    """The contents of ``/proc/<pid>/stat``."""
    fields = text.rpartition(")")[2].split()
    own, reaped = (sum(map(int, fields[part])) / _TICKS_PER_S for part in (_OWN, _REAPED))
    return Times(int(fields[_PARENT]), own, reaped, int(fields[_STARTED]))


def parse_pss_kb(text: str) -> int:
    """The proportional set size in the contents of ``/proc/<pid>/smaps_rollup``; 0 where there is none."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "Pss":
            return int(value.split()[0])
    return 0


@dataclass(frozen=True, slots=True)
class FamilyTimes:
    """Processor time of a process and its children, in seconds.

    total_s also holds the children that are gone. children_s: of those alive, the oldest first.
    """

    total_s: float
    parent_s: float
    children_s: tuple[float, ...]


def family_times(pid: int) -> FamilyTimes:
    """Raises ``FileNotFoundError`` or ``ProcessLookupError`` where ``pid`` is gone."""
    while True:
        before = times(pid)
        children = sorted(_alive(children_of(pid)), key=lambda child: child.started)
        after = times(pid)
        # a child that was waited for meanwhile would be counted twice or not at all
        if before.reaped_s == after.reaped_s:
            own = tuple(child.own_s for child in children)
            return FamilyTimes(after.own_s + after.reaped_s + sum(own), after.own_s, own)


def children_of(pid: int) -> list[int]:
    """Those alive, of any of its threads; none where ``pid`` is gone."""
    found: list[int] = []
    for task in (PROC / str(pid) / "task").glob("*/children"):
        try:
            found += map(int, task.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def parse_busy(text: str) -> float:
    """Seconds that all processors together have worked, or been kept from it by another machine: ``/proc/stat``."""
    user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, text.split(maxsplit=9)[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


def machine_busy_s() -> float:
    """Of everybody on this machine; only differences mean something."""
    return parse_busy((PROC / "stat").read_text())


def times(pid: int) -> Times:
    """Of one process; raises ``FileNotFoundError`` or ``ProcessLookupError`` where it is gone."""
    return parse_stat((PROC / str(pid) / "stat").read_text())


def pss_mb(pid: int) -> float:
    """Proportional set size of one process; raises like ``times``."""
    return parse_pss_kb((PROC / str(pid) / "smaps_rollup").read_text()) * 1024 / 1e6


def family_pss_mb(pid: int) -> float:
    """Proportional set size of a process and its children together; what several share counts once."""
    total_mb = 0.0
    for member in (pid, *children_of(pid)):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total_mb += pss_mb(member)
    return total_mb


def _alive(pids: list[int]) -> list[Times]:
    found = []
    for pid in pids:
        try:
            found.append(times(pid))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
