"""Recordings and evidence lie on disks that may be slow, or answer no more: that is the trouble of whoever asks for
them, and of nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

TASKS_MAX = 4
ANSWER_WITHIN_S = 10.0
T = TypeVar("T")


class DiskTrouble(Exception):
    """Its text says which disk has it, and what."""


class Disk:
    """Has done what touches one kind of files, a few tasks at a time; works in one event loop.

    A thread that hangs keeps its place, and nobody waits for it: not at the end either.
    """

    def __init__(self, what: str) -> None:
        """what: lies on it, for people."""
        self._what = what
        self._free = asyncio.Semaphore(TASKS_MAX)
        self._silent = False
        self._waiting: set[asyncio.Timeout] = set()

    async def do(self, work: Callable[..., T], *arguments: object) -> T:
        """What ``work`` returns. Raises ``DiskTrouble``; at once where the disk has gone silent and all places hang."""
        try:
            if self._silent and self._free.locked():
                raise TimeoutError
            async with asyncio.timeout(ANSWER_WITHIN_S) as patience:
                self._waiting.add(patience)
                try:
                    await self._free.acquire()
                    return await asyncio.wrap_future(self._begun(work, arguments))
                finally:
                    self._waiting.discard(patience)
        except TimeoutError as error:
            self._silent = True
            raise DiskTrouble(f"the disk with the {self._what} does not answer") from error
        except OSError as error:
            raise DiskTrouble(f"the disk with the {self._what} fails: {error.strerror}") from error

    def give_up(self) -> None:
        """Whoever waits has waited long enough."""
        for patience in self._waiting:
            if not patience.expired():
                patience.reschedule(asyncio.get_running_loop().time())

    def _begun(self, work: Callable[..., T], arguments: tuple[object, ...]) -> Future[T]:
        loop = asyncio.get_running_loop()
        answer: Future[T] = Future()
        answer.set_running_or_notify_cancel()  # from now on it cannot be cancelled, whoever has gone

        def run() -> None:
            try:
                answer.set_result(work(*arguments))
            except BaseException as error:  # noqa: BLE001  it is for whoever waits
                answer.set_exception(error)
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._ended)

        try:
            Thread(target=run, name=f"web {self._what}", daemon=True).start()
        except RuntimeError as error:  # the system gives no more threads
            self._free.release()
            raise DiskTrouble(f"nobody is free for the disk with the {self._what}: {error}") from error
        return answer

    def _ended(self) -> None:
        self._silent = False
        self._free.release()
