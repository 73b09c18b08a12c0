"""What a subscriber makes of what comes: whatever is lost on the way, every event once and in order."""

from __future__ import annotations

import json
import random
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sinks.event_log import EventLog
from pipeline.sinks.event_reader import EventReader
from pipeline.sinks.follower import ASK_EVERY_S, UNANSWERED_S, Follower, Gap
from pipeline.sinks.replay import answer
from pipeline.sinks.schema import Answer, Ask, EventRecord, Position
from tests.unit.sinks.events import LOG_ID, OTHER_LOG_ID, event, numbered


def told(seq: int, log_id: str = LOG_ID, source: str = "gate") -> list[bytes]:
    body = numbered(seq, log_id, source)
    return [f"event.{body['kind']}.{source}.".encode(), json.dumps(body).encode()]


def beat(since: int, seq: int, log_id: str = LOG_ID) -> list[bytes]:
    return [b"cursor.", msgspec.json.encode(Position(log_id, since, seq))]


def asked(follower: Follower, now_s: float = 0.0) -> Ask | None:
    question = follower.question(now_s)
    return msgspec.json.decode(question, type=Ask) if question else None


def answered(follower: Follower, seqs: range, newest: int, *, log_id: str = LOG_ID, **more: Any) -> None:
    """An answer with those events to the question that was asked last."""
    events = [msgspec.Raw(json.dumps(numbered(seq, log_id)).encode()) for seq in seqs]
    upto = more.pop("upto", seqs.stop - 1)
    follower.answered([msgspec.json.encode(Answer(log_id, seqs.start - 1, upto, newest, events, **more))])


def seqs(follower: Follower, now_s: float = 0.0) -> list[int | Gap]:
    return [item.seq if isinstance(item, EventRecord) else item for item in follower.take(now_s)]


def follower_at(seq: int) -> Follower:
    follower = Follower((LOG_ID, seq))
    assert asked(follower) == Ask(LOG_ID, seq, 1)
    answered(follower, range(seq + 1, seq + 1), seq, id=1)
    assert asked(follower) is None
    return follower


def test_from_now_on_is_from_where_the_log_stands_or_from_what_came_meanwhile() -> None:
    follower = Follower()
    assert asked(follower) == Ask(None, None, 1)
    answered(follower, range(8, 8), 7, id=1)
    follower.published(told(7))
    follower.published(told(8))
    assert seqs(follower) == [8]
    follower = Follower()
    asked(follower)
    follower.published(told(7))
    answered(follower, range(9, 9), 8, id=1)
    assert seqs(follower) == [7]
    assert asked(follower) == Ask(LOG_ID, 7, 3), "and what is behind it"


def test_what_follows_is_handed_out_once() -> None:
    follower = follower_at(4)
    for seq in (5, 6, 6, 5, 7):
        follower.published(told(seq))
    assert seqs(follower) == [5, 6, 7]
    assert asked(follower) is None


def test_a_hole_is_asked_for_and_what_came_early_waits() -> None:
    follower = follower_at(4)
    for seq in (5, 8, 9):
        follower.published(told(seq))
    assert seqs(follower) == [5]
    assert asked(follower) == Ask(LOG_ID, 5, 3)
    assert asked(follower) is None, "once, and not with every message"
    follower.published(told(10))
    answered(follower, range(6, 8), 9, id=3)
    assert seqs(follower) == [6, 7, 8, 9, 10]
    assert asked(follower) is None


def test_a_lost_question_or_answer_is_asked_again_and_a_late_answer_does_no_harm() -> None:
    follower = follower_at(4)
    follower.published(told(7))
    assert asked(follower, 1.0) is not None
    assert asked(follower, 1.0 + ASK_EVERY_S / 2) is None
    assert asked(follower, 1.0 + ASK_EVERY_S) == Ask(LOG_ID, 4, 4)
    answered(follower, range(5, 7), 7, id=3)
    assert seqs(follower) == []
    answered(follower, range(5, 7), 7, id=4)
    answered(follower, range(5, 7), 7, id=4)
    assert seqs(follower) == [5, 6, 7]


def test_the_last_event_is_missed_as_well() -> None:
    follower = follower_at(4)
    follower.published(beat(4, 4))
    assert asked(follower) is None
    follower.published(beat(5, 5))
    assert asked(follower) == Ask(LOG_ID, 4, 3)


def test_numbers_that_are_not_for_this_publisher_are_no_hole() -> None:
    follower = follower_at(4)
    for frames in (beat(4, 6), told(7), beat(7, 9), told(10)):
        follower.published(frames)
    assert seqs(follower) == [7, 10]
    assert asked(follower) is None


def test_much_that_was_missed_comes_in_parts() -> None:
    follower = Follower((LOG_ID, 0))
    for first in (1, 101, 201):
        question = asked(follower)
        assert question is not None
        assert question.after == first - 1
        answered(follower, range(first, first + 100), 300, id=question.id)
    assert asked(follower) is None
    assert seqs(follower) == list(range(1, 301))


