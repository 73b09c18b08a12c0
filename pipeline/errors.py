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

_LOGIN = re.compile(
    r"""(?i)(?<=:/)/?(?P<secret>
        (?!\[[\da-f:.%]+\])                                 # [::1] is a host
        (?: (?!                                             # and so is what has a port: camera:554/one, camera.lan:554
                [^\s:/]*:\d{1,5}(?:[/?\#'",;)>]|[.:]?$|[.:]\s)
              | (?:localhost|[^\s:/.]+\.[^\s:/]+):\d{1,5}\s
            )
            [^/:?\#'"<>(),;\n]*:(?!\s)(?:(?!://).)*(?=@\S|@$)  # user:password with blanks, before the next address
          | (?!/)[^\s:]*:\S*                                # user:password with anything else
          | [^\s/?\#]+                                      # a user alone
        ))@""",
    re.VERBOSE,
)
"""A password may hold anything, also ``@``, ``/`` and blanks: where a text can be read in two ways, it is a login."""
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


def credentials_in(text: str) -> list[tuple[int, int]]:
    """Where in ``text`` logins of addresses stand, and parameters that hold passwords: (first, end), in order."""
    spans = [match.span("secret") for pattern in (_LOGIN, _PARAMETER) for match in pattern.finditer(text)]
    spans.sort()
    apart: list[tuple[int, int]] = []
    for first, end in spans:
        if not apart or first >= apart[-1][1]:
            apart.append((first, end))
    return apart


def without_credentials(text: str) -> str:
    """``rtsp://user:password@camera`` → ``rtsp://***@camera``: how an address is shown, anywhere in a text."""
    for first, end in reversed(credentials_in(text)):
        text = f"{text[:first]}***{text[end:]}"
    return text
