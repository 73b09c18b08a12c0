"""What the page shows of the past: only what the log names, and only inside the folders of the configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline.sinks.event_log import EventLog
from pipeline.sinks.event_reader import EventReader
from pipeline.sinks.web.figures import Figures
from pipeline.sinks.web.history import BadQuery, History
from pipeline.sinks.web.news import News
from pipeline.types import Evidence
from tests.unit.sinks.events import event


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    with closing(EventLog(tmp_path / "log/events.sqlite", "run-1")) as log:
        yield log


def test_before_there_is_a_log_nothing_has_happened(tmp_path: Path) -> None:
    for history in (History(None, []), History(tmp_path / "none.sqlite", [])):
        assert history.events({}) == []
        assert history.clips({}) == []
        assert history.position() == ("", 0)
        assert history.since("", 0) == (None, [])


def test_events_are_filtered_and_paged(log: EventLog) -> None:
    log.append([event(n, source="gate" if n % 2 else "yard") for n in range(1, 9)])
    history = History(log.path, [])

    def found(**query: str) -> list[int]:
        return [e["seq"] for e in history.events(query)]

    assert found() == list(range(8, 0, -1))
    assert found(limit="3") == [8, 7, 6]
    assert found(limit="3", before="6") == [5, 4, 3]
    assert found(source="gate") == [7, 5, 3, 1]
    assert found(source="gate,yard", kind="no_mask", limit="2") == [8, 7]
    assert found(kind="crowding") == []
    assert found(since="2000-01-01T00:00:00Z", until="2100-01-01T00:00:00+02:00") == list(range(8, 0, -1))
    assert found(since="2100-01-01T00:00:00Z") == []
    assert found(until="2000-01-01T00:00:00Z") == []
    with pytest.raises(BadQuery, match="until"):
        found(until="soon")


def test_only_files_that_the_log_names_inside_the_folders_are_shown(tmp_path: Path, log: EventLog) -> None:
    folder = tmp_path / "evidence"
    folder.mkdir()
    inside, outside = folder / "clip.mp4", tmp_path / "secret.mp4"
    inside.write_bytes(b"clip")
    outside.write_bytes(b"none")
    (folder / "link.mp4").symlink_to(outside)
    paths = [inside, outside, folder / "../secret.mp4", folder / "link.mp4", folder / "gone.mp4"]
    episodes = [event(n) for n in range(1, len(paths) + 1)]
    for episode, path in zip(episodes, paths, strict=True):
        update = msgspec.structs.replace(
            episode, phase="update", number=1, evidence=(Evidence("clip", str(path), 4, "0" * 64),)
        )
        log.append([episode, update])
    history = History(log.path, [folder])
    assert [history.evidence(episode.id, "clip") for episode in episodes] == [inside, None, None, None, None]
    assert history.evidence(episodes[0].id, "crop") is None
    assert history.evidence("../../etc/passwd", "clip") is None
    assert len(history.clips({})) == len(paths)


def test_evidence_is_looked_up_by_its_event_alone(
    tmp_path: Path, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = tmp_path / "clip.mp4"
    clip.touch()
    shown = event(1)
    update = msgspec.structs.replace(
        shown, phase="update", number=1, evidence=(Evidence("clip", str(clip), 0, "0" * 64),)
    )
    log.append([shown, update, *(event(n) for n in range(2, 50))])
    decoded: list[int] = []
    as_json = EventReader._json

    def counted(reader: EventReader, seq: int, body: bytes) -> dict[str, Any]:
        decoded.append(seq)
        return as_json(reader, seq, body)

    monkeypatch.setattr(EventReader, "_json", counted)
    assert History(log.path, [tmp_path]).evidence(shown.id, "clip") == clip
    assert decoded == [2, 1]


def test_a_listener_that_comes_back_misses_nothing_and_hears_of_a_gap(tmp_path: Path, log: EventLog) -> None:
    log.append([event(n) for n in range(1, 6)])

    async def said(last: str, count: int) -> list[str]:
        with ThreadPoolExecutor(1) as executor:
            news = News(Figures({}, tmp_path / "counts.json"), History(log.path, []), executor)
            async with asyncio.timeout(30), aclosing(news.listen(last)) as told:
                return [(await anext(told)).decode() for _ in range(count)]

    first, *rest = asyncio.run(said(f"{log.log_id}.2", 4))
    assert first.startswith("event: sources\n")
    assert [text.partition("\n")[0] for text in rest] == [f"id: {log.log_id}.{n}" for n in (3, 4, 5)]
    _, gap, event_1 = asyncio.run(said("01KAP5ZK7Q0000000000000000.4", 3))
    assert gap.startswith("event: gap\n")
    assert "other_log" in gap
    assert event_1.startswith(f"id: {log.log_id}.1\n")
