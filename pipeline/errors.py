"""The errors of this package, sorted by what whoever meets them must do.

PipelineError                 one line for people; never shown as a traceback
├── ConfigError               fix the configuration      exit 2, never restarted
├── StartupError              fix the machine            exit 3, never restarted
├── RuntimeFailure            it failed while running    exit 1
│   ├── SourceBroken          a file broke off: what was readable has been delivered
│   └── DiskFull              what writes there stops for good
├── Disconnected              connect again, after a back-off
└── FrameExpired              count it, take the next frame
"""

from __future__ import annotations

import re
from itertools import islice, pairwise

_HOST = re.compile(r"(?i)(?<!\bfile):/+|://(?!/)")
"""Behind it a login would stand; behind ``file:///`` there is a path."""
_BEGIN = re.compile(r"(?i)\n|(?<![\w+.-])(?:https?|rtsps?|rtmp[est]{0,2}|rtp|srt|udp|tcp|tls|mqtts?|file|ftp):/")
"""Of a line, and of an address that is certainly one: ``b://c`` may be a part of a password."""
_PARAMETER = re.compile(r"(?i)\b(?:password|passwd|pwd|passphrase|token|secret)=(?P<secret>[^\s&;,/'\"]+)")

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_CONFIG = 2
EXIT_MACHINE = 3
EXIT_INTERRUPTED = 130
"""Ctrl-C before the work was done; the number is the shell's (128 + SIGINT)."""


class PipelineError(Exception):
    """Any error that this package raises on purpose; its text is one line that people understand."""

    exit_code = EXIT_FAILED


class ConfigError(PipelineError):
    """The configuration, an argument or a file that it names is wrong."""

    exit_code = EXIT_CONFIG


class StartupError(PipelineError):
    """The machine lacks something: a package, weights, shared memory, a free port."""

    exit_code = EXIT_MACHINE


class RuntimeFailure(PipelineError):
    """Something failed after a good start."""


class SourceBroken(RuntimeFailure):
    """A source broke off before its end; every frame that could be read was delivered before this was raised."""


class DiskFull(RuntimeFailure):
    """There is no room, and nothing may be removed: that is not tried again."""


class Disconnected(PipelineError):
    """A live source is not there now; the caller tries again."""


class FrameExpired(PipelineError):
    """The frame's slot was overwritten before or while it was used; what was read from it must be thrown away."""


def credentials_in(address: str) -> list[tuple[int, int]]:
    """Where in an address its login stands, and parameters that hold passwords: (first, end), in order.

    A password may hold any sign, also those that end an address: its login goes up to the last ``@``.
    """
    return _with_parameters(address, _login_in(address, 0, len(address)))


def _login_in(text: str, first: int, end: int) -> tuple[int, int] | None:
    start, at = _HOST.search(text, first, end), text.rfind("@", first, end)
    return (start.end(), at) if start and start.end() < at else None


def _with_parameters(text: str, *logins: tuple[int, int] | None) -> list[tuple[int, int]]:
    spans = [span for span in logins if span] + [match.span("secret") for match in _PARAMETER.finditer(text)]
    apart: list[tuple[int, int]] = []
    for first, end in sorted(spans):
        if not apart or first >= apart[-1][1]:
            apart.append((first, end))
        else:
            apart[-1] = apart[-1][0], max(end, apart[-1][1])
    return apart


def without_login(address: str) -> str:
    """``rtsp://user:password@camera`` → ``rtsp://***@camera``: how an address is shown that this program knows."""
    return _masked(address, credentials_in(address))


def without_credentials(text: str) -> str:
    """The same for addresses anywhere in a text that others wrote, where it is only a guess what belongs to them.

    What can be read in two ways is a login: all up to the line's last ``@``, or the last one before the next address,
    if a colon is in it, or neither a blank nor a slash.
    """
    bounds = sorted({0, *(match.start() for match in _BEGIN.finditer(text)), len(text)})
    logins = (_guessed_login(text, first, end) for first, end in pairwise(bounds))
    return _masked(text, _with_parameters(text, *logins))


def _guessed_login(text: str, first: int, end: int) -> tuple[int, int] | None:
    span = _login_in(text, first, end)
    secret = text[slice(*span)] if span else ""
    return span if ":" in secret or not re.search(r"[\s/?#]", secret) else None


def _masked(text: str, spans: list[tuple[int, int]]) -> str:
    kept = pairwise([0, *(place for span in spans for place in span), len(text)])
    return "***".join(text[first:end] for first, end in islice(kept, 0, None, 2))
