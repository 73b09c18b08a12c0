"""What a subscriber makes of what comes: every event once, in order, and a question where one is missing.

No sockets in here: whoever owns them feeds in frames, sends the questions and takes the events.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import msgspec

from pipeline.sinks.schema import Answer, Ask, EventRecord, Position

ASK_EVERY_S = 1.0
UNANSWERED_S = 10.0
"""So long what is there waits for what is missing before it."""
EARLY_MAX = 1000
"""Events that came before a missing one and are kept; of more, the newest are asked for later."""


class Gap(NamedTuple):
    """Stands before number ``oldest`` for events that cannot be had.

    reason: ``retention`` (removed from the log), ``other_log`` (the site counts in another log now) or ``unanswered``
    (nobody answers at the replay address).
    """

    reason: str
    log_id: str
    oldest: int


class Follower:
    """Follows one site's log from ``cursor`` on, or from now on.

    malformed: messages that were none. kinds, sources: of these alone.
    """

    def __init__(
        self,
        cursor: tuple[str | None, int] | None = None,
        *,
        kinds: Collection[str] | None = None,
        sources: Collection[str] | None = None,
    ) -> None:
        self.malformed = 0
        self._log_id: str | None = cursor[0] if cursor else None
        self._seq: int | None = cursor[1] if cursor else None
        self._kinds = kinds
        self._sources = sources
        self._early: dict[int, EventRecord] = {}
        self._ready: list[EventRecord | Gap] = []
        self._newest = 0
        self._must_ask = True
        self._asked_at_s: float | None = None
        self._questions = 0
        self._stuck: tuple[int | None, float] | None = None

    # -- what comes in

    def published(self, frames: list[bytes]) -> None:
        """A message of the publisher's."""
        try:
            topic, body = frames
            if topic == b"cursor.":
                self._heard(position := msgspec.json.decode(body, type=Position), position.log_id)
                return
            event = msgspec.json.decode(body, type=EventRecord)
            if topic != f"event.{event.kind}.{event.source}.".encode():
                raise ValueError("the topic is another event's")
        except (ValueError, RecursionError):
            self.malformed += 1
            return
        self._heard(event, event.log_id)

    def _heard(self, message: EventRecord | Position, log_id: str) -> None:
        if log_id != self._log_id:
            if self._seq is not None and self._log_id is not None:
                self._must_ask = True  # the answer says that it is another log, and what it has
                return
            self._log_id = log_id
        self._newest = max(self._newest, message.seq)
        if isinstance(message, EventRecord):
            if len(self._early) < EARLY_MAX and (self._seq is None or message.seq > self._seq):
                self._early[message.seq] = message
        elif self._seq is not None and self._seq >= message.since:
            self._seq = max(self._seq, message.seq)
        self._go_on()

    def answered(self, frames: list[bytes]) -> None:
        """An answer of the replay socket's."""
        try:
            answer = msgspec.json.decode(frames[-1] if frames else b"", type=Answer)
            events = [msgspec.json.decode(event, type=EventRecord) for event in answer.events]
        except (ValueError, RecursionError):
            self.malformed += 1
            return
        if answer.id != self._questions:
            return  # to a question that was given up
        self._asked_at_s, self._must_ask = None, False
        self._questions += 1
        self._change(answer)
        self._newest = max(self._newest, answer.newest)
        if self._seq is None:  # what came while we asked is from now on as well
            self._seq = min([answer.upto, *(seq - 1 for seq in self._early)])
        elif answer.after <= self._seq:
            for event in events:
                if event.seq > self._seq:
                    self._hand_out(event)
            self._seq = max(self._seq, answer.upto)
        self._go_on()

    def _change(self, answer: Answer) -> None:
        """Another log, or a part of ours that is gone."""
        if answer.log_id != self._log_id:
            self._early.clear()
            self._log_id, self._newest = answer.log_id, 0
        if answer.gap is not None:
            self._ready.append(Gap(answer.gap.reason, answer.log_id, answer.gap.oldest))
            self._seq = answer.after

    def _go_on(self) -> None:
        """Hands out what follows without a gap."""
        if self._seq is None:
            return
        while (event := self._early.pop(self._seq + 1, None)) is not None:
            self._hand_out(event)
            self._seq += 1
        for seq in [seq for seq in self._early if seq <= self._seq]:
            del self._early[seq]
        self._must_ask = self._must_ask or self._newest > self._seq

    def _hand_out(self, event: EventRecord) -> None:
        wanted = self._kinds is None or event.kind in self._kinds
        if wanted and (self._sources is None or event.source in self._sources):
            self._ready.append(event)

    # -- what goes out

    def question(self, now_s: float) -> bytes | None:
        """What to ask the replay socket now, if anything."""
        due = self._asked_at_s is None or now_s - self._asked_at_s >= ASK_EVERY_S
        if not self._must_ask or not due:
            return None
        self._asked_at_s = now_s
        self._questions += 1
        return msgspec.json.encode(Ask(self._log_id if self._seq is not None else None, self._seq, self._questions))

    def not_asked(self) -> None:
        """Nobody is there to take the question: it is due again."""
        self._asked_at_s = None

    def take(self, now_s: float) -> list[EventRecord | Gap]:
        """What is to be handed out, in this order."""
        self._give_up_waiting(now_s)
        ready, self._ready = self._ready, []
        return ready

    def _give_up_waiting(self, now_s: float) -> None:
        """Where nobody answers, what is there goes on without what is missing."""
        if not self._early:
            self._stuck = None
        elif self._stuck is None or self._stuck[0] != self._seq:
            self._stuck = self._seq, now_s
        elif now_s - self._stuck[1] > (ASK_EVERY_S if self._seq is None else UNANSWERED_S):
            oldest = min(self._early)
            if self._seq is not None and self._log_id is not None:
                self._ready.append(Gap("unanswered", self._log_id, oldest))
            self._seq = oldest - 1
            self._go_on()
