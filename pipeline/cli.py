"""The command line: ``run_pipeline.py COMMAND …``; without a command, the demo."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import sys
from collections.abc import Sequence

from pipeline import __version__
from pipeline.commands import bench, detect, doctor, evaluate, events, keys, models, password, run, status
from pipeline.commands.conceal import conceal
from pipeline.errors import EXIT_FAILED, EXIT_INTERRUPTED, PipelineError

COMMANDS = (run, detect, events, status, keys, password, models, doctor, evaluate, bench)

EPILOG = """\
exit codes: 0 done · 1 failed at run time · 2 the configuration is wrong · 3 the machine lacks something
Ctrl-C: 130, because the work is not done; 0 from events, which has no other end; run records what it has captured
and then says how that went

examples:
  run_pipeline.py                                          the demo
  run_pipeline.py run --source people.mp4 --record out.mp4 --events events.jsonl
  run_pipeline.py run config/entrance.yaml                 a site
  run_pipeline.py detect photo.jpg --annotated out/ --json
  run_pipeline.py events                                   what the running site tells
  run_pipeline.py status                                   how the running site is doing
"""


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="run_pipeline.py",
        description="Watches video and tells who wears no face mask: annotated video and events come out.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=__version__)
    root.add_argument("-v", "--verbose", action="store_true", help="log details as well")
    commands = root.add_subparsers(dest="command", metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; an error is one line on standard error, never a traceback."""
    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except PipelineError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone (``… | head``).
        return _nothing_more_to_say()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(f"error: nothing can be written any more: {error.strerror}", file=sys.stderr)
        return _nothing_more_to_say()
    return code


def _run(arguments: list[str]) -> int:
    _hold_standard_streams()
    if not [a for a in arguments if a not in ("-v", "--verbose")]:
        arguments = [*arguments, "run", "--demo"]
    conceal(arguments)
    options = parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr
    )
    code: int = options.main(options)
    return code


def _hold_standard_streams() -> None:
    """A closed descriptor from 0 to 2 would be given to the next file, and every library complain into it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _nothing_more_to_say() -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_FAILED
