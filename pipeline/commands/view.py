"""``run --view``: the newest pictures in block characters and the status below them, for people over ssh."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.logging import RichHandler
from rich.panel import Panel
from rich.segment import Segment
from rich.style import Style

from pipeline import wiring
from pipeline.commands.status import table
from pipeline.errors import ConfigError
from pipeline.report import SourceFigures
from pipeline.specs import Site
from pipeline.status import Monitor
from pipeline.transport.run_directory import base_directory

if TYPE_CHECKING:
    from pipeline.sinks.view import View

DRAW_EVERY_S = 0.2
COLUMNS_MIN, COLUMNS_MAX = 24, 96
"""Characters across a picture."""
_STEPS = 0xF8
"""So many levels of a colour are told apart: fewer styles, and nobody sees it."""

log = logging.getLogger(__name__)


class Blocks:
    """(2h, w, 3) RGB pixels as h lines of w half blocks."""

    def __init__(self, rgb: NDArray[np.uint8]) -> None:
        self._rgb = rgb & _STEPS

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return self._segments()

    def _segments(self) -> Iterator[Segment]:
        for upper, lower in zip(self._rgb[::2].tolist(), self._rgb[1::2].tolist(), strict=True):
            for above, below in zip(upper, lower, strict=True):
                yield Segment("▀", _style(tuple(above), tuple(below)))
            yield Segment.line()

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> object:
        from rich.measure import Measurement

        width = self._rgb.shape[1]
        return Measurement(width, width)


@functools.lru_cache(maxsize=1 << 14)
def _style(above: tuple[int, int, int], below: tuple[int, int, int]) -> Style:
    return Style.parse("rgb({},{},{}) on rgb({},{},{})".format(*above, *below))


def small(bgr: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """(h, w, 3) BGR as (2n, columns, 3) RGB; a character is about twice as high as wide."""
    import cv2

    height, width = bgr.shape[:2]
    rows = max(2, round(columns * height / width / 2) * 2)
    return np.ascontiguousarray(cv2.resize(bgr, (columns, rows), interpolation=cv2.INTER_AREA)[..., ::-1])


class TerminalView:
    """A context manager around a run, as ``Progress`` is; ``begin`` tells which site, ``show`` draws now and then."""

    def __init__(self, models_dir: Path | None) -> None:
        """Raises ``ConfigError`` where there is no terminal to draw on."""
        if not sys.stderr.isatty():
            raise ConfigError("--view draws on a terminal, and standard error is none; run_pipeline.py status --once "
                              "prints the figures once")  # fmt: skip
        self._models_dir = models_dir
        self._console = Console(file=sys.stderr)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._open = contextlib.ExitStack()
        self._site: Site | None = None
        self._monitor: Monitor | None = None
        self._views: dict[str, View] = {}
        self._next_s = 0.0

    def __enter__(self) -> TerminalView:
        root = logging.getLogger()
        before = root.handlers[:]
        root.handlers = [RichHandler(console=self._console, show_time=False, show_path=False)]
        self._open.callback(setattr, root, "handlers", before)
        self._open.enter_context(self._live)
        return self

    def begin(self, site: Site) -> None:
        self._site = site

    def show(self, _: Mapping[str, SourceFigures]) -> None:
        now_s = time.monotonic()
        if self._site is None or now_s < self._next_s:
            return
        if self._monitor is None:
            self._attach(self._site)
        assert self._monitor is not None
        report = table(self._monitor.read())
        self._live.update(Group(Columns(self._pictures(), padding=(0, 1)), report), refresh=True)
        # a slow terminal, or one far away, is not flooded
        self._next_s = max(now_s + DRAW_EVERY_S, time.monotonic() + (time.monotonic() - now_s))

    def _attach(self, site: Site) -> None:
        from pipeline.sinks.view import View

        run_dir = base_directory() / site.name
        self._monitor = self._open.enter_context(contextlib.closing(Monitor(run_dir)))
        for source in site.sources:
            view = View(run_dir, source, wiring.overlays(site, source, self._models_dir))
            self._views[source] = self._open.enter_context(contextlib.closing(view))

    def _pictures(self) -> list[Panel]:
        across = max(1, min(len(self._views), self._console.width // (COLUMNS_MIN + 4)))
        columns = max(8, min(COLUMNS_MAX, self._console.width // across - 5))
        panels = []
        for source, view in self._views.items():
            standing = view.standing()
            found = view.picture()
            pixels = small(found[1].bgr(), columns) if found else np.zeros((2, columns, 3), np.uint8)
            if not standing.live:  # a picture that does not move any more must not look as if it did
                pixels = np.repeat(pixels.mean(axis=2, keepdims=True) / 2, 3, axis=2).astype(np.uint8)
            title = source if standing.live else f"{source}: {standing.reason or standing.state}"
            panels.append(Panel(Blocks(pixels), title=title, expand=False, padding=0))
        return panels

    def __exit__(self, *_: object) -> None:
        self._open.close()
