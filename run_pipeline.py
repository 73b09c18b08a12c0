#!/usr/bin/env python3
"""The command: reads arguments, nothing else. See ``run_pipeline.py --help``."""

import sys

from pipeline.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
