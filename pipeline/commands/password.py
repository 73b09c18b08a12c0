"""``password``: what may stand in a configuration for somebody's password."""

from __future__ import annotations

import argparse
import getpass
import sys
from typing import Any

from pipeline.errors import EXIT_DONE, ConfigError

LENGTH_MIN = 8
DESCRIPTION = """\
Asks for a password twice (or takes one line of standard input) and prints its hash for the live page's users:

  sinks:
    page: {kind: web, users: {anna: "scrypt:…"}}
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "password",
        help="hash a password for the live page",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(main=main)


def main(_: argparse.Namespace) -> int:
    from pipeline.sinks.web.passwords import hashed

    print(hashed(_ask()))
    return EXIT_DONE


def _ask() -> str:
    if not sys.stdin.isatty():
        password = sys.stdin.readline().rstrip("\n")
    else:
        password = getpass.getpass("Password: ")
        if getpass.getpass("Once more: ") != password:
            raise ConfigError("the two passwords are not the same")
    if len(password) < LENGTH_MIN:
        raise ConfigError(f"a password needs at least {LENGTH_MIN} characters, this has {len(password)}")
    return password
