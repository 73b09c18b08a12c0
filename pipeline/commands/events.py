"""``events``: what a site has told, from its log; and what it tells now."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import config, plan, resources
from pipeline.commands import options as shared
from pipeline.errors import EXIT_DONE, ConfigError, Disconnected
from pipeline.transport.run_directory import running

if TYPE_CHECKING:
    from pipeline.sinks.event_reader import EventReader

BATCH = 1000
LOOK_EVERY_S = 0.1
STARTING_MAX_S = 10.0
SEQ_MAX = (1 << 63) - 1
"""The greatest number that the log can hold."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

DESCRIPTION = """\
Prints the events of a site, out of its log: also when nothing runs, if the site keeps its log (events.retention_days).
Without --since, --after or --follow: those of a running site from now on, until Ctrl-C. Without SITE: the only one that
runs. An address (tcp://…) subscribes to a site on this or another machine.
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("events", help="what a site has told, and what it tells now", description=DESCRIPTION)
    parser.add_argument("where", nargs="?", metavar="SITE | SITE.yaml | tcp://…", help="the name of a site, its "
                        "configuration, or an address")  # fmt: skip
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--since", type=since, metavar="2h", help="what was logged since then: 90s, 30m, 2h, 7d, or a "
                       "time like 2026-11-18T11:00:00Z")  # fmt: skip
    begin.add_argument("--after", type=number, metavar="SEQ", help="what comes behind that number; 0: all there is")
    parser.add_argument("--follow", action="store_true", help="go on with what comes, until Ctrl-C")
    parser.add_argument("--source", action="append", metavar="NAME", help="of that source alone (may be repeated)")
    parser.add_argument("--kind", action="append", metavar="KIND", help="of that kind alone (may be repeated)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of text")
    parser.add_argument("--count", type=shared.count, metavar="N", help="end after N events")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of an event and end")
    parser.add_argument("--key", type=Path, metavar="FILE", help="your secret key, for an address that demands one")
    parser.add_argument("--server-key", metavar="FILE", help="the site's public key")
    parser.set_defaults(main=main)


def since(text: str) -> int:
    """The wall clock of an argument in nanoseconds."""
    if match := _DURATION.fullmatch(text):
        return _wall_ns(time.time() - float(match[1]) * _SECONDS[match[2]])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither like 90s, 30m, 2h, 7d nor like 2026-11-18T11:00:00Z"
        ) from error
    return _wall_ns((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _wall_ns(wall_s: float) -> int:
    """What is too long ago or too far ahead for a clock in nanoseconds is as good as the nearest that is not."""
    return round(min(max(wall_s, 0.0), SEQ_MAX // 1e9) * 1e9)


def number(text: str) -> int:
    """An argument that counts from 0."""
    if not text.isdecimal() or len(text) > len(str(SEQ_MAX)) or int(text) > SEQ_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of an event, 0 to {SEQ_MAX}")
    return int(text)


def main(options: argparse.Namespace) -> int:
    from pipeline.sinks.schema import event_schema

    if options.schema:
        print(json.dumps(event_schema(), indent=2))
        return EXIT_DONE
    remote = bool(options.where) and "://" in options.where
    if (options.key or options.server_key) and not remote:
        raise ConfigError("--key and --server-key go with an address: a site on this machine is read from its log")
    with contextlib.suppress(KeyboardInterrupt):  # the normal end
        for count, event in enumerate(subscribed(options) if remote else logged(options), 1):
            print(json.dumps(event) if options.json else line(event), flush=True)
            if count == options.count:
                break
    return EXIT_DONE


def subscribed(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """From an address, over ZeroMQ."""
    import msgspec

    from pipeline.client import Keys, subscribe

    if options.since is not None:
        raise ConfigError("--since needs the site's log: give its name on its own machine, or --after with an address")
    if bool(options.key) != bool(options.server_key):
        raise ConfigError("--key and --server-key go together: who you are, and whom you believe")
    events = subscribe(
        options.where,
        kinds=options.kind,
        sources=options.source,
        cursor=None if options.after is None else (None, options.after),
        keys=Keys(options.key, options.server_key) if options.key else None,
    )
    return (msgspec.to_builtins(event) for event in events)


def logged(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """From the log of a site on this machine."""
    from pipeline.sinks.event_reader import EventReader

    path, runs = event_log(options.where)
    begins = options.since is not None or options.after is not None
    if not runs and not begins and not options.follow:
        raise ConfigError(f"nothing runs there; to see what its log has: --since 2h, or --after 0 ({path})")
    with contextlib.closing(_opened(path) if runs else EventReader(path)) as reader:
        seq = reader.bounds.newest if not begins else options.after
        if options.since is not None:
            seq = reader.cursor_since(options.since)
        while True:
            found = reader.after(seq, BATCH, sources=options.source, kinds=options.kind)
            yield from found
            seq = found[-1]["seq"] if found else seq
            if len(found) < BATCH:
                if (begins and not options.follow) or not path.exists():  # it ended with its run
                    return
                time.sleep(LOOK_EVERY_S)


def _opened(path: Path) -> EventReader:
    """The log of a site that may have been started this very moment."""
    from pipeline.sinks.event_reader import EventReader

    deadline_s = time.monotonic() + STARTING_MAX_S
    while True:
        try:
            return EventReader(path)
        except (ConfigError, Disconnected):
            if time.monotonic() > deadline_s:
                raise
            time.sleep(LOOK_EVERY_S)


def event_log(where: str | None) -> tuple[Path, bool]:
    """Where the log of that site lies, and whether it runs; raises ``ConfigError`` where that does not say it."""
    sites = {site.name: site for site in running()}
    kept = {path.parent.name: path for path in resources.user_state_dir().glob(f"*/{plan.EVENT_LOG}")}
    there = f"running now: {_listed(sites)}; kept: {_listed(kept)}"
    if where and where.endswith((".yaml", ".yml")):
        site = config.load(Path(where))
        if site.name not in sites:
            return plan.event_log_path(site, Path()), False
        where = site.name
    if where is None:
        if len(sites) != 1:
            raise ConfigError(f"events needs the name of a site, a SITE.yaml or an address; {there}")
        where = next(iter(sites))
    if where in sites:
        path = sites[where].description.get("event_log")
        if path is None:
            raise ConfigError(f"{where}: keeps no events: it has no sink for them, and no log")
        return Path(path), True
    if where not in kept:
        raise ConfigError(f"no site named {where!r} is running, and no log of it is kept; {there}")
    return kept[where], False


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def line(event: dict[str, Any]) -> str:
    """One event for people."""
    when = event["t_end"] or event.get("t_update") or event["t_start"]
    parts = [when, event["source"], event["kind"], event["phase"]]
    parts += [f"({event['reason']})"] if event["reason"] else []
    parts += [f"{name} {event[name]}" for name in ("track", "zone", "lost") if event.get(name) is not None]
    parts += [f"{file['kind']} {file['path']}" for file in event.get("evidence", ())]
    return " ".join([*parts, event["id"]])
