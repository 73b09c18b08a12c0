"""What a run is asked for by signals.

SIGINT and SIGTERM ask it to stop. SIGHUP asks it to read its configuration again, as services are asked to; of a run in
a terminal that has been closed, it asks for a good end, so that no recording is lost.
"""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType
from typing import Self


class Signals:
    """A context manager around a run. stop: how often it was asked to. reload: it was asked to since that was reset."""

    def __init__(self, *, can_reload: bool) -> None:
        self.stop = 0
        self.reload = False
        self._can_reload = can_reload
        self._had_terminal = has_terminal()
        self._previous: dict[int, object] = {}
        self.descriptor = -1
        """Readable once something was asked for."""

    def __enter__(self) -> Self:
        self.descriptor, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # under nohup the run goes on
            numbers.append(signal.SIGHUP)
        self._previous = {number: signal.signal(number, self._taken) for number in numbers}
        self._previous_wake = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        return self

    def _taken(self, number: int, _frame: FrameType | None) -> None:
        hang_up = not self._can_reload or (self._had_terminal and not has_terminal())
        if number == signal.SIGHUP and not hang_up:
            self.reload = True
        else:
            self.stop += 1

    def clear(self) -> None:
        """Nothing is to be read at the descriptor until the next signal."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.descriptor, 4096)

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._previous_wake)
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        os.close(self.descriptor)
        os.close(self._write)


def has_terminal() -> bool:
    """Whether this process has a controlling terminal; one that was closed is none."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
