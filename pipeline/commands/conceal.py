"""A login in an argument does not stay in the process list, where every user of the machine could read it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import credentials_in

_ARG_START, _ARG_END = 45, 46
"""Fields of /proc/self/stat behind the process's name (proc(5) counts them from 3)."""


def conceal(arguments: Sequence[str]) -> None:
    """Puts stars over the logins of addresses among ``arguments``, in the memory that the system shows (Linux).

    Before that they stood there for the moment of a start, and they are in the shell's history: ``login_env`` and
    ``login_file`` are better.
    """
    secret = [argument for argument in arguments if credentials_in(argument)]
    if not secret or sys.platform != "linux":
        return
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    shown = ctypes.string_at(start, end - start)
    for argument in secret:
        at = shown.find(os.fsencode(argument))
        for first, last in credentials_in(argument) if at >= 0 else ():
            before, covered = len(os.fsencode(argument[:first])), len(os.fsencode(argument[first:last]))
            ctypes.memset(start + at + before, ord("*"), covered)
