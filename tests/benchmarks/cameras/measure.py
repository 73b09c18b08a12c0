"""How many cameras fit: so many RTSP cameras at 1280x720 and 25 frames a second, looked at so often, for a while.

A real server sends pre-encoded video from memory; what it takes is told apart and no part of the rest. Processor shares
are those of the steady state; latencies those of the frames that were looked at in it.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline import procfs
from pipeline.status import Monitor, SiteReport
from pipeline.transport.results import latency_quantiles_ms
from pipeline.transport.run_directory import running
from tests.rtsp_server import RtspServer, film

SIZE, FPS = (1280, 720), 25
START_S_MAX = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cameras", type=int, nargs="+", default=[4])
    parser.add_argument("--max-fps", type=float, default=5)
    parser.add_argument("--model", default="facemask")
    parser.add_argument("--tiles", default="1x1")
    parser.add_argument("--motion", default="off")
    parser.add_argument("--record", choices=["burn", "track"], help="into segments of a minute")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--video", type=Path, help="what the cameras see; without it a ramp that moves")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cameras-") as folder:
        for count in options.cameras:
            films = {
                f"cam{n}": [film(Path(folder) / f"{n}.mp4", n, size=SIZE, video=options.video)] for n in range(count)
            }
            with RtspServer(films, fps=FPS) as server:
                print(json.dumps(measure(Path(folder), server, list(films), options)), flush=True)


def measure(folder: Path, server: RtspServer, cameras: list[str], options: argparse.Namespace) -> dict[str, Any]:
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump(site(folder, server, cameras, options)))
    command = [sys.executable, "run_pipeline.py", "run", str(path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        try:
            with closing(Monitor(_run_dir(run))) as monitor:
                _until_live(monitor, run)
                first = _Moment(monitor, server.pid)
                time.sleep(options.seconds)
                last = _Moment(monitor, server.pid)
        finally:
            run.send_signal(signal.SIGINT)
            _, stderr = run.communicate()
    if run.returncode:
        raise SystemExit(stderr)
    return figures(first, last, len(cameras), options)


def site(folder: Path, server: RtspServer, cameras: list[str], options: argparse.Namespace) -> dict[str, Any]:
    sinks: dict[str, Any] = {"log": {"kind": "jsonl", "path": str(folder / "events.jsonl")}}
    if options.record:
        overlay = {"overlay": options.record} if options.record != "burn" else {}
        sinks["video"] = {"kind": "recorder", "directory": str(folder / "video"), "segment_s": 60, **overlay}
    return {
        "name": f"cameras-{len(cameras)}",
        "sources": {name: {"kind": "rtsp", "url": server.url(name)} for name in cameras},
        "detectors": {"mask": {"model": options.model}},
        "rules": {"no_mask": {"kind": "no_mask"}},
        "sinks": sinks,
        "events": {"directory": str(folder / "events")},
        "pipelines": {
            "all": {
                "sources": cameras,
                "detector": "mask",
                "rules": ["no_mask"],
                "sinks": list(sinks),
                "detect": {"max_fps": options.max_fps, "tiles": options.tiles, "motion": options.motion},
            }
        },
    }


class _Moment:
    """What a run had done and used by then."""

    def __init__(self, monitor: Monitor, server: int) -> None:
        self.at_s = time.monotonic()
        self.report: SiteReport = monitor.read()
        self.latency = sum(monitor.latency_counts().values())
        self.begun = sum(monitor.begun_counts().values())
        self.server_s = procfs.times(server).own_s
        self.supervisor_s = procfs.times(self.report.pid).own_s
        self.busy_s = procfs.machine_busy_s()


def figures(first: _Moment, last: _Moment, cameras: int, options: argparse.Namespace) -> dict[str, Any]:
    took_s = last.at_s - first.at_s
    jobs: dict[str, float] = {"supervisor": last.supervisor_s - first.supervisor_s}
    for name, stage in last.report.stages.items():
        job = name.partition("/")[0]
        before = first.report.stages[name]
        assert stage.pid == before.pid, f"{name} was started again"
        jobs[job] = jobs.get(job, 0.0) + (stage.cpu_s or 0.0) - (before.cpu_s or 0.0)
    ours_s, server_s = sum(jobs.values()), last.server_s - first.server_s
    sources = [(first.report.sources[name], source) for name, source in last.report.sources.items()]
    skipped: dict[str, int] = {}
    for was, now in sources:
        for cause, count in now.skipped.items():
            skipped[cause] = skipped.get(cause, 0) + count - was.skipped.get(cause, 0)
    return {
        "cameras": cameras,
        "max_fps": options.max_fps,
        "model": options.model,
        "tiles": options.tiles,
        "record": options.record,
        "processors": round(ours_s / took_s, 3),
        "by_job": {job: round(used_s / took_s, 3) for job, used_s in jobs.items()},
        "server": round(server_s / took_s, 3),
        "others": round((last.busy_s - first.busy_s - ours_s - server_s) / took_s, 2),
        "memory_mb": round(sum(stage.memory_mb or 0 for stage in last.report.stages.values())),
        "fps": _spread([(now.frames - was.frames) / took_s for was, now in sources]),
        "looks_a_second": _spread([(now.detected - was.detected) / took_s for was, now in sources]),
        "skipped": skipped,
        "missing": sum(now.missing - was.missing for was, now in sources),
        "latency_ms": _quantiles(last.latency - first.latency),
        "age_when_begun_ms": _quantiles(last.begun - first.begun),
    }


def _spread(values: list[float]) -> list[float]:
    """The lowest and the highest."""
    return [round(min(values), 2), round(max(values), 2)]


def _quantiles(counts: Any) -> Mapping[str, float | None]:
    return dict(zip(("p50", "p99"), latency_quantiles_ms(np.asarray(counts), [0.5, 0.99]), strict=True))


def _run_dir(run: subprocess.Popen[str]) -> Path:
    deadline_s = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline_s:
        for found in running():
            if found.description["pid"] == run.pid:
                return found.directory
        time.sleep(0.05)
    raise SystemExit("the run does not begin")


def _until_live(monitor: Monitor, run: subprocess.Popen[str]) -> None:
    """Until every camera has been looked at ten times."""
    deadline_s = time.monotonic() + START_S_MAX
    while any(source.detected < 10 for source in monitor.read().sources.values()):
        if time.monotonic() > deadline_s or run.poll() is not None:
            raise SystemExit("the cameras do not come")
        time.sleep(0.5)


if __name__ == "__main__":
    main()
