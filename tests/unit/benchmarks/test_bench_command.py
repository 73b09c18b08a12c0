from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipeline.cli import parser
from pipeline.commands import bench
from pipeline.errors import ConfigError

CASE = {
    "name": "720p", "width": 1280, "height": 720, "model": "aizoo-260", "backend": "onnxruntime", "preset": "ultrafast",
    "bare_cpu_ms": {"decode": 3.1, "model": 12.0, "encode": 4.5}, "wall_ms_per_frame": 11.0,
    "reference_wall_ms_per_frame": 10.0, "speed_of_light_ratio": 0.909, "ratio_spread": 0.02, "overhead_cpu_ms": 2.4,
    "transport_cpu_ms": 0.35, "memory_pss_mb": 310.0, "first_result_s": 1.2, "frames": 1000, "processes": 2,
    "ratios": [0.909], "cpu_ms_per_frame": 22.0, "cpu_ms_by_stage": {}, "memory_slope_mb_per_1000_frames": None,
    "finish_s": 0.5, "others_processors": 0.01,
}  # fmt: skip
LIVE = {
    "width": 1280, "height": 720, "fps": 25, "latency_ms": {"p50": 17.4, "p95": 28.6, "p99": None},
    "cpu_ms_per_frame": 22.4,
}  # fmt: skip


def test_people_see_a_row_a_figure() -> None:
    out = io.StringIO()
    bench.show({"cases": [CASE, {**CASE, "name": "1080p"}], "live": LIVE}, Console(file=out, width=100))
    text = out.getvalue()
    assert "0.909 (0.020)" in text
    assert "p50/p95/p99 17.4 / 28.6 / – ms" in text


def test_an_unknown_case_is_refused_with_the_alternatives() -> None:
    options = parser().parse_args(["bench", "--cases", "720p,4k"])
    with pytest.raises(ConfigError, match="'4k' is not a case; there are: 720p, 1080p, live"):
        options.main(options)


def test_a_video_that_is_not_there_is_refused_before_anything_is_measured() -> None:
    options = parser().parse_args(["bench", "nothing.mp4"])
    with pytest.raises(ConfigError, match=r"nothing\.mp4 is not a file"):
        options.main(options)


def test_rounds_are_counted_from_one() -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["bench", "--rounds", "0"])