@pytest.mark.parametrize("reason", ["retention", "other_log"])
def test_what_cannot_be_had_is_a_gap_in_its_place(reason: str) -> None:
    follower = Follower((LOG_ID, 4))
    asked(follower)
    log_id = LOG_ID if reason == "retention" else OTHER_LOG_ID
    gap = {"reason": reason, "oldest": 31}
    answered(follower, range(31, 33), 32, log_id=log_id, id=1, gap=gap)
    follower.published(told(33, log_id))
    assert seqs(follower) == [Gap(reason, log_id, 31), 31, 32, 33]


def test_a_site_that_counts_in_another_log_is_asked_what_it_has() -> None:
    follower = follower_at(4)
    follower.published(told(1, OTHER_LOG_ID))
    assert asked(follower) == Ask(LOG_ID, 4, 3)
    answered(follower, range(1, 2), 1, log_id=OTHER_LOG_ID, id=3, gap={"reason": "other_log", "oldest": 1})
    follower.published(told(2, OTHER_LOG_ID))
    assert seqs(follower) == [Gap("other_log", OTHER_LOG_ID, 1), 1, 2]


def test_where_nobody_answers_alerts_do_not_wait_for_ever() -> None:
    follower = follower_at(4)
    follower.published(told(7))
    follower.published(told(9))
    assert seqs(follower, 100.0) == []
    assert seqs(follower, 101.0 + UNANSWERED_S) == [Gap("unanswered", LOG_ID, 7), 7]
    assert seqs(follower, 101.5 + UNANSWERED_S) == []
    assert seqs(follower, 102.0 + 2 * UNANSWERED_S) == [Gap("unanswered", LOG_ID, 9), 9]
    plain = Follower()
    plain.published(told(7))
    assert seqs(plain, 100.0) == []
    assert seqs(plain, 101.1) == [7], "nothing is known to be missing"


def test_only_what_is_wanted_is_handed_out_and_holes_are_seen_all_the_same() -> None:
    follower = Follower((LOG_ID, 0), kinds=["no_mask"], sources=["yard"])
    asked(follower)
    answered(follower, range(1, 1), 0, id=1)
    follower.published(told(1))
    follower.published(told(2, source="yard"))
    assert seqs(follower) == [2]
    follower.published(told(4, source="yard"))
    assert asked(follower) is not None


def test_whatever_is_lost_everything_comes_once_and_in_order(tmp_path: Path) -> None:
    """Against a real log of two sources, of which one is published: messages, questions and answers get lost."""
    rng = random.Random(5)
    log = EventLog(tmp_path / "events.sqlite", "run-1")
    follower, got, now_s, published_to = Follower((log.log_id, 0)), [], 0.0, 0
    with closing(EventReader(log.path)) as reader:
        for number in range(3000):
            now_s += 0.01
            log.append([event(number, source=rng.choice(["gate", "yard"]))])
            [body] = reader.after(number, 1)
            if body["source"] == "gate":
                messages = [told_raw(body)]
                if published_to < body["seq"] - 1:
                    messages.insert(0, beat(published_to, body["seq"] - 1, log.log_id))
                published_to = body["seq"]
                for message in messages:
                    if rng.random() < 0.8:
                        follower.published(message)
            exchange(follower, reader, now_s, rng.random() < 0.7)
            got += follower.take(now_s)
        follower.published(beat(3000, 3000, log.log_id))
        while len(got) < 3000 and exchange(follower, reader, now_s := now_s + 1, True):
            got += follower.take(now_s)
        wanted = [body["seq"] for body in reader.after(0, 3000) if body["source"] == "gate"]
    log.close()
    assert [item.seq if isinstance(item, EventRecord) else item for item in got] == wanted


def told_raw(body: dict[str, Any]) -> list[bytes]:
    return [f"event.{body['kind']}.{body['source']}.".encode(), json.dumps(body).encode()]


def exchange(follower: Follower, reader: EventReader, now_s: float, works: bool) -> bool:
    question = follower.question(now_s)
    if question and works:
        follower.answered([msgspec.json.encode(answer(reader, msgspec.json.decode(question, type=Ask), {"gate"}))])
    return question is not None


_pieces = st.one_of(
    st.binary(max_size=64),
    st.sampled_from([b"event.no_mask.gate.", b"cursor.", *told(3), *beat(1, 2)]),
    st.builds(lambda key, value: json.dumps({**numbered(1), key: value}).encode(),
              st.sampled_from(sorted(numbered(1))), st.recursive(st.none() | st.booleans() | st.floats() | st.integers()
              | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(_pieces, max_size=3))
def test_nothing_off_the_wire_crashes_a_subscriber(frames: list[bytes]) -> None:
    follower = Follower()
    follower.published(frames)
    follower.answered(frames)
    assert follower.malformed >= 1
    assert all(isinstance(item, EventRecord) for item in follower.take(1e9))
