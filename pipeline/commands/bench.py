"""``bench``: what the pipeline costs on this machine, beside what decoding, model and encoding cost without it."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from pipeline.commands import bench_backends
from pipeline.commands import options as shared
from pipeline.errors import EXIT_DONE, ConfigError
from pipeline.specs import DetectorSpec, EncoderSpec

if TYPE_CHECKING:
    from pipeline.benchmarks.cases import Setup

LIVE = "live"
BACKENDS = "backends"
FRAMES, QUICK_FRAMES = 1000, 200
ROUNDS = 5
LIVE_S, QUICK_LIVE_S = 20.0, 5.0

log = logging.getLogger(__name__)


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="measure what it costs here",
        description="Measures the pipeline beside bare processes that only decode, infer and encode, one a processor, "
        "on videos that it makes itself and on those given. Takes about ten minutes; everything else on this machine "
        "should be quiet.",
    )
    parser.add_argument(
        "videos",
        nargs="*",
        type=Path,
        metavar="VIDEO",
        help="measure on these as well; the word backends: measure runtimes instead",
    )
    parser.add_argument(
        "--cases",
        type=lambda text: tuple(text.split(",")),
        metavar="LIST",
        help="720p, 1080p, live, separated by commas (default: all of them, or only the videos given)",
    )
    parser.add_argument("--rounds", type=shared.count, default=None, metavar="N", help=f"medians of so many ({ROUNDS})")
    parser.add_argument(
        "--frames", type=shared.count, default=None, metavar="N", help=f"length of its own videos ({FRAMES})"
    )
    parser.add_argument("--quick", action="store_true", help="one short round of each, to see that it works")
    shared.add_detector(parser)
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    if options.videos == [Path(BACKENDS)]:
        return bench_backends.main(options)
    from pipeline.benchmarks import cases, videos

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its children end with it either way
    names = _cases(options, [*videos.SIZES, LIVE])
    for video in options.videos:
        if not video.is_file():
            raise ConfigError(f"{video} is not a file")
    setup = _setup(options)
    frames = options.frames or (QUICK_FRAMES if options.quick else FRAMES)
    todo = [(name, videos.bench_video(name, frames)) for name in names if name != LIVE]
    todo += [(video.stem, video) for video in options.videos]
    figures: dict[str, Any] = {
        "cases": [cases.measure(name, video, setup, log.info).as_json() for name, video in todo],
        "live": cases.measure_live(setup, QUICK_LIVE_S if options.quick else LIVE_S, log.info)
        if LIVE in names
        else None,
    }
    if options.json:
        print(json.dumps(figures))
    else:
        show(figures, Console(file=sys.stdout))
    return EXIT_DONE


def _cases(options: argparse.Namespace, known: Sequence[str]) -> list[str]:
    if options.cases is None:
        return [] if options.videos else list(known)
    for name in options.cases:
        if name not in known:
            raise ConfigError(f"--cases: {name!r} is not a case; there are: {', '.join(known)}")
    return list(options.cases)


def _setup(options: argparse.Namespace) -> Setup:
    """Raises as ``build_detector`` does, before anything is made or measured."""
    from pipeline.benchmarks.cases import Setup
    from pipeline.inference.detector import build_detector
    from pipeline.plan import processors

    spec = DetectorSpec.model_validate(shared.detector_values(options))
    build_detector(spec.model, spec.backend["kind"], models_dir=options.models_dir).close()
    given = {name: getattr(options, name) for name in ("model", "backend", "confidence_min", "iou_max", "nms")}
    given["models_dir"] = options.models_dir
    arguments = [[f"--{name.replace('_', '-')}", str(value)] for name, value in given.items() if value is not None]
    return Setup(
        model=spec.model,
        backend=spec.backend["kind"],
        preset=EncoderSpec().preset,
        models_dir=options.models_dir,
        processes=processors(),
        rounds=options.rounds or (1 if options.quick else ROUNDS),
        detector=[word for pair in arguments for word in pair],
    )


def show(figures: dict[str, Any], console: Console) -> None:
    """The figures for people: a row a figure, a column a case."""
    if figures["cases"]:
        table = Table(title="milliseconds a frame, unless it says otherwise")
        table.add_column("")
        for case in figures["cases"]:
            table.add_column(f"{case['name']}\n{case['width']}x{case['height']}", justify="right")
        for label, text in _ROWS:
            table.add_row(label, *(text(case) for case in figures["cases"]))
        console.print(table)
        first = figures["cases"][0]
        console.print(
            f"{first['model']} by {first['backend']}, x264 {first['preset']}; reference: {first['processes']} bare "
            f"processes side by side; medians of {len(first['ratios'])}"
        )
    if figures["live"]:
        live = figures["live"]
        latency = " / ".join("–" if ms is None else f"{ms:g}" for ms in live["latency_ms"].values())
        console.print(
            f"live, {live['width']}x{live['height']} at {live['fps']} frames a second: capture to result "
            f"p50/p95/p99 {latency} ms; {live['cpu_ms_per_frame']:g} CPU-ms a frame"
        )


def _slope(case: dict[str, Any]) -> str:
    slope = case["memory_slope_mb_per_1000_frames"]
    return "–" if slope is None else f"{slope:+.2f}"


_ROWS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("speed-of-light ratio (spread)", lambda c: f"{c['speed_of_light_ratio']:.3f} ({c['ratio_spread']:.3f})"),
    ("pipeline, wall", lambda c: f"{c['wall_ms_per_frame']:.2f}"),
    ("reference, wall", lambda c: f"{c['reference_wall_ms_per_frame']:.2f}"),
    ("pipeline, CPU", lambda c: f"{c['cpu_ms_per_frame']:.2f}"),
    ("bare decoding, CPU", lambda c: f"{c['bare_cpu_ms']['decode']:.2f}"),
    ("bare model, CPU", lambda c: f"{c['bare_cpu_ms']['model']:.2f}"),
    ("bare encoding, CPU", lambda c: f"{c['bare_cpu_ms']['encode']:.2f}"),
    ("overhead, CPU", lambda c: f"{c['overhead_cpu_ms']:.2f}"),
    ("of that transport", lambda c: f"{c['transport_cpu_ms']:.2f}"),
    ("memory (PSS), MB", lambda c: f"{c['memory_pss_mb']:.0f}"),
    ("its growth, MB per 1,000 frames", _slope),
    ("start to first result, s", lambda c: f"{c['first_result_s']:.2f}"),
    ("last frame to the end, s", lambda c: f"{c['finish_s']:.2f}"),
    ("kept busy by others, processors", lambda c: f"{c['others_processors']:.2f}"),
)
