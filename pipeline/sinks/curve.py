"""Keys of CURVE, ZeroMQ's encryption: who may subscribe from another machine, and whom a subscriber believes.

A pair is two files in ZeroMQ's own certificate format: ``NAME.key`` (public, to be handed out) and ``NAME.key_secret``.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from pipeline.errors import ConfigError

_Z85 = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class Pair(NamedTuple):
    """A public key and the secret one that belongs to it, as 40 characters of Z85 each."""

    public: bytes
    secret: bytes


def new_pair(directory: Path, name: str) -> tuple[Path, Path]:
    """Makes a pair of files; returns the public one and the secret one, which only its owner can read.

    Raises ``ConfigError`` where they exist or cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is not a name for keys: letters, digits, _ and -")
    public, secret = directory / f"{name}.key", directory / f"{name}.key_secret"
    for path in (public, secret):
        if path.exists():
            raise ConfigError(f"{path} exists; remove it, or choose another name")
    before = os.umask(0o077)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        zmq.auth.create_certificates(directory, name)
    except OSError as error:
        raise ConfigError(f"{directory}: keys cannot be written there: {error.strerror}") from error
    finally:
        os.umask(before)
    public.chmod(0o644)
    return public, secret


def read_pair(path: Path) -> Pair:
    """The pair in a secret file; raises ``ValueError`` where it holds none or others can read it."""
    public, secret = _load(path)
    if secret is None:
        raise ValueError(f"{path} holds no secret key; its name ends in .key_secret")
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ValueError(f"{path} can be read by others; chmod 600 it")
    return Pair(public, secret)


def public_key(text: str) -> bytes:
    """A public key, given itself (40 characters) or as a file; raises ``ValueError``."""
    if _Z85.fullmatch(text) and not Path(text).exists():
        return text.encode()
    return _load(Path(text))[0]


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a file of keys as run_pipeline.py keys new makes them") from error


class Doorkeeper:
    """Lets nobody connect to the CURVE sockets of a context but those whose keys are listed."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: Collection[bytes]) -> None:
        self._keys = frozenset(keys)
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(credentials_provider=self)

    def callback(self, _domain: str, key: bytes) -> bool:
        """Asked by the authenticator for every connection, with the key in Z85."""
        return key in self._keys

    def close(self) -> None:
        self._authenticator.stop()


def guard(socket: zmq.Socket[bytes], own: Pair) -> None:
    """Makes ``socket`` the server's side of CURVE; before it is bound."""
    socket.curve_publickey, socket.curve_secretkey = own.public, own.secret
    socket.curve_server = True


def introduce(socket: zmq.Socket[bytes], own: Pair, server: bytes) -> None:
    """Makes ``socket`` the client's side of CURVE; before it is connected."""
    socket.curve_publickey, socket.curve_secretkey = own.public, own.secret
    socket.curve_serverkey = server
