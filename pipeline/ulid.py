"""Ids that sort by time: 48 bits of milliseconds, 80 bits of randomness, 26 characters of Crockford's base 32.

The form is that of https://github.com/ulid/spec. An episode's id is a function of the run's seed, the moment it began
and a key that names it within the run: a stage that is restarted and sees the same frames again gives the same id, so
that a subscriber can tell a repetition from a second episode.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

IdFactory = Callable[[int, str], str]
"""(wall clock in nanoseconds since 1970, key that is unique within the run) → id."""

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_RANDOM_BYTES = 10
_MS_MAX = (1 << 48) - 1


def ulid(wall_ns: int, randomness: bytes) -> str:
    """The ULID of that moment (nanoseconds since 1970) with 10 bytes of randomness; raises ``ValueError``."""
    ms = wall_ns // 1_000_000
    if not 0 <= ms <= _MS_MAX or len(randomness) != _RANDOM_BYTES:
        raise ValueError(f"a ULID needs 0 to {_MS_MAX} ms and {_RANDOM_BYTES} bytes, not {ms} and {len(randomness)}")
    value = ms << 80 | int.from_bytes(randomness, "big")
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -5, -5))


def id_factory(seed: bytes) -> IdFactory:
    """Ids whose randomness is a keyed hash of ``seed`` (at most 64 bytes, drawn once a run) and each episode's key."""

    def make(wall_ns: int, key: str) -> str:
        return ulid(wall_ns, hashlib.blake2b(key.encode(), digest_size=_RANDOM_BYTES, key=seed).digest())

    return make
