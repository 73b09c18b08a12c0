"""``status``: how a running site is doing, from another shell."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.errors import EXIT_DONE, EXIT_FAILED, ConfigError
from pipeline.status import Monitor, SiteReport, SourceReport, StageReport
from pipeline.transport.run_directory import is_held, running

EVERY_S = 1.0
WIDTH = 140
"""Characters, where it is not shown on a terminal."""
_COLOURS = {
    "live": "green", "running": "green", "connecting": "yellow", "starting": "yellow", "waiting": "yellow",
    "stalled": "yellow", "backing_off": "red", "failed": "red",
}  # fmt: skip


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "status",
        help="how a running site is doing",
        description="Shows each source and each stage of a running site once a second, until Ctrl-C. Rates and "
        "processor shares are those of the last second; everything else is since the start.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="of a running site; not needed where only one runs")
    parser.add_argument("--once", action="store_true", help="show it once")
    parser.add_argument("--json", action="store_true", help="print one JSON object, once")
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    name, run_dir = _running(options.name)
    with contextlib.closing(Monitor(run_dir)) as monitor:
        try:
            _show(monitor, run_dir, options)
            return EXIT_DONE
        except FileNotFoundError:
            print(f"{name} has ended", file=sys.stderr)
        except KeyboardInterrupt:
            pass
    return EXIT_FAILED if options.json or options.once else EXIT_DONE


def _show(monitor: Monitor, run_dir: Path, options: argparse.Namespace) -> None:
    monitor.read()
    time.sleep(EVERY_S)
    report = _read(monitor, run_dir)
    if options.json:
        print(msgspec.json.encode(report).decode())
        return
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH)
    if options.once:
        console.print(table(report))
        return
    if not console.is_terminal:  # a pipe, a file: there it would be shown when all is over
        while True:
            console.print(table(report))
            time.sleep(EVERY_S)
            report = _read(monitor, run_dir)
    with Live(table(report), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(EVERY_S)
            live.update(table(_read(monitor, run_dir)), refresh=True)


def _read(monitor: Monitor, run_dir: Path) -> SiteReport:
    """The site now; raises ``FileNotFoundError`` where it runs no more, also of one that was killed."""
    if not is_held(run_dir):
        raise FileNotFoundError(run_dir)
    return monitor.read()


def _running(name: str | None) -> tuple[str, Path]:
    """The site of that name, or the only one; raises ``ConfigError`` with those there are."""
    sites = {site.name: site.directory for site in running()}
    names = ", ".join(sorted(sites)) or "none"
    if name is None:
        if len(sites) != 1:
            raise ConfigError(f"status needs the name of a running site; running now: {names}")
        name = next(iter(sites))
    if name not in sites:
        raise ConfigError(f"no site named {name!r} is running; running now: {names}")
    return name, sites[name]


def table(report: SiteReport) -> Group:
    """The report for people: a line a source, a line a stage."""
    sources = Table(title=f"{report.name} (pid {report.pid})", title_justify="left", box=None, pad_edge=False)
    for heading in ("source", "state"):
        sources.add_column(heading)
    for heading in ("fps", "looked at", "newest", "p50 / p99 ms", "skipped", "reconnects", "faces", "events"):
        sources.add_column(heading, justify="right")
    for name, source in report.sources.items():
        sources.add_row(name, *_source_row(source))
    stages = Table(title="", box=None, pad_edge=False)
    for heading in ("stage", "state"):
        stages.add_column(heading)
    for heading in ("pid", "CPU", "memory", "restarts"):
        stages.add_column(heading, justify="right")
    stages.add_column("")
    for name, stage in report.stages.items():
        stages.add_row(name, *_stage_row(stage))
    return Group(sources, stages)


def _source_row(source: SourceReport) -> list[Text | str]:
    state = Text(source.state, _COLOURS.get(source.state, ""))
    if source.reason:
        state.append(f": {source.reason}")
    skipped = " ".join(f"{cause} {count}" for cause, count in source.skipped.items()) or "–"
    return [
        state,
        _figure(source.fps),
        _figure(source.detected_fps),
        _age(source),
        " / ".join(_figure(source.latency_ms[q], "{:.0f}") for q in ("p50", "p99")),
        skipped,
        str(source.reconnects),
        f"{source.faces_mask}+{source.faces_no_mask}",
        str(source.events),
    ]


def _age(source: SourceReport) -> str:
    """Of the newest frame; nobody waits for one of a source that has ended."""
    if source.newest_s is None or source.state == "ended":
        return "–"
    return f"{source.newest_s * 1000:.0f} ms" if source.newest_s < 10 else f"{source.newest_s:.0f} s"


def _stage_row(stage: StageReport) -> list[Text | str]:
    reason = stage.reason or ""
    if stage.restart_in_s is not None:
        reason += f"; starts again in {stage.restart_in_s:.0f} s"
    return [
        Text(stage.state, _COLOURS.get(stage.state, "")),
        str(stage.pid or "–"),
        _figure(stage.cpu and stage.cpu * 100, "{:.1f} %"),
        _figure(stage.memory_mb, "{:.0f} MB"),
        str(stage.restarts),
        reason,
    ]


def _figure(value: float | None, form: str = "{:.1f}") -> str:
    return "–" if value is None else form.format(value)
