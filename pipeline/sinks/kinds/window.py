"""``kind: window``: the annotated pictures in windows on this machine's desktop; q or Esc closes one."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from pipeline.errors import StartupError
from pipeline.sinks.sink import Accepts, SinkConfig, SinkContext
from pipeline.sinks.view import SiteView, View

LOOK_EVERY_S = 0.01
"""A window must answer to clicks and keys."""
_CLOSING_KEYS = (27, ord("q"))


class Config(SinkConfig):
    """Nothing to choose: a window a source."""

    accepts: ClassVar[Accepts] = "views"

    def claims(self) -> frozenset[tuple[str, str]]:
        return frozenset()


class Window:
    """Takes the newest picture of each source, whenever there is one."""

    accepts: ClassVar[Accepts] = "views"

    def __init__(self, config: Config, context: SinkContext) -> None:  # noqa: ARG002
        self._name = context.name
        self._views: dict[str, View] = {}
        self._shown: dict[str, int] = {}
        self._site = ""

    def open(self, site: SiteView) -> None:
        """Raises ``StartupError`` where there is no desktop."""
        self.close()
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise StartupError(
                f"sink {self._name}: there is no desktop here (DISPLAY is not set); kind: web shows it in a browser"
            )
        self._site = site.name
        self._views = dict(site.views)
        self._shown = dict.fromkeys(site.views, -1)

    def step(self) -> float:
        import cv2

        started_s = time.monotonic()
        for source, view in list(self._views.items()):
            if view.newest != self._shown[source] and (found := view.picture()) is not None:
                result, canvas = found
                if self._shown[source] < 0:
                    cv2.namedWindow(self._title(source), cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
                    cv2.resizeWindow(self._title(source), canvas.layout.width, canvas.layout.height)
                self._shown[source] = result.frame.seq
                cv2.imshow(self._title(source), canvas.bgr())
        if any(seq >= 0 for seq in self._shown.values()):
            key = cv2.waitKey(1) & 0xFF
            self._close_what_was_closed(key in _CLOSING_KEYS)
        return max(0.001, LOOK_EVERY_S - (time.monotonic() - started_s))

    def _close_what_was_closed(self, all_of_them: bool) -> None:
        import cv2

        for source, seq in list(self._shown.items()):
            if seq >= 0 and (all_of_them or cv2.getWindowProperty(self._title(source), cv2.WND_PROP_VISIBLE) < 1):
                self._views.pop(source, None)
                del self._shown[source]
                if all_of_them:
                    cv2.destroyWindow(self._title(source))

    def _title(self, source: str) -> str:
        return f"{self._site}: {source}"

    @property
    def wakers(self) -> Sequence[Any]:
        return []

    def close(self) -> None:
        if any(seq >= 0 for seq in self._shown.values()):
            import cv2

            cv2.destroyAllWindows()
        self._views, self._shown = {}, {}


def create(config: Config, context: SinkContext) -> Window:
    return Window(config, context)
