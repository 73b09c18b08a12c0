"""``keys``: who may subscribe from another machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipeline.errors import EXIT_DONE

DESCRIPTION = """\
Makes a pair of CURVE keys: NAME.key, which is public, and NAME.key_secret, which stays where it is. The site needs one
pair and so does every subscriber:

  run_pipeline.py keys new site      on the machine that watches; its sink names the secret file:
                                       alerts: {kind: zeromq, bind: "tcp://0.0.0.0:5556",
                                                secret_key_file: site.key_secret, client_keys: [laptop.key]}
  run_pipeline.py keys new laptop    on the machine that subscribes; copy laptop.key to the site, site.key to here:
                                       run_pipeline.py events tcp://SITE:5556 --key laptop.key_secret
                                           --server-key site.key
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("keys", help="make keys for subscribers on other machines")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    new = actions.add_parser(
        "new",
        help="make a pair of keys",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    new.add_argument("name", metavar="NAME", help="of the files")
    new.add_argument("--directory", type=Path, default=Path(), metavar="DIR", help="where they are put (default: here)")
    new.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    from pipeline.sinks.curve import new_pair

    public, secret = new_pair(options.directory, options.name)
    print(f"{public}         public: give it to the other side\n{secret}  secret: leave it here")
    return EXIT_DONE
