"""``run``: a site, one source without a configuration, or the demo."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Collection
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from pipeline import config, resources
from pipeline.commands import options as shared
from pipeline.commands.progress import Progress
from pipeline.commands.view import TerminalView
from pipeline.errors import ConfigError, PipelineError, without_login
from pipeline.report import Report
from pipeline.specs import Site
from pipeline.supervisor import Supervisor
from pipeline.transport.run_directory import AlreadyRunning, running

DEMO = "demo.yaml"
_NOT_A_NAME = re.compile(r"[^a-z0-9_-]+")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "run",
        help="watch a site, or one source",
        description="Watches the sources of a site (a YAML file), or one source given here. Ctrl-C stops it well: what "
        "has been captured is still recorded; a second Ctrl-C ends at once.",
    )
    parser.add_argument("site", nargs="?", type=Path, metavar="SITE.yaml", help="the configuration of a site")
    parser.add_argument("--demo", action="store_true", help="the demo that comes with the program")
    group = parser.add_argument_group("one source, instead of a site")
    group.add_argument(
        "--source",
        metavar="SOURCE",
        help="a video file, a folder or glob of pictures, a camera (0, /dev/video0), an address (rtsp://camera/one), "
        "lavfi:GRAPH",
    )
    shared.add_login(group)
    group.add_argument("--record", type=Path, metavar="OUT.mp4", help="write annotated video")
    group.add_argument("--overwrite", action="store_true", help="replace OUT.mp4 if it exists")
    group.add_argument("--events", type=Path, metavar="FILE.jsonl", help="append events to a file, one a line")
    group.add_argument(
        "--publish",
        metavar="tcp://127.0.0.1:PORT",
        help="publish events over ZeroMQ; the next port answers who has missed some",
    )
    group.add_argument("--web", nargs="?", const="127.0.0.1:8080", metavar="127.0.0.1:PORT", help="show it on a page")
    group.add_argument("--realtime", action="store_true", help="play a file at its own speed, like a camera")
    shared.add_detector(parser)
    parser.add_argument("--view", action="store_true", help="show pictures and status on the terminal")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    started_ns = time.monotonic_ns()
    try:
        with TerminalView(options.models_dir) if options.view else Progress(sys.stderr) as display:
            report = _run(options, display)
    except PipelineError as error:
        if options.json:
            print(json.dumps(refused(error, started_ns).as_json()))
        raise
    if options.json:
        print(json.dumps(report.as_json()))
    else:
        print(summary(report))
    return report.code


def refused(error: PipelineError, started_ns: int) -> Report:
    """The report of a run that did not start."""
    return Report(
        sources={},
        missing={},
        started_ns=started_ns,
        elapsed_s=(time.monotonic_ns() - started_ns) / 1e9,
        restarts={},
        code=error.exit_code,
        reason=str(error),
    )


def _run(options: argparse.Namespace, display: Progress | TerminalView) -> Report:
    """Quick runs of one file side by side get numbers; another one may take the number while this one starts."""
    taken: set[int] = set()
    while True:
        site = _site(options, taken)
        display.begin(site)
        try:
            reload = partial(_site, options, taken) if options.site else None
            return Supervisor(site, models_dir=options.models_dir, observe=display.show, reload=reload).run()
        except AlreadyRunning:
            if not options.source:
                raise
            taken.add(int(site.name.rpartition("-")[2]))


def _site(options: argparse.Namespace, taken: Collection[int]) -> Site:
    if [bool(options.site), bool(options.demo), bool(options.source)].count(True) != 1:
        raise ConfigError("run needs a SITE.yaml, or --source, or --demo, and only one of them")
    if options.source:
        return quick_site(options, taken)
    alone = ("record", "events", "publish", "realtime", "overwrite", "login_env", "login_file")
    given = [option.replace("_", "-") for option in alone if getattr(options, option)]
    if given:
        raise ConfigError(f"--{given[0]} goes with --source; a site says it in its file")
    return config.load(
        resources.data_dir("config") / DEMO if options.demo else options.site, shared.detector_values(options)
    )


def quick_site(options: argparse.Namespace, taken: Collection[int] = ()) -> Site:
    """The site that ``--source`` and its companions stand for, with a number that is not in ``taken``."""
    sinks: dict[str, dict[str, Any]] = {}
    if options.record:
        sinks["recording"] = {"kind": "recorder", "path": str(options.record), "overwrite": options.overwrite}
    if options.events:
        sinks["events"] = {"kind": "jsonl", "path": str(options.events)}
    if options.publish:
        sinks["publisher"] = {"kind": "zeromq", "bind": options.publish}
    if options.web:
        sinks["page"] = {"kind": "web", "bind": options.web}
    source = shared.source_values(options.source, options, realtime=options.realtime)
    name = _name(options.source)
    values = {
        "name": f"{name}-{_free_number(name, taken)}",
        "sources": {name: source},
        "detectors": {"mask": shared.detector_values(options)},
        "rules": {"no_mask": {"kind": "no_mask"}},
        "sinks": sinks,
        "events": {"retention_days": 0},
        "pipelines": {"quick": {"sources": [name], "detector": "mask", "rules": ["no_mask"], "sinks": list(sinks)}},
    }
    return config.check(values, "command line")


def _name(source: str) -> str:
    """An id made of what people will recognise: the file's stem."""
    address = without_login(source).rpartition("@")[2] if "://" in source else source
    stem = source.partition(":")[0] if source.startswith("lavfi:") else Path(address.rstrip("/*")).stem
    return _NOT_A_NAME.sub("-", stem.lower()).strip("-_")[:24] or "source"


def _free_number(name: str, taken: Collection[int]) -> int:
    names = {site.name for site in running()}
    return next(number for number in count(1) if f"{name}-{number}" not in names and number not in taken)


def summary(report: Report) -> str:
    """The report for people."""
    data = report.as_json()
    frames = data["frames"]
    skipped = ", ".join(f"{count} {cause}" for cause, count in frames["skipped"].items()) or "none"
    latency = " / ".join("–" if v is None else f"{v:g}" for v in data["latency_ms"].values())
    lines = [
        f"frames    {frames['decoded']} decoded, {frames['detected']} detected, {frames['written']} written; "
        f"skipped: {skipped}",
        f"speed     {data['fps'] or 0:g} frames a second; latency p50/p95/p99 {latency} ms",
        f"faces     {data['faces']['mask']} with a mask, {data['faces']['no_mask']} without (counted in every frame)",
        f"events    {data['events']}",
    ]
    lines += [
        f"missing   {source}: frames {', '.join(s['missing'])}" for source, s in data["sources"].items() if s["missing"]
    ]
    lines += [f"restarts  {stage}: {count}" for stage, count in data["restarts"].items()]
    exit_ = data["exit"]
    lines.append("exit      0" if not exit_["code"] else f"exit      {exit_['code']}: {exit_['reason']}")
    return "\n".join(lines)
