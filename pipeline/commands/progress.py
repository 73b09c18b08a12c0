"""How far a run has come: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from typing import TextIO

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from pipeline.report import SourceFigures
from pipeline.specs import Site

SHOW_EVERY_S, LOG_EVERY_S = 0.25, 10.0
_RATE_OVER_S = 3.0

log = logging.getLogger(__name__)


class Progress:
    """A context manager around a run; ``show`` is given the figures as often as one likes."""

    def __init__(self, stream: TextIO) -> None:
        self._terminal = stream.isatty()
        self._next_s = time.monotonic() + (0 if self._terminal else LOG_EVERY_S)
        self._seen: deque[tuple[float, int]] = deque()
        self._bar: RichProgress | None = None
        self._previous: list[logging.Handler] = []
        if self._terminal:
            self._console = Console(file=stream)

    def __enter__(self) -> Progress:
        if self._terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
            self._bar = RichProgress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("starting", total=None)
            self._bar.start()
            root = logging.getLogger()
            self._previous = root.handlers[:]
            # Lines of the log go above the bar.
            root.handlers = [RichHandler(console=self._console, show_time=False, show_path=False)]
        return self

    def begin(self, site: Site) -> None:
        """Any site is shown in the same way."""

    def show(self, figures: Mapping[str, SourceFigures]) -> None:
        now_s = time.monotonic()
        if self._seen and now_s < self._next_s:
            return
        if not self._seen and not self._terminal:
            self._seen.append((now_s, 0))
            return
        self._next_s = now_s + (SHOW_EVERY_S if self._terminal else LOG_EVERY_S)
        done = sum(f.published for f in figures.values())
        expected = [f.expected for f in figures.values()]
        total = None if None in expected else sum(n or 0 for n in expected)
        text = self._text(figures, done, self._rate(now_s, done))
        if self._bar is not None:
            self._bar.update(self._task, description=text, completed=done, total=total)
        else:
            log.info("%s%s", text, f" of about {total}" if total else "")

    def _rate(self, now_s: float, done: int) -> float:
        self._seen.append((now_s, done))
        while len(self._seen) > 2 and self._seen[1][0] < now_s - _RATE_OVER_S:
            self._seen.popleft()
        (first_s, first), (last_s, last) = self._seen[0], self._seen[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0

    @staticmethod
    def _text(figures: Mapping[str, SourceFigures], done: int, fps: float) -> str:
        masked = sum(f.faces_mask for f in figures.values())
        unmasked = sum(f.faces_no_mask for f in figures.values())
        events = sum(f.events for f in figures.values())
        return f"{fps:.1f} fps · faces {masked} with, {unmasked} without mask · {events} events · frame {done}"

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            logging.getLogger().handlers = self._previous
