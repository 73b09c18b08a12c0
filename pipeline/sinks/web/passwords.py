"""Passwords as they may stand in a file: salted, and slow to guess (scrypt, RFC 7914)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets

_COST, _BLOCK, _PARALLEL, _BYTES = 1 << 15, 8, 1, 32
"""About 0.1 s and 32 MB a guess."""
_FORM = re.compile(
    r"scrypt:(?P<cost>\d{1,7}):(?P<block>\d{1,2}):(?P<parallel>\d{1,2}):(?P<salt>[\w-]+):(?P<key>[\w-]+)"
)
_MEMORY_MAX = 256 << 20


def hashed(password: str) -> str:
    """``scrypt:N:r:p:salt:key``, another one every time."""
    salt = secrets.token_bytes(16)
    key = _scrypt(password, salt, _COST, _BLOCK, _PARALLEL, _BYTES)
    return f"scrypt:{_COST}:{_BLOCK}:{_PARALLEL}:{_encode(salt)}:{_encode(key)}"


def is_hash(text: str) -> bool:
    """Whether ``matches`` can work with it."""
    match = _FORM.fullmatch(text)
    if match is None:
        return False
    cost, block, parallel = int(match["cost"]), int(match["block"]), int(match["parallel"])
    return cost > 1 and cost & (cost - 1) == 0 and 0 < 128 * cost * block <= _MEMORY_MAX and parallel > 0


def matches(password: str, hash_: str) -> bool:
    """Takes the time that the hash was made to take, whether or not it is the one."""
    match = _FORM.fullmatch(hash_)
    assert match is not None
    expected = _decode(match["key"])
    numbers = int(match["cost"]), int(match["block"]), int(match["parallel"])
    return hmac.compare_digest(_scrypt(password, _decode(match["salt"]), *numbers, len(expected)), expected)


def _scrypt(password: str, salt: bytes, cost: int, block: int, parallel: int, length: int) -> bytes:
    memory = 2 * 128 * cost * block + (1 << 20)
    return hashlib.scrypt(password.encode(), salt=salt, n=cost, r=block, p=parallel, maxmem=memory, dklen=length)


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
