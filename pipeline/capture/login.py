"""Logins that stand in no address: taken from the environment or from a file, looked up again at every attempt."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote, urlsplit

from pipeline.capture.source import SourceLost

_KEPT = "-._~!$&'()*+,;="
"""Signs that may stand in a login as they are (RFC 3986); everything else is written as %XX."""


def is_login(text: str) -> bool:
    """Whether it is ``user:password``; the password may be empty."""
    user, colon, _ = text.partition(":")
    return bool(user and colon)


class Login:
    """``user:password``; the password may hold any sign, the name no colon. Without either there is no login."""

    def __init__(self, env: str | None = None, file: Path | None = None) -> None:
        self._env = env
        self._file = file
        self._used: str | None = None

    def into(self, url: str) -> str:
        """``url`` with the login in it. Raises ``SourceLost`` where it cannot be read now."""
        self._used = None
        self._used = self._read()
        if self._used is None:
            return url
        user, colon, password = self._used.partition(":")
        login = quote(user, _KEPT) + colon + quote(password, _KEPT)
        parts = urlsplit(url)
        return parts._replace(netloc=f"{login}@{parts.netloc.rpartition('@')[2]}").geturl()

    @property
    def renewed(self) -> bool:
        """Whether it reads differently from when it was last used."""
        if self._file is None:
            return False
        try:
            return self._read() != self._used
        except SourceLost:
            return False

    def _read(self) -> str | None:
        if self._file is not None:
            try:
                lines = self._file.expanduser().read_text().splitlines()
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "not text"
                raise SourceLost(f"login_file {self._file} cannot be read: {reason}", "unauthorised") from None
            login = lines[0].strip() if lines else ""
            if not is_login(login):
                raise SourceLost(f"login_file {self._file} must hold user:password in its first line", "unauthorised")
            return login
        return os.environ[self._env] if self._env else None
