from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from pipeline import procfs

STAT = (
    "4242 (a) b (c) S 17 4242 4242 0 -1 4194304 905 0 0 0 150 50 30 20 20 0 3 0 987654 17571840 3000 "
    "18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
)
ROLLUP = """\
55d0c0000000-7ffd0f000000 ---p 00000000 00:00 0                          [rollup]
Rss:               21504 kB
Pss:               12345 kB
Pss_Dirty:          8000 kB
"""


def test_a_process_s_name_may_hold_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "_TICKS_PER_S", 100)
    assert procfs.parse_stat(STAT) == procfs.Times(parent=17, own_s=2.0, reaped_s=0.5, started=987654)


def test_a_machine_is_busy_when_it_neither_idles_nor_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "_TICKS_PER_S", 100)
    assert procfs.parse_busy("cpu  100 20 30 9000 500 4 6 40 0 0\ncpu0 1 2 3\n") == 2.0


def test_proportional_set_size() -> None:
    assert procfs.parse_pss_kb(ROLLUP) == 12345
    assert procfs.parse_pss_kb("") == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_family_is_this_process_and_its_children() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in procfs.children_of(os.getpid())
        before = procfs.family_times(os.getpid())
        assert before.total_s >= before.parent_s + sum(before.children_s)
        assert procfs.family_pss_mb(os.getpid()) > 1
    assert child.pid not in procfs.children_of(os.getpid())
    assert procfs.children_of(child.pid) == []
    with pytest.raises((FileNotFoundError, ProcessLookupError)):
        procfs.family_times(child.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_children_that_are_gone_still_count() -> None:
    before_s = procfs.family_times(os.getpid()).total_s
    work = "import time\nwhile time.process_time() < 0.1: pass\n"
    subprocess.run([sys.executable, "-c", work], check=True)
    started = time.process_time()
    assert procfs.family_times(os.getpid()).total_s - before_s >= 0.1 - (time.process_time() - started) - 0.02
