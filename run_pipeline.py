#!/usr/bin/env python3
"""The command: reads arguments, nothing else. See ``run_pipeline.py --help``."""

import signal
import sys

if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # while it is being loaded, Ctrl-C ends it without a word
    from pipeline.cli import main

    sys.exit(main())
