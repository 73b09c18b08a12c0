"""What is measured, and the figures that come of it.

A case is one video. Reference and pipeline take turns on it, so that a machine that changes its pace changes it for
both; figures are medians of the rounds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av

from pipeline.benchmarks.bare import Task
from pipeline.benchmarks.observed import RunFigures, observe
from pipeline.benchmarks.reference import BareCost, cost_of, run_bare, wall_ms_per_frame
from pipeline.benchmarks.transport import transport_cpu_ms
from pipeline.types import Layout

LIVE_SIZE, LIVE_FPS = (1280, 720), 25
DISTURBED_FROM = 0.05
"""Processors. What runs beside a benchmark costs more than its own time: caches, and turns that come late."""
_MEMORY_SETTLED = 0.25
"""The first quarter of a run does not count for how flat its memory is."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Setup:
    """What all cases have in common. detector: arguments of ``run`` that choose it."""

    model: str
    backend: str
    preset: str
    models_dir: Path | None
    processes: int
    rounds: int
    detector: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Round:
    """Reference and pipeline, one after the other. others: processors that something else kept busy meanwhile."""

    reference_wall_ms: float
    bare: BareCost
    run: RunFigures
    others: float = 0.0

    @property
    def ratio(self) -> float:
        return self.reference_wall_ms / self.run.wall_ms

    @property
    def disturbed(self) -> bool:
        return self.others > DISTURBED_FROM


@dataclass(frozen=True, slots=True)
class Case:
    """One video's figures."""

    name: str
    width: int
    height: int
    setup: Setup
    rounds: Sequence[Round]
    transport_cpu_ms: float
    memory: RunFigures = field(repr=False)

    @property
    def bare(self) -> BareCost:
        costs = [r.bare for r in self.rounds]
        return BareCost(*(statistics.median(getattr(c, step) for c in costs) for step in ("decode", "model", "encode")))

    @property
    def cpu_ms(self) -> float:
        """All processor time of the pipeline for a frame."""
        return statistics.median(r.run.cpu_ms for r in self.rounds)

    def as_json(self) -> dict[str, Any]:
        """The documented form; later versions only add fields."""
        wall_ms = statistics.median(r.run.wall_ms for r in self.rounds)
        reference_ms = statistics.median(r.reference_wall_ms for r in self.rounds)
        ratios = [round(r.ratio, 3) for r in self.rounds]
        bare = self.bare
        return {
            "name": self.name,
            "width": self.width,
            "height": self.height,
            "model": self.setup.model,
            "backend": self.setup.backend,
            "preset": self.setup.preset,
            "bare_cpu_ms": {
                "decode": round(bare.decode, 3),
                "model": round(bare.model, 3),
                "encode": round(bare.encode, 3),
            },
            "wall_ms_per_frame": round(wall_ms, 3),
            "reference_wall_ms_per_frame": round(reference_ms, 3),
            "speed_of_light_ratio": round(reference_ms / wall_ms, 3),
            "ratio_spread": round(max(ratios) - min(ratios), 3),
            "overhead_cpu_ms": round(self.cpu_ms - bare.total, 3),
            "transport_cpu_ms": round(self.transport_cpu_ms, 3),
            "memory_pss_mb": round(max((mb for _, mb in self.memory.pss_mb), default=0.0), 1),
            "first_result_s": round(statistics.median(r.run.first_result_s for r in self.rounds), 3),
            "frames": self.rounds[0].run.frames,
            "processes": self.setup.processes,
            "ratios": ratios,
            "others_processors": round(max(r.others for r in self.rounds), 2),
            "cpu_ms_per_frame": round(self.cpu_ms, 3),
            "cpu_ms_by_stage": self._by_stage(),
            "memory_slope_mb_per_1000_frames": memory_slope(self.memory),
            "finish_s": round(statistics.median(r.run.finish_s for r in self.rounds), 3),
        }

    def _by_stage(self) -> dict[str, float]:
        """A stage counts where it was seen from beginning to end in every round."""
        known = [r.run.cpu_ms_by_stage for r in self.rounds]
        stages = [stage for stage in known[0] if all(stage in by_stage for by_stage in known)]
        return {stage: round(statistics.median(by_stage[stage] for by_stage in known), 3) for stage in stages}


def memory_slope(run: RunFigures) -> float | None:
    """Megabytes that all processes together grow by in 1,000 frames of the steady state; None of too few samples.

    The last second is the end, where processes go.
    """
    if not run.pss_mb:
        return None
    last_s = run.pss_mb[-1][0] - 1.0
    first_s = run.first_result_s + _MEMORY_SETTLED * (last_s - run.first_result_s)
    settled = [(at_s, mb) for at_s, mb in run.pss_mb if first_s <= at_s <= last_s]
    if len(settled) < 4:
        return None
    slope_mb_per_s = statistics.linear_regression([at_s for at_s, _ in settled], [mb for _, mb in settled]).slope
    return round(slope_mb_per_s * run.wall_ms, 2)


def measure(name: str, video: Path, setup: Setup, tell: Tell) -> Case:
    """Raises ``PipelineError``."""
    task = Task(
        str(video), setup.preset, setup.model, setup.backend, str(setup.models_dir) if setup.models_dir else None
    )
    width, height = size_of(video)
    tell(f"{name}: memory, and everything once before it counts")
    memory = observe(str(video), setup.detector, memory=True)
    rounds: list[Round] = []
    for number in range(setup.rounds):
        bare = run_bare(task, setup.processes)
        run = observe(str(video), setup.detector)
        done = Round(wall_ms_per_frame(bare.timings), cost_of(bare.timings), run, max(bare.others, run.others))
        rounds.append(done)
        tell(
            f"{name}: round {number + 1} of {setup.rounds}: reference {done.reference_wall_ms:.2f}, "
            f"pipeline {run.wall_ms:.2f} ms a frame, ratio {done.ratio:.3f}"
            + (f"; disturbed: something else kept {done.others:.2f} processors busy" if done.disturbed else "")
        )
    return Case(name, width, height, setup, rounds, transport_cpu_ms(Layout(width, height)), memory)


def measure_live(setup: Setup, duration_s: float, tell: Tell) -> dict[str, Any]:
    """A test pattern as a camera would send it, at its own pace."""
    width, height = LIVE_SIZE
    tell(f"live: {duration_s:g} s of {width}x{height} at {LIVE_FPS} frames a second")
    graph = f"lavfi:testsrc2=size={width}x{height}:rate={LIVE_FPS}:duration={duration_s:g}"
    run = observe(graph, setup.detector)
    return {
        "width": width,
        "height": height,
        "fps": LIVE_FPS,
        "frames": run.report["frames"],
        "latency_ms": run.report["latency_ms"],
        "first_result_s": round(run.first_result_s, 3),
        "cpu_ms_per_frame": round(run.cpu_ms, 3),
        "cpu_ms_by_stage": {stage: round(ms, 3) for stage, ms in run.cpu_ms_by_stage.items()},
    }


def size_of(video: Path) -> tuple[int, int]:
    """Width and height as stored."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        return stream.width, stream.height
