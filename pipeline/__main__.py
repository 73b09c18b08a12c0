"""Where the program begins: the installed command, ``run_pipeline.py`` and ``python -m pipeline``."""

import signal
import sys


def main() -> int:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # while it is being loaded, Ctrl-C ends it without a word
    from pipeline import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
