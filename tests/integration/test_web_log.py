"""The page beside an event log that cannot be read for a while."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.sinks.event_log import EventLog
from pipeline.sinks.view import SiteView
from tests.runs import wait_until
from tests.unit.sinks.events import event
from tests.web_page import Page, served

PATHS = ("/api/v1/events", "/api/v1/clips", "/api/v1/clips/01KAP5ZK7QABCDEF0000000001/clip")
STREAM = "/api/v1/events/stream"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    with closing(EventLog(tmp_path / "log/events.sqlite", "run-1")) as log:
        log.append([event(1)])
        yield log


@pytest.fixture
def page(tmp_path: Path, log: EventLog) -> Iterator[Page]:
    with served(tmp_path, SiteView("site", {}, event_log=log.path)) as page:
        yield page


def rename(log: EventLog, table: str, name: str) -> None:
    with closing(sqlite3.connect(log.path, timeout=10)) as database:
        database.execute("PRAGMA legacy_alter_table = ON")
        database.execute(f"ALTER TABLE {table} RENAME TO {name}")


def test_it_is_said_in_one_line_and_over_when_it_is_over(
    page: Page, log: EventLog, caplog: pytest.LogCaptureFixture
) -> None:
    assert [page.ask(path)[0] for path in PATHS] == [200, 200, 404]
    rename(log, "events", "away")
    for path in PATHS:
        status, _, body = page.ask(path)
        assert (status, body) == (503, f'{{"error":"event log {log.path}: no such table: events"}}'.encode())
    assert caplog.records == []
    rename(log, "away", "events")
    assert [page.ask(path)[0] for path in PATHS] == [200, 200, 404]


@pytest.mark.parametrize("last", ["", "?after=01KAP5ZK7Q0000000000000000.4"])
def test_the_news_end_in_good_order_so_that_the_listener_comes_back(
    page: Page, log: EventLog, caplog: pytest.LogCaptureFixture, last: str
) -> None:
    rename(log, "events", "away")
    status, headers, body = page.ask(STREAM + last)
    assert (status, headers["transfer-encoding"], body) == (200, "chunked", b"")
    wait_until(lambda: bool(caplog.records), "the line that says why")
    assert {record.getMessage() for record in caplog.records} == {
        f"a listener to the page's news is let go: event log {log.path}: no such table: events"
    }
