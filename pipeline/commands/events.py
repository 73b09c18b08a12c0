"""``events``: subscribe to the events of a running site."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

from pipeline import config
from pipeline.errors import EXIT_DONE, ConfigError
from pipeline.transport.run_directory import running

PUBLISHER = "zeromq"


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "events",
        help="subscribe to the events of a running site",
        description="Prints events as they come, until Ctrl-C. Without an argument: those of the only running site.",
    )
    parser.add_argument("where", nargs="?", metavar="tcp://… | SITE.yaml | NAME", help="an address, a configuration, "
                        "or the name of a running site")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of text")
    parser.add_argument("--count", type=int, metavar="N", help="end after N events")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of an event and end")
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    from pipeline.sinks.events_client import subscribe
    from pipeline.sinks.schema import event_schema

    if options.schema:
        print(json.dumps(event_schema(), indent=2))
        return EXIT_DONE
    with contextlib.suppress(KeyboardInterrupt):  # the normal end
        for number, event in enumerate(subscribe(address(options.where)), 1):
            print(json.dumps(event) if options.json else line(event), flush=True)
            if number == options.count:
                break
    return EXIT_DONE


def address(where: str | None) -> str:
    """What to connect to; raises ``ConfigError`` with what is running where that does not say it."""
    if where and "://" in where:
        return where
    if where and where.endswith((".yaml", ".yml")):
        return _first(config.load(Path(where)).publishes, where)
    sites = {site.name: site for site in running()}
    names = ", ".join(sorted(sites)) or "none"
    if where is None:
        if len(sites) != 1:
            raise ConfigError(f"events needs an address, a SITE.yaml or a name; running now: {names}")
        where = next(iter(sites))
    if where not in sites:
        raise ConfigError(f"no site named {where!r} is running; running now: {names}")
    return _first(sites[where].description["publishes"], where)


def _first(addresses: list[str], name: str) -> str:
    if not addresses:
        raise ConfigError(f"{name}: publishes no events: none of its pipelines has a sink of kind {PUBLISHER}")
    return addresses[0]


def line(event: dict[str, Any]) -> str:
    """One event for people."""
    when = event["t_end"] or event["t_start"]
    ended = f" ({event['reason']})" if event["reason"] else ""
    return f"{when} {event['source']} {event['kind']} {event['phase']}{ended} track {event['track']} {event['id']}"
