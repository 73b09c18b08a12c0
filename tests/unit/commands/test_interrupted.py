"""Ctrl-C: work that is not done must not look like success, or ``models fetch … && run …`` goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import pytest

from pipeline.cli import main


def interrupted(*_: object, **__: object) -> NoReturn:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("where", "arguments"),
    [
        ("pipeline.cli.conceal", ["doctor"]),
        ("pipeline.cli.parser", ["doctor"]),
        ("logging.basicConfig", ["doctor"]),
        ("pipeline.inference.importing.download.fetch_model", ["models", "fetch", "aizoo-260"]),
        ("pipeline.inference.detector.build_detector", ["detect", "a.jpg"]),
        ("pipeline.benchmarks.backends.measure", ["bench", "backends"]),
        ("pipeline.supervisor.plan.check", ["run", "--source", "a.mp4"]),
    ],
)
def test_work_that_was_interrupted_is_not_done(
    where: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(where, interrupted)
    assert main(arguments) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_events_end_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def subscribe(*_: object, **__: object) -> Iterator[dict[str, object]]:
        yield from ()
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.client.subscribe", subscribe)
    assert main(["events", "tcp://127.0.0.1:5556"]) == 0
