"""A source that is lost and comes back: told once, ends what was open, and raises nothing by itself."""

from __future__ import annotations

import msgspec
from analytics_scenes import BARE, WALL_NS, Look, analytics, feed

from pipeline.analytics.source import SETTLE_S, SourceAnalytics
from pipeline.types import Event

MAN = (400.0, 300.0, 80.0, 0.9, BARE)


def looks(start_s: float, end_s: float) -> list[Look]:
    return [Look(start_s + k / 25, [MAN]) for k in range(round((end_s - start_s) * 25))]


def change(stream: SourceAnalytics, state: str, time_s: float, reason: str = "refused") -> list[Event]:
    return stream.source_changed(state, reason, WALL_NS + round(time_s * 1e9), time_s)


def kinds(events: list[Event]) -> list[tuple[str, str, str | None]]:
    return [(event.kind, event.phase, event.reason) for event in events]


def test_a_loss_ends_what_is_open_and_is_told_once() -> None:
    stream = analytics()
    assert change(stream, "live", 0.0) == []
    feed(stream, looks(0, 2))
    ended, lost = change(stream, "lost", 2.5, "timeout")
    assert kinds([ended, lost]) == [("no_mask", "end", "source_lost"), ("source_lost", "new", "timeout")]
    assert (ended.t_end, lost.t_start, lost.t_end) == (
        "2027-01-15T08:00:01.960Z",
        "2027-01-15T08:00:02.500Z",
        None,
    )
    assert change(stream, "lost", 3.0) == []
    (live,) = change(stream, "live", 9.0)
    assert kinds([live]) == [("source_live", "end", None)]
    assert (live.id, live.t_start, live.t_end) == (lost.id, lost.t_start, "2027-01-15T08:00:09.000Z")
    assert change(stream, "live", 9.0) == []


def test_a_camera_that_is_down_at_start_is_the_same_case() -> None:
    stream = analytics()
    assert kinds(change(stream, "lost", 0.0)) == [("source_lost", "new", "refused")]
    assert kinds(change(stream, "live", 5.0)) == [("source_live", "end", None)]


def test_a_reconnect_raises_nothing_until_the_picture_has_settled() -> None:
    stream = analytics(cooldown_s=0)
    feed(stream, looks(0, 2))
    change(stream, "lost", 2.0)
    change(stream, "live", 30.0)
    results, events = feed(stream, looks(30, 30 + SETTLE_S + 0.4), 50)
    assert events == []
    assert all(result.tracks for result in results), "faces are followed and drawn meanwhile"
    assert kinds(feed(stream, looks(30.4 + SETTLE_S, 33 + SETTLE_S), 200)[1]) == [("no_mask", "new", None)]


def test_whoever_sits_through_an_outage_is_told_again_only_behind_the_cool_down() -> None:
    """The cool-down stands still while nobody can look, however long that is."""
    stream = analytics(cooldown_s=30)
    feed(stream, looks(0, 2))
    change(stream, "lost", 2.0)
    change(stream, "live", 600.0)
    assert feed(stream, looks(600, 625), 50)[1] == []
    assert kinds(feed(stream, looks(625, 640), 1000)[1]) == [("no_mask", "new", None)]


def test_a_frame_is_proof_enough_that_the_source_is_live() -> None:
    stream = analytics()
    change(stream, "lost", 0.0)
    assert kinds(feed(stream, looks(1, 1.1))[1]) == [("source_live", "end", None)]


def test_a_stream_that_ends_while_it_is_lost_ends_its_outage() -> None:
    stream = analytics()
    change(stream, "lost", 1.0)
    [over] = stream.finish("stopped", WALL_NS + 61_000_000_000, 61.0)
    assert kinds([over]) == [("source_lost", "end", "stopped")]
    assert (over.t_start, over.t_end, over.stream_s) == ("2027-01-15T08:00:01.000Z", "2027-01-15T08:01:01.000Z", 61)


def test_an_outage_never_ends_before_it_began() -> None:
    stream = analytics()
    change(stream, "lost", 1.0)
    [over] = stream.finish("stopped", WALL_NS, 0.5)  # the machine's clock was set back meanwhile
    assert (over.t_start, over.t_end, over.stream_s) == ("2027-01-15T08:00:01.000Z", "2027-01-15T08:00:01.000Z", 1)


def test_outages_are_counted_across_a_restart() -> None:
    first, second = analytics(), analytics()
    (lost,) = change(first, "lost", 0.0)
    second.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(first.snapshot())))
    (live,) = change(second, "live", 1.0)
    assert live.id == lost.id
    (again,) = change(second, "lost", 2.0)
    assert again.id != lost.id
