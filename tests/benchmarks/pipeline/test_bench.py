"""The whole command, quickly: its form, not its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(__file__).resolve().parents[3] / "run_pipeline.py"


@pytest.mark.benchmark
@pytest.mark.timeout(400)
def test_the_command_measures_every_case() -> None:
    done = subprocess.run(
        [sys.executable, str(COMMAND), "bench", "--quick", "--json"], stdout=subprocess.PIPE, check=True
    )
    figures = json.loads(done.stdout)
    assert [(case["name"], case["height"]) for case in figures["cases"]] == [("720p", 720), ("1080p", 1080)]
    for case in figures["cases"]:
        ratio = case["reference_wall_ms_per_frame"] / case["wall_ms_per_frame"]
        assert case["speed_of_light_ratio"] == pytest.approx(ratio, abs=0.002)
        assert all(cost > 0 for cost in case["bare_cpu_ms"].values())
        assert sum(case["bare_cpu_ms"].values()) < case["cpu_ms_per_frame"]
        assert 0 < case["transport_cpu_ms"] < case["overhead_cpu_ms"]
        assert 100 < case["memory_pss_mb"] < 500
    assert figures["live"]["latency_ms"]["p50"] > 0
