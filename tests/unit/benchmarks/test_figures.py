"""How the bench's figures come of what was measured; nothing is measured here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.benchmarks.bare import Timing
from pipeline.benchmarks.cases import Case, Round, Setup, memory_slope
from pipeline.benchmarks.observed import Moment, RunFigures, _by_stage, _error_in, _ms_a_frame, _others
from pipeline.benchmarks.reference import BareCost, _refusal, _timing, cost_of, failure, wall_ms_per_frame
from pipeline.errors import ConfigError, RuntimeFailure, StartupError
from pipeline.procfs import FamilyTimes

MS = 1_000_000
FIELDS_OF_THE_ISSUE = [
    "name", "width", "height", "model", "backend", "preset", "bare_cpu_ms", "wall_ms_per_frame",
    "reference_wall_ms_per_frame", "speed_of_light_ratio", "ratio_spread", "overhead_cpu_ms", "transport_cpu_ms",
    "memory_pss_mb", "first_result_s",
]  # fmt: skip


def timing(*, start_ms: float, every_ms: float, frames: int, slow_start_ms: float = 0) -> Timing:
    finished = [round((start_ms + slow_start_ms + every_ms * (n + 1)) * MS) for n in range(frames)]
    return Timing(finished, [2 * MS] * frames, [12 * MS] * frames, [4 * MS] * frames)


def run(wall_ms: float, cpu_ms: float, **values: object) -> RunFigures:
    figures = {
        "frames": 1000,
        "wall_ms": wall_ms,
        "cpu_ms": cpu_ms,
        "cpu_ms_by_stage": {"supervisor": 0.1, "inference": 13.0},
        "first_result_s": 1.25,
        "finish_s": 0.5,
        "others": 0.0,
        "pss_mb": [],
        "report": {},
    }
    return RunFigures(**{**figures, **values})  # type: ignore[arg-type]


def case(rounds: list[Round], memory: RunFigures) -> Case:
    setup = Setup("aizoo-260", "onnxruntime", "ultrafast", None, 2, len(rounds))
    return Case("720p", 1280, 720, setup, rounds, 0.4, memory)


def test_the_reference_counts_frames_only_while_all_processes_are_steady() -> None:
    even = timing(start_ms=0, every_ms=20, frames=100)
    late = timing(start_ms=500, every_ms=20, frames=100)
    assert wall_ms_per_frame([even]) == pytest.approx(20)
    assert wall_ms_per_frame([even, even]) == pytest.approx(10)
    # side by side from 700 ms (the late one's tenth frame) to 2000 ms (the early one's end)
    assert wall_ms_per_frame([even, late]) == pytest.approx(10, rel=0.02)


def test_the_first_frames_do_not_count_for_the_bare_cost() -> None:
    warming = timing(start_ms=0, every_ms=20, frames=30)
    warming.model_ns[0] = 900 * MS
    assert cost_of([warming, timing(start_ms=0, every_ms=20, frames=30)]) == BareCost(2, 12, 4)
    assert BareCost(2, 12, 4).total == 18


def test_a_case_has_the_documented_fields_and_medians() -> None:
    rounds = [
        Round(ref, BareCost(3, 12, 4), run(wall, cpu)) for ref, wall, cpu in ((9, 10, 22), (9.5, 10, 21), (8, 10, 30))
    ]
    figures = case(rounds, run(10, 22, pss_mb=[(0.1, 20.0), (1.0, 310.0), (2.0, 300.0)])).as_json()
    assert list(figures)[: len(FIELDS_OF_THE_ISSUE)] == FIELDS_OF_THE_ISSUE
    assert figures["bare_cpu_ms"] == {"decode": 3, "model": 12, "encode": 4}
    assert figures["speed_of_light_ratio"] == 0.9
    assert figures["ratio_spread"] == pytest.approx(0.15)
    assert figures["overhead_cpu_ms"] == 3
    assert figures["memory_pss_mb"] == 310
    assert figures["ratios"] == [0.9, 0.95, 0.8]
    json.dumps(figures)


def test_a_stage_that_was_not_always_seen_has_no_figure() -> None:
    seen, unseen = run(10, 22), run(10, 22, cpu_ms_by_stage={"supervisor": 0.3})
    rounds = [Round(9, BareCost(3, 12, 4), figures) for figures in (seen, unseen)]
    assert case(rounds, seen).as_json()["cpu_ms_by_stage"] == {"supervisor": 0.2}


def test_memory_that_grows_only_at_the_start_is_flat() -> None:
    filling = [(n / 4, 100.0 * min(n, 3)) for n in range(100)]
    growing = [(n / 4, 300.0 + n / 4) for n in range(100)]
    assert memory_slope(run(10, 22, pss_mb=filling)) == 0
    assert memory_slope(run(10, 22, pss_mb=growing)) == pytest.approx(10)  # 1 MB a second, 10 s for 1,000 frames
    assert memory_slope(run(10, 22, pss_mb=filling[:5])) is None
    assert memory_slope(run(10, 22)) is None


def test_processor_time_of_a_stage_is_told_only_while_its_process_lives() -> None:
    stages = ["annotator", "inference", "capture"]
    first = FamilyTimes(1.0, 0.1, (0.2, 0.3, 0.4))
    last = FamilyTimes(9.0, 0.2, (2.2, 4.3, 1.4))
    assert _by_stage(stages, first, last) == pytest.approx(
        {"supervisor": 0.1, "annotator": 2.0, "inference": 4.0, "capture": 1.0}
    )
    assert _by_stage(stages, first, FamilyTimes(9.0, 0.2, (2.2, 4.3))) == pytest.approx({"supervisor": 0.1})
    assert _ms_a_frame(8.0, Moment(0, 10, first, 0), Moment(1, 410, last, 9)) == 20


def test_what_others_do_meanwhile_is_told() -> None:
    first, last = FamilyTimes(1.0, 0.1, ()), FamilyTimes(9.0, 0.1, ())
    assert _others(Moment(0, 10, first, 100.0), Moment(4_000_000_000, 410, last, 109.0)) == 0.25
    assert _others(Moment(0, 10, first, 100.0), Moment(4_000_000_000, 410, last, 107.9)) == 0
    done = Round(9, BareCost(3, 12, 4), run(10, 22), others=0.25)
    assert done.disturbed
    assert case([done], run(10, 22)).as_json()["others_processors"] == 0.25


def test_a_child_s_error_is_raised_as_what_it_is() -> None:
    assert isinstance(failure("no weights", 3), StartupError)
    assert isinstance(failure("no such model", 2), ConfigError)
    assert isinstance(failure("disk full", 1), RuntimeFailure)
    refusal = _refusal('{"error": "aizoo-260.onnx is not on this machine", "exit_code": 3}')
    assert isinstance(refusal, StartupError)
    assert str(refusal) == "aizoo-260.onnx is not on this machine"
    assert isinstance(_refusal(""), RuntimeFailure)
    assert _error_in("INFO a\nerror: b\nINFO c\n") == "b"
    assert _error_in("INFO a\nTraceback c\n") == "Traceback c"
    assert _error_in("") == "the run failed"


def test_a_video_of_a_few_frames_is_refused() -> None:
    with pytest.raises(ConfigError, match="too short to measure on: 12 frames"):
        _timing('{"finished_ns": %s, "decode_ns": [], "model_ns": [], "encode_ns": []}' % list(range(12)))  # noqa: UP031


def test_setup_names_no_folder_that_was_not_given() -> None:
    assert Setup("m", "onnxruntime", "ultrafast", Path("weights"), 2, 1).detector == ()
