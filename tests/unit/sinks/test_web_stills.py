"""Stills of one source are drawn one after the other: there is one canvas."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import zmq.asyncio

from pipeline.sinks.view import View
from pipeline.sinks.web.stills import Stills


class SlowView:
    """Draws for as long as it is told to, and notes how many do so at once."""

    newest = 0

    def __init__(self) -> None:
        self.drawing = self.most = self.asked = 0
        self.begun, self.may_end = threading.Event(), threading.Event()

    def picture(self) -> Any:
        self.asked += 1
        self.drawing += 1
        self.most = max(self.most, self.drawing)
        self.begun.set()
        assert self.may_end.wait(30)
        self.drawing -= 1


def test_a_still_that_nobody_waits_for_any_more_is_finished_before_the_next() -> None:
    view = SlowView()

    async def ask_twice() -> None:
        with zmq.asyncio.Context() as context, ThreadPoolExecutor(2) as executor:
            stills = Stills(context, "inproc://bell", cast("View", view), executor)
            first = asyncio.ensure_future(stills.newest())
            await asyncio.to_thread(view.begun.wait, 30)
            first.cancel()
            await asyncio.wait([first])
            second = asyncio.ensure_future(stills.newest())
            await asyncio.wait([second], timeout=0.2)
            view.may_end.set()
            assert await second is None

    asyncio.run(ask_twice())
    assert view.asked == 2
    assert view.most == 1
