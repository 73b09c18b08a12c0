from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import Disconnected
from pipeline.sinks.event_log import EventLog
from pipeline.sinks.spool import Spool, SpoolInlet
from tests.unit.sinks.events import event


class FullLog:
    def append(self, events: object) -> int:
        raise Disconnected("no room")


def test_what_is_told_comes_into_the_log_once_and_in_order(tmp_path: Path) -> None:
    gate, yard = Spool(tmp_path, "gate"), Spool(tmp_path, "yard")
    inlet = SpoolInlet(tmp_path, {"gate": lambda: False, "yard": lambda: False})
    log = EventLog(tmp_path / "events.sqlite", "run-1")
    gate.tell(event(1))
    yard.tell(event(2, source="yard"))
    gate.tell(event(1, "end"))
    assert inlet.take(log) == 3
    gate.tell(event(1))
    assert inlet.take(log) == 1
    assert inlet.take(log) == 0
    assert log.newest == 3
    assert list(tmp_path.glob("*.json")) == []
    log.close()


def test_it_ends_when_each_annotator_has_ended_or_is_gone(tmp_path: Path) -> None:
    gone: list[str] = []
    inlet = SpoolInlet(tmp_path, {"gate": lambda: False, "yard": lambda: bool(gone)})
    Spool(tmp_path, "gate").end()
    assert not inlet.finished
    gone.append("yard")
    assert inlet.finished


def test_while_the_log_has_no_room_events_wait(tmp_path: Path) -> None:
    Spool(tmp_path, "gate").tell(event(1))
    inlet = SpoolInlet(tmp_path, {})
    with pytest.raises(Disconnected):
        inlet.take(FullLog())  # type: ignore[arg-type]
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_what_is_no_event_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "0.json").write_text("{}")
    (tmp_path / ".1").write_text("half")
    Spool(tmp_path, "gate").tell(event(1))
    log = EventLog(tmp_path / "events.sqlite", "run-1")
    assert SpoolInlet(tmp_path, {}).take(log) == 2  # files, one of them an event
    assert log.newest == 1
    log.close()
