"""The page's news go on, whatever happens to what they are made of."""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from pathlib import Path

import pytest

from pipeline.sinks.event_log import EventLog
from pipeline.sinks.web import news as web_news
from pipeline.sinks.web.figures import Figures
from pipeline.sinks.web.history import History
from pipeline.sinks.web.news import News
from tests.unit.sinks.events import event


def test_figures_are_taken_where_they_cannot_be_kept(tmp_path: Path) -> None:
    figures = Figures({}, tmp_path / "a folder that is not there/counts.json")
    figures.sample()
    assert figures.counts()["sources"] == {}


def test_a_log_that_cannot_be_read_for_a_while_delays_the_news_and_does_not_end_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(web_news, "SOURCES_EVERY_S", 0.1)

    async def hear(log: EventLog) -> str:
        with ThreadPoolExecutor(1) as executor:
            news = News(Figures({}, tmp_path / "counts.json"), History(log.path, []), executor)
            _rename(log.path, "events", "away")
            watching = asyncio.ensure_future(news.watch())
            await asyncio.wait([watching], timeout=0.5)
            _rename(log.path, "away", "events")
            async with asyncio.timeout(30), aclosing(news.listen("")) as told:
                await anext(told)
                _rename(log.path, "events", "away")
                while not caplog.records:
                    await anext(told)
                _rename(log.path, "away", "events")
                log.append([event(1)])
                while not (text := (await anext(told)).decode()).startswith("id: "):
                    pass
            watching.cancel()
            return text

    with closing(EventLog(tmp_path / "log/events.sqlite", "run-1")) as log:
        assert asyncio.run(hear(log)).startswith(f"id: {log.log_id}.1\n")
    assert "no news for the page now" in caplog.text


def _rename(log: Path, table: str, name: str) -> None:
    with closing(sqlite3.connect(log, timeout=10)) as database:
        database.execute("PRAGMA legacy_alter_table = ON")
        database.execute(f"ALTER TABLE {table} RENAME TO {name}")
