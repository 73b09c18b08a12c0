"""One sink of an annotator, as it stands: what it has stored, whether it has failed, when it is tried again."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import PipelineError
from pipeline.sinks.sink import Keeper, PacketSink, Stream

NEVER_S, FOREVER_S = float("-inf"), float("inf")
AGAIN_S, AGAIN_MAX_S = 1.0, 60.0
"""A failed sink is opened again after so long; the wait doubles until it has worked for the longest."""


@dataclass(slots=True)
class Outlet:
    """safe_s: up to where it would survive kill -9, on the source's clock. failed: why nothing is handed to it now.

    opened_s, failed_s, again_s: on the monotonic clock; again_s: when a failed one is opened again, if ever.
    failed_seq: the frame that it failed at.
    """

    sink: PacketSink
    safe_s: float = NEVER_S
    failed: PipelineError | None = None
    opened_s: float = NEVER_S
    failed_s: float = NEVER_S
    again_s: float = FOREVER_S
    failed_seq: int = 0
    _wait_s: float = AGAIN_S

    def open(self, now_s: float, stream: Stream | None = None) -> None:
        """stream: what the packets behind it are, where that is known. Raises what the sink raises."""
        stored_s = self.sink.open()
        self.safe_s = NEVER_S if stored_s is None else stored_s
        if stream is not None:
            self.sink.start(stream)
        self.opened_s, self.failed, self.again_s = now_s, None, FOREVER_S

    def fail(self, error: PipelineError, now_s: float, seq: int, *, for_good: bool) -> None:
        if self.failed is None:
            self.failed_s, self.failed_seq = now_s, seq
            if now_s - self.opened_s > AGAIN_MAX_S:
                self._wait_s = AGAIN_S
        self.failed = error
        if not for_good:
            self.again_s = now_s + self._wait_s
            self._wait_s = min(2 * self._wait_s, AGAIN_MAX_S)

    @property
    def comes_back(self) -> bool:
        return self.again_s < FOREVER_S

    @property
    def loses(self) -> bool:
        """Whether the frame that is passed now will not be in its recording: it has failed, and will not find the frame
        when it comes back, as a ``Keeper`` may.
        """
        if self.failed is None:
            return False
        return not self.comes_back if isinstance(self.sink, Keeper) else self.sink.lossless
