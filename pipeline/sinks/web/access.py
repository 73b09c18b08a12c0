"""Who may see the page: names it may be reached by, logins, tokens, and how often one may try.

Without users and without a token nobody has to log in, which the configuration allows on loopback addresses alone.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from pathlib import Path

from pipeline.sinks.web import passwords

SESSION_S = 12 * 3600
TRIES_MAX, TRIES_WITHIN_S = 5, 60.0
"""Failed logins from one address, or for one user; somebody who has the right password waits out the rest."""
TRIES_OF_ALL_MAX = 60
_REMEMBERED_MAX = 2048
_TRIES_AT_ONCE = 2


class Tries:
    """Failures of the last minute, by key."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: dict[str, deque[float]] = {}

    def wait_s(self, keys: Mapping[str, int]) -> float:
        """How long until the next try is allowed; ``keys``: what counts, and how many failures each may have."""
        return max((self._wait_s(key, most) for key, most in keys.items()), default=0.0)

    def _wait_s(self, key: str, most: int) -> float:
        failed = self._failed.get(key)
        now_s = self._clock()
        while failed and failed[0] <= now_s - TRIES_WITHIN_S:
            failed.popleft()
        return failed[-most] + TRIES_WITHIN_S - now_s if failed and len(failed) >= most else 0.0

    def note(self, keys: Iterable[str]) -> None:
        for key in keys:
            if len(self._failed) >= _REMEMBERED_MAX:
                self._failed.pop(next(iter(self._failed)))
            self._failed.setdefault(key, deque(maxlen=TRIES_OF_ALL_MAX)).append(self._clock())


class TooManyTries(Exception):
    """wait_s: until the next one is allowed."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"too many failed logins; try again in {wait_s:.0f} s")
        self.wait_s = wait_s


class Access:
    """One server's rules. Sessions are signed, not stored; the key outlives the process, so that sessions do too."""

    def __init__(
        self,
        users: Mapping[str, str],
        token: str | None,
        hosts: Iterable[str],
        key_file: Path,
        executor: Executor,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """users: name → password hash. hosts: names, beside addresses and localhost, that it is reached by."""
        self._users = dict(users)
        self._token = hashlib.sha256(token.encode()).digest() if token else None
        self._hosts = {"localhost", *(host.lower() for host in hosts)}
        self._executor = executor
        self._clock = clock
        self._key = _key(key_file)
        self._tries = Tries()
        self._decoy = passwords.hashed(secrets.token_hex())
        self._turn = asyncio.Semaphore(_TRIES_AT_ONCE)

    @property
    def needed(self) -> bool:
        """Whether one has to log in."""
        return bool(self._users or self._token)

    @property
    def by_password(self) -> bool:
        return bool(self._users)

    def knows_host(self, header: str) -> bool:
        """Whether the ``Host`` of a request is a name of ours; an address always is.

        Pages of others can point a name of theirs at this machine (DNS rebinding), but not an address.
        """
        host = header.lower()
        host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return host in self._hosts
        return True

    async def log_in(self, user: str, password: str, address: str) -> str | None:
        """A session for the right password, else None. Raises ``TooManyTries``."""
        limits = {f"from {address}": TRIES_MAX, f"for {user[:64]}": TRIES_MAX, "all": TRIES_OF_ALL_MAX}
        async with self._turn:
            if (wait_s := self._tries.wait_s(limits)) > 0:
                raise TooManyTries(wait_s)
            hash_ = self._users.get(user, self._decoy)
            loop = asyncio.get_running_loop()
            right = await loop.run_in_executor(self._executor, passwords.matches, password, hash_)
            if not right or user not in self._users:
                self._tries.note(limits)
                return None
        return self._session(user)

    def has_token(self, given: str, address: str) -> bool:
        """Raises ``TooManyTries``."""
        limits = {f"token from {address}": TRIES_MAX}
        if (wait_s := self._tries.wait_s(limits)) > 0:
            raise TooManyTries(wait_s)
        if self._token and hmac.compare_digest(hashlib.sha256(given.encode()).digest(), self._token):
            return True
        self._tries.note(limits)
        return False

    def _session(self, user: str) -> str:
        name = base64.urlsafe_b64encode(user.encode()).decode().rstrip("=")
        said = f"{name}.{int(self._clock()) + SESSION_S}"
        return f"{said}.{self._sign(user, said)}"

    def user_of(self, session: str) -> str | None:
        """Whose session that is; None where it has ended or is none."""
        said, _, signature = session.rpartition(".")
        name, _, until = said.partition(".")
        try:
            user = base64.urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode()
            ended = int(until) < self._clock()
        except ValueError:
            return None
        if ended or user not in self._users:
            return None
        right = hmac.compare_digest(self._sign(user, said).encode(), signature.encode())  # of texts only ASCII is taken
        return user if right else None

    def _sign(self, user: str, said: str) -> str:
        """A new password ends the sessions of the old one."""
        return hmac.new(self._key, f"{said} {self._users[user]}".encode(), hashlib.sha256).hexdigest()


def _key(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        key = secrets.token_bytes(32)
        file.touch(mode=0o600)
        file.write_bytes(key)
        return key
