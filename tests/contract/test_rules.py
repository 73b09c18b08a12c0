"""Every rule, found by itself: one instance a source, events in order, state that can be taken up anywhere."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pipeline import plugins
from pipeline.analytics.rule import Rule
from pipeline.types import Event, FrameRef, Result, Track
from pipeline.ulid import id_factory

LABELS = ("mask", "no_mask")
FPS = 25


def results() -> list[Result]:
    """Two people for twelve seconds: one takes the mask off and puts it on again, one comes bare and leaves."""
    made: list[Result] = []
    for k in range(12 * FPS):
        time_s = k / FPS
        looked = k % 5 != 4
        tracks = [Track(1, int(3 < time_s < 7), 0.9, (100.0, 100.0, 180.0, 200.0), looked)]
        if 2 < time_s < 5:
            tracks.append(Track(2, 1, 0.8, (600.0, 100.0, 680.0, 200.0), looked))
        frame = FrameRef("gate", k, 0, time_s, 0, 1_800_000_000_000_000_000 + k * 40_000_000)
        made.append(Result(frame, tuple(tracks), looked, None if looked else "overload"))
    return made


def make(kind: str) -> Rule:
    plugin = plugins.load("rule", kind)
    rule: Rule = plugin.create(plugin.config(), "gate", LABELS, id_factory(b"run"))
    return rule


def play(rule: Rule, given: list[Result]) -> list[Event]:
    return [event for result in given for event in rule.update(result)]


def as_stored(state: Any) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(state))


@pytest.mark.parametrize("kind", plugins.kinds("rule"))
def test_its_defaults_make_a_rule_that_says_nothing_of_nothing(kind: str) -> None:
    rule = make(kind)
    empty = [Result(result.frame, (), result.detected, result.reason) for result in results()]
    assert play(rule, empty) == []
    assert rule.finish(empty[-1].frame, "end_of_stream") == []


@pytest.mark.parametrize("kind", plugins.kinds("rule"))
def test_its_events_are_well_formed(kind: str) -> None:
    rule = make(kind)
    given = results()
    events = play(rule, given) + rule.finish(given[-1].frame, "end_of_stream")
    phases: dict[str, list[str]] = {}
    for event in events:
        assert (event.kind, event.source) == (kind, "gate")
        assert event.t_end is None or event.t_start <= event.t_end
        assert (event.reason is not None) == (event.phase == "end")
        phases.setdefault(event.id, []).append(event.phase)
    for seen in phases.values():
        assert seen[0] == "new"
        assert seen[-1] == "end"
        assert set(seen[1:-1]) <= {"update"}
    assert [event.stream_s for event in events] == sorted(event.stream_s for event in events)


@pytest.mark.parametrize("kind", plugins.kinds("rule"))
def test_it_goes_on_from_its_state_as_if_never_interrupted(kind: str) -> None:
    given = results()
    whole = make(kind)
    expected = play(whole, given) + whole.finish(given[-1].frame, "stopped")
    for split in range(0, len(given), 7):
        first, second = make(kind), make(kind)
        before = play(first, given[:split])
        second.restore(as_stored(first.snapshot()))
        after = play(second, given[split:]) + second.finish(given[-1].frame, "stopped")
        assert before + after == expected


@pytest.mark.parametrize("kind", plugins.kinds("rule"))
def test_an_outage_raises_nothing_and_every_episode_ends_once(kind: str) -> None:
    """Interrupted at half time for a minute: what was open ends, and the same people begin nothing new by that."""
    rule, given, half, away_s = make(kind), results(), 6 * FPS, 60.0
    events = play(rule, given[:half]) + rule.finish(given[half - 1].frame, "source_lost")
    rule.resume(away_s)
    shift = {"time_s": away_s, "wall_ns": round(away_s * 1e9)}
    later = [
        msgspec.structs.replace(
            result,
            frame=msgspec.structs.replace(
                result.frame, **{name: getattr(result.frame, name) + by for name, by in shift.items()}
            ),
        )
        for result in given[half:]
    ]
    assert [event.phase for event in play(rule, later)] == []
    assert rule.finish(later[-1].frame, "stopped") == []
    began = [event.id for event in events if event.phase == "new"]
    assert sorted(event.id for event in events if event.phase == "end") == sorted(began)


@pytest.mark.parametrize("kind", plugins.kinds("rule"))
@pytest.mark.parametrize("state", [None, 3, {"nonsense": 1}, []])
def test_a_foreign_state_is_refused(kind: str, state: Any) -> None:
    with pytest.raises(ValueError, match="state"):
        make(kind).restore(state)


@pytest.mark.parametrize("kind", plugins.kinds("rule"))
def test_wall_clock_and_capture_time_change_no_decision(kind: str) -> None:
    def shifted(result: Result) -> Result:
        frame = msgspec.structs.replace(result.frame, wall_ns=result.frame.wall_ns + 10**15, captured_ns=7)
        return msgspec.structs.replace(result, frame=frame)

    one = [(e.phase, e.track, e.stream_s, e.reason) for e in play(make(kind), results())]
    two = [(e.phase, e.track, e.stream_s, e.reason) for e in play(make(kind), [shifted(r) for r in results()])]
    assert one == two
