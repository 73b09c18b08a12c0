"""The stage of a sink that watches: it ends when every source that it watches has come to its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pipeline.sinks.view import SiteView, ViewSink


class ViewStage:
    """Runs one view sink; whatever becomes of it, nobody else waits."""

    def __init__(self, name: str, create_site: Callable[[], SiteView], sink: ViewSink) -> None:
        self.name = name
        self._create_site = create_site
        self._sink = sink
        self._site: SiteView | None = None
        self._stopped = False

    def open(self) -> None:
        self._site = self._create_site()
        self._sink.open(self._site)

    def stop(self) -> None:
        self._stopped = True

    def step(self) -> float | None:
        assert self._site is not None
        if self._stopped or all(view.results.finished for view in self._site.views.values()):
            return None
        return self._sink.step()

    @property
    def wakers(self) -> Sequence[Any]:
        return self._sink.wakers

    @property
    def counters(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        self._sink.close()
        for view in self._site.views.values() if self._site else ():
            view.close()
        self._site = None
